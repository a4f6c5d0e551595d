/** A rate over the last half minute, as a line that is drawn while it happens. */

const STEPS = 120;

export class RateChart {
  static STEP_MS = 250;

  constructor() {
    /** @type {number[]} */
    this._counts = [];
    this.element = document.createElement("canvas");
    this.element.className = "chart";
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", "Tokens per second over the last 30 seconds");
  }

  /** Over the last second. */
  get rate() {
    return this._counts.slice(-4).reduce((sum, count) => sum + count, 0);
  }

  /** @param {number} count what came in this step */
  add(count) {
    this._counts.push(count);
    if (this._counts.length > STEPS) this._counts.shift();
    this._draw();
  }

  _draw() {
    const canvas = this.element;
    const scale = devicePixelRatio;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d");
    if (context === null) return;
    const style = getComputedStyle(canvas);
    const rates = this._counts.map((_, i) => this._counts.slice(Math.max(0, i - 3), i + 1).reduce((a, b) => a + b, 0));
    const max = Math.max(10, ...rates) * 1.15;
    const x = (/** @type {number} */ i) => ((STEPS - rates.length + i) / (STEPS - 1)) * canvas.width;
    const y = (/** @type {number} */ rate) => canvas.height * (1 - rate / max);
    context.beginPath();
    rates.forEach((rate, i) => (i === 0 ? context.moveTo(x(i), y(rate)) : context.lineTo(x(i), y(rate))));
    context.strokeStyle = style.color;
    context.lineWidth = 2 * scale;
    context.stroke();
    context.lineTo(canvas.width, canvas.height);
    context.lineTo(x(0), canvas.height);
    context.globalAlpha = 0.15;
    context.fillStyle = style.color;
    context.fill();
  }
}
