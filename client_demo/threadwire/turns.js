/**
 * The turns that this client began: each one's frames, text and end, and whether an end can still come.
 *
 * A run's `run_finished` can be lost to a client that was away: the log is bounded. A turn is in doubt while nothing proves
 * that its end is still ahead: after a connection began whose `ready` names it neither as running nor as queued, and after
 * a gap where it is not the run that is active. Any frame of the run ends the doubt, since from there on the log has no
 * hole. A turn that is still in doubt once this reader has passed all that was in the log is over.
 *
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 * @typedef {import("../threadwire.d.ts").Message} Message
 * @typedef {import("../threadwire.d.ts").AckFrame} AckFrame
 * @typedef {import("../threadwire.d.ts").RunFinishedFrame} RunFinishedFrame
 * @typedef {import("../threadwire.d.ts").HistoryFrame} HistoryFrame
 */
import { TurnFailed } from "./errors.js";
import { Queue } from "./queue.js";

export class Turn {
  /**
   * @param {string} runId
   * @param {string | null} messageId
   * @param {Promise<import("../threadwire.d.ts").Answer>} answer
   * @param {(runId: string) => Promise<AckFrame>} cancel
   */
  constructor(runId, messageId, answer, cancel) {
    this.runId = runId;
    this.messageId = messageId;
    this.over = false;
    this.acknowledged = false;
    /** What the graph waits for, where the turn ended as `interrupted`. @type {import("../threadwire.d.ts").Interrupt[]} */
    this.interrupts = [];
    this._cancel = cancel;
    this._frames = new Queue();
    /** What the assistant has said, by message. @type {Map<string, string>} */
    this._said = new Map();
    /** @type {Promise<RunFinishedFrame>} */
    this.finished = new Promise((resolve, reject) => {
      this._resolve = resolve;
      this._reject = reject;
    });
    this.finished.catch(() => undefined);
    /** @type {Promise<AckFrame>} */
    this.ack = answer.then((frame) => {
      const ack = /** @type {AckFrame} */ (frame);
      this.acknowledged = true;
      this.messageId = ack.message_id ?? this.messageId;
      return ack;
    });
    this.ack.catch((error) => this.fail(error));
  }

  [Symbol.asyncIterator]() {
    return this._frames;
  }

  /** Stop the run, queued or running. */
  cancel() {
    return this._cancel(this.runId);
  }

  /** What the assistant said, once it is over. */
  async text() {
    const finished = await this.finished;
    const text = [...this._said.values()].filter((said) => said !== "").join("\n\n");
    if (finished.status === "failed" || finished.status === "lost" || finished.error !== null) {
      throw new TurnFailed(finished, text);
    }
    return text;
  }

  /** Add one of the run's frames. @param {Frame} frame */
  take(frame) {
    if (this.over) return;
    this._frames.put(frame);
    if (frame.type === "token") {
      this._said.set(frame.message_id, (this._said.get(frame.message_id) ?? "") + frame.content);
    } else if (frame.type === "message") {
      this._replace([frame.message]);
    } else if (frame.type === "messages_removed") {
      for (const id of frame.message_ids) this._said.delete(id);
    } else if (frame.type === "interrupt") {
      this.interrupts = frame.interrupts;
    } else if (frame.type === "run_finished") {
      if (frame.messages != null) {
        this._said.clear();
        this._replace(frame.messages);
      }
      this.over = true;
      this._frames.close();
      this._resolve?.(frame);
    }
  }

  /** Take the history that fills a gap. @param {HistoryFrame} history @param {boolean} running whether this run is active */
  reload(history, running) {
    this._frames.put(history);
    const at = history.messages.findIndex((message) => message.id === this.messageId);
    if (at < 0) {
      this._replace(history.messages.filter((m) => this._said.has(m.id) || (running && m.status === "running")));
      return;
    }
    this._said.clear();
    const after = history.messages.slice(at + 1);
    const next = after.findIndex((message) => message.role === "user");
    this._replace(next < 0 ? after : after.slice(0, next));
  }

  /** End without a `run_finished`. @param {Error} error */
  fail(error) {
    if (this.over) return;
    this.over = true;
    this._frames.close(error);
    this._reject?.(error);
  }

  /** @param {Message[]} messages */
  _replace(messages) {
    for (const message of messages)
      if (message.role === "assistant") this._said.set(message.id, plain(message.content));
  }
}

/** The text of a message's content. @param {import("../threadwire.d.ts").Content} content */
export function plain(content) {
  if (typeof content === "string") return content;
  return content.map((block) => (block.type === "text" ? String(block.text ?? "") : "")).join("");
}

export class Turns {
  constructor() {
    /** @type {Map<string, Turn>} */
    this._open = new Map();
    /** @type {string | null} */
    this.running = null;
    /** Runs whose end is ahead: `ready` named them, or they have shown a frame since. @type {Set<string>} */
    this._ahead = new Set();
    /** Acknowledged before the connection began, so that `ready` would have named them. @type {Set<string>} */
    this._decidable = new Set();
    /** @type {Set<string>} */
    this.doubted = new Set();
  }

  /** Begin to follow a turn. @param {Turn} turn */
  add(turn) {
    this._open.set(turn.runId, turn);
  }

  /** The turns that are not over, oldest first. */
  open() {
    return [...this._open.values()].filter((turn) => !turn.over);
  }

  /** Begin a connection. @param {import("../threadwire.d.ts").ReadyFrame} ready */
  attach(ready) {
    const active = activeIn(ready.run);
    this._ahead = new Set(ready.queue.map((queued) => queued.run_id));
    if (active !== null) this._ahead.add(active);
    this._decidable = new Set(this.open().flatMap((turn) => (turn.acknowledged ? [turn.runId] : [])));
    this.doubted = new Set([...this._decidable].filter((runId) => !this._ahead.has(runId)));
    if (ready.resume === "fresh") this.running = active;
  }

  /**
   * Frames were lost. Right after `ready`, that has said it all; later, only `gap.run` is known.
   *
   * @param {import("../threadwire.d.ts").GapFrame} gap @param {boolean} atAttach
   */
  openGap(gap, atAttach) {
    this.running = activeIn(gap.run);
    if (atAttach) return;
    this._ahead = new Set(this.running === null ? [] : [this.running]);
    this._decidable = new Set();
    this.doubted = new Set(this.open().flatMap((turn) => (this._ahead.has(turn.runId) ? [] : [turn.runId])));
  }

  /**
   * A command was acknowledged. One that was already known may have had its run come and gone: then that is in doubt.
   *
   * @param {AckFrame} ack
   */
  acknowledged(ack) {
    const runId = ack.run_id;
    const doubt = ack.duplicate && runId != null && this._open.has(runId) && !this._ahead.has(runId);
    if (doubt) this.doubted.add(runId);
    return doubt;
  }

  /** Take out the turns whose doubt is decided: they are over. Ask when all of the log is behind us. */
  lost() {
    const lost = [];
    for (const runId of this.doubted) {
      if (!this._decidable.has(runId)) continue;
      this.doubted.delete(runId);
      const turn = this._open.get(runId);
      if (turn !== undefined && !turn.over) lost.push(turn);
      this._open.delete(runId);
    }
    return lost;
  }

  /** A frame came, to be passed on or not: its run has its end ahead. @param {Frame} frame */
  seen(frame) {
    if (!("run_id" in frame) || typeof frame.run_id !== "string") return;
    this._ahead.add(frame.run_id);
    this.doubted.delete(frame.run_id);
  }

  /** Give a frame to the turn it belongs to, if that is one of ours. @param {Frame} frame */
  passOn(frame) {
    const owner = this._owner(frame);
    this.track(frame);
    owner?.take(frame);
    if (frame.type === "run_finished") {
      this._ahead.delete(frame.run_id);
      this._open.delete(frame.run_id);
    }
  }

  /** Note which run the thread is at. @param {Frame} frame */
  track(frame) {
    if (frame.type === "run_started") this.running = frame.run_id;
    else if (frame.type === "run_finished" && this.running === frame.run_id) this.running = null;
  }

  /** Give all turns what the thread holds now, in place of what they missed. @param {HistoryFrame} history */
  reload(history) {
    for (const turn of this.open()) turn.reload(history, turn.runId === this.running);
  }

  /** @param {Frame} frame */
  _owner(frame) {
    if (frame.type === "message") {
      // It names no run. A thread runs one at a time; only a message of a turn that never started stands apart.
      const own = this.open().find((turn) => turn.messageId === frame.message.id);
      return own ?? this._open.get(this.running ?? "");
    }
    return this._open.get("run_id" in frame && typeof frame.run_id === "string" ? frame.run_id : "");
  }
}

/** @param {import("../threadwire.d.ts").RunInfo | null} run */
const activeIn = (run) => (run !== null && run.status !== "interrupted" ? run.run_id : null);
