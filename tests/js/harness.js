/**
 * A real server in a process of its own, a proxy that can cut and stall the connections through it, and a server that
 * says what a test tells it to.
 *
 * @typedef {import("../../client_demo/threadwire.d.ts").Frame} Frame
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { test as nodeTest } from "node:test";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocket, WebSocketServer } from "ws";
import { connect } from "../../client_demo/threadwire.js";

const PYTHON = process.env.PYTHON ?? new URL("../../.venv/bin/python", import.meta.url).pathname;
const DEADLINE_MS = 60_000;

const TEST_MS = 180_000;

/** What a test has open, each as the function that ends it. @type {Set<() => unknown>} */
const open = new Set();

/**
 * A test, bounded in time, that leaves nothing open. One that fails does not reach its own end, and a socket or a server that is
 * left keeps Node from exiting, so that nobody would ever read why it failed.
 *
 * @param {string} name @param {() => unknown} body
 */
export const test = (name, body) =>
  nodeTest(name, { timeout: TEST_MS }, async (context) => {
    context.after(async () => {
      const ends = [...open].reverse();
      open.clear();
      for (const end of ends) await end();
    });
    await body();
  });

/** Wait until a condition holds. @template T @param {() => T | Promise<T>} condition @param {string} what @returns {Promise<NonNullable<T>>} */
export async function eventually(condition, what) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = await condition();
    if (found) return /** @type {any} */ (found);
    if (Date.now() > end) throw new Error(`not within ${DEADLINE_MS} ms: ${what}`);
    await new Promise((go) => setTimeout(go, 10));
  }
}

/** @param {import("../../client_demo/threadwire.d.ts").ConnectOptions} options */
export function chatWith(options) {
  const chat = connect({ WebSocket: /** @type {any} */ (WebSocket), ...options });
  open.add(() => chat.close());
  /** @type {Frame[]} */
  const frames = [];
  /** What the chat said of its line, and when. @type {(import("../../client_demo/threadwire.d.ts").Line & {at: number})[]} */
  const lines = [];
  chat.addEventListener("frame", (event) => frames.push(event.detail));
  chat.addEventListener("line", (event) => lines.push({ ...event.detail, at: Date.now() }));
  return { chat, frames, lines };
}

/** The tokens in some frames, joined. @param {Frame[]} frames */
export const textOf = (frames) => frames.map((frame) => (frame.type === "token" ? frame.content : "")).join("");

/** `threadwire serve`, with a simulated model that is as fast as it can be. */
export class Server {
  /** One that ends with the test. @param {Record<string, string>} settings environment, without its prefix */
  static async start(settings = {}) {
    const server = await Server.make(settings);
    open.add(() => server.remove());
    await server.launch(0);
    return server;
  }

  /** One that is launched and removed by its maker. @param {Record<string, string>} settings */
  static async make(settings) {
    return new Server(await mkdtemp(join(tmpdir(), "threadwire-js-")), settings);
  }

  /** @param {string} folder @param {Record<string, string>} settings */
  constructor(folder, settings) {
    this.folder = folder;
    this.settings = settings;
    this.url = "";
    /** @type {import("node:child_process").ChildProcess | null} */
    this.process = null;
  }

  /** @param {number} port */
  async launch(port) {
    const own = Object.fromEntries(Object.entries(this.settings).map(([key, value]) => [`THREADWIRE_${key}`, value]));
    const env = {
      ...process.env,
      THREADWIRE_MODEL__NAME: "simulated",
      THREADWIRE_MODEL__SIMULATED__TOKENS_PER_SECOND: "0",
      THREADWIRE_MODEL__SIMULATED__FIRST_TOKEN_MS: "0",
      ...own,
    };
    const child = spawn(PYTHON, ["-m", "threadwire", "serve", "--port", String(port)], { cwd: this.folder, env });
    this.process = child;
    let output = "";
    child.stdout.on("data", (data) => (output += data));
    child.stderr.on("data", (data) => (output += data));
    this.url = await eventually(() => {
      if (child.exitCode !== null) throw new Error(output);
      return /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0] ?? "";
    }, "the server says where it serves");
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  /** @param {NodeJS.Signals} signal */
  async stop(signal = "SIGKILL") {
    const child = this.process;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  }

  async remove() {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** A way to a server that can be cut, stalled and closed. */
export class Proxy {
  /** @param {number} port where it leads */
  static async start(port) {
    const proxy = new Proxy(port);
    open.add(() => proxy.close());
    proxy.listener.listen(0, "127.0.0.1");
    await once(proxy.listener, "listening");
    return proxy;
  }

  /** @param {number} port */
  constructor(port) {
    /** @type {Set<net.Socket>} */
    this.sockets = new Set();
    this.open = true;
    this.listener = net.createServer((near) => {
      if (!this.open) {
        near.destroy();
        return;
      }
      const far = net.connect(port, "127.0.0.1");
      for (const socket of [near, far]) {
        this.sockets.add(socket);
        socket.on("error", () => undefined);
        socket.on("close", () => this.sockets.delete(socket));
      }
      near.pipe(far).pipe(near);
      near.on("close", () => far.destroy());
      far.on("close", () => near.destroy());
    });
  }

  get url() {
    return `http://127.0.0.1:${/** @type {net.AddressInfo} */ (this.listener.address()).port}`;
  }

  /** Break every connection, without a close frame. */
  cut() {
    for (const socket of this.sockets) socket.destroy();
  }

  /** Let nothing through, and tell nobody. */
  stall() {
    for (const socket of this.sockets) {
      socket.unpipe();
      socket.pause();
    }
  }

  /** @private */
  async close() {
    this.open = false;
    const closed = once(this.listener, "close");
    this.listener.close();
    this.cut();
    await closed;
  }
}

/** A server that says what it is told to. */
export class Script {
  /** @param {(socket: import("ws").WebSocket, request: import("node:http").IncomingMessage) => void} onConnection */
  static async start(onConnection) {
    const script = new Script(onConnection);
    open.add(() => script.close());
    await once(script.server, "listening");
    return script;
  }

  /** @param {(socket: import("ws").WebSocket, request: import("node:http").IncomingMessage) => void} onConnection */
  constructor(onConnection) {
    this.server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "threadwire.v1" });
    this.server.on("connection", onConnection);
  }

  get url() {
    return `ws://127.0.0.1:${/** @type {net.AddressInfo} */ (this.server.address()).port}/ws`;
  }

  async close() {
    const closed = once(this.server, "close");
    this.server.close();
    for (const client of this.server.clients) client.terminate();
    await closed;
  }
}

/** A `ready` frame. @param {Partial<import("../../client_demo/threadwire.d.ts").ReadyFrame>} fields */
export const ready = (fields = {}) =>
  JSON.stringify({
    type: "ready",
    protocol: "threadwire.v1",
    server: "script/1",
    thread_id: "t1",
    created: false,
    epoch: "e1",
    seq: 0,
    resume: "fresh",
    run: null,
    queue: [],
    interrupts: [],
    model: {},
    heartbeat_seconds: 25,
    limits: {},
    ...fields,
  });
