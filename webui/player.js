/**
 * Plays answers while they are made, each given piece by piece: `omniPlayer().add(turn, number, piece)`.  Both pages
 * put this text before a few lines of their own.
 */
function omniPlayer() {
  const RATE = 24000; // Hz, of the server's sound
  const LEAD = 0.08; // s between the arrival of a piece that is late and its first sample

  class Player {
    played = 0; // samples queued for the loudspeaker since the page was loaded
    #context = null;
    #turn = null;
    #pieces = []; // of that turn, by number
    #next = 0; // number of the piece to play next
    #until = 0; // when the sound that is queued ends, on the context's clock
    #sources = new Set();

    /** A `piece` is base64 of s16le; pieces may come in any order, and again.  Another `turn` ends the one before. */
    add(turn, number, piece) {
      if (turn !== this.#turn) {
        this.stop();
        [this.#turn, this.#pieces, this.#next] = [turn, [], 0];
      }
      this.#pieces[number] = piece;
      while (this.#pieces[this.#next]) this.#queue(this.#pieces[this.#next++]);
    }

    /** Silence at once; later pieces of the same turn are not played either. */
    stop() {
      for (const source of this.#sources) source.stop();
      this.#sources.clear();
      [this.#until, this.#next] = [0, Infinity];
    }

    /** Browsers let sound start only after the person touched the page. */
    wake() {
      this.#context ??= this.#open();
      if (this.#context.state === "suspended") this.#context.resume();
    }

    #open() {
      const context = new AudioContext({ sampleRate: RATE });
      this.analyser = context.createAnalyser();
      this.analyser.connect(context.destination);
      return context;
    }

    #queue(piece) {
      this.wake();
      const bytes = Uint8Array.from(atob(piece), (letter) => letter.charCodeAt(0));
      const levels = new Int16Array(bytes.buffer);
      const sound = this.#context.createBuffer(1, levels.length, RATE);
      sound.copyToChannel(Float32Array.from(levels, (level) => level / 32768), 0);
      const source = this.#context.createBufferSource();
      source.buffer = sound;
      source.connect(this.analyser);
      source.onended = () => this.#sources.delete(source);
      this.#sources.add(source);
      const now = this.#context.currentTime;
      if (this.#until < now) this.#until = now + LEAD;
      source.start(this.#until);
      this.#until += sound.duration;
      this.played += levels.length;
    }
  }

  if (!window.omniPlays) {
    window.omniPlays = new Player();
    for (const touch of ["pointerdown", "keydown"]) document.addEventListener(touch, () => window.omniPlays.wake());
  }
  return window.omniPlays;
}
