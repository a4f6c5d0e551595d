/** The chat page: puts the parts together, follows the address, and says what goes wrong. */
import { Refused, credential } from "./api.js";
import { Composer, acceptDrops } from "./composer.js";
import { h, iconButton } from "./dom.js";
import { Drawer } from "./drawer.js";
import { LineView, WANTS_TOKEN } from "./line.js";
import { loadLibraries } from "./markdown.js";
import { outbox } from "./outbox.js";
import { Sessions } from "./session.js";
import { Sidebar } from "./sidebar.js";
import { Toasts } from "./toast.js";
import { askForToken } from "./token.js";
import { View } from "./view.js";

const THREAD = /^#\/t\/([A-Za-z0-9][\w.~-]{0,127})$/;

class Page {
  constructor() {
    this._toasts = new Toasts();
    /** @type {WeakSet<import("./session.js").Session>} */
    this._heard = new WeakSet();
    this._complain = (/** @type {unknown} */ problem) => void this._onProblem(problem);
    this._sessions = new Sessions(() => this._onWork());
    this._sidebar = new Sidebar({
      begin: () => this._begin(),
      gone: (id) => this._sessions.gone(id),
      isBusy: (id) => this._sessions.isBusy(id),
      complain: this._complain,
      toasts: this._toasts,
    });
    this._line = new LineView(() => this._reconnect());
    this._view = new View(greeting((text) => this._say(text)));
    this._composer = new Composer({
      send: (content) => this._say(content),
      stop: () => void this._session.stop(),
      complain: this._complain,
      maxBytes: () => Number(this._session.chat.ready?.limits.max_message_bytes ?? 1_048_576),
    });
    this._drawer = new Drawer(
      (filters) => this._filter(filters),
      () => this._showDrawer(false),
    );
    this._title = h("h1", { class: "title", dir: "auto" });
    this._model = h("span", { class: "model" });
    this._usage = h("span", { class: "cost" });
    this._drawerButton = iconButton("code", "Behind the scenes", () => this._showDrawer(!this._drawer.isOpen), {
      "aria-expanded": "false",
      "aria-controls": "drawer",
    });
    this._menuButton = iconButton(
      "menu",
      "Threads",
      () => this._showSidebar(!document.body.classList.contains("with-sidebar")),
      { class: "icon-button menu-button", "aria-controls": "sidebar", "aria-expanded": "false" },
    );
    /** @type {import("./session.js").Session} */
    this._session = this._sessions.enter(this._idInAddress(), this._idInAddress() ?? begunBefore());
    this._sessions.resume();
  }

  start() {
    document.body.append(
      this._skip(),
      this._sidebar.element,
      h("button", {
        type: "button",
        class: "veil",
        "aria-label": "Close threads",
        tabindex: "-1",
        onClick: () => this._showSidebar(false),
      }),
      this._main(),
      this._drawer.element,
      this._toasts.element,
    );
    acceptDrops(document.body, (files) => void this._composer.attach(files));
    addEventListener("hashchange", () => this._go());
    addEventListener("focus", () => void this._sidebar.refresh());
    document.addEventListener("keydown", (event) => this._onKeydown(event));
    this._enter(this._session);
    void this._sidebar.refresh();
    this._composer.box.focus();
  }

  _main() {
    return h(
      "main",
      { class: "main" },
      h(
        "header",
        { class: "bar" },
        this._menuButton,
        this._title,
        this._model,
        this._usage,
        this._line.element,
        this._drawerButton,
      ),
      this._view.element,
      this._composer.element,
    );
  }

  _skip() {
    return h("button", {
      type: "button",
      class: "skip",
      text: "Skip to the message box",
      onClick: () => this._composer.box.focus(),
    });
  }

  _idInAddress() {
    return THREAD.exec(location.hash)?.[1] ?? null;
  }

  /** A thread that nothing has been said in yet has no address. */
  _begin() {
    if (location.hash === "" || location.hash === "#/") this._go();
    else location.hash = "#/";
    this._composer.box.focus();
  }

  _go() {
    const id = this._idInAddress();
    if (id !== null && id === this._session.threadId) return;
    this._showSidebar(false);
    this._enter(this._sessions.enter(id));
  }

  /** @param {import("./session.js").Session} session */
  _enter(session) {
    this._session = session;
    if (!this._heard.has(session)) this._listen(session);
    this._view.show(session);
    this._drawer.show(session);
    this._sidebar.select(session.threadId ?? "");
    this._line.show(session.chat.line);
    this._onWork();
  }

  /** @param {import("./session.js").Session} session */
  _listen(session) {
    this._heard.add(session);
    session.chat.addEventListener("line", ({ detail: line }) => {
      if (session !== this._session) return;
      this._line.show(line);
      if (line.state === "closed" && WANTS_TOKEN.has(line.code ?? 0)) void this._askForToken();
    });
    session.addEventListener("say", (event) => this._say(/** @type {CustomEvent} */ (event).detail));
    session.addEventListener("problem", (event) => this._complain(/** @type {CustomEvent} */ (event).detail));
    session.chat.addEventListener("frame", ({ detail: frame }) => {
      if (frame.type === "ready" && session === this._session) this._name();
      if (["ready", "usage", "history", "run_started", "run_finished"].includes(frame.type)) this._onWork();
    });
  }

  /** @param {import("../threadwire.d.ts").Content} content */
  _say(content) {
    if (this._session.chat.line.state === "closed") this._reconnect();
    this._session.send(content);
    this._name();
  }

  /** A thread that something was said in has an address, once the server has given it an id. */
  _name() {
    const { said, threadId } = this._session;
    if (!said || threadId === null || this._idInAddress() !== null) return;
    history.replaceState(null, "", `#/t/${threadId}`);
    this._sidebar.select(threadId);
  }

  /** Something runs, or no longer does. */
  _onWork() {
    const { conversation, chat, threadId } = this._session;
    this._composer.running(conversation.run !== null);
    const { input, output } = conversation.usage;
    this._usage.textContent = input + output > 0 ? `${(input + output).toLocaleString()} tokens` : "";
    this._usage.title = `In the messages shown: ${input.toLocaleString()} read, ${output.toLocaleString()} written`;
    this._model.textContent = chat.ready?.model.name ?? "";
    this._model.title = chat.ready?.model.why ?? "";
    this._sidebar.redraw();
    this._showTitle(threadId ?? "");
    clearTimeout(this._refreshing);
    this._refreshing = setTimeout(
      () => void this._sidebar.refresh().then(() => this._showTitle(this._session.threadId ?? "")),
      150,
    );
  }

  /** @param {string} id */
  _showTitle(id) {
    const title = this._sidebar.titleOf(id);
    this._title.textContent = title || "New chat";
    document.title = title ? `${title} · threadwire` : "threadwire";
  }

  /** @param {import("../threadwire.d.ts").Filters} filters */
  _filter(filters) {
    this._sessions.filters = filters;
    void this._session.filter(filters);
  }

  _reconnect() {
    const { threadId, key, said } = this._session;
    this._sessions.drop(this._session);
    this._enter(this._sessions.enter(said ? threadId : null, said ? key : null));
  }

  async _askForToken() {
    if (await askForToken()) {
      this._reconnect();
      this._sessions.resume();
      void this._sidebar.refresh();
    }
  }

  /** @param {unknown} problem */
  async _onProblem(problem) {
    if (problem instanceof Refused && problem.status === 401) {
      // Without one, the socket asks; and a late answer to an earlier one says nothing about the one given since.
      if (problem.sentWith !== "" && problem.sentWith === credential.get()) await this._askForToken();
    } else if (problem instanceof TypeError) {
      // fetch could not reach the server; the line says so.
    } else {
      this._toasts.show(problem instanceof Error ? problem.message : String(problem));
    }
  }

  /** @param {boolean} show */
  _showDrawer(show) {
    this._drawer.open(show);
    document.body.classList.toggle("with-drawer", show);
    this._drawerButton.setAttribute("aria-expanded", String(show));
    if (!show) this._drawerButton.focus();
  }

  /** On a narrow screen the threads lie over the conversation. @param {boolean} show */
  _showSidebar(show) {
    document.body.classList.toggle("with-sidebar", show);
    this._menuButton.setAttribute("aria-expanded", String(show));
    if (show) this._sidebar.element.querySelector("button")?.focus();
  }

  /** @param {KeyboardEvent} event */
  _onKeydown(event) {
    if (event.defaultPrevented || event.isComposing) return;
    if (event.key === "Escape") {
      if (document.body.classList.contains("with-sidebar")) this._showSidebar(false);
      else if (this._session.conversation.run !== null) void this._session.stop();
    } else if (event.key === "O" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this._begin();
    } else if (
      event.key === "/" &&
      !(event.target instanceof HTMLTextAreaElement || event.target instanceof HTMLInputElement)
    ) {
      event.preventDefault();
      this._composer.box.focus();
    }
  }
}

/** A chat without a thread that something waits in since before the page was loaded. */
const begunBefore = () => [...outbox.chats()].find((key) => !THREAD.test(`#/t/${key}`)) ?? null;

/** What an empty thread shows. @param {(text: string) => void} say */
function greeting(say) {
  const examples = [
    "What can you do?",
    "What is (12.5 + 3) × 2^8?",
    "What time is it in Tokyo?",
    "Convert 5 miles to km",
  ];
  return h(
    "div",
    {},
    h("h2", { text: "What shall we talk about?" }),
    h("p", {
      text: "Every word arrives as it is said. Close the tab, lose the line, open a second one: the conversation goes on where it was.",
    }),
    h(
      "div",
      { class: "examples" },
      ...examples.map((text) => h("button", { type: "button", class: "plain-button", text, onClick: () => say(text) })),
    ),
  );
}

const wall = new URLSearchParams(location.search).get("wall");
await loadLibraries();
if (wall === null) new Page().start();
else (await import("./wall.js")).startWall(Number(wall));
