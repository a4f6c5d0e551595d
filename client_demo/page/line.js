/** The state of the line, honestly: what it is now, and when it will be tried again. */
import { h } from "./dom.js";

/** Why a connection ended for good, in words. @type {Record<number, string>} */
const ENDS = {
  1008: "The server does not take what this page says",
  1009: "That message was too large",
  4401: "The server wants a token",
  4403: "You may not see this thread",
  4404: "This thread was deleted",
  4408: "The server wants a token",
};

/** Codes that a token can mend. */
export const WANTS_TOKEN = new Set([4401, 4408]);

export class LineView {
  /** @param {() => void} connect try again by hand */
  constructor(connect) {
    this._text = h("span");
    this._retry = h("button", { type: "button", class: "text-button", text: "Connect", onClick: connect });
    this.element = h("div", { class: "line", role: "status" }, h("span", { class: "dot" }), this._text, this._retry);
    /** @type {import("../threadwire.d.ts").Line} */
    this._line = { state: "connecting" };
    // Only the countdown changes by itself.
    setInterval(() => this._line.retryAt && this._draw(), 250);
  }

  /** @param {import("../threadwire.d.ts").Line} line */
  show(line) {
    this._line = line;
    this._draw();
  }

  _draw() {
    const { state, code = 0, reason = "" } = this._line;
    this.element.dataset.state = state;
    this._retry.hidden = state !== "closed" || code === 4404;
    const text = this._words(state, code, reason);
    // A status that says the same again need not be read again.
    if (this._text.textContent !== text) this._text.textContent = text;
  }

  /** @param {string} state @param {number} code @param {string} reason */
  _words(state, code, reason) {
    const seconds = this._line.retryAt ? Math.max(0, Math.ceil((this._line.retryAt - Date.now()) / 1000)) : 0;
    const when = seconds > 0 ? ` in ${seconds} s` : "…";
    switch (state) {
      case "connecting":
        return "Connecting…";
      case "live":
        return "Live";
      case "draining":
        return "Server is stopping";
      case "offline":
        return "Offline";
      case "reconnecting":
        return `Reconnecting${when}`;
      default:
        return ENDS[code] ?? (reason || "Not connected");
    }
  }
}
