/** What was asked and what was answered. */

const SAMPLES_A_LETTER = 1700; // of ordinary speech, at 24 kHz

export class Question {
  who = "you";
  text = "";

  /** `item` is the server's id of a spoken question, whose words come later; `picture` is a data URI. */
  constructor({ text = "", item = null, picture = null }) {
    Object.assign(this, { text, item, picture });
    this.spoken = item !== null;
  }
}

export class Answer {
  who = "omni";
  text = "";
  item = null; // the server's id of it
  open = true; // the server is still making it
  whole = false; // the server made it to its end
  cut = false; // it was interrupted
  error = ""; // why there is none
  samples = 0; // received, at 24 kHz
  heard = 0; // of them
  latency = null; // ms from the end of the question to the first sample heard
  pause = 0; // ms of that which turn detection waited

  /** `start` is the player's position of its first sample. */
  constructor(start) {
    this.start = start;
    this.closed = new Promise((done) => (this.close = () => done((this.open = false)))); // when nothing more comes
  }

  /** The player reached `position`. */
  reach(position) {
    this.heard = Math.min(Math.max(position - this.start, 0), this.samples);
  }

  /** How much of the words has been heard, from 0 to 1; an estimate, as words come ahead of their sound. */
  get share() {
    if (!this.samples) return this.open ? 0 : 1;
    const expected = this.whole ? 0 : this.text.length * SAMPLES_A_LETTER;
    return this.heard / Math.max(this.samples, expected);
  }
}
