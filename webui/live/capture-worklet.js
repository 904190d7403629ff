/** Microphone to 16-bit pieces of about 40 ms at the context's own rate; silent at its output. */

const PIECE_SECONDS = 0.04;

class CaptureProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(PIECE_SECONDS * sampleRate));
    this.filled = 0;
    this.port.onmessage = () => this.deliver(true); // the only message: "hand over what there is"
  }

  /** Post the samples gathered so far, with the context's time at their end. */
  deliver(asked) {
    const pcm = this.piece.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage({ pcm, time: currentTime, asked }, [pcm.buffer]);
  }

  process([input]) {
    const samples = input[0];
    if (!samples) return true; // no microphone connected at the moment
    for (const sample of samples) {
      this.piece[this.filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.filled === this.piece.length) this.deliver(false);
    }
    return true;
  }
}

registerProcessor("capture", CaptureProcessor);
