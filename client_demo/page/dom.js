/** Elements, made without markup: nothing that comes from a server is ever parsed as HTML here. */

/**
 * An element. A prop that is a function listens (`onClick`), one that is a property is set, others become attributes.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props] `false`, null and undefined leave it out
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
/** Each drawn in a square of 24, by strokes. */
const ICONS = {
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  clip: "M20 11.5l-8.1 8.1a5 5 0 01-7.1-7.1l8.5-8.5a3.3 3.3 0 014.7 4.7l-8.5 8.5a1.7 1.7 0 01-2.4-2.4l7.8-7.8",
  menu: "M4 7h16M4 12h16M4 17h16",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  close: "M6 6l12 12M18 6L6 18",
  code: "M8 7l-5 5 5 5M16 7l5 5-5 5M14 4l-4 16",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l5 5L20 7",
  pencil: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M4 12a8 8 0 0114-5.3L20 9M20 4v5h-5M20 12a8 8 0 01-14 5.3L4 15M4 20v-5h5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  down: "M12 5v14M6 13l6 6 6-6",
  export: "M12 4v11M7 10l5 5 5-5M5 20h14",
  tool: "M14.5 6.5a4 4 0 015-1l-2.8 2.8 1.9 1.9 2.8-2.8a4 4 0 01-5.4 5.2L8 20.5 3.5 16l7.9-8a4 4 0 013.1-1.5z",
  book: "M5 5a2 2 0 012-2h12v16H7a2 2 0 00-2 2zM5 21a2 2 0 012-2M19 19v2H7",
  hand: "M12 3l9 16H3zM12 10v4M12 17h.01",
  ask: "M12 3a9 9 0 100 18 9 9 0 000-18zM9.4 9.6a2.6 2.6 0 115 .8c0 1.7-2.4 2-2.4 3.6M12 17h.01",
  thought: "M12 4a7 7 0 00-4 12.7V20h8v-3.3A7 7 0 0012 4zM10 23h4",
  wall: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  search: "M11 4a7 7 0 100 14 7 7 0 000-14zM16 16l5 5",
  file: "M6 3h8l4 4v14H6zM14 3v5h4",
};

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon", `icon-${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows an icon and is named by its label.
 *
 * @param {keyof typeof ICONS} name @param {string} label @param {() => void} onClick @param {Record<string, any>} [props]
 */
export function iconButton(name, label, onClick, props = {}) {
  return h(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onClick, ...props },
    icon(name),
  );
}

/** Put a text on the clipboard, and say so on the button for a moment. @param {HTMLButtonElement} button @param {() => string} text */
export async function copyFrom(button, text) {
  try {
    await navigator.clipboard.writeText(text());
  } catch {
    return; // not allowed here; the text can be selected
  }
  const old = [...button.childNodes];
  button.replaceChildren(icon("check"));
  button.setAttribute("aria-label", "Copied");
  setTimeout(() => {
    button.replaceChildren(...old);
    button.setAttribute("aria-label", "Copy");
  }, 1500);
}

/** A value as people read it: JSON with room to breathe, a string as it is. @param {unknown} value */
export function readable(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

/** @param {number} ms */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000
    ? `${(ms / 1000).toFixed(1)} s`
    : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** @param {number} count @param {string} noun */
export const counted = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
