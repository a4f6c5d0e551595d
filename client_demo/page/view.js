/**
 * The conversation on the screen. What changes is collected and drawn once a frame, however many tokens came.
 *
 * It follows the newest words while its reader is at the end, and stays where the reader is otherwise; older messages are
 * read in as the reader comes near them.
 *
 * @typedef {import("./types.d.ts").Entry} Entry
 * @typedef {import("./session.js").Session} Session
 * @typedef {import("./entries.js").Drawn} Drawn
 */
import { h, iconButton } from "./dom.js";
import { draw } from "./entries.js";
import { Speech } from "./speech.js";

/** So near to the end counts as at the end. */
const NEAR_END = 60;
/** So near to the beginning, older messages are read. */
const NEAR_BEGINNING = 800;

export class View {
  /** @param {Node} greeting what an empty thread shows */
  constructor(greeting) {
    // Not a live region itself, which would read out every token; `Speech` says whole sentences.
    this._list = h("div", { class: "entries", role: "log", "aria-live": "off", "aria-label": "Conversation" });
    this._greeting = h("div", { class: "greeting" }, greeting);
    this._working = h("div", { class: "working", "aria-hidden": "true" }, h("span"), h("span"), h("span"));
    this._scroller = h(
      "div",
      { class: "scroller", tabindex: "0", "aria-label": "Messages", role: "region" },
      this._greeting,
      this._list,
      this._working,
    );
    this._toEnd = iconButton("down", "To the newest message", () => this.scrollToEnd(), {
      class: "icon-button to-end",
    });
    this._speech = new Speech();
    this.element = h("div", { class: "conversation" }, this._scroller, this._toEnd, this._speech.element);
    /** @type {Session | null} */
    this._session = null;
    /** @type {Map<string, Drawn>} */
    this._drawn = new Map();
    /** @type {Set<Entry>} */
    this._dirty = new Set();
    this._scheduled = false;
    this._following = true;
    this._lastTop = 0;
    /** @type {Element | null} */
    this._anchor = null;
    this._anchorY = 0;
    this._scroller.addEventListener("scroll", () => this._onScroll(), { passive: true });
    // The first turn of a wheel is smaller than what counts as near: the wish counts, not how far it got.
    this._scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this._leaveEnd(), { passive: true });
    // A picture that loads, a fold that opens, a window that narrows.
    // Also what is above the reader, which is only measured once it comes near.
    const observer = new ResizeObserver(() => this._keepPlace());
    observer.observe(this._list);
    observer.observe(this._scroller);
  }

  /** @param {Session} session */
  show(session) {
    if (this._session !== null) this._session.conversation.watcher = null;
    this._session = session;
    session.conversation.watcher = {
      added: (entry, before) => this._add(entry, before),
      prepended: (entries) => this._prepend(entries),
      changed: (entry) => this._change(entry),
      removed: (entry) => this._remove(entry),
      reset: () => this._reset(),
      state: () => this._schedule(),
    };
    this._following = true;
    this._reset();
  }

  scrollToEnd() {
    this._following = true;
    this._scroller.scrollTop = this._scroller.scrollHeight;
    // Where the end has come nearer this goes up, and is no reader who does.
    this._lastTop = this._scroller.scrollTop;
  }

  _reset() {
    this._drawn.clear();
    this._dirty.clear();
    this._list.replaceChildren();
    const { entries } = this._now.conversation;
    this._speech.startAfter(entries);
    const rows = document.createDocumentFragment();
    for (const entry of entries) rows.append(this._make(entry));
    this._list.append(rows);
    this._schedule();
    this._follow();
  }

  /** @param {Entry} entry @param {Entry | null} before */
  _add(entry, before) {
    const next = before === null ? null : (this._drawn.get(before.id)?.element ?? null);
    this._list.insertBefore(this._make(entry), next);
    if (entry.kind === "user" && entry.status === "waiting") this.scrollToEnd();
    this._schedule();
  }

  /** Put older entries in front; what is read stays where it is. @param {Entry[]} entries */
  _prepend(entries) {
    this._setAnchor();
    const rows = document.createDocumentFragment();
    for (const entry of entries) rows.append(this._make(entry));
    this._list.prepend(rows);
    this._keepPlace();
  }

  /** @param {Entry} entry */
  _change(entry) {
    this._dirty.add(entry);
    this._schedule();
  }

  /** @param {Entry} entry */
  _remove(entry) {
    this._drawn.get(entry.id)?.element.remove();
    this._drawn.delete(entry.id);
    this._dirty.delete(entry);
    this._schedule();
  }

  /** @param {Entry} entry */
  _make(entry) {
    const drawn = draw(entry, this._now);
    this._drawn.set(entry.id, drawn);
    return drawn.element;
  }

  _schedule() {
    if (this._scheduled) return;
    this._scheduled = true;
    requestAnimationFrame(() => this._flush());
  }

  _flush() {
    this._scheduled = false;
    for (const entry of this._dirty) this._drawn.get(entry.id)?.update();
    this._dirty.clear();
    const { conversation } = this._now;
    this._greeting.hidden = conversation.entries.length > 0 || !conversation.loaded;
    const last = conversation.entries.findLast((entry) => entry.kind !== "user" || entry.status === "sent");
    const silent = last === undefined || last.kind === "user" || (last.kind === "tool" && last.status !== "running");
    this._working.hidden = conversation.run === null || !silent;
    this._follow();
    this._speech.listen(conversation.entries);
  }

  _follow() {
    if (this._following) this.scrollToEnd();
    this._toEnd.hidden = this._following;
  }

  /** Note the entry at the top of what is seen, and where in all of it that is. */
  _setAnchor() {
    const { left, top, width } = this._scroller.getBoundingClientRect();
    const seen =
      document.elementFromPoint(left + width / 2, top + 30)?.closest(".entry") ?? this._list.firstElementChild;
    this._anchor = seen;
    this._anchorY = seen === null ? 0 : this._yOf(seen);
  }

  /** @param {Element} element */
  _yOf(element) {
    return element.getBoundingClientRect().top + this._scroller.scrollTop;
  }

  /** Something has another size: stay at the end, or at the entry that is read (browsers do that alike, or not at all). */
  _keepPlace() {
    if (this._following || this._anchor === null || !this._anchor.isConnected) {
      this._follow();
      return;
    }
    const y = this._yOf(this._anchor);
    if (Math.abs(y - this._anchorY) >= 0.5) this._scroller.scrollTop += y - this._anchorY;
    this._anchorY = y;
  }

  _leaveEnd() {
    this._following = this._scroller.scrollHeight <= this._scroller.clientHeight;
  }

  _onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this._scroller;
    const gap = scrollHeight - scrollTop - clientHeight;
    if (gap <= 1) this._following = true;
    else if (scrollTop < this._lastTop) this._following = false;
    else if (gap < NEAR_END) this._following = true;
    this._lastTop = scrollTop;
    if (!this._following) this._setAnchor();
    this._toEnd.hidden = this._following;
    if (scrollTop < NEAR_BEGINNING && !this._following) void this._session?.older();
  }

  get _now() {
    return /** @type {Session} */ (this._session);
  }
}
