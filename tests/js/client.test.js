/** The JavaScript client against the real server, over lines that break. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before } from "node:test";
import { WebSocket } from "ws";
import { CommandFailed, Disconnected, TurnFailed, TurnLost } from "../../client_demo/threadwire.js";
import { Proxy, Script, Server, chatWith, eventually, ready, test, textOf } from "./harness.js";

/** @type {Server} */
let server;
before(async () => {
  server = await Server.make({ SERVER__HEARTBEAT_SECONDS: "0.3", LOG__MAX_BYTES_PER_THREAD: "20000" });
  await server.launch(0);
});
after(() => server.remove());

/** @param {string} threadId */
const thread = async (threadId) => (await fetch(`${server.url}/threads/${threadId}/export?format=json`)).json();

/** What a connection would go on with. @param {string} url @returns {Promise<unknown>} */
const resumeOf = (url) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url.replace("http", "ws"));
    socket.onmessage = ({ data }) => {
      resolve(JSON.parse(String(data)).resume);
      socket.close();
    };
    socket.onerror = () => reject(new Error("no connection"));
  });

test("a turn: its frames in their order, its text, its end", async () => {
  const { chat } = chatWith({ url: server.url, threadId: "turn" });
  const turn = chat.send("hello");
  /** @type {string[]} */
  const types = [];
  for await (const frame of turn) types.push(frame.type);
  assert.equal(types[0], "run_started");
  assert.equal(types.at(-1), "run_finished");
  assert.match(await turn.text(), /You said: hello/);
  assert.equal((await turn.ack).run_id, turn.runId);
  assert.equal((await turn.finished).status, "completed");
  assert.deepEqual(
    (await chat.history()).messages.map((message) => message.role),
    ["user", "assistant"],
  );
});

test("all frames can be iterated, and the iteration ends where the client closes", async () => {
  const { chat } = chatWith({ url: server.url, threadId: "iterate" });
  const turn = chat.send("hello");
  const types = new Set();
  for await (const frame of chat) {
    types.add(frame.type);
    if (frame.type === "run_finished") chat.close();
  }
  for (const type of ["ready", "message", "token", "run_finished"]) assert.ok(types.has(type), type);
  assert.ok(turn.over);
});

test("two clients of one thread see the same", async () => {
  const one = chatWith({ url: server.url, threadId: "two" });
  const two = chatWith({ url: server.url, threadId: "two" });
  await two.chat.opened;
  const text = await one.chat.send("/tokens 50").text();
  await eventually(() => two.frames.some((frame) => frame.type === "run_finished"), "the other sees the end");
  assert.equal(textOf(two.frames), text);
});

test("a message is refused with the server's own words, and the chat lives", async () => {
  const { chat } = chatWith({ url: server.url, threadId: "refused" });
  await assert.rejects(
    chat.send("").ack,
    (error) => error instanceof CommandFailed && error.code === "invalid_argument",
  );
  await assert.rejects(chat.cancel(), (error) => error instanceof CommandFailed && error.code === "no_active_run");
  await assert.rejects(chat.send("/error").text(), TurnFailed);
  assert.match(await chat.send("still there?").text(), /still there/);
});

test("a turn is stopped and keeps what it said", async () => {
  const { chat, frames } = chatWith({ url: server.url, threadId: "stop" });
  const turn = chat.send("/tokens 100000\n/tokens-per-second 100");
  await eventually(() => textOf(frames).length > 20, "some tokens");
  await turn.cancel();
  assert.equal((await turn.finished).status, "cancelled");
  const { messages } = await chat.history();
  assert.equal(messages.at(-1)?.content, await turn.text());
  assert.equal(messages.at(-1)?.status, "cancelled");
});

test("a broken connection is taken up again where it was: nothing is missing, nothing comes twice", async () => {
  const proxy = await Proxy.start(server.port);
  const { chat, frames, lines } = chatWith({ url: proxy.url, threadId: "resume" });
  const turn = chat.send("/tokens 300\n/tokens-per-second 400");
  const losses = () => lines.filter((line) => line.state === "reconnecting" && line.retryAt).length;
  for (const [known, characters] of [100, 400, 800].entries()) {
    await eventually(() => textOf(frames).length > characters, "some tokens");
    proxy.cut();
    await eventually(() => losses() > known, "the cut is noticed");
  }
  const text = await turn.text();
  assert.equal(text, textOf(frames));
  assert.equal(text, (await thread("resume")).messages.at(-1).content);
  const numbers = frames.flatMap((frame) => ("seq" in frame && frame.type !== "ready" ? [Number(frame.seq)] : []));
  assert.deepEqual(
    numbers,
    [...new Set(numbers)].sort((a, b) => a - b),
  );
});

test("a connection that has gone silent is noticed, and replaced", async () => {
  const proxy = await Proxy.start(server.port);
  const { chat, frames, lines } = chatWith({ url: proxy.url, threadId: "silent" });
  await chat.opened;
  proxy.stall();
  const turn = chat.send("anybody there?");
  await eventually(() => lines.some((line) => line.state === "reconnecting"), "the silence is noticed");
  assert.match(await turn.text(), /anybody there/);
  assert.equal(frames.filter((frame) => frame.type === "run_finished").length, 1);
  assert.equal((await thread("silent")).messages.length, 2);
});

test("what is said while there is no server waits, and goes out once", async () => {
  const other = await Server.start();
  const { port } = other;
  const { chat, lines } = chatWith({ url: other.url, threadId: "wait" });
  await chat.send("one").text();
  await other.stop();
  await eventually(() => lines.at(-1)?.state === "reconnecting", "the loss is noticed");
  const turns = ["two", "three"].map((text) => chat.send(text));
  assert.ok(turns.every((turn) => !turn.acknowledged));
  await other.launch(port);
  for (const turn of turns) assert.equal((await turn.finished).status, "completed");
  const { messages } = await chat.history();
  const said = messages.filter((message) => message.role === "user").map((message) => message.content);
  assert.deepEqual(said, ["one", "two", "three"]);
});

test("a server that stops says so; what it refuses meanwhile is sent to the next", async () => {
  const other = await Server.start();
  const { port } = other;
  const { chat, frames, lines } = chatWith({ url: other.url, threadId: "drain" });
  const turn = chat.send("/tokens 100000\n/tokens-per-second 100");
  await eventually(() => textOf(frames).length > 20, "some tokens");
  const stopped = other.stop("SIGTERM");
  await eventually(() => lines.at(-1)?.state === "draining", "goaway is told");
  const late = chat.send("late");
  await turn.cancel();
  assert.equal((await turn.finished).status, "cancelled");
  await stopped;
  await other.launch(port);
  assert.match(await late.text(), /You said: late/);
});

test("who was away too long gets the history in place of what is gone, and its turn goes on", async () => {
  const proxy = await Proxy.start(server.port);
  const { chat, frames } = chatWith({ url: proxy.url, threadId: "gap", history: 50 });
  const turn = chat.send("/tokens 1000000\n/tokens-per-second 8000");
  await eventually(() => textOf(frames).length > 20, "some tokens");
  proxy.open = false;
  proxy.cut();
  await eventually(async () => (await thread("gap")).messages.length > 0, "the turn is known");
  const far = chatWith({ url: server.url, threadId: "gap" });
  await eventually(() => textOf(far.frames).length > 40_000, "more was said than the log holds");
  proxy.open = true;
  await eventually(() => frames.some((frame) => frame.type === "gap"), "the loss is told");
  await turn.cancel();
  const text = await turn.text();
  assert.ok(frames.filter((frame) => frame.type === "history").length >= 2);
  assert.equal(text, (await thread("gap")).messages.at(-1).content);
});

test("a turn whose end was told while nobody listened is lost to its client, with what it left", async () => {
  const other = await Server.start({ LOG__KEEP_SECONDS: "0", RUNS__ON_DISCONNECT: "continue" });
  const proxy = await Proxy.start(other.port);
  const { chat, frames } = chatWith({ url: proxy.url, threadId: "lost" });
  const turn = chat.send("/tokens 1000000\n/tokens-per-second 100");
  await eventually(() => textOf(frames).length > 20, "some tokens");
  proxy.open = false;
  proxy.cut();
  await fetch(`${other.url}/threads/lost/runs/${turn.runId}/cancel`, { method: "POST" });
  const epoch = String(chat.ready?.epoch);
  const forgotten = () => resumeOf(`${other.url}/ws?thread_id=lost&after=1&epoch=${epoch}`);
  await eventually(async () => (await forgotten()) === "gap", "the turn is over, and its frames are gone");
  proxy.open = true;
  await assert.rejects(turn.finished, (error) => {
    assert.ok(error instanceof TurnLost);
    assert.equal(error.history?.messages.at(-1)?.role, "assistant");
    return true;
  });
  assert.match(await chat.send("and on").text(), /and on/);
});

test("what another chat has said already is not said again; its turn is lost, with what it left", async () => {
  const names = { runId: randomUUID(), messageId: randomUUID() };
  const first = chatWith({ url: server.url, threadId: "said-before" }).chat;
  const text = await first.send("once", names).text();
  const { chat } = chatWith({ url: server.url, threadId: "said-before" });
  await chat.opened;
  await assert.rejects(chat.send("once", names).finished, (error) => {
    assert.ok(error instanceof TurnLost);
    assert.deepEqual(
      error.history?.messages.map((message) => message.content),
      ["once", text],
    );
    return true;
  });
  assert.match(await chat.send("and on").text(), /and on/);
});

test("a filter hides frames on this connection, and on those that follow", async () => {
  const proxy = await Proxy.start(server.port);
  const { chat, frames } = chatWith({ url: proxy.url, threadId: "filter" });
  await chat.opened;
  await chat.subscribe({ exclude_types: ["chat_model"] });
  await chat.send("one").finished;
  proxy.cut();
  await chat.send("two").finished;
  assert.equal(textOf(frames), "");
  await chat.subscribe({});
  await chat.send("three").finished;
  assert.match(textOf(frames), /three/);
});

test("a deleted thread ends its chats", async () => {
  const { chat, lines } = chatWith({ url: server.url, threadId: "deleted" });
  await chat.send("one").text();
  await fetch(`${server.url}/threads/deleted`, { method: "DELETE" });
  await eventually(() => lines.at(-1)?.state === "closed", "the chat ends");
  assert.equal(chat.line.code, 4404);
  assert.throws(() => chat.send("two"), Disconnected);
});

test("close codes say whether to come back", async () => {
  for (const [code, comesBack] of /** @type {[number, boolean][]} */ ([
    [1001, true],
    [1011, true],
    [1012, true],
    [1008, false],
    [1009, false],
    [4401, false],
    [4403, false],
    [4404, false],
    [4408, false],
  ])) {
    let connections = 0;
    const script = await Script.start((socket) => {
      connections += 1;
      socket.send(ready());
      if (connections === 1) socket.close(code, "because");
    });
    const { chat } = chatWith({ url: script.url });
    if (comesBack) await eventually(() => connections === 2, `${code} comes back`);
    else {
      await eventually(() => chat.line.state === "closed", `${code} ends it`);
      assert.deepEqual(chat.line, { state: "closed", code, reason: "because" });
      assert.equal(connections, 1);
    }
    chat.close();
  }
});

test("a full server is not asked again at once; what goaway announces is taken as it is", async () => {
  const full = await Script.start((socket) => socket.close(1013, "full"));
  const first = chatWith({ url: full.url });
  const waits = await eventually(() => first.lines.find((line) => line.state === "reconnecting"), "a wait");
  assert.ok(Number(waits.retryAt) - waits.at > 1500);
  let connections = 0;
  const going = await Script.start((socket) => {
    connections += 1;
    socket.send(ready());
    socket.send('{"type": "goaway", "reason": "shutdown", "reconnect_after_seconds": 0.05}');
    socket.close(1012);
  });
  const second = chatWith({ url: going.url });
  await eventually(() => connections >= 3, "it comes back as told");
  assert.ok(second.lines.some((line) => line.state === "draining"));
});

test("a token goes as a subprotocol, as it is or as base64url; one that is asked for is asked for each time", async () => {
  /** @type {(string | undefined)[]} */
  const offered = [];
  const script = await Script.start((socket, request) => {
    offered.push(request.headers["sec-websocket-protocol"]);
    socket.send(ready());
    if (offered.length === 3) socket.close(1011);
  });
  const plain = chatWith({ url: script.url, token: "abc.DEF-1_2" });
  await plain.chat.opened;
  const odd = chatWith({ url: script.url, token: "grüße/=" });
  await odd.chat.opened;
  let asked = 0;
  chatWith({ url: script.url, token: async () => `t${++asked}` });
  await eventually(() => offered.length === 4, "it connects again");
  assert.deepEqual(offered, [
    "threadwire.v1,bearer.abc.DEF-1_2",
    `threadwire.v1,bearer.${Buffer.from("grüße/=").toString("base64url")}`,
    "threadwire.v1,bearer.t1",
    "threadwire.v1,bearer.t2",
  ]);
});

test("without a socket class the chat says what is missing, and can be bounded in its attempts", async () => {
  const { lines } = chatWith({ url: server.url, WebSocket: undefined, maxReconnects: 1 });
  // Node 22 has a class of its own.
  if (globalThis.WebSocket === undefined) {
    const line = await eventually(() => lines.find(({ state }) => state === "reconnecting"), "it says so");
    assert.match(line.reason ?? "", /no WebSocket/);
  }
  const nowhere = chatWith({ url: "http://127.0.0.1:9", maxReconnects: 1 });
  await assert.rejects(nowhere.chat.opened, Disconnected);
  const once = chatWith({ url: server.url, reconnect: false });
  assert.equal(once.chat.line.state, "connecting");
});

test("what a graph waits for is in its turn, and is answered with respond", async () => {
  const script = await Script.start((socket) => {
    let seq = 0;
    /** @param {object} frame */
    const send = (frame) => socket.send(JSON.stringify({ seq: ++seq, ...frame }));
    const end = { type: "run_finished", error: null, usage: null, duration_ms: 1 };
    socket.on("message", (data) => {
      const { id, type, run_id, responses } = JSON.parse(String(data));
      socket.send(JSON.stringify({ type: "ack", id, run_id }));
      send({ type: "run_started", run_id, trigger: type });
      if (type === "respond") {
        send({ type: "token", run_id, message_id: "a1", node: null, content: `you said ${responses.i1}` });
        send({ ...end, run_id, status: "completed", reason: null });
      } else {
        send({ type: "interrupt", run_id, interrupts: [{ id: "i1", value: "May I?", node: "ask" }] });
        send({ ...end, run_id, status: "interrupted", reason: "interrupt" });
      }
    });
    socket.send(ready());
  });
  const { chat } = chatWith({ url: script.url });
  const turn = chat.send("hello");
  assert.equal((await turn.finished).status, "interrupted");
  assert.deepEqual(
    turn.interrupts.map(({ value }) => value),
    ["May I?"],
  );
  assert.equal(await chat.respond({ [turn.interrupts[0].id]: "yes" }).text(), "you said yes");
});

test("which run is active is known, also where it began in a gap", async () => {
  const script = await Script.start((socket) => {
    let seq = 0;
    /** @param {object} frame */
    const send = (frame) => socket.send(JSON.stringify({ seq: ++seq, ...frame }));
    socket.on("message", (data) => {
      const { id, type } = JSON.parse(String(data));
      const messages = [{ id: "a2", role: "assistant", content: "so", status: "running" }];
      if (type === "history") {
        send({ type: "run_started", run_id: "r2", trigger: "send" });
        socket.send(JSON.stringify({ type: "history", id, messages, before: null, seq }));
        send({ type: "token", run_id: "r2", message_id: "a2", node: null, content: " far" });
      } else {
        socket.send(JSON.stringify({ type: "pong", id, seq }));
      }
    });
    socket.send(ready({ resume: "gap" }));
    socket.send(JSON.stringify({ type: "gap", requested: 9, earliest: 1, epoch: "e1", run: null }));
  });
  const { chat, frames } = chatWith({ url: script.url });
  /** @type {(string | null)[]} */
  const running = [];
  chat.addEventListener("history", () => running.push(chat.running));
  await eventually(() => frames.at(-1)?.type === "token", "the token behind the gap");
  assert.deepEqual(running, ["r2"]);
  assert.ok(!frames.some((frame) => frame.type === "run_started"), "the history has it");
});

test("a frame that cannot be read ends the chat", async () => {
  const script = await Script.start((socket) => socket.send('{"type": "ready"}'));
  const { chat, lines } = chatWith({ url: script.url });
  await assert.rejects(chat.opened, (error) => error instanceof Disconnected && error.code === 1002);
  assert.match(lines.at(-1)?.reason ?? "", /protocol/);
});
