/** The JavaScript client on a server that wants to know who is there. */
import assert from "node:assert/strict";
import { after, before } from "node:test";
import { Disconnected } from "../../client_demo/threadwire.js";
import { Server, chatWith, eventually, test } from "./harness.js";

const HANDLER = `${new URL("../auth_handlers.py", import.meta.url).pathname}:by_token`;

/** @type {Server} */
let server;
before(async () => {
  server = await Server.make({ AUTH__MODE: "custom", AUTH__HANDLER: HANDLER });
  await server.launch(0);
});
after(() => server.remove());

test("a token lets in, and none or a bad one ends with 4401", async () => {
  const { chat } = chatWith({ url: server.url, token: "alice" });
  assert.match(await chat.send("hello").text(), /You said: hello/);
  for (const token of [undefined, "nobody"]) {
    const refused = chatWith({ url: server.url, token });
    await assert.rejects(refused.chat.opened, (error) => error instanceof Disconnected && error.code === 4401);
  }
  const other = chatWith({ url: server.url, token: "bob", threadId: chat.threadId ?? "" });
  await assert.rejects(other.chat.opened, (error) => error instanceof Disconnected && error.code === 4403);
});

test("a ticket goes in place of the token, in no subprotocol", async () => {
  const headers = { Authorization: "Bearer alice" };
  const ticket = async () => (await (await fetch(`${server.url}/tickets`, { method: "POST", headers })).json()).ticket;
  const { chat } = chatWith({ url: server.url, ticket, token: () => assert.fail("the token is not asked for") });
  assert.match(await chat.send("hello").text(), /You said: hello/);
});

test("a function for the token keeps the connection beyond the first one's end", async () => {
  let asked = 0;
  const { chat, frames, lines } = chatWith({
    url: server.url,
    token: () => (++asked === 1 ? "alice ends in 6" : "alice"),
  });
  await chat.opened;
  const ends = Date.now() + 6_000;
  await eventually(() => Date.now() > ends, "the first token has ended");
  assert.match(await chat.send("still there?").text(), /still there/);
  assert.equal(asked, 2);
  assert.equal(frames.filter((frame) => frame.type === "credential_expiring").length, 1);
  assert.equal(lines.filter((line) => line.state === "live").length, 1);
});

test("a fixed token ends, and the chat with it", async () => {
  const { chat, frames } = chatWith({ url: server.url, token: "alice ends in 6" });
  await chat.opened;
  await eventually(() => chat.line.state === "closed", "the chat is over");
  assert.equal(chat.line.code, 4401);
  assert.ok(frames.some((frame) => frame.type === "credential_expiring"));
});
