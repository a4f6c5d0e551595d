/**
 * The wall, `?wall=24`: that many sessions at once, each a thread and a connection of its own, all streaming, with what
 * they get measured as it comes.
 */
import { connect } from "../threadwire.js";
import { deleteThread, identification } from "./api.js";
import { h } from "./dom.js";
import { RateChart } from "./chart.js";
import { WANTS_TOKEN } from "./line.js";
import { askForToken } from "./token.js";

const MAX = 200;
/** What is asked of a simulated model, and of a real one. */
const SCRIPTED = "/tokens 400\n/tokens-per-second 40";
const ASKED = [
  "the sea at night",
  "a train through snow",
  "an old clock",
  "bread",
  "the first light bulb",
  "a lighthouse",
  "rain on tin",
  "moss",
];

/** Tokens of one model that wait for a slow reader come in one frame; a word is about one. @param {string} text */
const tokensIn = (text) => Math.max(1, text.match(/\S+/g)?.length ?? 0);

class Tile {
  /** @param {number} number @param {(tokens: number) => void} onTokens @param {() => void} onStranger the server wants a token */
  constructor(number, onTokens, onStranger) {
    this.number = number;
    this.firstTokenMs = NaN;
    this.tokens = 0;
    this.running = false;
    this._text = "";
    this._onTokens = onTokens;
    this.chat = connect(identification);
    this.state = h("span", { class: "tile-state", text: "connecting" });
    this._body = h("p", { class: "tile-text", dir: "auto" });
    this._link = h("a", { text: `#${number + 1}`, "aria-label": `Open session ${number + 1}` });
    this.element = h("article", { class: "tile" }, h("header", {}, this._link, this.state), this._body);
    this.chat.addEventListener("token", ({ detail }) => this._take(detail.content));
    this.chat.addEventListener("line", ({ detail: line }) => {
      if (!this.running) this.state.textContent = line.state;
      this.element.dataset.line = line.state;
      if (line.state === "closed" && WANTS_TOKEN.has(line.code ?? 0)) onStranger();
    });
    this.chat.addEventListener("ready", ({ detail }) => (this._link.href = `./#/t/${detail.thread_id}`));
  }

  async run() {
    await this.chat.opened;
    const simulated = this.chat.ready?.model.name === "simulated";
    const about = ASKED[this.number % ASKED.length];
    this._text = "";
    this.tokens = 0;
    this.running = true;
    this._asked = performance.now();
    this.firstTokenMs = NaN;
    this.element.dataset.state = "running";
    this.state.textContent = "waiting";
    try {
      const turn = this.chat.send(simulated ? SCRIPTED : `Tell me a story of 200 words about ${about}.`);
      const finished = await turn.finished;
      this.element.dataset.state = finished.status;
      this.state.textContent = `${this.tokens} tokens`;
    } catch (error) {
      this.element.dataset.state = "failed";
      this.state.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      this.running = false;
    }
  }

  /** @param {string} content */
  _take(content) {
    if (this.tokens === 0) {
      this.firstTokenMs = performance.now() - (this._asked ?? 0);
      this.state.textContent = `first word ${Math.round(this.firstTokenMs)} ms`;
    }
    const tokens = tokensIn(content);
    this.tokens += tokens;
    this._text += content;
    this.dirty = true;
    this._onTokens(tokens);
  }

  draw() {
    if (!this.dirty) return;
    this.dirty = false;
    // The end is all that fits.
    this._body.textContent = this._text.slice(-400);
    this._body.scrollTop = this._body.scrollHeight;
  }
}

/** @param {number} wanted */
export function startWall(wanted) {
  const count = Math.min(MAX, Math.max(1, Math.floor(wanted) || 24));
  let total = 0;
  let asked = false;
  const ask = async () => {
    if (asked) return;
    asked = true;
    if (await askForToken()) location.reload();
  };
  const tiles = Array.from(
    { length: count },
    (_, number) =>
      new Tile(
        number,
        (tokens) => (total += tokens),
        () => void ask(),
      ),
  );
  const figures = {
    streaming: figure("streaming"),
    rate: figure("tokens / s"),
    first: figure("first word, median"),
    worst: figure("slowest first word"),
    total: figure("tokens"),
  };
  const chart = new RateChart();
  const again = h("button", { type: "button", class: "main-button", text: "Again", onClick: () => runAll() });
  const clear = h("button", {
    type: "button",
    class: "plain-button",
    text: "Delete these threads",
    onClick: () => void clearUp(),
  });
  const stop = h("button", {
    type: "button",
    class: "plain-button",
    text: "Stop",
    onClick: () => tiles.forEach((tile) => tile.running && void tile.chat.cancel().catch(() => undefined)),
  });
  document.body.classList.add("wall-page");
  document.body.append(
    h(
      "main",
      { class: "wall" },
      h(
        "header",
        { class: "wall-head" },
        h(
          "div",
          {},
          h("h1", { text: `${count} sessions at once` }),
          h("p", { class: "hint", text: "Each a thread and a connection of its own, on one server process." }),
        ),
        h(
          "div",
          { class: "row" },
          again,
          stop,
          clear,
          h("a", { class: "plain-button", href: "./", text: "Back to the chat" }),
        ),
      ),
      h(
        "section",
        { class: "figures", "aria-label": "Figures" },
        ...Object.values(figures).map(({ element }) => element),
        chart.element,
      ),
      h("section", { class: "tiles", "aria-label": "Sessions" }, ...tiles.map(({ element }) => element)),
    ),
  );
  const runAll = () => tiles.forEach((tile) => !tile.running && void tile.run().catch(() => undefined));
  const clearUp = async () => {
    const ids = tiles.map((tile) => tile.chat.threadId).filter((id) => id !== null);
    tiles.forEach((tile) => tile.chat.close());
    await Promise.allSettled(ids.map(deleteThread));
    location.search = "";
  };
  let shown = 0;
  setInterval(() => {
    chart.add(total - shown);
    shown = total;
    const first = tiles
      .map((tile) => tile.firstTokenMs)
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    figures.streaming.set(String(tiles.filter((tile) => tile.running).length));
    figures.rate.set(Math.round(chart.rate).toLocaleString());
    figures.first.set(first.length ? `${Math.round(first[first.length >> 1])} ms` : "–");
    figures.worst.set(first.length ? `${Math.round(first[first.length - 1])} ms` : "–");
    figures.total.set(total.toLocaleString());
  }, RateChart.STEP_MS);
  const frame = () => {
    tiles.forEach((tile) => tile.draw());
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  runAll();
}

/** @param {string} label */
function figure(label) {
  const value = h("b", { text: "–" });
  return {
    element: h("div", { class: "figure" }, value, h("span", { text: label })),
    set: (/** @type {string} */ text) => (value.textContent = text),
  };
}
