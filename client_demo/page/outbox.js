/**
 * What was said and the server has not acknowledged, kept over a reload of this tab. It goes out again under the names it
 * had, by which the server knows what it has already.
 *
 * @typedef {import("../threadwire.d.ts").Content} Content
 * @typedef {{chat: string, content: Content, messageId: string, runId: string}} Letter `chat`: see `Session.key`
 */

const OUTBOX = "threadwire.outbox";

/** @returns {Letter[]} oldest first */
function read() {
  try {
    return JSON.parse(sessionStorage.getItem(OUTBOX) ?? "[]");
  } catch {
    return [];
  }
}

/** @param {Letter[]} letters */
function write(letters) {
  try {
    if (letters.length > 0) sessionStorage.setItem(OUTBOX, JSON.stringify(letters));
    else sessionStorage.removeItem(OUTBOX);
  } catch {
    // More than a browser keeps (5 MB, as a rule): it waits in this page alone.
  }
}

export const outbox = {
  /** The chats that something waits in. */
  chats: () => new Set(read().map(({ chat }) => chat)),
  /** @param {string} chat */
  of: (chat) => read().filter((letter) => letter.chat === chat),
  /** @param {Letter} letter */
  put: (letter) => write([...read().filter(({ messageId }) => messageId !== letter.messageId), letter]),
  /** @param {string} messageId */
  drop: (messageId) => write(read().filter((letter) => letter.messageId !== messageId)),
  /** @param {string} chat */
  dropAll: (chat) => write(read().filter((letter) => letter.chat !== chat)),
  /** A chat has another name now. @param {string} from @param {string} to */
  rename: (from, to) => write(read().map((letter) => (letter.chat === from ? { ...letter, chat: to } : letter))),
};
