/**
 * Frames that wait for one reader, in memory that does not grow with the time it takes.
 *
 * Tokens of one message that nobody has taken are merged, as in the server's log. A bounded queue whose reader falls
 * behind drops what waits, and says so with a `gap`, as the server would.
 *
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 */
import { numberOf } from "./frames.js";

/** Untaken tokens are merged up to this many characters: ever longer joins would cost their square. */
const MERGE_CHARACTERS = 4096;

/** @implements {AsyncIterableIterator<Frame>} */
export class Queue {
  /** @param {number} limit frames that may wait @param {() => string} epoch the log's */
  constructor(limit = Infinity, epoch = () => "") {
    this._limit = limit;
    this._epoch = epoch;
    /** @type {Frame[]} */
    this._waiting = [];
    this._closed = false;
    /** @type {Error | null} */
    this._error = null;
    /** @type {(() => void)[]} */
    this._wake = [];
  }

  /** Add a frame. @param {Frame} frame */
  put(frame) {
    if (this._closed) return;
    if (!this._merge(frame)) {
      if (this._waiting.length >= this._limit) this._overrun(frame);
      this._waiting.push(frame);
    }
    this._wake.shift()?.();
  }

  /** End the queue: its reader takes what waits, then gets the error, or the end. @param {Error | null} error */
  close(error = null) {
    if (this._closed) return;
    this._closed = true;
    this._error = error;
    for (const wake of this._wake.splice(0)) wake();
  }

  /** @returns {Promise<IteratorResult<Frame, undefined>>} */
  async next() {
    while (this._waiting.length === 0) {
      if (this._closed) {
        if (this._error !== null) throw this._error;
        return { done: true, value: undefined };
      }
      await new Promise((resolve) => this._wake.push(() => resolve(null)));
    }
    return { done: false, value: /** @type {Frame} */ (this._waiting.shift()) };
  }

  /** @returns {Promise<IteratorResult<Frame, undefined>>} */
  async return() {
    this._waiting = [];
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** Whether its reader has left, or it was ended. */
  get closed() {
    return this._closed;
  }

  /** @param {Frame} frame */
  _merge(frame) {
    const last = this._waiting.at(-1);
    if (last === undefined || (frame.type !== "token" && frame.type !== "reasoning")) return false;
    if (last.type !== frame.type || last.message_id !== frame.message_id || last.node !== frame.node) return false;
    if (last.content.length >= MERGE_CHARACTERS) return false;
    const merged = { ...last, content: last.content + frame.content, seq: frame.seq };
    this._waiting[this._waiting.length - 1] = merged;
    return true;
  }

  /** @param {Frame} frame */
  _overrun(frame) {
    const numbers = this._waiting.map(numberOf).filter((number) => number !== null);
    const first = this._waiting[0];
    const requested = first?.type === "gap" ? first.requested : (numbers[0] ?? 0);
    const earliest = numberOf(frame) ?? (numbers.at(-1) ?? 0) + 1;
    this._waiting = [{ type: "gap", requested, earliest, epoch: this._epoch(), run: null }];
  }
}
