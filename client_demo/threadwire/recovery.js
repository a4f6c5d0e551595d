/**
 * After a lost connection or a gap: fill it, and end the turns whose end will not come (see `turns.js`).
 *
 * @typedef {import("../threadwire.d.ts").HistoryFrame} HistoryFrame
 * @typedef {object} Asker what a recovery needs of its chat
 * @property {() => Promise<HistoryFrame>} history the thread's last messages
 * @property {() => Promise<import("../threadwire.d.ts").PongFrame>} ping how far the connection is
 * @property {(history: HistoryFrame) => void} reload the thread is as this says
 * @property {(frame: import("../threadwire.d.ts").Frame) => void} passOn the next frame
 * @property {() => void} reattach connect anew
 */
import { CommandFailed, TurnLost } from "./errors.js";

/** Between two questions whether the server's writer has caught up with its log. */
const PASSED_MS = 50;

export class Recovery {
  /**
   * @param {Asker} chat
   * @param {import("./position.js").Position} position
   * @param {import("./turns.js").Turns} turns
   */
  constructor(chat, position, turns) {
    this._chat = chat;
    this._position = position;
    this._turns = turns;
    /** A recovery that is not the newest has been given up. */
    this._newest = 0;
  }

  /** Recover; `upto` is where the log ended when what was lost became known. @param {number} upto */
  start(upto) {
    const mine = ++this._newest;
    // It ends early where the connection is lost again; the next one begins anew.
    this._run(upto, () => this._newest === mine).catch(() => undefined);
  }

  /** Give up: the connection is gone. */
  stop() {
    this._newest += 1;
  }

  /** @param {number} upto @param {() => boolean} wanted */
  async _run(upto, wanted) {
    /** @type {HistoryFrame | null} */
    let history = null;
    if (this._position.gap) {
      history = await this._lastHistory();
      if (history !== null) await this._pass(history.seq, wanted);
      if (!wanted()) return;
      this._fillGap(history);
      upto = Math.max(upto, history?.seq ?? 0);
    }
    if (this._turns.doubted.size > 0) await this._pass(upto, wanted);
    if (!wanted()) return;
    const lost = this._turns.lost();
    if (lost.length > 0) history ??= await this._lastHistory();
    for (const turn of lost) turn.fail(new TurnLost(turn.runId, history));
    // The answers to repeated commands may bring new doubts.
    await Promise.allSettled(this._turns.open().map((turn) => turn.ack));
    if (this._turns.doubted.size > 0) await this._pass(upto, wanted);
    // Only a new `ready` can tell.
    if (this._turns.doubted.size > 0 && wanted()) this._chat.reattach();
  }

  /** @param {HistoryFrame | null} history */
  _fillGap(history) {
    const { covered, news } = this._position.fillGap(history?.seq ?? 0);
    for (const frame of covered) this._turns.track(frame);
    if (history !== null) {
      this._turns.reload(history);
      this._chat.reload(history);
    }
    for (const frame of news) this._chat.passOn(frame);
  }

  async _lastHistory() {
    try {
      return await this._chat.history();
    } catch (error) {
      if (error instanceof CommandFailed) return null;
      throw error;
    }
  }

  /** Wait until the frames up to `upto` have come, or were hidden by a filter. @param {number} upto @param {() => boolean} wanted */
  async _pass(upto, wanted) {
    while (wanted() && (await this._chat.ping()).seq < upto) await new Promise((go) => setTimeout(go, PASSED_MS));
  }
}
