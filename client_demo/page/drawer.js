/**
 * Behind the scenes: what crosses the socket, as it passes. This is how the protocol is learnt.
 *
 * @typedef {import("../threadwire.d.ts").Wire} Wire
 * @typedef {import("../threadwire.d.ts").Filters} Filters
 * @typedef {import("./session.js").Session} Session
 */
import { copyFrom, h, iconButton } from "./dom.js";
import { FilterForm } from "./filters.js";

/** What is kept to look back at. */
const KEPT = 1000;
/** Rows that are shown. */
const SHOWN = 400;

export class Drawer {
  /** @param {(filters: Filters) => void} filter @param {() => void} onClose */
  constructor(filter, onClose) {
    /** @type {Wire[]} */
    this._wires = [];
    /** How many have passed, and how many of them are drawn. */
    this._passed = 0;
    this._drawnUpTo = 0;
    this._scheduled = false;
    this._raw = false;
    this._rows = h("ol", { class: "frames", tabindex: "0", "aria-label": "Frames" });
    this._text = h("pre", { class: "ndjson", tabindex: "0", "aria-label": "Raw NDJSON", dir: "ltr" });
    this._text.hidden = true;
    this._count = h("span", { class: "hint" });
    const copy = iconButton("copy", "Copy", () => void copyFrom(copy, () => this._ndjson()));
    this._tabs = h(
      "div",
      { class: "tabs", role: "group", "aria-label": "Show as" },
      this._tab("Frames", false),
      this._tab("NDJSON", true),
    );
    this.element = h(
      "aside",
      { class: "drawer", id: "drawer", "aria-label": "Behind the scenes" },
      h("div", { class: "drawer-head" }, h("h2", { text: "Behind the scenes" }), iconButton("close", "Close", onClose)),
      new FilterForm(filter).element,
      h("div", { class: "drawer-bar" }, this._tabs, this._count, copy),
      this._rows,
      this._text,
    );
    this.element.hidden = true;
    this._onWire = (/** @type {CustomEvent<Wire>} */ event) => this._take(event.detail);
    /** @type {Session | null} */
    this._session = null;
  }

  /** Watch a session. @param {Session} session */
  show(session) {
    this._session?.chat.removeEventListener("wire", /** @type {EventListener} */ (this._onWire));
    this._session = session;
    session.chat.addEventListener("wire", this._onWire);
    this._wires = [];
    this._passed = this._drawnUpTo = 0;
    this._rows.replaceChildren();
    this._schedule();
  }

  get isOpen() {
    return this.element.hidden === false;
  }

  /** @param {boolean} open */
  open(open) {
    this.element.hidden = !open;
    if (open) this._schedule();
  }

  /** @param {Wire} wire */
  _take(wire) {
    this._wires.push(wire);
    this._passed += 1;
    if (this._wires.length > KEPT) this._wires.splice(0, this._wires.length - KEPT);
    if (this.isOpen) this._schedule();
  }

  _schedule() {
    if (this._scheduled) return;
    this._scheduled = true;
    requestAnimationFrame(() => {
      this._scheduled = false;
      this._draw();
    });
  }

  _draw() {
    this._count.textContent = `${this._passed.toLocaleString()} passed`;
    const list = this._raw ? this._text : this._rows;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    if (this._raw) {
      this._text.textContent = this._ndjson();
    } else {
      const fresh = Math.min(this._passed - this._drawnUpTo, SHOWN, this._wires.length);
      this._drawnUpTo = this._passed;
      if (fresh > 0) this._rows.append(...this._wires.slice(-fresh).map(row));
      while (this._rows.childElementCount > SHOWN) this._rows.firstElementChild?.remove();
    }
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  _ndjson() {
    return this._wires.map(({ text }) => `${text}\n`).join("");
  }

  /** @param {string} name @param {boolean} raw */
  _tab(name, raw) {
    const button = h("button", { type: "button", text: name, "aria-pressed": String(!raw) });
    button.addEventListener("click", () => {
      for (const each of this._tabs.children) each.setAttribute("aria-pressed", String(each === button));
      this._raw = raw;
      this._rows.hidden = raw;
      this._text.hidden = !raw;
      this._schedule();
    });
    return button;
  }
}

/** @param {Wire} wire */
function row({ direction, text, frame }) {
  const { type = "?", seq, ...rest } = /** @type {Record<string, any>} */ (frame);
  const number = typeof seq === "number" ? String(seq) : "";
  const whole = h("pre", { dir: "ltr" });
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("span", {
        class: "way",
        "data-way": direction,
        title: direction === "in" ? "from the server" : "to the server",
        text: direction === "in" ? "↓" : "↑",
      }),
      h("span", { class: "seq", text: number }),
      h("span", { class: "type", text: type }),
      h("span", { class: "brief", text: gist(type, rest) }),
    ),
    whole,
  );
  // Made when it is looked at: most never are.
  details.addEventListener("toggle", () => (whole.textContent = JSON.stringify(JSON.parse(text), null, 2)), {
    once: true,
  });
  return h("li", {}, details);
}

/** What a frame is about, on one line. @param {string} type @param {Record<string, any>} fields */
function gist(type, fields) {
  const { content, name, status, message, trigger, code, resume } = fields;
  if (typeof content === "string") return JSON.stringify(content.slice(0, 80));
  if (type === "message") return `${message?.role} ${message?.id}`;
  if (type === "tool_call") return `${name}(${JSON.stringify(fields.args).slice(0, 80)})`;
  if (type === "history" && fields.messages) return `${fields.messages.length} messages`;
  return [name, status, trigger, code, resume].filter((part) => typeof part === "string").join(" ");
}
