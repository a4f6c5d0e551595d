/**
 * Commands that wait for their answer, and which of them are said again on the next connection.
 *
 * @typedef {import("../threadwire.d.ts").Answer} Answer
 * @typedef {{text: string, repeatable: boolean, resolve: (answer: Answer) => void, reject: (error: Error) => void}} Waiting
 */
import { CommandFailed } from "./errors.js";

export class Commands {
  /** @param {(text: string) => void} write sends where there is a connection, and does nothing where there is none */
  constructor(write) {
    this._write = write;
    this._number = 0;
    /** @type {Map<string, Waiting>} */
    this._waiting = new Map();
  }

  /**
   * Send a command; fields that are undefined are left out.
   *
   * @param {string} type
   * @param {Record<string, unknown>} fields
   * @param {boolean} repeatable doing it twice does no harm (it carries a run_id, or only reads), so that it survives a
   *   lost connection
   * @returns {Promise<Answer>} rejects with `CommandFailed` or `Disconnected`
   */
  issue(type, fields, repeatable) {
    const id = `c${++this._number}`;
    const text = JSON.stringify({ type, id, ...fields });
    /** @type {Promise<Answer>} */
    const answer = new Promise((resolve, reject) => this._waiting.set(id, { text, repeatable, resolve, reject }));
    // Nobody has to wait for it: a failure that no one fetches is no unhandled rejection.
    answer.catch(() => undefined);
    this._write(text);
    return answer;
  }

  /** Give an answer to who waits for it. @param {Answer | import("../threadwire.d.ts").ErrorFrame} frame */
  take(frame) {
    const waiting = frame.id == null ? undefined : this._waiting.get(frame.id);
    if (waiting === undefined) return;
    // What a server refuses because it stops waits for the one that comes after it.
    if (frame.type === "error" && frame.code === "shutting_down" && waiting.repeatable) return;
    this._waiting.delete(/** @type {string} */ (frame.id));
    if (frame.type === "error") waiting.reject(new CommandFailed(frame));
    else waiting.resolve(frame);
  }

  /** The connection is gone: fail what cannot be repeated, since nobody knows whether it was done. @param {Error} error */
  lost(error) {
    for (const [id, waiting] of this._waiting) {
      if (waiting.repeatable) continue;
      this._waiting.delete(id);
      waiting.reject(error);
    }
  }

  /** On a new connection, say again what was not answered, as it was and in its order. */
  repeat() {
    for (const waiting of this._waiting.values()) this._write(waiting.text);
  }

  /** Fail all that is left. @param {Error} error */
  close(error) {
    for (const waiting of this._waiting.values()) waiting.reject(error);
    this._waiting.clear();
  }
}
