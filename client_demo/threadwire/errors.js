/**
 * What can go wrong for who uses a chat.
 *
 * @typedef {import("../threadwire.d.ts").ErrorFrame} ErrorFrame
 * @typedef {import("../threadwire.d.ts").HistoryFrame} HistoryFrame
 * @typedef {import("../threadwire.d.ts").RunFinishedFrame} RunFinishedFrame
 */

/** The server refused a command. */
export class CommandFailed extends Error {
  /** @param {Omit<ErrorFrame, "type" | "id">} frame */
  constructor(frame) {
    super(frame.message);
    this.name = "CommandFailed";
    this.code = frame.code;
    this.retry = frame.retry;
    this.retryAfterSeconds = frame.retry_after_seconds ?? null;
  }
}

/** The chat is over, or a command that may not be repeated went down with its connection. */
export class Disconnected extends Error {
  /** @param {number} code the close code @param {string} reason */
  constructor(code, reason) {
    super(reason ? `${reason} (${code})` : `the connection ended with code ${code}`);
    this.name = "Disconnected";
    this.code = code;
    this.reason = reason;
  }
}

/** A turn ended without its answer: it failed, was lost, or ran out of time. `text` is what it had said. */
export class TurnFailed extends Error {
  /** @param {RunFinishedFrame} finished @param {string} text */
  constructor(finished, text) {
    super(finished.error?.message ?? `the turn ended as ${finished.status}`);
    this.name = "TurnFailed";
    this.finished = finished;
    this.text = text;
  }
}

/** A turn is over, and its end was told while we were away. It did run: `history` has what it left. */
export class TurnLost extends Error {
  /** @param {string} runId @param {HistoryFrame | null} history */
  constructor(runId, history) {
    super("the end of this turn was told while the connection was lost");
    this.name = "TurnLost";
    this.runId = runId;
    this.history = history;
  }
}
