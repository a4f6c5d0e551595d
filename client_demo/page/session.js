/**
 * A thread that is open in this page: its chat, its conversation, and what is said through them.
 *
 * @typedef {import("../threadwire.d.ts").Chat} Chat
 * @typedef {import("../threadwire.d.ts").Content} Content
 * @typedef {import("../threadwire.d.ts").Turn} Turn
 */
import { CommandFailed, Disconnected, TurnLost, connect } from "../threadwire.js";
import { uuid } from "../threadwire/upgrade.js";
import { identification } from "./api.js";
import { Conversation } from "./conversation.js";
import { outbox } from "./outbox.js";

/** What no thread is called: the key of a chat that the server has given no thread yet begins so. */
const NEW = "+";
/** Ends after which another connection may take what this one could not: ours, and those that a token mends. */
const MENDED = new Set([1000, 4401, 4408]);
/** Messages that come with a connection, and with each older page. */
const PAGE = 60;
const OLDER_PAGE = 100;

export class Session extends EventTarget {
  /** @param {string | null} key of a chat that was there before; null: a new one @param {import("../threadwire.d.ts").Filters} filters */
  constructor(key, filters) {
    super();
    const threadId = key === null || key.startsWith(NEW) ? null : key;
    /** What it is called in this tab: its thread, once it has one. */
    this.key = key ?? NEW + uuid();
    /** Whether something has been said in it, so that it is worth an address. */
    this.said = threadId !== null;
    this.conversation = new Conversation();
    this._loading = false;
    /** Turns of ours that are not over. */
    this.open = 0;
    this.chat = connect({ threadId: threadId ?? undefined, history: PAGE, filters, ...identification });
    this.chat.addEventListener("frame", ({ detail: frame }) => {
      // What a node of the graph does in place of a tool is told by no frame of its own, but it is in the thread.
      if (frame.type === "ready" && frame.thread_id !== this.key) {
        outbox.rename(this.key, frame.thread_id);
        this.key = frame.thread_id;
      }
      // Which run began in a gap, only the chat has heard.
      if (frame.type === "history") this.conversation.run = this.chat.running;
      const untold = frame.type === "run_finished" && this.conversation.hasOpenCalls(frame.run_id);
      this.conversation.take(frame);
      if (untold && frame.type === "run_finished" && frame.status !== "interrupted") void this.reload();
      if (frame.type === "run_started" || frame.type === "run_finished") this.dispatchEvent(new Event("run"));
    });
    for (const { content, messageId, runId } of outbox.of(this.key)) this.send(content, { messageId, runId });
  }

  /** Its id; of a new one null, until the server has given it one. */
  get threadId() {
    return this.chat.threadId;
  }

  /** Whether leaving it now would lose something. */
  get busy() {
    return this.open > 0 || this.conversation.run !== null;
  }

  /** @param {Content} content @param {{messageId: string, runId: string}} [names] of a message that may have been sent before */
  send(content, names) {
    const turn = this.chat.send(content, names);
    this.said = true;
    const id = /** @type {string} */ (turn.messageId);
    const { runId } = turn;
    outbox.put({ chat: this.key, content, messageId: id, runId });
    this.conversation.say({ kind: "user", id, content, status: "waiting", runId, note: "" });
    turn.ack.then(
      () => outbox.drop(id),
      (error) => {
        if (!(error instanceof Disconnected && MENDED.has(error.code))) outbox.drop(id);
        this.conversation.refuse(id, error.message);
      },
    );
    this._follow(turn);
  }

  /** Send again what was refused. @param {import("./types.d.ts").UserEntry} entry */
  resend(entry) {
    this.discard(entry.id);
    this.dispatchEvent(new CustomEvent("say", { detail: entry.content }));
  }

  /** Give up what was refused. @param {string} id */
  discard(id) {
    outbox.drop(id);
    this.conversation.forget(id);
  }

  /** @param {string} messageId @param {Content} content */
  edit(messageId, content) {
    this._try(this.chat.edit(messageId, content));
  }

  /** Answer again what an entry, which was cut off, answers. @param {import("./types.d.ts").Entry} entry */
  again(entry) {
    if (entry.kind === "assistant") {
      this._try(this.chat.regenerate(entry.id));
      return;
    }
    // Nothing was said, so there is no answer to name: the user's message is given once more.
    const { entries } = this.conversation;
    const asked = entries.slice(0, entries.indexOf(entry)).findLast((each) => each.kind === "user");
    if (asked?.kind === "user") this.edit(asked.id, asked.content);
  }

  /** @param {Record<string, unknown>} responses */
  respond(responses) {
    this._try(this.chat.respond(responses));
  }

  /** Leave a question without an answer: what waits behind it goes on. @param {import("./types.d.ts").InterruptEntry} entry */
  async leave(entry) {
    if (await this.stop(entry.runId ?? undefined)) this.conversation.forget(entry.id);
  }

  /** Stop what runs, or one that waits; returns whether that is over. @param {string} [runId] */
  async stop(runId) {
    try {
      await this.chat.cancel(runId ?? this.conversation.run ?? undefined);
      return true;
    } catch (error) {
      // It has just ended by itself, or with its connection.
      if (error instanceof CommandFailed && error.code === "no_active_run") return true;
      if (!(error instanceof Disconnected)) this._complain(error);
      return false;
    }
  }

  /** Read an older page, if there is one. */
  async older() {
    if (this._loading) return;
    this._loading = true;
    try {
      let before;
      // Where the thread has been read again meanwhile, from its end, the page does not join what is here.
      while ((before = this.conversation.before) !== null) {
        const page = await this.chat.history({ before, limit: OLDER_PAGE });
        if (before !== this.conversation.before) continue;
        this.conversation.prepend(page);
        break;
      }
    } catch (error) {
      this._complain(error);
    } finally {
      this._loading = false;
    }
  }

  /** See other events from now on; what a former filter hid is read from the thread. @param {import("../threadwire.d.ts").Filters} filters */
  async filter(filters) {
    try {
      await this.chat.subscribe(filters);
      if (this.conversation.loaded && !this.busy) await this.reload();
    } catch (error) {
      this._complain(error);
    }
  }

  /** Read the thread again. */
  async reload() {
    try {
      this.conversation.take(await this.chat.history({ limit: PAGE }));
    } catch {
      // The connection is gone: the next one brings it.
    }
  }

  close() {
    this.chat.close();
  }

  /** @param {Turn} turn */
  _try(turn) {
    turn.ack.catch((error) => this._complain(error));
    this._follow(turn);
  }

  /** @param {Turn} turn */
  async _follow(turn) {
    this.open += 1;
    this.dispatchEvent(new Event("run"));
    try {
      await turn.finished;
    } catch (error) {
      // Its end was told while we were away: the thread has what it left. More may have been said since it was found out.
      if (error instanceof TurnLost) {
        this.conversation.forget(turn.messageId ?? "");
        await this.reload();
      }
    } finally {
      this.open -= 1;
      this.dispatchEvent(new Event("run"));
    }
  }

  /** @param {unknown} error */
  _complain(error) {
    const message = error instanceof Error ? error.message : String(error);
    this.dispatchEvent(new CustomEvent("problem", { detail: message }));
  }
}

/** The sessions of this page. One that is left while it works stays open until it is done. */
export class Sessions {
  /** @param {() => void} onChange which threads are at work has changed */
  constructor(onChange) {
    /** @type {Set<Session>} */
    this._open = new Set();
    this._onChange = onChange;
    /** @type {Session | null} */
    this.current = null;
    /** @type {import("../threadwire.d.ts").Filters} */
    this.filters = {};
  }

  /** Send what waits since before the page was loaded, also in threads that are not shown. */
  resume() {
    for (const key of outbox.chats()) if (![...this._open].some((session) => session.key === key)) this._start(key);
  }

  /**
   * Show a thread.
   *
   * @param {string | null} threadId null: a new one
   * @param {string | null} [key] of a chat without a thread that was there before
   * @returns {Session}
   */
  enter(threadId, key = threadId) {
    const former = this.current;
    const session = this._find(threadId) ?? this._start(key);
    this.current = session;
    if (former !== null && former !== session) this._letGo(former);
    return session;
  }

  /** Whether a thread works for us now. @param {string} threadId */
  isBusy(threadId) {
    return this._find(threadId)?.busy ?? false;
  }

  /** Close a thread, whatever it does. @param {string} threadId */
  gone(threadId) {
    outbox.dropAll(threadId);
    const session = this._find(threadId);
    if (session !== undefined) this.drop(session);
  }

  /** @param {Session} session */
  drop(session) {
    session.close();
    this._open.delete(session);
  }

  /** @param {string | null} threadId */
  _find(threadId) {
    return threadId === null ? undefined : [...this._open].find((session) => session.threadId === threadId);
  }

  /** @param {string | null} key */
  _start(key) {
    const session = new Session(key, this.filters);
    this._open.add(session);
    session.addEventListener("run", () => {
      if (session !== this.current) this._letGo(session);
      this._onChange();
    });
    return session;
  }

  /** @param {Session} session */
  _letGo(session) {
    if (!session.busy && this._open.has(session)) this.drop(session);
  }
}
