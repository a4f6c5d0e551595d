/**
 * Frames as the server sends them, each checked against the protocol before anybody sees it. Pure.
 *
 * A check takes a value and returns where in it something is wrong: a path, "" for the value itself, or null where
 * nothing is. Fields and types that are not known here pass: a later server may have more.
 *
 * @typedef {import("../threadwire.d.ts").Frame} Frame
 * @typedef {(value: unknown) => string | null} Check
 */

/** A frame that is not what the protocol says. `field` is where, as a path, or null for the whole. */
export class BadFrame extends Error {
  /** @param {string | null} field @param {string} message */
  constructor(field, message) {
    super(field === null ? message : `${field}: ${message}`);
    this.name = "BadFrame";
    this.field = field;
  }
}

/** @param {(value: any) => boolean} holds @returns {Check} */
const is = (holds) => (value) => (holds(value) ? null : "");
const any = is((value) => value !== undefined);
const string = is((value) => typeof value === "string");
const number = is((value) => typeof value === "number");
const integer = is((value) => Number.isInteger(value));
const boolean = is((value) => typeof value === "boolean");
const object = is((value) => typeof value === "object" && value !== null && !Array.isArray(value));
/** @param {string[]} names @returns {Check} */
const oneOf = (...names) => is((value) => names.includes(value));
/** @param {Check} check @returns {Check} */
const nullable = (check) => (value) => (value === null ? null : check(value));
/** May be left out, or null. @param {Check} check @returns {Check} */
const optional = (check) => (value) => (value === undefined || value === null ? null : check(value));

/** @param {Check} check @returns {Check} */
function list(check) {
  return (value) => {
    if (!Array.isArray(value)) return "";
    for (const [index, each] of value.entries()) {
      const wrong = check(each);
      if (wrong !== null) return join(String(index), wrong);
    }
    return null;
  };
}

/** @param {Record<string, Check>} fields @returns {Check} */
function fields(fields) {
  return (value) => {
    if (object(value) !== null) return "";
    for (const [name, check] of Object.entries(fields)) {
      const wrong = check(/** @type {any} */ (value)[name]);
      if (wrong !== null) return join(name, wrong);
    }
    return null;
  };
}

/** @param {string} name @param {string} rest */
const join = (name, rest) => (rest === "" ? name : `${name}.${rest}`);

const blocks = list(object);
/** @type {Check} */
const content = (value) => (typeof value === "string" ? null : blocks(value));
const error = fields({ code: string, message: string });
const interrupts = list(fields({ id: string, value: any, node: nullable(string) }));
const run = nullable(fields({ run_id: string, status: oneOf("running", "cancelling", "interrupted") }));
const usage = fields({
  input_tokens: integer,
  output_tokens: integer,
  total_tokens: integer,
  details: optional(object),
});
const message = fields({
  id: string,
  role: oneOf("user", "assistant", "tool", "system"),
  content,
  status: optional(oneOf("complete", "running", "cancelled", "failed", "lost")),
  tool_calls: optional(list(fields({ id: string, name: string, args: object }))),
  tool_call_id: optional(string),
  name: optional(string),
  usage: optional(object),
});
const text = { run_id: string, message_id: string, node: nullable(string), content: string };

/** Frames about the connection. @type {Record<string, Record<string, Check>>} */
const OWN = {
  ready: {
    protocol: string,
    server: string,
    thread_id: string,
    created: boolean,
    epoch: string,
    seq: integer,
    resume: oneOf("fresh", "replayed", "gap"),
    run,
    queue: list(fields({ run_id: string, message_id: string, content })),
    interrupts,
    model: object,
    heartbeat_seconds: number,
    limits: object,
  },
  ack: {
    id: nullable(string),
    run_id: optional(string),
    message_id: optional(string),
    duplicate: optional(boolean),
    expires_in_seconds: optional(number),
  },
  error: {
    id: nullable(string),
    code: string,
    message: string,
    retry: boolean,
    retry_after_seconds: optional(number),
  },
  history: { id: optional(string), messages: list(message), before: nullable(string), seq: integer },
  pong: { id: optional(string), seq: integer },
  gap: { requested: integer, earliest: integer, epoch: string, run },
  batch_result: { run_id: string, index: integer, message: optional(message), error: optional(error) },
  goaway: { reason: string, reconnect_after_seconds: number },
  credential_expiring: { expires_in_seconds: number },
  event: { run_id: optional(string), event: optional(object), dropped: optional(integer) },
  log: { ops: list(object) },
};

/** Frames of the thread, which have a `seq`. @type {Record<string, Record<string, Check>>} */
const LOG = {
  message: { message },
  messages_removed: { run_id: string, message_ids: list(string) },
  run_queued: { run_id: string, message, position: integer },
  run_started: { run_id: string, trigger: oneOf("send", "respond", "regenerate", "edit", "batch") },
  token: text,
  reasoning: text,
  tool_call: { run_id: string, id: string, name: string, args: object, node: nullable(string) },
  tool_result: {
    run_id: string,
    id: string,
    name: string,
    result: any,
    status: oneOf("ok", "error"),
    duration_ms: nullable(number),
  },
  usage: {
    run_id: string,
    message_id: string,
    model: nullable(string),
    input_tokens: integer,
    output_tokens: integer,
    total_tokens: integer,
    details: object,
  },
  retrieval: { run_id: string, name: string, query: string, documents: list(object), status: oneOf("ok", "error") },
  custom: { run_id: string, name: string, data: any },
  interrupt: { run_id: string, interrupts },
  run_finished: {
    run_id: string,
    status: oneOf("completed", "cancelled", "interrupted", "failed", "lost"),
    reason: nullable(string),
    error: nullable(error),
    usage: nullable(usage),
    duration_ms: number,
    messages: optional(list(message)),
  },
};

/** @type {Map<string, Check>} */
const CHECKS = new Map([
  ...Object.entries(OWN).map(([type, own]) => /** @type {[string, Check]} */ ([type, fields(own)])),
  ...Object.entries(LOG).map(([type, own]) => {
    // The end of a batch is its connection's alone and has no number.
    const seq = type === "run_finished" ? optional(integer) : integer;
    return /** @type {[string, Check]} */ ([type, fields({ seq, ...own })]);
  }),
]);

/** The types this client knows. */
export const TYPES = Object.freeze([...CHECKS.keys()]);

/**
 * Read one message of the socket.
 *
 * @param {unknown} data
 * @returns {Frame}
 * @throws {BadFrame}
 */
export function decode(data) {
  if (typeof data !== "string") throw new BadFrame(null, "expected text");
  let frame;
  try {
    frame = JSON.parse(data);
  } catch {
    throw new BadFrame(null, "expected JSON");
  }
  if (object(frame) !== null || typeof frame.type !== "string") {
    throw new BadFrame(null, "expected an object with a type");
  }
  const wrong = CHECKS.get(frame.type)?.(frame) ?? null;
  if (wrong !== null) throw new BadFrame(wrong, `not what a ${frame.type} frame has there`);
  return frame;
}

/**
 * The frame's place in the thread's log, or null where it is about the connection alone.
 *
 * @param {Frame} frame
 * @returns {number | null}
 */
export function numberOf(frame) {
  if (frame.type in OWN) return null;
  const { seq } = /** @type {{seq?: unknown}} */ (frame);
  return typeof seq === "number" && Number.isInteger(seq) ? seq : null;
}
