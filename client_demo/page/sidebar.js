/**
 * The threads: the latest first, to search, rename, export and delete. Deleting is final only after a while of "undo".
 *
 * @typedef {import("./api.js").Thread} Thread
 */
import { deleteThread, exportThread, findThread, renameThread, searchThreads, titleOf } from "./api.js";
import { h, icon, iconButton } from "./dom.js";

const PAGE = 40;
const SEARCH_MS = 200;
const UNDO_MS = 10_000;

export class Sidebar {
  /**
   * @param {object} doors
   * @param {() => void} doors.begin a new thread
   * @param {(id: string) => void} doors.gone a thread is deleted
   * @param {(id: string) => boolean} doors.isBusy
   * @param {(problem: unknown) => void} doors.complain
   * @param {import("./toast.js").Toasts} doors.toasts
   */
  constructor(doors) {
    this._doors = doors;
    /** @type {Thread[]} */
    this._threads = [];
    this._current = "";
    /** The titles that are known, also of threads that are not in the list. @type {Map<string, string>} */
    this._titles = new Map();
    this._limit = PAGE;
    this._asked = 0;
    /** Deleted, and not yet final. @type {Map<string, ReturnType<typeof setTimeout>>} */
    this._deleting = new Map();
    this._search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search threads" });
    this._list = h("ul", { class: "threads" });
    this._more = h("button", {
      type: "button",
      class: "text-button more",
      text: "Show more",
      onClick: () => this._showMore(),
    });
    this._empty = h("p", { class: "hint", text: "No conversations yet." });
    const begin = h(
      "button",
      { type: "button", class: "main-button new", onClick: doors.begin },
      icon("plus"),
      "New chat",
    );
    this.element = h(
      "nav",
      { class: "sidebar", id: "sidebar", "aria-label": "Threads" },
      h(
        "div",
        { class: "brand" },
        h("img", { src: new URL("icon.svg", import.meta.url).href, alt: "", width: "28", height: "28" }),
        h("b", { text: "threadwire" }),
      ),
      begin,
      h("label", { class: "search" }, icon("search"), this._search),
      h("div", { class: "threads-scroller", tabindex: "-1" }, this._list, this._empty, this._more),
      h("a", { class: "side-link", href: "?wall=24" }, icon("wall"), "Many at once"),
    );
    let typing = 0;
    this._search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = window.setTimeout(() => void this.refresh(), SEARCH_MS);
    });
    // Who leaves the page has not taken it back.
    addEventListener("pagehide", () => [...this._deleting.keys()].forEach((id) => this._finish(id)));
  }

  /** Read the list again. */
  async refresh() {
    const asked = ++this._asked;
    try {
      const threads = await searchThreads({ query: this._search.value.trim(), limit: this._limit + 1 });
      if (asked !== this._asked) return; // a later question has been asked
      this._threads = threads;
      const current = this._current;
      const others = threads.some((thread) => thread.thread_id === current) ? [] : await findThread(current);
      for (const thread of [...threads, ...others]) this._titles.set(thread.thread_id, titleOf(thread));
      this.redraw();
    } catch (error) {
      this._doors.complain(error);
    }
  }

  /** Mark the thread that is shown. @param {string} id */
  select(id) {
    this._current = id;
    this.redraw();
  }

  /** The title of a thread, as far as it is known. @param {string} id */
  titleOf(id) {
    return this._titles.get(id) ?? "";
  }

  redraw() {
    if (this._list.querySelector("input, [aria-expanded=true]") !== null) return; // somebody is at work in it
    const shown = this._threads.filter((thread) => !this._deleting.has(thread.thread_id)).slice(0, this._limit);
    const focused = document.activeElement?.closest("li")?.dataset.id;
    this._list.replaceChildren(...shown.map((thread) => this._row(thread)));
    this._more.hidden = this._threads.length <= this._limit;
    this._empty.hidden = shown.length > 0;
    this._empty.textContent = this._search.value.trim() ? "Nothing found." : "No conversations yet.";
    if (focused)
      /** @type {HTMLElement | null} */ (this._list.querySelector(`li[data-id="${CSS.escape(focused)}"] a`))?.focus();
  }

  /** @param {Thread} thread */
  _row(thread) {
    const id = thread.thread_id;
    const busy = this._doors.isBusy(id) || thread.status === "busy";
    const state = busy ? "busy" : thread.status;
    const words = { busy: "answering", interrupted: "waits for you", error: "failed", idle: "" }[state];
    const link = h(
      "a",
      { href: `#/t/${id}`, "aria-current": id === this._current ? "page" : null },
      h("span", { class: "thread-title", dir: "auto", text: titleOf(thread) }),
      words
        ? h(
            "span",
            { class: "thread-state", "data-state": state, title: words },
            h("span", { class: "unseen", text: words }),
          )
        : "",
    );
    const row = h("li", { "data-id": id }, link);
    const menu = iconButton("more", `More about ${titleOf(thread)}`, () => this._openMenu(thread, row, menu), {
      "aria-haspopup": "menu",
      "aria-expanded": "false",
    });
    row.append(menu);
    link.addEventListener("dblclick", () => this._rename(thread, row));
    link.addEventListener("keydown", (event) => {
      if (event.key === "F2") this._rename(thread, row);
      else if (event.key === "Delete") this._delete(thread);
    });
    return row;
  }

  /** @param {Thread} thread @param {HTMLElement} row @param {HTMLButtonElement} button */
  _openMenu(thread, row, button) {
    const id = thread.thread_id;
    const close = () => {
      menu.remove();
      button.setAttribute("aria-expanded", "false");
      document.removeEventListener("pointerdown", outside);
    };
    const outside = (/** @type {Event} */ event) => !row.contains(/** @type {Node} */ (event.target)) && close();
    /** @param {string} text @param {Parameters<typeof icon>[0]} name @param {() => void} act */
    const item = (text, name, act) =>
      h("button", { type: "button", role: "menuitem", onClick: () => (close(), act()) }, icon(name), text);
    const save = (/** @type {"md" | "json"} */ format) => () =>
      void exportThread(id, format).catch(this._doors.complain);
    const menu = h(
      "div",
      { class: "menu", role: "menu" },
      item("Rename", "pencil", () => this._rename(thread, row)),
      item("Export as Markdown", "export", save("md")),
      item("Export as JSON", "code", save("json")),
      item("Delete", "trash", () => this._delete(thread)),
    );
    menu.addEventListener("keydown", (event) => {
      const items = /** @type {HTMLElement[]} */ ([...menu.children]);
      const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
      if (event.key === "Escape") (event.stopPropagation(), close(), button.focus());
      else if (event.key === "ArrowDown") items[(at + 1) % items.length].focus();
      else if (event.key === "ArrowUp") items[(at + items.length - 1) % items.length].focus();
      else return;
      event.preventDefault();
    });
    button.setAttribute("aria-expanded", "true");
    row.append(menu);
    document.addEventListener("pointerdown", outside);
    /** @type {HTMLElement} */ (menu.firstElementChild).focus();
  }

  /** @param {Thread} thread @param {HTMLElement} row */
  _rename(thread, row) {
    const box = h("input", { "aria-label": "Title", maxlength: "200", dir: "auto" });
    box.value = titleOf(thread);
    let over = false;
    const end = async (/** @type {boolean} */ keep) => {
      if (over) return;
      over = true;
      const title = box.value.trim();
      if (keep && title !== "" && title !== titleOf(thread)) {
        try {
          await renameThread(thread.thread_id, title);
          this._titles.set(thread.thread_id, title);
          // The list may have been read meanwhile.
          for (const each of this._threads) if (each.thread_id === thread.thread_id) each.metadata.title = title;
        } catch (error) {
          this._doors.complain(error);
        }
      }
      box.remove();
      this.redraw();
      void this.refresh();
    };
    box.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && !event.isComposing) void end(true);
      else if (event.key === "Escape") void end(false);
    });
    box.addEventListener("blur", () => void end(true));
    row.replaceChildren(box);
    box.select();
    box.focus();
  }

  /** @param {Thread} thread */
  _delete(thread) {
    const id = thread.thread_id;
    const dismiss = this._doors.toasts.show(`Deleted “${titleOf(thread)}”`, {
      action: "Undo",
      ms: UNDO_MS,
      act: () => {
        clearTimeout(this._deleting.get(id));
        this._deleting.delete(id);
        this.redraw();
      },
    });
    const timer = setTimeout(() => (dismiss(), this._finish(id)), UNDO_MS);
    this._deleting.set(id, timer);
    this.redraw();
    if (id === this._current) this._doors.begin();
  }

  /** @param {string} id */
  _finish(id) {
    clearTimeout(this._deleting.get(id));
    this._doors.gone(id);
    const done = () => {
      this._deleting.delete(id);
      void this.refresh();
    };
    const gone = () => {
      this._threads = this._threads.filter((thread) => thread.thread_id !== id);
      done();
    };
    deleteThread(id).then(gone, (error) => (done(), this._doors.complain(error)));
  }

  _showMore() {
    this._limit += PAGE;
    void this.refresh();
  }
}
