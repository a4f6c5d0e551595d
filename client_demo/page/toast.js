/** Short notes at the foot of the page, that go by themselves. */
import { h, iconButton } from "./dom.js";

export class Toasts {
  constructor() {
    this.element = h("div", { class: "toasts", role: "status" });
  }

  /**
   * @param {string} text
   * @param {{action?: string, act?: () => void, ms?: number}} [options]
   * @returns {() => void} take it away
   */
  show(text, { action, act, ms = 8000 } = {}) {
    // What is said already need not be said twice.
    for (const said of this._passing()) if (said.firstChild?.textContent === text) said.remove();
    const timer = setTimeout(() => away(), ms);
    const away = () => {
      clearTimeout(timer);
      toast.remove();
    };
    const button =
      action && h("button", { type: "button", class: "text-button", text: action, onClick: () => (away(), act?.()) });
    const toast = h(
      "div",
      { class: action ? "toast" : "toast passing" },
      h("span", { text, dir: "auto" }),
      button,
      iconButton("close", "Dismiss", away),
    );
    this.element.append(toast);
    this._passing()
      .slice(0, -4)
      .forEach((old) => old.remove());
    return away;
  }

  /** Those that only say something. What can be taken back can be for as long as was said. */
  _passing() {
    return [...this.element.querySelectorAll(".passing")];
  }
}
