/** The six filters of LangChain's `astream_events`, as controls that act at once. */
import { h } from "./dom.js";

/** @typedef {import("../threadwire.d.ts").Filters} Filters */

const TYPES = ["chat_model", "llm", "tool", "retriever", "custom"];
const WHERE = /** @type {const} */ ([
  ["include", "Only"],
  ["exclude", "Not"],
]);

export class FilterForm {
  /** @param {(filters: Filters) => void} act */
  constructor(act) {
    this._act = act;
    this._said = "{}";
    const groups = WHERE.map(([way, word]) =>
      h(
        "fieldset",
        {},
        h("legend", { text: word }),
        h("div", { class: "types" }, ...TYPES.map((type) => this._type(way, type))),
        this._names(`${way}_names`, "names"),
        this._names(`${way}_tags`, "tags"),
      ),
    );
    const raw = h(
      "label",
      { class: "check" },
      h("input", { type: "checkbox", name: "raw" }),
      "raw events (where the server lets them out)",
    );
    const reset = h("button", { type: "reset", class: "text-button", text: "Show all" });
    this.element = h(
      "details",
      { class: "filters" },
      h("summary", { text: "Filters" }),
      h(
        "form",
        {},
        h("p", { class: "hint", text: "What this page asks the server for. Nothing is renumbered: seq jumps." }),
        ...groups,
        h("div", { class: "row" }, raw, reset),
      ),
    );
    const form = /** @type {HTMLFormElement} */ (this.element.querySelector("form"));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this._say(form));
    // The fields are empty only after this event.
    form.addEventListener("reset", () => setTimeout(() => this._say(form)));
  }

  /** @param {HTMLFormElement} form */
  _say(form) {
    const data = new FormData(form);
    /** @type {Filters} */
    const filters = {};
    for (const [way] of WHERE) {
      const types = data.getAll(`${way}_types`).map(String);
      if (types.length > 0) filters[`${way}_types`] = types;
      for (const what of /** @type {const} */ (["names", "tags"])) {
        const names = String(data.get(`${way}_${what}`) ?? "")
          .split(",")
          .map((name) => name.trim())
          .filter(Boolean);
        if (names.length > 0) filters[`${way}_${what}`] = names;
      }
    }
    if (data.has("raw")) filters.raw = true;
    const said = JSON.stringify(filters);
    if (said === this._said) return;
    this._said = said;
    this._act(filters);
  }

  /** @param {string} way @param {string} type */
  _type(way, type) {
    return h("label", { class: "check" }, h("input", { type: "checkbox", name: `${way}_types`, value: type }), type);
  }

  /** @param {string} name @param {string} what */
  _names(name, what) {
    return h(
      "label",
      { class: "names" },
      what,
      h("input", {
        type: "text",
        name,
        placeholder: "a, b",
        spellcheck: "false",
        "aria-label": name.replace("_", " "),
      }),
    );
  }
}
