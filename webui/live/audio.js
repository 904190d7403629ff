/** Sound in and out of one AudioContext: the microphone in pieces, answers through a counted ring buffer. */

export const ANSWER_RATE = 24000; // Hz, what the server sends
const HIGHEST_RATE = 48000; // Hz, what the server takes

/** Int16Array samples as base64 of little-endian bytes, and back. */
export function encode(pcm) {
  return btoa(String.fromCharCode(...new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength)));
}

export function decode(text) {
  return new Int16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

/** A context at the device's own rate, with both worklets loaded.  Null where the page may not use sound worklets. */
export async function openContext() {
  if (!window.AudioContext || !window.isSecureContext) return null;
  let context = new AudioContext({ latencyHint: "interactive" });
  if (context.sampleRate > HIGHEST_RATE) {
    await context.close();
    context = new AudioContext({ latencyHint: "interactive", sampleRate: HIGHEST_RATE });
  }
  const here = (name) => context.audioWorklet.addModule(new URL(name, import.meta.url));
  await Promise.all([here("capture-worklet.js"), here("player-worklet.js")]);
  return context;
}

/** The open microphone.  `deliver(pcm, when)` gets Int16Array pieces and the performance time (ms) of their end. */
export class Microphone {
  /** Ask for the microphone.  Rejects as getUserMedia does. */
  static async open(context, deliver) {
    const wish = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wish });
    return new Microphone(context, stream, deliver);
  }

  constructor(context, stream, deliver) {
    this.stream = stream;
    this.flushed = [];
    this.source = context.createMediaStreamSource(stream);
    this.analyser = new AnalyserNode(context, { fftSize: 512, smoothingTimeConstant: 0.6 });
    this.node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    this.node.port.onmessage = ({ data: { pcm, time, asked } }) => {
      if (pcm.length) deliver(pcm, performance.now() - (context.currentTime - time) * 1000);
      if (asked) this.flushed.shift()();
    };
    this.source.connect(this.analyser);
    this.source.connect(this.node).connect(context.destination); // silent, but only what is connected runs everywhere
  }

  /** Resolves when everything said until now has been delivered. */
  flush() {
    return new Promise((done) => {
      this.flushed.push(done);
      this.node.port.postMessage("flush");
    });
  }

  /** `lost()` is called when the microphone goes away by itself, such as when it is unplugged. */
  onlost(lost) {
    this.stream.getAudioTracks()[0].addEventListener("ended", lost);
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    this.source.disconnect();
    this.node.disconnect();
  }
}

/**
 * Answers, played as they come.  Positions count samples at 24 kHz from the first one ever pushed.
 * Events: "start" (detail: performance time in ms at which the first sample is heard), "progress", "idle".
 */
export class Player extends EventTarget {
  written = 0; // samples pushed
  position = 0; // samples played or dropped
  played = 0; // samples played
  #clears = []; // {end, done} of every clear that the worklet has not confirmed yet
  #playing = false;

  constructor(context) {
    super();
    this.context = context;
    this.node = new AudioWorkletNode(context, "player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate: ANSWER_RATE },
    });
    this.analyser = new AnalyserNode(context, { fftSize: 2048, smoothingTimeConstant: 0.6 });
    this.node.connect(this.analyser).connect(context.destination);
    this.node.port.onmessage = ({ data }) => this.#hear(data);
  }

  /** Whether there is sound that has not been heard yet. */
  get busy() {
    return this.position < this.written;
  }

  push(pcm) {
    this.written += pcm.length;
    this.node.port.postMessage({ pcm }, [pcm.buffer]);
  }

  /** Hold the sound at its present sample, or go on with that very sample. */
  hold(on) {
    this.node.port.postMessage({ hold: on });
  }

  /** Fall silent at once; resolves to the position reached, once the worklet has stopped there. */
  clear() {
    return new Promise((done) => {
      this.#clears.push({ end: this.written, done });
      this.node.port.postMessage({ clear: this.written });
    });
  }

  #hear(data) {
    this.played += data.position - this.position;
    this.position = data.position;
    if ("cleared" in data) {
      this.position = data.cleared;
      while (this.#clears.length && this.#clears[0].end <= data.cleared) this.#clears.shift().done(data.position);
    } else if (data.playing !== this.#playing) {
      this.#playing = data.playing;
      this.dispatchEvent(new CustomEvent(data.playing ? "start" : "idle", { detail: this.#heardAt(data.time) }));
    }
    this.dispatchEvent(new Event("progress"));
  }

  /** When a sample of the context's `time` (s) leaves the speaker, as performance time (ms). */
  #heardAt(time) {
    const stamp = this.context.getOutputTimestamp?.();
    if (stamp?.contextTime > 0) return stamp.performanceTime + (time - stamp.contextTime) * 1000;
    const latency = this.context.outputLatency || this.context.baseLatency || 0;
    return performance.now() + (time - this.context.currentTime + latency) * 1000;
  }
}
