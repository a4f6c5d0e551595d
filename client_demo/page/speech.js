/**
 * What a screen reader says of an answer that is being written: whole sentences, as they are finished, and never a token
 * alone. Answers that were there already are not read out.
 *
 * @typedef {import("./types.d.ts").Entry} Entry
 */
import { h } from "./dom.js";

/** Looked for, and handed over, at most this often: a voice must not be cut off, nor the page kept busy. */
const PAUSE_MS = 1000;

export class Speech {
  constructor() {
    this.element = h("div", { class: "unseen", "aria-live": "polite", "aria-atomic": "false", id: "speech" });
    /** How much of each answer has been said. @type {Map<string, number>} */
    this._said = new Map();
    /** @type {Entry[]} */
    this._entries = [];
    this._timer = 0;
    this._segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "sentence" }) : null;
  }

  /** What is there now needs no saying. @param {Entry[]} entries */
  startAfter(entries) {
    this._entries = entries;
    this._said = new Map(entries.map((entry) => [entry.id, entry.kind === "assistant" ? entry.text.length : Infinity]));
  }

  /** Something may be new among them. @param {Entry[]} entries */
  listen(entries) {
    this._entries = entries;
    this._timer ||= window.setTimeout(() => {
      this._timer = 0;
      this._look();
    }, PAUSE_MS);
  }

  _look() {
    let text = "";
    for (const entry of this._entries.slice(-20)) {
      const said = this._said.get(entry.id) ?? 0;
      if (entry.kind === "assistant" && entry.text.length > said) {
        const rest = entry.text.slice(said);
        const whole = entry.status === "running" ? this._whole(rest) : rest;
        this._said.set(entry.id, said + whole.length);
        text += whole;
      } else if (entry.kind === "interrupt" && said === 0) {
        this._said.set(entry.id, 1);
        text += "Your answer is needed. ";
      } else if (entry.kind === "end" && said === 0) {
        this._said.set(entry.id, 1);
        text += `${entry.text}. `;
      }
    }
    this._say(text);
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
    // The last ones stay a while: what has just been put in may not have been read.
    while (this.element.childElementCount > 4) this.element.firstElementChild?.remove();
    this.element.append(h("p", { text }));
  }
}
