/** Threads as resources, over HTTP: see docs/threads.md. */

/**
 * @typedef {object} Thread
 * @property {string} thread_id
 * @property {string} updated_at
 * @property {"idle" | "busy" | "interrupted" | "error"} status
 * @property {{title?: unknown}} metadata
 */

const TOKEN = "threadwire.token";

/** The credential, while this tab lives. */
export const credential = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  /** @param {string} token */
  set: (token) => sessionStorage.setItem(TOKEN, token),
};

/** What the server refused. */
export class Refused extends Error {
  /** @param {number} status @param {string} message @param {string} sentWith the credential of the request, or "" */
  constructor(status, message, sentWith) {
    super(message);
    this.status = status;
    this.sentWith = sentWith;
  }
}

/** @param {string} method @param {string} path @param {unknown} [body] @param {RequestInit} [more] */
async function request(method, path, body, more = {}) {
  const headers = new Headers();
  if (body !== undefined) headers.set("Content-Type", "application/json");
  const token = credential.get();
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const sent = body === undefined ? null : JSON.stringify(body);
  const response = await fetch(new URL(path, document.baseURI), { method, headers, body: sent, ...more });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Refused(response.status, answer?.error?.message ?? `HTTP ${response.status}`, token);
}

/** How the page's sockets say who it is: by a ticket, since a token in an address would stand in logs. */
export const identification = { token: () => credential.get(), ticket };

/** A one-time ticket; null where there is no token, or none that the server takes. */
async function ticket() {
  if (!credential.get()) return null;
  try {
    return (await (await request("POST", "tickets")).json()).ticket;
  } catch (error) {
    // The socket tells what is wrong with it.
    if (error instanceof Refused) return null;
    throw error;
  }
}

const SELECT = ["thread_id", "updated_at", "status", "metadata"];

/** The latest first. @param {{query: string, limit: number}} page @returns {Promise<Thread[]>} */
export async function searchThreads({ query, limit }) {
  const body = { sort_by: "updated_at", limit, select: SELECT, ...(query ? { query } : {}) };
  return (await request("POST", "threads/search", body)).json();
}

/** One thread, or none. @param {string} id @returns {Promise<Thread[]>} */
export async function findThread(id) {
  if (id === "") return [];
  return (await request("POST", "threads/search", { ids: [id], select: SELECT })).json();
}

/** @param {string} id @param {string} title */
export const renameThread = (id, title) => request("PATCH", `threads/${id}`, { metadata: { title } });

/** @param {string} id */
export const deleteThread = (id) => request("DELETE", `threads/${id}`, undefined, { keepalive: true });

/** Save the conversation as a file. @param {string} id @param {"md" | "json"} format */
export async function exportThread(id, format) {
  const file = await (await request("GET", `threads/${id}/export?format=${format}`)).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${id}.${format}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** @param {Thread} thread */
export function titleOf(thread) {
  const { title } = thread.metadata;
  return typeof title === "string" && title.trim() ? title : "Untitled";
}
