/**
 * Where a message is written: text, pictures and files; sent by Enter, a line by Shift+Enter.
 *
 * @typedef {import("../threadwire.d.ts").Block} Block
 * @typedef {import("../threadwire.d.ts").Content} Content
 */
import { toBlock } from "./attachments.js";
import { h, icon, iconButton } from "./dom.js";

export class Composer {
  /**
   * @param {object} doors
   * @param {(content: Content) => void} doors.send
   * @param {() => void} doors.stop
   * @param {(problem: string) => void} doors.complain
   * @param {() => number} doors.maxBytes what a message may have
   */
  constructor(doors) {
    this._doors = doors;
    /** @type {Block[]} */
    this._blocks = [];
    /** Files are read one after another: each has the room that those before it have left. */
    this._reading = Promise.resolve();
    this._unread = 0;
    /** Whether to send as soon as all files are read. */
    this._sending = false;
    this.box = h("textarea", {
      id: "message",
      "aria-label": "Message",
      placeholder: "Write a message",
      rows: "1",
      dir: "auto",
      enterkeyhint: "send",
    });
    this._files = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files" });
    this._chips = h("div", { class: "chips" });
    this._send = iconButton("send", "Send", () => this._submit(), { class: "icon-button send" });
    this._stop = iconButton("stop", "Stop", () => this._doors.stop(), { class: "icon-button stop" });
    const attach = iconButton("clip", "Attach files", () => this._files.click());
    this.element = h(
      "form",
      { class: "composer", "aria-label": "New message" },
      this._chips,
      h("div", { class: "composer-row" }, attach, this._files, this.box, this._stop, this._send),
    );
    this.box.addEventListener("input", () => this._fit());
    this.box.addEventListener("keydown", (event) => this._onKeydown(event));
    this.box.addEventListener("paste", (event) => this._onPaste(event));
    this._files.addEventListener("change", () => {
      void this.attach([...(this._files.files ?? [])]);
      this._files.value = "";
    });
    this.element.addEventListener("submit", (event) => event.preventDefault());
    this.running(false);
    // Its height can be known once it is on the page, and is another when the page narrows.
    new ResizeObserver(() => this._fit()).observe(this.element);
  }

  /** Show whether there is something to stop. @param {boolean} running */
  running(running) {
    this._stop.hidden = !running;
  }

  /** Take files into the message. @param {File[]} files */
  attach(files) {
    this._unread += files.length;
    this._reading = this._reading.then(() => this._read(files));
    return this._reading;
  }

  /** @param {File[]} files */
  async _read(files) {
    for (const file of files) {
      const used = this._blocks.reduce((sum, block) => sum + JSON.stringify(block).length, 0);
      const max = this._doors.maxBytes();
      try {
        const block = await toBlock(file, max > 0 ? Math.max(1, max - used) : 0);
        this._blocks.push(block);
        this._chips.append(this._chip(block, file.name));
      } catch (error) {
        this._sending = false;
        this._doors.complain(error instanceof Error ? error.message : String(error));
      }
      this._unread -= 1;
    }
    this._fit();
    this.box.focus();
    if (this._sending && this._unread === 0) this._submit();
  }

  /** @param {Block} block @param {string} name */
  _chip(block, name) {
    const picture =
      block.type === "image"
        ? h("img", { src: `data:${block.mime_type};base64,${block.base64}`, alt: "" })
        : icon("file");
    const remove = iconButton("close", `Remove ${name}`, () => {
      this._blocks.splice(this._blocks.indexOf(block), 1);
      chip.remove();
      this._fit();
    });
    const chip = h("span", { class: "chip" }, picture, h("span", { class: "chip-name", text: name }), remove);
    return chip;
  }

  _submit() {
    // Half a surrogate pair, as an input method can leave it, is nothing that can be sent.
    const text = this.box.value.trim().replace(/\p{Surrogate}/gu, "\ufffd");
    this._sending = this._unread > 0;
    if (this._sending || (text === "" && this._blocks.length === 0)) return;
    const content = this._blocks.length === 0 ? text : [...(text ? [{ type: "text", text }] : []), ...this._blocks];
    this.box.value = "";
    this._blocks = [];
    this._chips.replaceChildren();
    this._fit();
    this.box.focus();
    this._doors.send(content);
  }

  /** @param {KeyboardEvent} event */
  _onKeydown(event) {
    // Enter also ends a word that an input method composes.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this._submit();
  }

  /** @param {ClipboardEvent} event */
  _onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    void this.attach(files);
  }

  /** As high as its text, up to what the style allows. */
  _fit() {
    this.box.style.height = "auto";
    this.box.style.height = `${this.box.scrollHeight}px`;
    this._send.toggleAttribute("disabled", this.box.value.trim() === "" && this._blocks.length === 0);
  }
}

/** Let files be dropped anywhere on an element. @param {HTMLElement} element @param {(files: File[]) => void} take */
export function acceptDrops(element, take) {
  let depth = 0;
  const holds = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  const mark = () => element.classList.toggle("dropping", depth > 0);
  element.addEventListener("dragenter", (event) => {
    if (holds(event)) depth += 1;
    mark();
  });
  element.addEventListener("dragleave", (event) => {
    if (holds(event)) depth -= 1;
    mark();
  });
  element.addEventListener("dragover", (event) => holds(event) && event.preventDefault());
  element.addEventListener("drop", (event) => {
    depth = 0;
    mark();
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    take(files);
  });
}
