/**
 * Who listens to a chat: readers that take frames at their own pace, and listeners to events.
 *
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 */
import { Queue } from "./queue.js";

/** Frames that may wait for a reader; one that falls further behind gets a `gap`. */
const MAX_WAITING_FRAMES = 10_000;

export class Audience extends EventTarget {
  constructor() {
    super();
    /** @type {Set<Queue>} */
    this._readers = new Set();
    /** Why nothing more will come. @type {import("./errors.js").Disconnected | null} */
    this._over = null;
    /** The log's. */
    this._epoch = () => "";
  }

  /** All frames that come from now on, of all runs and tabs. */
  frames() {
    const reader = new Queue(MAX_WAITING_FRAMES, this._epoch);
    this._readers.add(reader);
    if (this._over !== null) reader.close(atEnd(this._over));
    return reader;
  }

  [Symbol.asyncIterator]() {
    return this.frames();
  }

  /** Tell everybody of a frame. @param {Frame} frame */
  _publish(frame) {
    for (const reader of this._readers) {
      if (reader.closed) this._readers.delete(reader);
      else reader.put(frame);
    }
    this._emit("frame", frame);
    this._emit(frame.type, frame);
  }

  /** @param {string} type @param {unknown} detail */
  _emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Nothing more will come. @param {import("./errors.js").Disconnected} error */
  _finish(error) {
    this._over = error;
    for (const reader of this._readers) reader.close(atEnd(error));
  }
}

/** Readers see a close that this client asked for as the end, any other as an error. @param {Error & {code: number}} error */
const atEnd = (error) => (error.code === 1000 ? null : error);
