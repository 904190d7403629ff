/**
 * A ring buffer of answer sound, resampled to the context's rate, with an exact count of the samples played.
 *
 * Positions count source samples from the first one ever pushed; `read` may stand between two samples.
 * In:  {pcm: Int16Array} to play; {hold: boolean} to stand still, or go on with the very next sample; {clear: position} to fall silent now and drop what lies before it.
 * Out: {position, playing, time} while playing and at each start or end; after a clear {cleared, position}, where
 * `cleared` is what was asked and `position` where the sound stopped.
 */

const HALF = 8; // neighbours on each side that the interpolation looks at
const PHASES = 64; // steps between two samples for which its weights are tabulated
const REPORT_SECONDS = 0.02;

/** Windowed-sinc weights, a row of 2 * half a phase; `scale` < 1 lowers the cutoff for a slower context. */
function sincTable(half, scale) {
  const table = new Float32Array((PHASES + 1) * 2 * half);
  for (let phase = 0; phase <= PHASES; phase++) {
    for (let tap = 0; tap < 2 * half; tap++) {
      const x = tap - half + 1 - phase / PHASES;
      const angle = Math.PI * x * scale;
      const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
      const window = Math.abs(x) < half ? 0.5 + 0.5 * Math.cos((Math.PI * x) / half) : 0;
      table[phase * 2 * half + tap] = scale * sinc * window;
    }
  }
  return table;
}

class PlayerProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    const scale = Math.min(1, sampleRate / rate);
    this.step = rate / sampleRate;
    this.half = Math.ceil(HALF / scale);
    this.table = sincTable(this.half, scale);
    this.ring = new Float32Array(1 << 19); // 22 s at 24 kHz; grows
    this.read = 0;
    this.written = 0;
    this.cut = null; // the position before which everything is to be dropped
    this.playing = false;
    this.held = false; // no sample is played meanwhile
    this.reported = 0;
    this.port.onmessage = ({ data }) => {
      if (data.pcm) this.push(data.pcm);
      else if ("hold" in data) this.held = data.hold;
      else this.cut = data.clear;
    };
  }

  push(pcm) {
    const needed = this.written - Math.floor(this.read) + pcm.length + 2 * this.half;
    if (needed > this.ring.length) this.grow(needed);
    const mask = this.ring.length - 1;
    for (const sample of pcm) this.ring[this.written++ & mask] = sample / 32768;
  }

  /** Double the ring until `needed` samples fit; each keeps its position. */
  grow(needed) {
    let length = this.ring.length;
    while (length < needed) length *= 2;
    const ring = new Float32Array(length);
    const from = Math.max(0, this.written - this.ring.length);
    for (let i = from; i < this.written; i++) ring[i & (length - 1)] = this.ring[i & (this.ring.length - 1)];
    this.ring = ring;
  }

  /** The sound at position `at`; samples not there yet are silence. */
  sample(at) {
    const index = Math.floor(at);
    const phase = (at - index) * PHASES;
    const row = Math.floor(phase);
    const part = phase - row;
    const width = 2 * this.half;
    const mask = this.ring.length - 1;
    const first = index - this.half + 1;
    let sum = 0;
    for (let tap = 0; tap < width; tap++) {
      const position = first + tap;
      if (position < 0 || position >= this.written) continue;
      const weight = this.table[row * width + tap] * (1 - part) + this.table[(row + 1) * width + tap] * part;
      sum += weight * this.ring[position & mask];
    }
    return sum;
  }

  process(_inputs, [[out]]) {
    let used = 0;
    while (used < out.length && this.read < this.written && !this.held) {
      out[used++] = this.sample(this.read);
      this.read += this.step;
    }
    this.read = Math.min(this.read, this.written);
    const cut = this.cut;
    if (cut !== null) for (let i = 0; i < used; i++) out[i] *= 1 - (i + 1) / used; // no click
    this.report(used > 0 && cut === null);
    if (cut !== null) {
      this.port.postMessage({ cleared: cut, position: Math.floor(this.read) });
      this.read = Math.max(this.read, cut);
      this.cut = null;
    }
    return true;
  }

  report(playing) {
    if (playing !== this.playing || (playing && currentTime - this.reported >= REPORT_SECONDS)) {
      this.playing = playing;
      this.reported = currentTime;
      this.port.postMessage({ position: Math.floor(this.read), playing, time: currentTime });
    }
  }
}

registerProcessor("player", PlayerProcessor);
