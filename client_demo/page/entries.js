/**
 * What each kind of entry looks like. A drawer is made once for an entry, and told when it has changed.
 *
 * @typedef {import("./types.d.ts").Entry} Entry
 * @typedef {import("./session.js").Session} Session
 * @typedef {{element: HTMLElement, update: () => void}} Drawn
 */
import { counted, copyFrom, duration, h, icon, iconButton, readable } from "./dom.js";
import { drawQuestion } from "./interrupt.js";
import { Markdown } from "./markdown.js";
import { drawUser } from "./user.js";

/** @param {Entry} entry @param {Session} session @returns {Drawn} */
export function draw(entry, session) {
  switch (entry.kind) {
    case "user":
      return drawUser(entry, session);
    case "assistant":
      return drawAnswer(entry, session);
    case "tool":
      return drawTool(entry);
    case "retrieval":
      return drawRetrieval(entry);
    case "interrupt":
      return drawQuestion(entry, session);
    case "custom":
      return drawCustom(entry);
    case "end":
      return drawEnd(entry, session);
  }
}

/** @param {import("./types.d.ts").AssistantEntry} entry @param {Session} session @returns {Drawn} */
function drawAnswer(entry, session) {
  const body = h("div", { class: "answer-text" });
  const markdown = new Markdown(body);
  const thought = h("pre", { class: "thought-text", dir: "auto" });
  const thoughts = h(
    "details",
    { class: "thoughts" },
    h("summary", {}, icon("thought"), h("span", { text: "Thinking" })),
    thought,
  );
  thoughts.hidden = true;
  const cut = h("div", { class: "cut" });
  const cost = h("span", { class: "cost" });
  const copy = iconButton("copy", "Copy", () => void copyFrom(copy, () => entry.text));
  const again = iconButton("again", "Answer again", () => session.again(entry));
  const tools = h("div", { class: "answer-tools" }, copy, again, cost);
  const element = h("article", { class: "entry answer", "aria-label": "Answer" }, thoughts, body, cut, tools);
  const update = () => {
    const running = entry.status === "running";
    element.dataset.status = entry.status;
    element.classList.toggle("silent", entry.text === "" && entry.reasoning === "" && !running);
    markdown.update(entry.text, !running);
    if (entry.reasoning !== "") {
      thoughts.hidden = false;
      thought.textContent = entry.reasoning;
      const name = running && entry.text === "" ? "Thinking…" : "Thought";
      /** @type {HTMLElement} */ (thoughts.querySelector("span")).textContent = name;
    }
    cut.replaceChildren(...(isCut(entry.status) ? cutOff(entry, entry.note, session) : []));
    cost.replaceChildren(...(entry.usage ? [spent(entry.usage)] : []));
    tools.hidden = running || entry.text === "";
  };
  update();
  return { element, update };
}

/** @param {string} status */
const isCut = (status) => status === "cancelled" || status === "failed" || status === "lost";

/** @param {string} status */
const wordsFor = (status) =>
  status === "failed" ? "The answer failed" : status === "lost" ? "Cut off: the server went down" : "Stopped";

/** @param {Entry} entry @param {string} note @param {Session} session */
function cutOff(entry, note, session) {
  const status = /** @type {any} */ (entry).status;
  return [
    h("span", { class: "cut-note" }, icon("hand"), h("span", { text: note || wordsFor(status) })),
    h(
      "button",
      { type: "button", class: "text-button", onClick: () => session.again(entry) },
      icon("again"),
      "Answer again",
    ),
  ];
}

/** @param {Partial<import("../threadwire.d.ts").Usage>} usage */
function spent({ input_tokens: input = 0, output_tokens: output = 0 }) {
  const title = `${counted(input, "token")} read, ${counted(output, "token")} written`;
  return h("span", { title, text: `${input.toLocaleString()} → ${counted(output, "token")}` });
}

const MARKS = /** @type {const} */ ({ waiting: "ask", ok: "check", error: "hand" });

/** @param {import("./types.d.ts").ToolEntry} entry @returns {Drawn} */
function drawTool(entry) {
  const mark = h("span", { class: "mark" });
  const brief = h("span", { class: "brief" });
  const time = h("span", { class: "time" });
  const name = h("span", { class: "tool-name", text: entry.name });
  const args = h("pre", { tabindex: "0", "aria-label": "Arguments" });
  const result = h("pre", { tabindex: "0", "aria-label": "Result" });
  const resultHead = h("h4", { text: "Result" });
  const element = h(
    "details",
    { class: "entry card tool" },
    h("summary", {}, mark, name, brief, time),
    h("div", { class: "card-body" }, h("h4", { text: "Arguments" }), args, resultHead, result),
  );
  const update = () => {
    element.dataset.status = entry.status;
    const label = { running: "running", waiting: "waits for you", ok: "done", error: "failed" }[entry.status];
    const drawn = entry.status === "running" ? h("span", { class: "spinner" }) : icon(MARKS[entry.status]);
    mark.replaceChildren(drawn, h("span", { class: "unseen", text: `Tool, ${label}:` }));
    brief.textContent = briefly(entry.args);
    args.textContent = readable(entry.args);
    const open = entry.status === "running" || entry.status === "waiting";
    result.textContent = open ? "…" : entry.result === null ? "(not told)" : readable(entry.result);
    resultHead.textContent = entry.status === "error" ? "Error" : "Result";
    time.textContent = entry.durationMs === null ? "" : duration(entry.durationMs);
  };
  update();
  return { element, update };
}

/** Arguments on one line. @param {unknown} args */
function briefly(args) {
  if (typeof args !== "object" || args === null) return "";
  const parts = Object.entries(args).map(
    ([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return parts.join(", ").slice(0, 200);
}

/** @param {import("./types.d.ts").RetrievalEntry} entry @returns {Drawn} */
function drawRetrieval(entry) {
  const documents = entry.documents.map((document) => {
    const source = document.metadata?.source ?? document.id ?? "";
    return h("li", { dir: "auto" }, h("b", { text: String(source) }), " ", String(document.page_content ?? ""));
  });
  const found = entry.status === "error" ? "failed" : counted(entry.documents.length, "document");
  const element = h(
    "details",
    { class: "entry card retrieval", "data-status": entry.status },
    h(
      "summary",
      {},
      icon("book"),
      h("span", { class: "tool-name", text: entry.name }),
      h("span", { class: "brief", text: entry.query }),
      h("span", { class: "time", text: found }),
    ),
    h("div", { class: "card-body" }, h("ol", {}, ...documents)),
  );
  return { element, update: () => undefined };
}

/** @param {import("./types.d.ts").CustomEntry} entry @returns {Drawn} */
function drawCustom(entry) {
  const text = h("span", { class: "brief" });
  const element = h(
    "div",
    { class: "entry custom" },
    h("span", { class: "dot" }),
    h("span", { class: "tool-name" }),
    text,
  );
  const update = () => {
    const name = entry.name === "custom" ? "" : entry.name;
    /** @type {HTMLElement} */ (element.querySelector(".tool-name")).textContent = name;
    text.textContent = typeof entry.data === "object" ? briefly(entry.data) : String(entry.data);
  };
  update();
  return { element, update };
}

/** @param {import("./types.d.ts").EndEntry} entry @param {Session} session @returns {Drawn} */
function drawEnd(entry, session) {
  const element = h("div", { class: "entry cut", "data-status": entry.status });
  element.append(...cutOff(entry, entry.text, session));
  return { element, update: () => undefined };
}
