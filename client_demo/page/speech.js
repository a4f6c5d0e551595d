/**
 * What a screen reader says of an answer that is being written: whole sentences, as they are finished, and never a token
 * alone. Answers that were there already are not read out.
 *
 * @typedef {import("./types.d.ts").Entry} Entry
 */
import { h } from "./dom.js";

/** Sentences are handed over at most this often, so that they are not cut off by the next. */
const PAUSE_MS = 1000;

export class Speech {
  constructor() {
    this.element = h("div", { class: "unseen", "aria-live": "polite", "aria-atomic": "false", id: "speech" });
    /** How much of each answer has been said. @type {Map<string, number>} */
    this._said = new Map();
    this._waiting = "";
    this._timer = 0;
    this._segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "sentence" }) : null;
  }

  /** What is there now needs no saying. @param {Entry[]} entries */
  startAfter(entries) {
    this._waiting = "";
    this._said = new Map(entries.map((entry) => [entry.id, entry.kind === "assistant" ? entry.text.length : Infinity]));
  }

  /** Look for sentences that are new. @param {Entry[]} entries */
  listen(entries) {
    for (const entry of entries.slice(-20)) {
      const said = this._said.get(entry.id) ?? 0;
      if (entry.kind === "assistant" && entry.text.length > said) {
        const text = entry.text.slice(said);
        const whole = entry.status === "running" ? this._whole(text) : text;
        this._said.set(entry.id, said + whole.length);
        this._say(whole);
      } else if (entry.kind === "interrupt" && said === 0) {
        this._said.set(entry.id, 1);
        this._say("Your answer is needed. ");
      } else if (entry.kind === "end" && said === 0) {
        this._said.set(entry.id, 1);
        this._say(`${entry.text}. `);
      }
    }
  }

  /** The sentences of a text that are surely finished: all but the last. @param {string} text */
  _whole(text) {
    const parts = this._segmenter
      ? [...this._segmenter.segment(text)].map(({ segment }) => segment)
      : text.split(/(?<=[.!?]\s)/);
    return parts.slice(0, -1).join("");
  }

  /** @param {string} text */
  _say(text) {
    if (text.trim() === "") return;
    this._waiting += text;
    this._timer ||= window.setTimeout(() => {
      this._timer = 0;
      // The last ones stay a while: what has just been put in may not have been read.
      while (this.element.childElementCount > 4) this.element.firstElementChild?.remove();
      this.element.append(h("p", { text: this._waiting }));
      this._waiting = "";
    }, PAUSE_MS);
  }
}
