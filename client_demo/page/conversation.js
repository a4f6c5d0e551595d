/**
 * A conversation as its frames tell it: an ordered list of entries, kept up to date. Pure; knows no DOM and no socket.
 *
 * What this client has said and the server has not begun yet (`waiting`, `queued`) always stands last.
 *
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 * @typedef {import("../threadwire.d.ts").Interrupt} Interrupt
 * @typedef {import("../threadwire.d.ts").Message} Message
 * @typedef {import("./types.d.ts").Entry} Entry
 */
import { entriesOf, entryOf, totalUsage } from "./messages.js";
import { endOf } from "./endings.js";

const isPending = (/** @type {Entry} */ entry) => entry.kind === "user" && entry.status !== "sent";

export class Conversation {
  constructor() {
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Map<string, Entry>} */
    this._byId = new Map();
    /** The run that is active. @type {string | null} */
    this.run = null;
    /** The cursor of the page before, null at the beginning. @type {string | null} */
    this.before = null;
    /** Whether the thread's messages are here. */
    this.loaded = false;
    /** What `ready` said, until the history that goes with it is here. @type {import("../threadwire.d.ts").ReadyFrame | null} */
    this._attaching = null;
    /** @type {import("./types.d.ts").Watcher | null} */
    this.watcher = null;
  }

  /** What all answers that are here have cost. */
  get usage() {
    return totalUsage(this.entries);
  }

  /** The form that waits for a person, if one does. */
  get question() {
    return this.entries.find((entry) => entry.kind === "interrupt") ?? null;
  }

  /** Whether calls of a run have no result yet. @param {string} runId */
  hasOpenCalls(runId) {
    return this.entries.some((entry) => entry.kind === "tool" && entry.status === "running" && entry.runId === runId);
  }

  /** This client said something: shown at once, however long the server is away. @param {import("./types.d.ts").UserEntry} entry */
  say(entry) {
    this._add(entry);
  }

  /** The server would not have it. @param {string} id @param {string} why */
  refuse(id, why) {
    const entry = this._byId.get(id);
    if (entry?.kind !== "user" || entry.status === "sent") return;
    entry.status = "refused";
    entry.note = why;
    this._changed(entry);
  }

  /** Take what was never sent, or is not to be, off the list. @param {string} id */
  forget(id) {
    const entry = this._byId.get(id);
    if (entry !== undefined) this._remove(entry);
  }

  /** Take an older page, in front. @param {import("../threadwire.d.ts").HistoryFrame} history */
  prepend(history) {
    this.before = history.before;
    const fresh = entriesOf(history.messages).filter((entry) => !this._byId.has(entry.id));
    this.entries.unshift(...fresh);
    for (const entry of fresh) this._byId.set(entry.id, entry);
    this.watcher?.prepended(fresh);
    this.watcher?.state();
  }

  /** Take a frame. @param {Frame} frame */
  take(frame) {
    switch (frame.type) {
      case "ready":
        this._onReady(frame);
        break;
      case "gap":
        this.run = activeIn(frame.run);
        break;
      case "history":
        this._onHistory(frame);
        break;
      case "message":
        this._onMessage(frame.message);
        break;
      case "messages_removed":
        this._onRemoved(frame.message_ids);
        break;
      case "run_queued":
        this._onQueued(frame.run_id, frame.message);
        break;
      case "run_started":
        this._begin(frame.run_id);
        break;
      case "run_finished":
        this._onFinished(frame);
        break;
      case "interrupt":
        this._ask(frame.interrupts, frame.run_id);
        break;
      default:
        this._onPart(frame);
    }
  }

  /** What a run gives while it goes. @param {Frame} frame */
  _onPart(frame) {
    if (frame.type === "token" || frame.type === "reasoning") {
      const entry = this._answer(frame.message_id, frame.run_id);
      if (frame.type === "token") entry.text += frame.content;
      else entry.reasoning += frame.content;
      this._changed(entry);
    } else if (frame.type === "usage") {
      const entry = this._byId.get(frame.message_id);
      if (entry?.kind === "assistant") this._set(entry, { usage: frame });
      this.watcher?.state();
    } else {
      const entry = entryOf(frame, (id) => this._byId.get(id));
      if (entry !== null) this._put(entry);
    }
  }

  /** @param {import("../threadwire.d.ts").ReadyFrame} ready */
  _onReady(ready) {
    if (ready.resume === "replayed") {
      if (this.question === null && ready.interrupts.length > 0) this._ask(ready.interrupts, ready.run?.run_id ?? null);
      return;
    }
    this._attaching = ready;
    if (ready.created) this.loaded = true;
    this.run = activeIn(ready.run);
    this.watcher?.state();
  }

  /** The thread as it is: on attaching, and after a gap. @param {import("../threadwire.d.ts").HistoryFrame} history */
  _onHistory(history) {
    const ready = this._attaching;
    this._attaching = null;
    const kept = this.entries.filter((entry) => isPending(entry) || (ready === null && entry.kind === "interrupt"));
    const interrupts = ready?.interrupts ?? [];
    const waits = interrupts.length > 0 || kept.some((entry) => entry.kind === "interrupt");
    this.entries = entriesOf(history.messages, this.run !== null ? "running" : waits ? "waiting" : "error");
    this._byId = new Map(this.entries.map((entry) => [entry.id, entry]));
    this.before = history.before;
    this.loaded = true;
    for (const entry of this.entries) if ("status" in entry && entry.status === "running") entry.runId = this.run;
    for (const { run_id: runId, message_id: id, content } of ready?.queue ?? []) {
      if (!this._byId.has(id)) this._keep({ kind: "user", id, content, status: "queued", runId, note: "" });
    }
    for (const entry of kept) if (!this._byId.has(entry.id)) this._keep(entry);
    if (interrupts.length > 0 && this.run === null) this._keep(question(interrupts, ready?.run?.run_id ?? null));
    this.watcher?.reset();
    this.watcher?.state();
  }

  /** @param {Message} message */
  _onMessage(message) {
    if (message.role === "user") {
      const known = this._byId.get(message.id);
      if (known?.kind === "user" && known.status === "sent" && known.runId === this.run) {
        // The graph has written it again, redacted, say: it stays where it is.
        this._set(known, { content: message.content });
        return;
      }
      // Its turn has come: it stands after all that was said, before what still waits.
      if (known !== undefined) this._remove(known);
      this._add({ kind: "user", id: message.id, content: message.content, status: "sent", runId: this.run, note: "" });
      return;
    }
    for (const entry of entriesOf([message], this.run === null ? "error" : "running")) {
      // Of a call that is known, its own frames have told more.
      if (entry.kind !== "tool" || !this._byId.has(entry.id)) this._put({ ...entry, runId: this.run });
    }
  }

  /** @param {string[]} ids */
  _onRemoved(ids) {
    const first = this.entries.findIndex((entry) => ids.includes(entry.id));
    if (first < 0) return;
    // What followed a message that was taken out belonged to its turn, or to a later one.
    for (const entry of this.entries.slice(first)) if (!isPending(entry)) this._remove(entry);
  }

  /** @param {string} runId @param {Message} message */
  _onQueued(runId, message) {
    const known = this._byId.get(message.id);
    if (known?.kind === "user") this._set(known, { status: "queued", runId });
    else this._add({ kind: "user", id: message.id, content: message.content, status: "queued", runId, note: "" });
  }

  /** @param {string} runId */
  _begin(runId) {
    this.run = runId;
    const question = this.question;
    if (question !== null) this._remove(question);
    this.watcher?.state();
  }

  /** @param {import("../threadwire.d.ts").RunFinishedFrame} frame */
  _onFinished(frame) {
    if (frame.messages != null) this._replaceTurn(frame.run_id, frame.messages);
    const own = this.entries.filter((entry) => entry.runId === frame.run_id);
    for (const change of endOf(frame, own)) {
      // Of a run that a history told us of, that has said how it ended.
      if ("add" in change) (own.length > 0 || this.run === frame.run_id) && this._add(change.add, own.at(-1));
      else if ("remove" in change) this._remove(change.remove);
      else this._set(change.entry, change.fields);
    }
    if (this.run === frame.run_id || this.run === null) {
      this.run = null;
      const question = this.question;
      if (question !== null && frame.status !== "interrupted") this._remove(question);
    }
    this.watcher?.state();
  }

  /** What a lost run left is all there is of it, where it stands. @param {string} runId @param {Message[]} messages */
  _replaceTurn(runId, messages) {
    const left = entriesOf(messages);
    const ids = new Set(left.map((entry) => entry.id));
    const own = this.entries.filter((entry) => entry.runId === runId || ids.has(entry.id));
    let after = own.length === 0 ? undefined : (this.entries[this.entries.indexOf(own[0]) - 1] ?? null);
    for (const entry of own) this._remove(entry);
    for (const entry of left) {
      entry.runId = runId;
      this._add(entry, after);
      after = entry;
    }
  }

  /** @param {Interrupt[]} interrupts @param {string | null} runId */
  _ask(interrupts, runId) {
    const old = this.question;
    if (old !== null) this._remove(old);
    this._add(question(interrupts, runId));
    this.watcher?.state();
  }

  /** @param {string} id @param {string} runId @returns {import("./types.d.ts").AssistantEntry} */
  _answer(id, runId) {
    const known = this._byId.get(id);
    if (known?.kind === "assistant") return known;
    /** @type {import("./types.d.ts").AssistantEntry} */
    const entry = { kind: "assistant", id, text: "", reasoning: "", status: "running", runId, usage: null, note: "" };
    this._add(entry);
    return entry;
  }

  /** Add an entry, or lay it over the one of its id. @param {Entry} entry */
  _put(entry) {
    const known = this._byId.get(entry.id);
    if (known?.kind === entry.kind) this._set(known, entry);
    else this._add(entry);
  }

  /** @param {Entry} entry @param {Partial<Entry>} fields */
  _set(entry, fields) {
    Object.assign(entry, fields);
    this._changed(entry);
  }

  /** @param {Entry} entry */
  _changed(entry) {
    this.watcher?.changed(entry);
  }

  /** @param {Entry} entry @param {Entry | null} [after] see `_keep` */
  _add(entry, after) {
    const next = this._keep(entry, after);
    this.watcher?.added(entry, next);
  }

  /** Put an entry after another, first (null), or last; returns the one behind it. @param {Entry} entry @param {Entry | null} [after] */
  _keep(entry, after) {
    this._byId.set(entry.id, entry);
    const waiting = isPending(entry) ? -1 : this.entries.findIndex(isPending);
    const end = waiting < 0 ? this.entries.length : waiting;
    const at = after === undefined ? end : Math.min(end, after === null ? 0 : this.entries.indexOf(after) + 1);
    this.entries.splice(at, 0, entry);
    return this.entries[at + 1] ?? null;
  }

  /** @param {Entry} entry */
  _remove(entry) {
    this.entries.splice(this.entries.indexOf(entry), 1);
    this._byId.delete(entry.id);
    this.watcher?.removed(entry);
  }
}

/** @param {Interrupt[]} interrupts @param {string | null} runId @returns {import("./types.d.ts").InterruptEntry} */
const question = (interrupts, runId) => ({ kind: "interrupt", id: `ask-${interrupts[0]?.id}`, interrupts, runId });

/** @param {import("../threadwire.d.ts").RunInfo | null} run */
const activeIn = (run) => (run !== null && run.status !== "interrupted" ? run.run_id : null);
