/** A message of the user: its text, its pictures and files, and a way to say it differently. */
import { h, icon, iconButton } from "./dom.js";

/**
 * @param {import("./types.d.ts").UserEntry} entry
 * @param {import("./session.js").Session} session
 * @returns {import("./entries.js").Drawn}
 */
export function drawUser(entry, session) {
  const bubble = h("div", { class: "bubble" });
  const note = h("div", { class: "note" });
  const edit = iconButton("pencil", "Edit", () => openEditor());
  const element = h(
    "article",
    { class: "entry user", "aria-label": "You" },
    bubble,
    h("div", { class: "user-tools" }, note, edit),
  );
  const show = () => bubble.replaceChildren(...parts(entry.content));
  const openEditor = () => {
    const done = () => {
      show();
      element.classList.remove("editing");
      edit.focus();
    };
    element.classList.add("editing");
    bubble.replaceChildren(editor(entry, session, done));
    bubble.querySelector("textarea")?.focus();
  };
  const update = () => {
    element.dataset.status = entry.status;
    edit.hidden = entry.status !== "sent";
    note.replaceChildren(...notes(entry, session));
  };
  show();
  update();
  return { element, update };
}

/** @param {import("./types.d.ts").UserEntry} entry @param {import("./session.js").Session} session */
function notes(entry, session) {
  if (entry.status === "sent") return [];
  if (entry.status === "refused") {
    return [
      h("span", { class: "problem", text: entry.note || "Not sent" }),
      h("button", { type: "button", class: "text-button", text: "Send again", onClick: () => session.resend(entry) }),
      h("button", {
        type: "button",
        class: "text-button",
        text: "Discard",
        onClick: () => session.discard(entry.id),
      }),
    ];
  }
  const text = entry.status === "queued" ? "Next in line" : "Waiting to be sent";
  const { runId } = entry;
  const remove = () => void session.stop(runId ?? undefined);
  return [
    h("span", { class: "pending" }, h("span", { class: "dot" }), text),
    entry.status === "queued" && runId !== null
      ? h("button", { type: "button", class: "text-button", text: "Remove", onClick: remove })
      : "",
  ];
}

/** @param {import("../threadwire.d.ts").Content} content @returns {Node[]} */
function parts(content) {
  if (typeof content === "string") return [h("p", { dir: "auto", text: content })];
  return content.map((block) => {
    if (block.type === "text") return h("p", { dir: "auto", text: block.text ?? "" });
    if (block.type === "image" && block.base64 && /^image\/(png|jpeg|webp|gif)$/.test(block.mime_type ?? "")) {
      return h("img", {
        src: `data:${block.mime_type};base64,${block.base64}`,
        alt: "Picture you sent",
        class: "picture",
      });
    }
    const name = typeof block.title === "string" ? block.title : (block.mime_type ?? block.type);
    return h("span", { class: "file" }, icon("file"), h("span", { text: name }));
  });
}

/** @param {import("./types.d.ts").UserEntry} entry @param {import("./session.js").Session} session @param {() => void} done */
function editor(entry, session, done) {
  const { content } = entry;
  const others = typeof content === "string" ? [] : content.filter((block) => block.type !== "text");
  const old =
    typeof content === "string" ? content : content.map((block) => (block.type === "text" ? block.text : "")).join("");
  const box = h("textarea", { "aria-label": "Edit your message", rows: "3", dir: "auto" });
  box.value = old;
  const save = () => {
    const text = box.value.trim();
    done();
    if (text === "" && others.length === 0) return;
    session.edit(entry.id, others.length === 0 ? text : [...(text ? [{ type: "text", text }] : []), ...others]);
  };
  const onKeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      done();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      save();
    }
  };
  box.addEventListener("keydown", onKeydown);
  return h(
    "div",
    { class: "editor" },
    box,
    h("p", { class: "hint", text: "What was said after it will be dropped." }),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "plain-button", text: "Cancel", onClick: done }),
      h("button", { type: "button", class: "main-button", text: "Save and answer", onClick: save }),
    ),
  );
}
