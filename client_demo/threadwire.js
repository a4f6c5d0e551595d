/**
 * A conversation with a threadwire server, from a web page or from Node: commands out, frames in, over as many
 * connections as it takes. No dependency, no DOM. Types are in `threadwire.d.ts`, docs in docs/javascript-client.md.
 *
 *     const chat = connect({ url: "http://127.0.0.1:8000" });
 *     for await (const frame of chat.send("hi")) if (frame.type === "token") show(frame.content);
 *
 * A frame's way: link (the socket) → `_onFrame` → position (seen before? held?) → turns (whose is it?) → audience
 * (who listens). Nothing in this way waits.
 *
 * @typedef {import("./threadwire.d.ts").Frame} Frame
 * @typedef {import("./threadwire.d.ts").Filters} Filters
 * @typedef {import("./threadwire.d.ts").ConnectOptions} ConnectOptions
 * @typedef {import("./threadwire.d.ts").Content} Content
 * @typedef {import("./threadwire.d.ts").AckFrame} AckFrame
 */
import { Audience } from "./threadwire/audience.js";
import { Commands } from "./threadwire/commands.js";
import { Disconnected } from "./threadwire/errors.js";
import { numberOf } from "./threadwire/frames.js";
import { Link } from "./threadwire/link.js";
import { Position } from "./threadwire/position.js";
import { Recovery } from "./threadwire/recovery.js";
import { Turn, Turns } from "./threadwire/turns.js";
import { filterQuery, protocols, socketUrl, uuid } from "./threadwire/upgrade.js";

export { CommandFailed, Disconnected, TurnFailed, TurnLost } from "./threadwire/errors.js";
export { BadFrame, decode } from "./threadwire/frames.js";
export { plain } from "./threadwire/turns.js";

/**
 * Begin a conversation. Returns at once: what is said before the connection is there waits for it.
 *
 * @param {ConnectOptions} [options]
 * @returns {import("./threadwire.d.ts").Chat} by which this file is held to its declarations
 */
export function connect(options = {}) {
  return new Chat(options);
}

/** One thread on a server; made by `connect`. */
class Chat extends Audience {
  /** @param {ConnectOptions} options */
  constructor(options) {
    super();
    this._options = options;
    /** @type {Filters} */
    this._filters = options.filters ?? {};
    this._position = new Position();
    this._epoch = () => this._position.epoch;
    this._turns = new Turns();
    this._link = new Link(() => this._open(), this, {
      maxReconnects: options.reconnect === false ? 0 : (options.maxReconnects ?? Infinity),
      openSeconds: options.openSeconds ?? 10,
    });
    this._commands = new Commands((text) => this._link.write(text));
    this._recovery = new Recovery(this._asker(), this._position, this._turns);
    this._justAttached = false;
    /** The newest `ready`; null before the first. @type {import("./threadwire.d.ts").ReadyFrame | null} */
    this.ready = null;
    /** @type {Promise<import("./threadwire.d.ts").ReadyFrame>} */
    this.opened = new Promise((resolve, reject) => {
      this._resolveOpened = resolve;
      this._rejectOpened = reject;
    });
    this.opened.catch(() => undefined);
    this._wantsHistory = options.history ?? null;
    // Not before who called us can listen.
    queueMicrotask(() => this._over === null && this._link.start());
  }

  /** The thread's id; null until the server has made one up. */
  get threadId() {
    return this.ready?.thread_id ?? this._options.threadId ?? null;
  }

  /** The run that is active, as far as the frames that came tell. */
  get running() {
    return this._turns.running;
  }

  /** How the line is. */
  get line() {
    return this._link.line;
  }

  /** Say something. @param {Content} content @param {import("./threadwire.d.ts").SendOptions} [options] */
  send(content, options = {}) {
    const messageId = options.messageId ?? uuid();
    const fields = {
      content,
      message_id: messageId,
      run_id: options.runId,
      multitask_strategy: options.multitaskStrategy,
      stream: options.stream,
      context: options.context,
      checkpoint_id: options.checkpointId,
    };
    return this._turn("send", fields, messageId);
  }

  /** Answer interrupts, and follow the run that goes on with them. @param {Record<string, unknown>} responses */
  respond(responses) {
    return this._turn("respond", { responses }, null);
  }

  /** Replace a user message, drop what followed it, and follow its run. @param {string} messageId @param {Content} content */
  edit(messageId, content) {
    return this._turn("edit", { message_id: messageId, content }, null);
  }

  /** Have the turn of an assistant message (default: the last) answered again. @param {string} [messageId] */
  regenerate(messageId) {
    return this._turn("regenerate", { message_id: messageId }, null);
  }

  /**
   * Stop a run, or the one that is active now. Without a run it is not repeated after a lost connection, where it could
   * hit another one.
   *
   * @param {string} [runId] @returns {Promise<AckFrame>}
   */
  async cancel(runId) {
    return /** @type {AckFrame} */ (await this._ask("cancel", { run_id: runId }, runId !== undefined));
  }

  /** A page of messages, oldest first. @param {{before?: string, limit?: number}} [page] */
  async history({ before, limit } = {}) {
    return /** @type {import("./threadwire.d.ts").HistoryFrame} */ (
      await this._ask("history", { before, limit }, true)
    );
  }

  /** Replace the filter of events, now and on later connections. @param {Filters} filters @returns {Promise<AckFrame>} */
  async subscribe(filters) {
    this._filters = filters;
    return /** @type {AckFrame} */ (await this._ask("subscribe", { ...filters }, false));
  }

  /** Ask for a sign of life. */
  async ping() {
    return /** @type {import("./threadwire.d.ts").PongFrame} */ (await this._ask("ping", {}, true));
  }

  /** End the conversation: by default the server stops what this chat has running. */
  close() {
    this._link.close();
  }

  // --- for the link ------------------------------------------------------------------------------

  /** @param {Frame} frame @param {string} text */
  onFrame(frame, text) {
    this._emit("wire", { direction: "in", text, frame });
    const number = numberOf(frame);
    if (number !== null) {
      this._justAttached = false;
      if (number > this._position.seq) this._turns.seen(frame);
      if (this._position.accept(frame, number)) this._passOn(frame);
    } else {
      this._onOwn(frame);
    }
  }

  /** @param {Disconnected} error */
  onLost(error) {
    this._recovery.stop();
    this._commands.lost(error);
  }

  /** @param {Disconnected} error */
  onClosed(error) {
    this._recovery.stop();
    this._commands.close(error);
    for (const turn of this._turns.open()) turn.fail(error);
    this._finish(error);
    this._rejectOpened?.(error);
  }

  /** @param {import("./threadwire.d.ts").Line} line */
  onLine(line) {
    this._emit("line", line);
  }

  /** @param {string} text */
  onWrite(text) {
    this._emit("wire", { direction: "out", text, frame: JSON.parse(text) });
  }

  // --- inside ------------------------------------------------------------------------------------

  async _open() {
    const { WebSocket: Socket = globalThis.WebSocket } = this._options;
    if (Socket === undefined) throw new Error("there is no WebSocket here: give one to connect()");
    const ticket = (await this._options.ticket?.()) || null;
    const credential = ticket === null ? await this._token() : null;
    const history = this.ready === null && this._wantsHistory !== null ? { history: String(this._wantsHistory) } : {};
    const query = { ...this._position.query(), ...filterQuery(this._filters), ...history };
    const own = { thread_id: this.threadId, on_disconnect: this._options.onDisconnect, ticket };
    return new Socket(socketUrl(this._options.url, { ...own, ...query }), protocols(credential));
  }

  async _token() {
    return typeof this._options.token === "function" ? this._options.token() : this._options.token;
  }

  /** The credential of this connection is about to end: bring a fresh one, where there can be one. */
  async _renew() {
    if (typeof this._options.token !== "function") return;
    try {
      const token = await this._token();
      if (token) await this._commands.issue("reauth", { token }, false);
    } catch {
      // The connection ends with its credential; the close code says why.
    }
  }

  /** @returns {import("./threadwire/recovery.js").Asker} */
  _asker() {
    return {
      history: () => this.history(this._wantsHistory === null ? {} : { limit: this._wantsHistory }),
      ping: () => this.ping(),
      reload: (history) => this._publish(history),
      passOn: (frame) => this._passOn(frame),
      reattach: () => this._link.reattach(),
    };
  }

  /** @param {string} type @param {Record<string, unknown>} fields @param {string | null} messageId */
  _turn(type, fields, messageId) {
    if (this._over !== null) throw this._over;
    const runId = /** @type {string | undefined} */ (fields.run_id) ?? uuid();
    const answer = this._commands.issue(type, { ...fields, run_id: runId }, true);
    const turn = new Turn(runId, messageId, answer, (run) => this.cancel(run));
    this._turns.add(turn);
    return turn;
  }

  /** @param {string} type @param {Record<string, unknown>} fields @param {boolean} repeatable */
  async _ask(type, fields, repeatable) {
    if (this._over !== null) throw this._over;
    return this._commands.issue(type, fields, repeatable);
  }

  /** A frame about the connection. @param {Frame} frame */
  _onOwn(frame) {
    if (frame.type === "ready") {
      this._onReady(frame);
    } else if (frame.type === "gap") {
      this._publish(frame);
      this._onGap(frame);
    } else if (frame.type === "history" && frame.id == null) {
      this._position.skipTo(frame.seq);
      this._publish(frame);
    } else if (frame.type === "ack" || frame.type === "error" || frame.type === "history" || frame.type === "pong") {
      this._onAnswer(frame);
    } else {
      if (frame.type === "credential_expiring") void this._renew();
      this._turns.passOn(frame);
      this._publish(frame);
    }
  }

  /** @param {import("./threadwire.d.ts").ReadyFrame} ready */
  _onReady(ready) {
    const first = this.ready === null;
    this.ready = ready;
    this._justAttached = true;
    this._position.attach(ready);
    this._turns.attach(ready);
    this._publish(ready);
    this._resolveOpened?.(ready);
    const names = Object.values(this._filters).flat().map(String);
    if (names.some((name) => name.includes(","))) this._commands.issue("subscribe", { ...this._filters }, false);
    this._commands.repeat();
    if (!first) this._recovery.start(ready.seq);
  }

  /** @param {import("./threadwire.d.ts").GapFrame} gap */
  _onGap(gap) {
    this._position.openGap(gap);
    this._turns.openGap(gap, this._justAttached);
    for (const turn of this._turns.open()) turn.take(gap);
    // On attaching, `earliest` may lie far ahead of all there is: numbers are reserved in blocks.
    this._recovery.start(this._justAttached ? (this.ready?.seq ?? 0) : gap.earliest - 1);
  }

  /** @param {import("./threadwire.d.ts").Answer | import("./threadwire.d.ts").ErrorFrame} frame */
  _onAnswer(frame) {
    this._commands.take(frame);
    if (frame.type === "ack" && this._turns.acknowledged(frame)) this._recovery.start(this.ready?.seq ?? 0);
    else if (frame.type === "pong") this._position.skipTo(frame.seq);
    else if (frame.type === "error" && frame.id === null) this._publish(frame);
  }

  /** @param {Frame} frame */
  _passOn(frame) {
    this._turns.passOn(frame);
    this._publish(frame);
  }
}
