/**
 * What the graph asks a person, as a form.
 *
 * A question may be anything. What is understood: text; `{question}` with `answers` or `options` to choose from; and
 * LangChain's human-in-the-loop requests, `{action_requests, review_configs}`, answered with `{decisions}`. Anything else
 * is shown as it is, with a free answer.
 *
 * @typedef {import("../threadwire.d.ts").Interrupt} Interrupt
 * @typedef {{element: HTMLElement, read: () => unknown, chosen?: (send: () => void) => void}} Field
 */
import { h, icon, readable } from "./dom.js";

/**
 * @param {import("./types.d.ts").InterruptEntry} entry
 * @param {import("./session.js").Session} session
 * @returns {import("./entries.js").Drawn}
 */
export function drawQuestion(entry, session) {
  const fields = entry.interrupts.map((interrupt) => ({ id: interrupt.id, field: fieldFor(interrupt) }));
  const problem = h("p", { class: "problem", role: "alert" });
  const element = h("form", { class: "entry question", "aria-label": "The assistant asks" });
  const send = () => {
    try {
      const responses = Object.fromEntries(fields.map(({ id, field }) => [id, field.read()]));
      session.respond(responses);
      element.classList.add("answered");
      for (const control of element.querySelectorAll("button, textarea, input")) control.setAttribute("disabled", "");
    } catch (error) {
      problem.textContent = error instanceof Error ? error.message : String(error);
    }
  };
  const single = fields.length === 1 && fields[0].field.chosen !== undefined;
  if (single) fields[0].field.chosen?.(send);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  session.addEventListener("problem", () => {
    element.classList.remove("answered");
    for (const control of element.querySelectorAll("[disabled]")) control.removeAttribute("disabled");
  });
  element.append(
    h("div", { class: "question-head" }, icon("ask"), h("b", { text: "Your answer is needed" })),
    ...fields.map(({ field }) => field.element),
    problem,
    h(
      "div",
      { class: "row" },
      h("button", {
        type: "button",
        class: "plain-button",
        text: "Skip this",
        onClick: () => void session.leave(entry),
      }),
      single ? "" : h("button", { type: "submit", class: "main-button", text: "Answer" }),
    ),
  );
  return { element, update: () => undefined };
}

/** @param {Interrupt} interrupt @returns {Field} */
function fieldFor(interrupt) {
  const { value } = interrupt;
  const table = typeof value === "object" && value !== null ? /** @type {Record<string, any>} */ (value) : {};
  if (Array.isArray(table.action_requests)) return decisions(table);
  const choices = table.answers ?? table.options ?? table.choices;
  if (Array.isArray(choices) && choices.length > 0 && choices.length <= 12) return choice(asked(value), choices);
  return free(asked(value), value);
}

/** @param {unknown} value */
function asked(value) {
  if (typeof value === "string") return value;
  const table = /** @type {Record<string, unknown> | null} */ (typeof value === "object" ? value : null);
  const text = table?.question ?? table?.message ?? table?.description ?? table?.text;
  return typeof text === "string" ? text : "The graph asks:";
}

/** @param {unknown} answer */
const nameOf = (answer) => (answer === true ? "Approve" : answer === false ? "Reject" : readable(answer));

/** Buttons, each an answer. @param {string} text @param {unknown[]} answers @returns {Field} */
function choice(text, answers) {
  /** @type {unknown} */ let chosen;
  /** @type {() => void} */ let then = () => undefined;
  const buttons = answers.map((answer, index) => {
    const pick = () => {
      chosen = answer;
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
      then();
    };
    const button = h("button", {
      type: "button",
      class: index === 0 ? "main-button" : "plain-button",
      text: nameOf(answer),
      onClick: pick,
    });
    return button;
  });
  const read = () => {
    if (chosen === undefined) throw new Error("Choose an answer.");
    return chosen;
  };
  const element = h("fieldset", {}, h("legend", { text, dir: "auto" }), h("div", { class: "row" }, ...buttons));
  return { element, read, chosen: (send) => (then = send) };
}

/** Text, or JSON where it is that. @param {string} text @param {unknown} value @returns {Field} */
function free(text, value) {
  const box = h("textarea", { rows: "2", "aria-label": "Your answer", dir: "auto" });
  const details =
    typeof value === "string"
      ? ""
      : h("pre", { tabindex: "0", "aria-label": "The question in full", text: readable(value) });
  /** @type {unknown} */ let chosen;
  /** @type {() => void} */ let then = () => undefined;
  const give = (/** @type {unknown} */ answer) => () => {
    chosen = answer;
    then();
  };
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    give(undefined)();
  });
  const read = () => (chosen === undefined ? parsed(box.value) : chosen);
  const element = h(
    "fieldset",
    {},
    h("legend", { text, dir: "auto" }),
    details,
    box,
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "main-button", text: "Send answer", onClick: give(undefined) }),
      h("button", { type: "button", class: "plain-button", text: "Approve", onClick: give(true) }),
      h("button", { type: "button", class: "plain-button", text: "Reject", onClick: give(false) }),
    ),
  );
  return { element, read, chosen: (send) => (then = send) };
}

/** @param {string} text */
function parsed(text) {
  if (text.trim() === "") throw new Error("Write an answer.");
  if (!/^\s*[{[]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Tool calls to approve, edit or reject. @param {Record<string, any>} value @returns {Field} */
function decisions(value) {
  const requests = /** @type {{name: string, args?: unknown, arguments?: unknown, description?: string}[]} */ (
    value.action_requests
  );
  const configs = /** @type {{action_name?: string, allowed_decisions?: string[]}[]} */ (value.review_configs ?? []);
  const allowed = (/** @type {string} */ name) =>
    configs.find((config) => config.action_name === name)?.allowed_decisions;
  const rows = requests.map((request) => decision(request, allowed(request.name)));
  const element = h("div", { class: "decisions" }, ...rows.map((row) => row.element));
  return { element, read: () => ({ decisions: rows.map((row) => row.read()) }) };
}

/** What can be done with a call, and its name on the form. */
const DECISIONS = { approve: "Approve", edit: "Edit", reject: "Reject", respond: "Answer in its place" };

/**
 * @param {{name: string, args?: unknown, arguments?: unknown, description?: string}} request
 * @param {string[]} [allowed]
 * @returns {Field}
 */
function decision(request, allowed = ["approve", "edit", "reject"]) {
  const args = request.args ?? request.arguments ?? {};
  const name = `decision-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const edited = h("textarea", { rows: "4", "aria-label": `Arguments of ${request.name}`, spellcheck: "false" });
  edited.value = readable(args);
  const why = h("textarea", { rows: "2", "aria-label": "Why not", placeholder: "Why not? (told to the model)" });
  const instead = h("textarea", {
    rows: "2",
    "aria-label": "Result instead",
    placeholder: "What the tool would have said",
  });
  const offered = /** @type {(keyof typeof DECISIONS)[]} */ (Object.keys(DECISIONS)).filter((type) =>
    allowed.includes(type),
  );
  const radios = offered.map((type, index) => {
    const input = h("input", { type: "radio", name, value: type, checked: index === 0 });
    input.addEventListener("change", show);
    return h("label", {}, input, DECISIONS[type]);
  });
  const element = h(
    "fieldset",
    {},
    h("legend", {}, h("code", { text: request.name })),
    h("p", { text: request.description ?? "", dir: "auto" }),
    h("div", { class: "row" }, ...radios),
    edited,
    why,
    instead,
  );
  const picked = () => /** @type {HTMLInputElement | null} */ (element.querySelector("input:checked"))?.value;
  function show() {
    edited.readOnly = picked() !== "edit";
    edited.hidden = picked() === "respond";
    why.hidden = picked() !== "reject";
    instead.hidden = picked() !== "respond";
  }
  show();
  const read = () => {
    if (picked() === "reject")
      return why.value.trim() ? { type: "reject", message: why.value.trim() } : { type: "reject" };
    if (picked() === "respond") {
      if (instead.value.trim() === "") throw new Error(`Write what ${request.name} would have said.`);
      return { type: "respond", message: instead.value.trim() };
    }
    if (picked() !== "edit") return { type: "approve" };
    try {
      return { type: "edit", edited_action: { name: request.name, args: JSON.parse(edited.value) } };
    } catch {
      throw new Error(`The arguments of ${request.name} are not JSON.`);
    }
  };
  return { element, read };
}
