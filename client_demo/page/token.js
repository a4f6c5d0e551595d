/** Asks for the credential that the server wants. */
import { credential } from "./api.js";
import { h } from "./dom.js";

/** @type {Promise<boolean> | null} */
let asking = null;

/** Resolves to whether one was given; asks once, however often it is called meanwhile. */
export function askForToken() {
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

/** @returns {Promise<boolean>} */
function ask() {
  const box = h("input", { type: "password", "aria-label": "Token", autocomplete: "current-password", required: true });
  const dialog = h(
    "dialog",
    { "aria-label": "Token" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { text: "Who are you?" }),
      h("p", { text: "This server wants a token. It is kept in this tab until you close it." }),
      box,
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "plain-button", text: "Cancel", onClick: () => dialog.close() }),
        h("button", { class: "main-button", value: "give", text: "Connect" }),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "give" && box.value !== "";
      if (given) credential.set(box.value);
      dialog.remove();
      resolve(given);
    });
  });
}
