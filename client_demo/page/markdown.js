/**
 * Markdown as it is written: blocks that are finished are rendered once, only the last ones again with each new piece.
 *
 * HTML in an answer is text. What `marked` makes goes through DOMPurify as well, which alone may make markup here (Trusted
 * Types). Without these libraries, which come from npm, answers are plain text.
 *
 * @typedef {{type: string, raw: string, text?: string, lang?: string}} Token
 */
import { copyFrom, h, iconButton } from "./dom.js";

/** @type {any} */ let marked = null;
/** @type {any} */ let purify = null;
/** @type {any} */ let highlighter = null;

/** Load the libraries, as far as they are there. */
export async function loadLibraries() {
  const vendor = new URL("../vendor/", import.meta.url);
  const load = (/** @type {string} */ name) => import(new URL(name, vendor).href).catch(() => null);
  const [markedModule, purifyModule, highlightModule] = await Promise.all(
    ["marked.js", "dompurify.js", "highlight.js"].map(load),
  );
  if (markedModule === null || purifyModule === null) return;
  purify = purifyModule.default;
  highlighter = highlightModule?.default ?? null;
  marked = new markedModule.Marked({ gfm: true, breaks: false });
  marked.use({
    renderer: {
      /** @param {{text: string}} token */
      html: ({ text }) => escape(text),
      // A picture elsewhere would tell its host who reads; the policy would refuse it anyway.
      /** @param {{href: string, text: string}} token */
      image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    },
  });
  purify.addHook("afterSanitizeAttributes", (/** @type {Element} */ node) => {
    if (node.tagName === "A") {
      node.setAttribute("target", "_blank");
      node.setAttribute("rel", "noopener noreferrer");
    }
  });
}

/** @param {string} text */
const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const CLEAN = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    ..."a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i input li ol p pre span strong sub sup".split(" "),
    ..."table tbody td th thead tr ul".split(" "),
  ],
  ALLOWED_ATTR: ["href", "title", "class", "start", "align", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
};

/** What stands for itself wherever in a line it is. (`www` begins a link.) */
const PLAIN = /^(?!.*www)[\p{L}\p{N} ,;.!?'’“”—–]*$/iu;

/** One text, in one element. */
export class Markdown {
  /** @param {HTMLElement} host */
  constructor(host) {
    this._host = host;
    this._text = "";
    /** Up to here it is rendered for good. */
    this._settled = 0;
    this._tail = h("div", { class: "tail" });
    host.classList.add("markdown");
    host.append(this._tail);
  }

  /** Show the text as far as it is there. @param {string} text @param {boolean} done whether that is all of it */
  update(text, done) {
    text = text.replace(/\r\n?/g, "\n");
    if (!done && this._append(text)) return;
    if (marked === null) {
      this._host.classList.add("plain");
      this._tail.textContent = text;
      return;
    }
    const again = !text.startsWith(this._text) || (done && this._settled > 0 && /^ {0,3}\[[^\]]+\]:/m.test(text));
    if (again) this._restart();
    this._text = text;
    const tokens = marked.lexer(text.slice(this._settled));
    // A block can still change while it is the last, and a list or a table while the one after it is.
    const settled = done ? tokens.length : Math.max(0, tokens.length - 2);
    if (settled > 0) this._settle(tokens.slice(0, settled));
    this._renderTail(tokens.slice(settled));
  }

  /**
   * Most of what comes is a few plain words at the end of a paragraph: put into its text as they are, they cost nothing,
   * however long it is. Returns false where they could mean something to Markdown.
   *
   * @param {string} text
   */
  _append(text) {
    const old = this._text;
    const piece = text.slice(old.length);
    if (old === "" || !text.startsWith(old) || !PLAIN.test(piece)) return false;
    /** @type {Node} */
    let last = this._tail;
    while (last.lastChild !== null) last = last.lastChild;
    if (!(last instanceof Text) || !/^(P|LI|H[1-6])$/.test(last.parentElement?.tagName ?? "")) return false;
    // Markdown does not keep the space at the end of a paragraph.
    const space = /\s*$/.exec(old)?.[0] ?? "";
    if (space.includes("\n")) return false;
    last.appendData((/\s$/.test(last.data) ? "" : space) + piece);
    this._text = text;
    return true;
  }

  _restart() {
    this._settled = 0;
    this._host.replaceChildren(this._tail);
  }

  /** @param {Token[]} tokens */
  _settle(tokens) {
    this._settled += tokens.reduce((length, token) => length + token.raw.length, 0);
    this._tail.before(render(tokens, true));
  }

  /** @param {Token[]} tokens */
  _renderTail(tokens) {
    const code = this._tail.querySelector(":scope > .code:only-child code");
    if (code !== null && tokens.length === 1 && tokens[0].type === "code") {
      // The commonest long block by far: only its text grows.
      code.textContent = tokens[0].text ?? "";
      return;
    }
    this._tail.replaceChildren(render(tokens, false));
  }
}

/** @param {Token[]} tokens @param {boolean} settled whether they are there to stay */
function render(tokens, settled) {
  if (tokens.length === 0) return document.createDocumentFragment();
  const html = marked.parser(tokens);
  /** @type {DocumentFragment} */
  const fragment = purify.sanitize(html, CLEAN);
  for (const block of fragment.querySelectorAll("p, h1, h2, h3, h4, h5, h6, ul, ol, li, blockquote, td, th")) {
    block.setAttribute("dir", "auto");
  }
  for (const table of fragment.querySelectorAll("table")) {
    const scroller = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  for (const code of fragment.querySelectorAll("pre > code")) dress(code, settled);
  return fragment;
}

/** A block of code with its language, a copy button and, once it is finished, colours. @param {Element} code @param {boolean} settled */
function dress(code, settled) {
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  const pre = /** @type {HTMLElement} */ (code.parentElement);
  pre.setAttribute("dir", "ltr");
  pre.setAttribute("tabindex", "0");
  const copy = iconButton("copy", "Copy", () => void copyFrom(copy, () => code.textContent ?? ""));
  const block = h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", { text: language || "text" }), copy),
  );
  pre.replaceWith(block);
  block.append(pre);
  if (settled && highlighter !== null && highlighter.getLanguage(language) !== undefined) {
    const { value } = highlighter.highlight(code.textContent ?? "", { language, ignoreIllegals: true });
    code.replaceChildren(purify.sanitize(value, { ...CLEAN, ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"] }));
  }
}
