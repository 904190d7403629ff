/** The ring around the talk button: bars that follow the sound of whoever speaks. */

const BARS = 72;
const HIGHEST = 4000; // Hz that the bars show
const FRAME = 33; // ms between two pictures
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

export class Ring {
  #frame = 0; // the animation frame that is waited for
  #levels = new Float32Array(BARS);

  constructor(canvas) {
    this.canvas = canvas;
    this.analyser = null; // whose sound is shown; null: nobody's
    new ResizeObserver(() => this.#draw()).observe(canvas);
    DARK.addEventListener("change", () => this.#draw());
  }

  /** Follow `analyser` from now on, or come to rest with null. */
  follow(analyser) {
    if (analyser === this.analyser) return;
    this.analyser = analyser;
    cancelAnimationFrame(this.#frame);
    this.#run();
  }

  /** Draw what changed, and go on until the ring is at rest. */
  #run(now = 0, drawn = -FRAME) {
    if (now - drawn >= FRAME) {
      if (this.#measure() > 0.004) this.#draw();
      drawn = now;
    }
    const resting = this.analyser === null && this.#levels.every((level) => level < 0.01);
    this.#frame = resting ? 0 : requestAnimationFrame((next) => this.#run(next, drawn));
  }

  /** Take the levels of the speech bands, mirrored left and right; returns the largest change. */
  #measure() {
    const { analyser } = this;
    const bins = new Uint8Array(analyser?.frequencyBinCount ?? 1);
    analyser?.getByteFrequencyData(bins);
    const top = analyser ? (HIGHEST * analyser.fftSize) / analyser.context.sampleRate : 0;
    let change = 0;
    for (let bar = 0; bar < BARS; bar++) {
      const place = 1 - Math.abs(1 - (2 * bar) / BARS); // 0 at the top of the ring, 1 at its foot
      const level = STILL.matches ? mean(bins, top) : bins[Math.floor(1 + place * (top - 1))] / 255;
      const step = 0.5 * ((level || 0) - this.#levels[bar]);
      this.#levels[bar] += step;
      change = Math.max(change, Math.abs(step));
    }
    return change;
  }

  #draw() {
    const { canvas } = this;
    const size = canvas.clientWidth * devicePixelRatio;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, size, size);
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.lineWidth = size * 0.008;
    pen.lineCap = "round";
    this.#levels.forEach((level, bar) => {
      const angle = (2 * Math.PI * bar) / BARS - Math.PI / 2;
      const from = size * 0.355;
      const to = from + size * (0.004 + 0.12 * level);
      pen.globalAlpha = 0.25 + 0.75 * level;
      pen.beginPath();
      pen.moveTo(size / 2 + from * Math.cos(angle), size / 2 + from * Math.sin(angle));
      pen.lineTo(size / 2 + to * Math.cos(angle), size / 2 + to * Math.sin(angle));
      pen.stroke();
    });
  }
}

/** The mean level of the first `count` bins, from 0 to 1: with reduced motion all bars grow alike. */
function mean(bins, count) {
  const seen = bins.subarray(0, Math.ceil(count));
  return seen.reduce((sum, bin) => sum + bin, 0) / (255 * (seen.length || 1));
}
