/**
 * Messages as a history has them, as entries of a conversation. Pure.
 *
 * @typedef {import("./types.d.ts").Entry} Entry
 * @typedef {import("../threadwire.d.ts").Message} Message
 */
import { plain } from "../threadwire.js";

/**
 * @param {Message[]} messages oldest first
 * @param {import("./types.d.ts").ToolStatus} open how a call of the last turn is that has no result
 * @returns {Entry[]}
 */
export function entriesOf(messages, open = "error") {
  /** @type {Entry[]} */
  const entries = [];
  /** @type {Map<string, Extract<Entry, {kind: "tool"}>>} */
  const calls = new Map();
  const lastUser = messages.findLastIndex((message) => message.role === "user");
  for (const [index, message] of messages.entries()) {
    if (message.role === "user") {
      const { id, content } = message;
      entries.push({ kind: "user", id, content, status: "sent", runId: null, note: "" });
    } else if (message.role === "assistant") {
      entries.push(...answer(message));
      for (const { id, name, args } of message.tool_calls ?? []) {
        const status = index > lastUser ? open : "error";
        /** @type {Extract<Entry, {kind: "tool"}>} */
        const call = { kind: "tool", id, name, args, result: null, status, runId: null, durationMs: null };
        calls.set(id, call);
        entries.push(call);
      }
    } else if (message.role === "tool") {
      finish(message, calls.get(message.tool_call_id ?? ""), entries);
    }
  }
  return entries;
}

/** @param {Message} message @returns {Entry[]} */
function answer(message) {
  const text = plain(message.content);
  const reasoning = thoughtsOf(message.content);
  const status = message.status ?? "complete";
  // A call of a tool says nothing by itself; but its usage counts.
  if (
    text === "" &&
    reasoning === "" &&
    status === "complete" &&
    (message.tool_calls?.length ?? 0) > 0 &&
    !message.usage
  )
    return [];
  return [
    { kind: "assistant", id: message.id, text, reasoning, status, runId: null, usage: message.usage ?? null, note: "" },
  ];
}

/** @param {import("../threadwire.d.ts").Content} content */
function thoughtsOf(content) {
  if (typeof content === "string") return "";
  return content.map((block) => (block.type === "reasoning" ? String(block.reasoning ?? "") : "")).join("");
}

/** @param {Message} message @param {Extract<Entry, {kind: "tool"}> | undefined} call @param {Entry[]} entries */
function finish(message, call, entries) {
  const status = message.status === undefined || message.status === "complete" ? "ok" : "error";
  const result = message.content;
  if (call !== undefined) Object.assign(call, { result, status });
  else {
    const id = message.tool_call_id ?? message.id;
    entries.push({
      kind: "tool",
      id,
      name: message.name ?? "tool",
      args: {},
      result,
      status,
      runId: null,
      durationMs: null,
    });
  }
}

/**
 * The entry of what a run does beside its answers, or null where a frame tells no such thing.
 *
 * @param {import("../threadwire.d.ts").Frame} frame
 * @param {(id: string) => Entry | undefined} find what is there of an id
 * @returns {Entry | null}
 */
export function entryOf(frame, find) {
  if (frame.type === "tool_call") {
    const { id, name, args, run_id: runId } = frame;
    return { kind: "tool", id, name, args, result: null, status: "running", runId, durationMs: null };
  }
  if (frame.type === "tool_result") {
    const { id, name, result, status, run_id: runId, duration_ms: durationMs } = frame;
    const known = find(id);
    return {
      kind: "tool",
      id,
      name,
      args: known?.kind === "tool" ? known.args : {},
      result,
      status,
      runId,
      durationMs,
    };
  }
  if (frame.type === "retrieval") {
    const { name, query, documents, status, run_id: runId } = frame;
    return { kind: "retrieval", id: `f${frame.seq}`, name, query, documents, status, runId };
  }
  if (frame.type === "custom") {
    // One line for each name of a run: progress that goes on replaces what it said before.
    const id = `custom-${frame.run_id}-${frame.name}`;
    return { kind: "custom", id, name: frame.name, data: frame.data, runId: frame.run_id };
  }
  return null;
}

/** What the answers of some entries have cost together. @param {Entry[]} entries */
export function totalUsage(entries) {
  let input = 0;
  let output = 0;
  for (const entry of entries) {
    if (entry.kind !== "assistant" || entry.usage === null) continue;
    input += entry.usage.input_tokens ?? 0;
    output += entry.usage.output_tokens ?? 0;
  }
  return { input, output };
}
