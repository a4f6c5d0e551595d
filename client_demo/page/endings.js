/**
 * What the end of a run means for its entries. Pure.
 *
 * @typedef {import("./types.d.ts").Entry} Entry
 * @typedef {{add: Entry} | {remove: Entry} | {entry: Entry, fields: Partial<Entry>}} Change
 */

/** Why a run was cut off, in words. @type {Record<string, string>} */
const REASONS = {
  client: "Stopped",
  disconnect: "Stopped: nobody was connected any more",
  superseded: "Stopped for the next message",
  timeout: "Stopped: it took too long",
  shutdown: "Stopped: the server is shutting down",
  deleted: "Stopped: the thread was deleted",
  abandoned: "Stopped: a step of the graph would not end",
};

/** @param {import("../threadwire.d.ts").RunFinishedFrame} frame @param {Entry[]} own the run's entries @returns {Change[]} */
export function endOf(frame, own) {
  const status = frame.status === "interrupted" || frame.status === "completed" ? "complete" : frame.status;
  const note = noteOf(frame);
  /** @type {Change[]} */
  const changes = [];
  let told = status === "complete";
  for (const entry of own) {
    if (entry.kind === "assistant" && entry.status === "running") {
      // Of a run that was cut off, only what was being written is.
      const last = entry === own.findLast((each) => each.kind === "assistant");
      const cut = last && status !== "complete" && own.at(-1) === entry;
      told ||= cut;
      changes.push({ entry, fields: { status: cut ? status : "complete", note: cut ? note : "" } });
    } else if (entry.kind === "tool" && (entry.status === "running" || entry.status === "waiting")) {
      changes.push({ entry, fields: { status: frame.status === "interrupted" ? "waiting" : "error" } });
    } else if (entry.kind === "assistant" && entry.status === status && status !== "complete") {
      told = true;
      changes.push({ entry, fields: { note } });
    } else if (entry.kind === "user" && entry.status !== "sent") {
      // It never began: a turn that its client cancelled leaves no message, another's end leaves it in the thread.
      changes.push(frame.reason === "client" ? { remove: entry } : { entry, fields: { status: "sent" } });
      told ||= frame.reason === "client";
    }
  }
  if (!told) {
    changes.push({ add: { kind: "end", id: `end-${frame.run_id}`, status, text: note, runId: frame.run_id } });
  }
  return changes;
}

/** @param {import("../threadwire.d.ts").RunFinishedFrame} frame */
function noteOf(frame) {
  if (frame.status === "lost") return "Cut off: the server went down";
  if (frame.error !== null && frame.status === "failed") return frame.error.message;
  return REASONS[frame.reason ?? ""] ?? (frame.status === "failed" ? "The answer failed" : "Stopped");
}
