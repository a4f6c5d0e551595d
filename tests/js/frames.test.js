/** The JavaScript client is held to the protocol's examples, as the Python one and the docs are. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import * as threadwire from "../../client_demo/threadwire.js";
import { TYPES } from "../../client_demo/threadwire/frames.js";
import { Script, chatWith, eventually, ready, test } from "./harness.js";

const examples = JSON.parse(await readFile(new URL("../frames.json", import.meta.url), "utf8"));
const written = await readFile(new URL("../../client_demo/threadwire.d.ts", import.meta.url), "utf8");

test("good frames are read as they come", () => {
  for (const [type, frames] of Object.entries(examples.frames.good)) {
    assert.ok(TYPES.includes(type), type);
    for (const frame of frames) assert.deepEqual(threadwire.decode(JSON.stringify(frame)), frame);
  }
});

test("there is an example, and a declaration, of every frame this client knows", () => {
  assert.deepEqual([...TYPES].sort(), Object.keys(examples.frames.good).sort());
  for (const type of TYPES) assert.match(written, new RegExp(`type: "${type}";`));
});

test("bad frames are refused, by the field that is wrong", () => {
  for (const { frame, field } of examples.frames.bad) {
    assert.throws(
      () => threadwire.decode(JSON.stringify(frame)),
      (/** @type {any} */ error) => error instanceof threadwire.BadFrame && error.field === field,
      JSON.stringify(frame),
    );
  }
  for (const text of ["", "{", "[]", "null", "1", new ArrayBuffer(1)]) {
    assert.throws(() => threadwire.decode(text), threadwire.BadFrame);
  }
});

test("frames of a later version pass", () => {
  for (const frame of examples.frames.later) assert.deepEqual(threadwire.decode(JSON.stringify(frame)), frame);
});

test("what is exported is declared, and the other way round", () => {
  const declared = [...written.matchAll(/^export (?:function|class) (\w+)/gm)].map((found) => found[1]);
  assert.deepEqual(Object.keys(threadwire).sort(), declared.sort());
});

test("each option and each member of a chat and a turn is in the docs", async () => {
  const docs = await readFile(new URL("../../docs/javascript-client.md", import.meta.url), "utf8");
  for (const name of ["ConnectOptions", "SendOptions", "Turn", "Chat"]) {
    const body = new RegExp(`export interface ${name} [^{]*\\{(.*?)\\n\\}`, "s").exec(written)?.[1] ?? "";
    const members = [...body.matchAll(/^ {2}(?:readonly )?(\w+)[?(:]/gm)].map((found) => found[1]);
    assert.ok(members.length > 3, name);
    for (const member of members) assert.match(docs, new RegExp(`\\b${member}\\b`), `${name}.${member}`);
  }
});

/** How each command is said with a chat. @type {Record<string, (chat: threadwire.Chat, c: any) => unknown>} */
const SAY = {
  send: (chat, c) =>
    chat.send(c.content, {
      messageId: c.message_id,
      runId: c.run_id,
      multitaskStrategy: c.multitask_strategy,
      stream: c.stream,
      context: c.context,
      checkpointId: c.checkpoint_id,
    }),
  cancel: (chat, c) => chat.cancel(c.run_id),
  respond: (chat, c) => chat.respond(c.responses),
  regenerate: (chat, c) => chat.regenerate(c.message_id),
  edit: (chat, c) => chat.edit(c.message_id, c.content),
  history: (chat, c) => chat.history({ before: c.before, limit: c.limit }),
  subscribe: (chat, { type: _type, id: _id, ...filters }) => chat.subscribe(filters),
  ping: (chat) => chat.ping(),
};

test("every command of the protocol can be said, with each of its fields", async () => {
  /** @type {any[]} */
  const heard = [];
  const script = await Script.start((socket) => {
    socket.on("message", (data) => heard.push(JSON.parse(String(data))));
    socket.send(ready());
  });
  const { chat } = chatWith({ url: script.url });
  await chat.opened;
  for (const [type, commands] of Object.entries(examples.commands.good)) {
    if (type === "batch") continue; // it belongs to no thread: a script's own socket says it better
    if (type === "reauth") continue; // a chat says it by itself: auth.test.js
    for (const command of commands) {
      // What is null may be left out, and these two are the client's to make up.
      const { id: _id, ...wanted } = Object.fromEntries(Object.entries(command).filter(([, value]) => value !== null));
      const said = SAY[type](chat, wanted);
      const got = await eventually(() => heard.shift(), `${type} arrives`);
      if (said instanceof Promise) said.catch(() => undefined);
      const { id, run_id, message_id, ...rest } = got;
      assert.match(id, /^c\d+$/);
      if (["send", "respond", "edit", "regenerate"].includes(type)) assert.match(run_id, /^[0-9a-f-]{36}$/);
      if (type === "send") assert.ok(message_id);
      const own = type === "respond" || type === "edit" || type === "regenerate";
      assert.deepEqual(
        {
          ...rest,
          ...("run_id" in wanted && { run_id: own ? wanted.run_id : run_id }),
          ...("message_id" in wanted && { message_id }),
        },
        wanted,
      );
    }
  }
});
