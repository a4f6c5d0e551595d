/**
 * One connection after another, as long as coming back can help. The only module that touches a WebSocket.
 *
 * Knows frames only as far as it must: `ready` begins a connection, `goaway` announces its end. Browsers do not show the
 * server's pings to a page, so a silent connection is asked with a `ping` of ours.
 *
 * @typedef {import("../threadwire.d.ts").Line} Line
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 * @typedef {object} Listener who uses a link
 * @property {(frame: Frame, text: string) => void} onFrame a frame came; the first of each connection is `ready`
 * @property {(error: Disconnected) => void} onLost the connection is gone; another one is being tried
 * @property {(error: Disconnected) => void} onClosed that was the last connection
 * @property {(line: Line) => void} onLine how the line is
 * @property {(text: string) => void} onWrite a command leaves
 */
import { ABNORMAL, GIVEN_UP, delay, isRefusal, mayReconnect } from "./backoff.js";
import { Disconnected } from "./errors.js";
import { decode, numberOf } from "./frames.js";

/** A connection that lived this long was a good one: the next loss starts the backoff anew. */
const GOOD_MS = 10_000;
/** How long an answer to a `ping` may take: a heartbeat, within these. */
const MIN_ANSWER_MS = 1_000;
const MAX_ANSWER_MS = 10_000;
/** The same, where something says that the connection may be gone. */
const DOUBT_MS = 4_000;

export class Link {
  /**
   * @param {() => Promise<WebSocket>} open
   * @param {Listener} listener
   * @param {{maxReconnects: number, openSeconds: number}} options
   */
  constructor(open, listener, options) {
    this._open = open;
    this._listener = listener;
    this._options = options;
    /** @type {Line} */
    this.line = { state: "connecting" };
    /** @type {WebSocket | null} */
    this._socket = null;
    this._live = false;
    this._closed = false;
    this._failures = 0;
    this._since = 0;
    /** What `goaway` announced, in seconds. @type {number | null} */
    this._announced = null;
    /** Whether `online` and the like may cut the wait short. */
    this._hasty = true;
    this._beatMs = 0;
    this._heard = 0;
    /** When silence is a loss. @type {number | null} */
    this._deadline = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._retry = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._watch = undefined;
    this._nudged = () => this._onNudge();
    this._seen = () => globalThis.document?.visibilityState === "visible" && this._onNudge();
  }

  /** Begin to connect. */
  start() {
    globalThis.addEventListener?.("online", this._nudged);
    globalThis.addEventListener?.("offline", this._nudged);
    globalThis.document?.addEventListener("visibilitychange", this._seen);
    void this._connect();
  }

  /** Send on this connection; nothing happens where there is none (see `Commands.repeat`). @param {string} text */
  write(text) {
    if (!this._live) return;
    this._listener.onWrite(text);
    this._socket?.send(text);
  }

  /** Give this connection up for a new one, at once. */
  reattach() {
    if (this._socket === null) return;
    this._drop(GIVEN_UP, "a new connection is wanted");
    this._announced = 0;
    this._lost(new Disconnected(GIVEN_UP, "a new connection is wanted"));
  }

  /** Close, as the client's own wish. */
  close() {
    if (this._closed) return;
    this._drop(1000, "");
    this._end(new Disconnected(1000, "closed by this client"));
  }

  async _connect() {
    clearTimeout(this._retry);
    this._retry = undefined;
    if (this.line.state !== "connecting") this._say({ state: isOffline() ? "offline" : "reconnecting", retryAt: null });
    let socket;
    try {
      socket = await this._open();
    } catch (error) {
      // An address that is none, or a token that could not be had.
      this._lost(new Disconnected(ABNORMAL, error instanceof Error ? error.message : String(error)));
      return;
    }
    // A `close` follows each `error`; without a listener, Node's implementations throw.
    socket.addEventListener("error", () => undefined);
    if (this._closed) {
      socket.close(1000);
      return;
    }
    this._socket = socket;
    this._since = this._heard = Date.now();
    this._beatMs = 0;
    this._deadline = this._heard + this._options.openSeconds * 1000;
    this._look();
    const mine = () => this._socket === socket;
    socket.addEventListener("message", (event) => mine() && this._onMessage(event.data));
    socket.addEventListener("close", (event) => mine() && this._onClose(event.code, event.reason));
  }

  /** @param {unknown} data */
  _onMessage(data) {
    this._heard = Date.now();
    let frame;
    try {
      frame = decode(data);
    } catch (error) {
      this._drop(GIVEN_UP, "a frame that cannot be read");
      const why = error instanceof Error ? error.message : String(error);
      this._end(new Disconnected(1002, `a frame this client cannot read: ${why}`));
      return;
    }
    if (this._live) this._deadline = null;
    if (frame.type === "ready") {
      this._live = true;
      this._deadline = null;
      this._beatMs = frame.heartbeat_seconds * 1000;
      this._look();
      this._say({ state: "live" });
    } else if (frame.type === "goaway") {
      this._announced = frame.reconnect_after_seconds;
      this._say({ state: "draining", reason: frame.reason });
    } else if (numberOf(frame) !== null) {
      // Progress: whatever broke the connections before, it let this through.
      this._failures = 0;
    }
    this._listener.onFrame(frame, /** @type {string} */ (data));
  }

  /** @param {number} code @param {string} reason */
  _onClose(code, reason) {
    this._drop(GIVEN_UP, "");
    const error = new Disconnected(code, reason);
    if (mayReconnect(code) && this._failures < this._options.maxReconnects) this._lost(error);
    else this._end(error);
  }

  /** @param {Disconnected} error */
  _lost(error) {
    if (Date.now() - this._since > GOOD_MS && this._since > 0) this._failures = 0;
    const seconds = delay(this._failures, Math.random(), error.code, this._announced);
    this._hasty = this._announced === null && !isRefusal(error.code);
    this._announced = null;
    this._failures += 1;
    this._listener.onLost(error);
    const retryAt = Date.now() + seconds * 1000;
    this._say({ state: isOffline() ? "offline" : "reconnecting", retryAt, code: error.code, reason: error.reason });
    this._retry = setTimeout(() => void this._connect(), seconds * 1000);
  }

  /** @param {Disconnected} error */
  _end(error) {
    this._closed = true;
    clearTimeout(this._retry);
    globalThis.removeEventListener?.("online", this._nudged);
    globalThis.removeEventListener?.("offline", this._nudged);
    globalThis.document?.removeEventListener("visibilitychange", this._seen);
    this._listener.onClosed(error);
    this._say({ state: "closed", code: error.code, reason: error.reason });
  }

  /** Let go of the socket; what it may still say is not heard. @param {number} code @param {string} reason */
  _drop(code, reason) {
    clearTimeout(this._watch);
    const socket = this._socket;
    this._socket = null;
    this._live = false;
    // 0 and 1: connecting and open.
    if (socket !== null && socket.readyState <= 1) socket.close(code, reason);
  }

  /** Something about the network or the page has changed. */
  _onNudge() {
    if (this._retry !== undefined && this._hasty && !isOffline()) {
      this._failures = 0;
      void this._connect();
    } else if (this._live) {
      this._ask(DOUBT_MS);
    } else if (this.line.state === "reconnecting" && isOffline()) {
      this._say({ ...this.line, state: "offline" });
    }
  }

  /** Look after the connection: ask where it has been silent for a heartbeat, give it up where no answer comes. */
  _look() {
    clearTimeout(this._watch);
    const now = Date.now();
    if (this._deadline !== null && now >= this._deadline) {
      this._drop(GIVEN_UP, "silent");
      this._lost(new Disconnected(ABNORMAL, "the server is silent"));
      return;
    }
    if (this._deadline === null && this._beatMs > 0 && now >= this._heard + this._beatMs) {
      this._ask(Math.max(MIN_ANSWER_MS, Math.min(MAX_ANSWER_MS, this._beatMs)));
    }
    const next = this._deadline ?? (this._beatMs > 0 ? this._heard + this._beatMs : null);
    if (next !== null) this._watch = setTimeout(() => this._look(), Math.max(10, next - now));
  }

  /** Ask for a sign of life. @param {number} ms how long it may take */
  _ask(ms) {
    this._deadline ??= Date.now() + ms;
    this.write('{"type":"ping"}');
    clearTimeout(this._watch);
    this._watch = setTimeout(() => this._look(), ms);
  }

  /** @param {Line} line */
  _say(line) {
    this.line = line;
    this._listener.onLine(line);
  }
}

const isOffline = () => globalThis.navigator?.onLine === false;
