/**
 * What a connection is opened with: its address, its subprotocols, its query. Pure, but for chance.
 *
 * @typedef {import("../threadwire.d.ts").Filters} Filters
 */

const PROTOCOL = "threadwire.v1";
/** What a subprotocol's name may be made of (RFC 7230, token). */
const NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

/**
 * The socket's address. `url` is the server's (`https://host/path/`), or the socket's (`wss://host/ws`); without one, it is
 * the page's own server.
 *
 * @param {string | URL | undefined} url
 * @param {Record<string, string | null | undefined>} query
 */
export function socketUrl(url, query) {
  const address = new URL(url ?? "./", globalThis.document?.baseURI);
  if (address.protocol === "http:" || address.protocol === "https:") {
    address.protocol = address.protocol === "http:" ? "ws:" : "wss:";
    if (!address.pathname.endsWith("/ws")) {
      address.pathname += address.pathname.endsWith("/") ? "ws" : "/ws";
    }
  }
  address.hash = "";
  for (const [name, value] of Object.entries(query)) if (value != null) address.searchParams.set(name, value);
  return address;
}

/**
 * The subprotocols to offer. A browser can set no header, so a credential goes as the name of one.
 *
 * @param {string | null | undefined} token
 */
export function protocols(token) {
  if (token == null || token === "") return [PROTOCOL];
  return [PROTOCOL, `bearer.${NAME.test(token) ? token : base64url(token)}`];
}

/** @param {string} text */
function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/**
 * Filters as parameters. A name with a comma cannot be one; it follows with `subscribe`.
 *
 * @param {Filters} filters
 * @returns {Record<string, string>}
 */
export function filterQuery(filters) {
  /** @type {Record<string, string>} */
  const query = {};
  for (const [name, value] of Object.entries(filters)) {
    if (value === true) query[name] = "true";
    else if (Array.isArray(value) && value.length > 0)
      query[name] = value.filter((each) => !each.includes(",")).join(",");
  }
  return query;
}

/** A random UUID. `crypto.randomUUID` is only there in secure contexts; a page on plain http:// has none. */
export function uuid() {
  if (globalThis.crypto.randomUUID !== undefined) return globalThis.crypto.randomUUID();
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
