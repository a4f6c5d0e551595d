/** What the page makes of frames: a conversation's entries, whatever comes in whatever order. Pure, so without a browser. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Conversation } from "../../client_demo/page/conversation.js";
import { delay, mayReconnect } from "../../client_demo/threadwire/backoff.js";
import { ready } from "./harness.js";

/** @type {Conversation} */
let talk;
let seq = 0;
beforeEach(() => {
  talk = new Conversation();
  seq = 0;
});

/** @param {any} frame */
const take = (frame) => talk.take({ seq: ++seq, ...frame });
/** @param {object} fields */
const attach = (fields = {}) => talk.take(JSON.parse(ready(fields)));
/** @param {string} id @param {string} content */
const user = (id, content = id) => ({ type: "message", message: { id, role: "user", content } });
/** @param {string} run @param {string} content @param {string} id */
const token = (run, content, id = `a-${run}`) => ({
  type: "token",
  run_id: run,
  message_id: id,
  node: "model",
  content,
});
/** @param {string} run @param {object} fields */
const end = (run, fields = {}) => ({
  type: "run_finished",
  run_id: run,
  status: "completed",
  reason: null,
  error: null,
  usage: null,
  duration_ms: 1,
  ...fields,
});
const shown = () =>
  talk.entries.map(
    (entry) => `${entry.kind}:${"text" in entry ? entry.text : entry.id}:${"status" in entry ? entry.status : ""}`,
  );

const asked = () => talk.question?.interrupts[0].id;

/** @param {string} run @param {string} id */
function begin(run, id) {
  take({ type: "run_started", run_id: run, trigger: "send" });
  take(user(id));
}

test("a turn", () => {
  attach();
  begin("r1", "u1");
  take(token("r1", "Hel"));
  assert.equal(talk.run, "r1");
  take(token("r1", "lo"));
  take({
    type: "usage",
    run_id: "r1",
    message_id: "a-r1",
    model: "m",
    input_tokens: 2,
    output_tokens: 3,
    total_tokens: 5,
    details: {},
  });
  take(end("r1"));
  assert.deepEqual(shown(), ["user:u1:sent", "assistant:Hello:complete"]);
  assert.deepEqual(talk.usage, { input: 2, output: 3 });
  assert.equal(talk.run, null);
});

test("a user's message that the graph writes again changes where it stands", () => {
  attach();
  begin("r1", "u1");
  take(token("r1", "noted"));
  take(user("u1", "[redacted]"));
  take(end("r1"));
  assert.deepEqual(shown(), ["user:u1:sent", "assistant:noted:complete"]);
  const [first] = talk.entries;
  assert.equal("content" in first && first.content, "[redacted]");
});

test("what waits stands last, and takes its place when its turn comes", () => {
  attach();
  begin("r1", "u1");
  talk.say({ kind: "user", id: "u2", content: "next", status: "waiting", runId: "r2", note: "" });
  take({ type: "run_queued", run_id: "r2", message: { id: "u2", role: "user", content: "next" }, position: 1 });
  take(token("r1", "one"));
  assert.deepEqual(shown(), ["user:u1:sent", "assistant:one:running", "user:u2:queued"]);
  take(end("r1"));
  begin("r2", "u2");
  take(token("r2", "two"));
  assert.deepEqual(shown(), ["user:u1:sent", "assistant:one:complete", "user:u2:sent", "assistant:two:running"]);
});

test("an answer that was cut off says why; one without a word leaves a note", () => {
  attach();
  begin("r1", "u1");
  take(token("r1", "half"));
  take(end("r1", { status: "cancelled", reason: "client" }));
  begin("r2", "u2");
  take(end("r2", { status: "failed", reason: "error", error: { code: "model_error", message: "The model failed." } }));
  assert.deepEqual(shown(), [
    "user:u1:sent",
    "assistant:half:cancelled",
    "user:u2:sent",
    "end:The model failed.:failed",
  ]);
});

test("a waiting turn that its client took back leaves nothing; one that ended otherwise stays", () => {
  attach();
  for (const [id, run] of [
    ["u1", "r1"],
    ["u2", "r2"],
  ]) {
    talk.say({ kind: "user", id, content: id, status: "queued", runId: run, note: "" });
  }
  take(end("r1", { status: "cancelled", reason: "client" }));
  take(end("r2", { status: "cancelled", reason: "shutdown" }));
  assert.deepEqual(shown(), ["user:u2:sent", "end:Stopped: the server is shutting down:cancelled"]);
});

test("what a dead server left of a turn is all there is of it", () => {
  attach();
  begin("r1", "u1");
  take(token("r1", "more than was kept"));
  const messages = [
    { id: "u1", role: "user", content: "u1" },
    { id: "a-r1", role: "assistant", content: "more than", status: "lost" },
  ];
  take(end("r1", { status: "lost", messages }));
  assert.deepEqual(shown(), ["user:u1:sent", "assistant:more than:lost"]);
});

test("an end that comes after the history that has it changes nothing but its turn, where that stands", () => {
  attach({ resume: "gap" });
  const [u1, a1] = [
    { id: "u1", role: "user", content: "u1" },
    { id: "a-r1", role: "assistant", content: "half", status: "lost" },
  ];
  const messages = [u1, a1, { id: "u2", role: "user", content: "u2" }];
  talk.take(/** @type {any} */ ({ type: "history", messages, before: null, seq: 9 }));
  take(end("r0", { status: "cancelled", reason: "client" }));
  take(end("r1", { status: "lost", reason: "crash", messages: [u1, a1] }));
  begin("r2", "u2");
  take(token("r2", "two"));
  assert.deepEqual(shown(), ["user:u1:sent", "assistant:half:lost", "user:u2:sent", "assistant:two:running"]);
});

test("a turn that a dead server left without a word is noted where it stands", () => {
  attach({ resume: "gap" });
  const messages = ["u1", "u2"].map((id) => ({ id, role: "user", content: id }));
  talk.take(/** @type {any} */ ({ type: "history", messages, before: null, seq: 9 }));
  take(end("r1", { status: "lost", reason: "crash", messages: messages.slice(0, 1) }));
  assert.deepEqual(shown(), ["user:u1:sent", "end:Cut off: the server went down:lost", "user:u2:sent"]);
});

test("what is taken out goes with all that followed it, but for what waits", () => {
  attach();
  begin("r1", "u1");
  take(token("r1", "one"));
  take({ type: "tool_call", run_id: "r1", id: "c1", name: "add", args: {}, node: null });
  take(end("r1"));
  talk.say({ kind: "user", id: "u9", content: "later", status: "waiting", runId: "r9", note: "" });
  take({ type: "messages_removed", run_id: "r2", message_ids: ["u1", "a-r1"] });
  assert.deepEqual(shown(), ["user:u9:waiting"]);
});

test("a question is there until it is answered, dropped or asked anew", () => {
  const interrupts = [{ id: "i1", value: "May I?", node: "ask" }];
  attach();
  begin("r1", "u1");
  take({ type: "interrupt", run_id: "r1", interrupts });
  take(end("r1", { status: "interrupted", reason: "interrupt" }));
  assert.equal(asked(), "i1");
  take({ type: "run_started", run_id: "r2", trigger: "respond" });
  assert.equal(asked(), undefined);
  attach({ resume: "gap", run: { run_id: "r1", status: "interrupted" }, interrupts });
  talk.take({ type: "history", messages: [], before: null, seq });
  assert.equal(asked(), "i1");
  talk.take({ type: "history", messages: [], before: null, seq });
  assert.equal(asked(), "i1", "a later page does not answer it");
  take(end("r1", { status: "cancelled", reason: "client" }));
  assert.equal(asked(), undefined);
});

test("a history takes the place of all but what waits", () => {
  attach({ run: { run_id: "r1", status: "running" }, queue: [{ run_id: "r2", message_id: "u2", content: "queued" }] });
  talk.say({ kind: "user", id: "u3", content: "mine", status: "waiting", runId: "r3", note: "" });
  const messages = [
    { id: "u1", role: "user", content: "u1" },
    { id: "a0", role: "assistant", content: "", tool_calls: [{ id: "c1", name: "add", args: { a: 1 } }] },
    { id: "t1", role: "tool", content: "3", tool_call_id: "c1", name: "add" },
    { id: "a1", role: "assistant", content: "so far", status: "running" },
  ];
  talk.take(/** @type {any} */ ({ type: "history", messages, before: "u1", seq: 9 }));
  assert.deepEqual(shown(), [
    "user:u1:sent",
    "tool:c1:ok",
    "assistant:so far:running",
    "user:u2:queued",
    "user:u3:waiting",
  ]);
  take(token("r1", " and on", "a1"));
  take(end("r1"));
  assert.equal(shown()[2], "assistant:so far and on:complete");
  talk.prepend(
    /** @type {any} */ ({
      type: "history",
      messages: [{ id: "u0", role: "user", content: "u0" }],
      before: null,
      seq: 9,
    }),
  );
  assert.deepEqual([shown()[0], talk.before], ["user:u0:sent", null]);
});

test("a card keeps its result, whatever tells of its call again", () => {
  attach();
  begin("r1", "u1");
  take({ type: "tool_call", run_id: "r1", id: "c1", name: "add", args: { a: 1 }, node: "model" });
  assert.ok(talk.hasOpenCalls("r1"));
  take({ type: "tool_result", run_id: "r1", id: "c1", name: "add", result: "2", status: "ok", duration_ms: 7 });
  const call = { id: "a0", role: "assistant", content: "", tool_calls: [{ id: "c1", name: "add", args: { a: 1 } }] };
  take({ type: "message", message: call });
  assert.deepEqual(shown(), ["user:u1:sent", "tool:c1:ok"]);
  assert.ok(!talk.hasOpenCalls("r1"));
});

test("waits grow, are scattered, and are as long as a server says", () => {
  assert.equal(delay(0, 1, 1006, null), 0.25);
  assert.equal(delay(3, 0.5, 1006, null), 1);
  assert.equal(delay(50, 1, 1006, null), 10);
  assert.equal(delay(0, 0, 1013, null), 2);
  assert.equal(delay(50, 1, 4429, null), 60);
  assert.equal(delay(5, 0.5, 1012, 1.7), 1.7);
  for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 3001, 4429]) assert.ok(mayReconnect(code), String(code));
  for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 4401, 4403, 4404, 4408, 4999])
    assert.ok(!mayReconnect(code), String(code));
});
