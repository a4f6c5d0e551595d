/**
 * A client's cursor on its thread's log: what it has seen, what it may drop, where it goes on. Pure.
 *
 * Between a `gap` and the history that fills it, frames are held back: those up to the history's `seq` are in the history,
 * and only the later ones are news.
 *
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 */
import { numberOf } from "./frames.js";

export class Position {
  constructor() {
    /** The last frame that was passed on. */
    this.seq = 0;
    /** The log's; empty before the first `ready`. */
    this.epoch = "";
    /** Whether a gap waits for its history. */
    this.gap = false;
    this._known = false;
    /** @type {Frame[]} */
    this._held = [];
  }

  /** The parameters that make a connection go on from here; none where this is not known yet. */
  query() {
    return this._known ? { after: String(this.seq), epoch: this.epoch } : {};
  }

  /** Begin a connection. @param {import("../threadwire.d.ts").ReadyFrame} ready */
  attach(ready) {
    this._held = [];
    if (ready.resume === "replayed") return;
    if (ready.epoch !== this.epoch || ready.resume === "fresh") {
      // With a run active, its frames come next, and their numbers are below ready.seq.
      const active = ready.run !== null && ready.run.status !== "interrupted";
      this._known = !active && ready.resume === "fresh";
      this.seq = this._known ? ready.seq : 0;
      this.epoch = ready.epoch;
      this.gap = false;
    }
  }

  /** Hold frames back from here on, until `fillGap`. @param {import("../threadwire.d.ts").GapFrame} gap */
  openGap(gap) {
    this.gap = true;
    this.epoch = gap.epoch;
    this.seq = gap.earliest - 1;
    this._known = true;
    this._held = [];
  }

  /**
   * Let go what was held. The ends of runs are news also where the history covers them: only they say how a run ended.
   *
   * @param {number} upto the history's `seq` (0: there is none); everything up to it must have come
   * @returns {{covered: Frame[], news: Frame[]}}
   */
  fillGap(upto) {
    const held = this._held;
    this._held = [];
    this.gap = false;
    /** @type {Frame[]} */ const covered = [];
    /** @type {Frame[]} */ const news = [];
    for (const frame of held) {
      this.seq = numberOf(frame) ?? this.seq;
      (this.seq > upto || frame.type === "run_finished" ? news : covered).push(frame);
    }
    this.seq = Math.max(this.seq, upto);
    return { covered, news };
  }

  /** Everything up to `seq` is behind us: a `pong` or the first `history` said so. @param {number} seq */
  skipTo(seq) {
    if (this.gap) return;
    this._known = true;
    this.seq = Math.max(this.seq, seq);
  }

  /**
   * Whether to pass a frame of the log on now: not where it was seen before, and not while a gap is open.
   *
   * @param {Frame} frame @param {number} number its place
   */
  accept(frame, number) {
    if (number <= this.seq) return false;
    if (this.gap) {
      const last = this._held.at(-1);
      if (last === undefined || number > (numberOf(last) ?? 0)) this._held.push(frame);
      return false;
    }
    this.seq = number;
    this._known = true;
    return true;
  }
}
