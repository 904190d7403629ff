/** A conversation: its turns and state, interruption, times.  Knows the protocol and the player, not the page. */

import { ANSWER_RATE, decode, encode } from "./audio.js";
import { Answer, Question } from "./turns.js";

const PAUSE = 500; // ms of silence that end a spoken question, hands-free
const SHORTEST = 200; // ms; a shorter press of the talk button was no question

/**
 * Events: "change" (of the state), "turn" (detail: a turn that is new or changed), "speech" (somebody began to speak),
 * "problem" (detail: its words).
 */
export class Conversation extends EventTarget {
  turns = [];
  handsFree = true;
  policy = "command"; // what interrupts an answer, hands-free: "command", "barge-in" or "off"
  ducked = false; // the answer is held, as somebody may want it to stop
  microphone = false; // whether it is open
  held = false; // the talk button is down
  #hearing = false; // the server hears speech
  #asked = null; // the question that waits for its first sound: {ended: performance time, pause: ms}
  #answer = null; // the newest one
  #picture = null; // sent ahead of the spoken question
  #sent = 0; // ms of sound sent on this connection
  #sentUntil = 0; // performance time at which the last of it was recorded
  #pressed = 0; // what #sent was when the talk button went down
  #quiet = new Set(); // ids of client events that may fail without a word

  /** `rate` is the microphone's, in Hz.  `player` may be null: then answers are text alone. */
  constructor(realtime, player, rate) {
    super();
    Object.assign(this, { realtime, player, rate });
    realtime.addEventListener("event", ({ detail: { type, ...event } }) => {
      if (Object.hasOwn(this.#events, type)) this.#events[type](event);
    });
    realtime.addEventListener("open", () => this.#begin());
    for (const end of ["lost", "over", "closed"]) realtime.addEventListener(end, () => this.#lose());
    player?.addEventListener("start", ({ detail }) => this.#firstSound(detail));
    player?.addEventListener("progress", () => this.#progress());
    player?.addEventListener("idle", () => this.#tell("change"));
    this.#configure();
  }

  /** "off", "connecting", "offline", "ready", "listening", "thinking" or "speaking". */
  get state() {
    if (this.player?.busy && !this.hearing) return "speaking";
    if (!this.realtime.live) return "off";
    if (!this.realtime.ready) return this.realtime.lost ? "offline" : "connecting";
    if (this.hearing) return "listening";
    if (this.#asked || this.#answer?.open) return "thinking";
    return this.microphone && this.handsFree ? "listening" : "ready";
  }

  /** Whether somebody is speaking right now. */
  get hearing() {
    return this.held || this.#hearing;
  }

  /** Milliseconds of sound sent on this connection. */
  get sent() {
    return this.#sent;
  }

  get lastLatency() {
    return this.turns.findLast((turn) => turn.latency != null)?.latency ?? null;
  }

  setHandsFree(on) {
    this.handsFree = on;
    this.#drop();
    this.#configure();
  }

  setPolicy(policy) {
    this.policy = policy;
    this.#configure();
    this.#tell("change");
  }

  /** Whether it hears the person while it speaks. */
  get listensMeanwhile() {
    return this.microphone && this.handsFree && this.policy !== "off";
  }

  setMicrophone(on) {
    this.microphone = on;
    this.#drop();
  }

  /** A piece of microphone sound, Int16Array, whose end was recorded at performance time `when`. */
  append(pcm, when) {
    if (!this.handsFree && !this.held) return;
    if (!this.realtime.send("input_audio_buffer.append", { audio: encode(pcm) })) return;
    this.#sent += (pcm.length / this.rate) * 1000;
    this.#sentUntil = when;
  }

  /** Push-to-talk: begin a question; what is being said falls silent. */
  press() {
    this.interrupt();
    this.held = true;
    this.#pressed = this.#sent;
    this.#tell("speech");
    this.#tell("change");
  }

  /** Push-to-talk: the question is complete; `ended` is the performance time at which the button was let go. */
  release(ended) {
    if (!this.held) return; // the connection was lost meanwhile
    if (this.#sent - this.#pressed < SHORTEST) {
      this.#tell("problem", "Hold the button down for as long as you speak.");
      return this.#drop();
    }
    this.held = false;
    this.realtime.send("input_audio_buffer.commit");
    this.#ask(ended);
  }

  /** A typed question, perhaps about a picture (data URI). */
  async ask(text, picture = null) {
    const ended = performance.now();
    await this.interrupt();
    this.#send([...(picture ? [{ type: "input_image", image_url: picture }] : []), { type: "input_text", text }]);
    this.#add(new Question({ text, picture }));
    this.#ask(ended);
  }

  /** Send a picture (data URI) ahead of the question that is being spoken. */
  show(picture) {
    this.#picture = picture;
    this.#send([{ type: "input_image", image_url: picture }]);
  }

  /**
   * Stop the answer where it is; resolves when the server knows how much was heard.
   * `told` is true when the server has stopped making it by itself.
   */
  async interrupt(told = false) {
    const answer = this.#answer;
    if (!answer || answer.cut || !(answer.open || this.player?.busy)) return;
    answer.cut = true;
    this.#asked = null;
    if (answer.open && !told) this.#quiet.add(this.realtime.send("response.cancel"));
    this.#tell("turn", answer);
    const cleared = this.player?.clear();
    this.#duck(false);
    const [position] = await Promise.all([cleared, answer.closed]);
    this.#tell("change");
    if (!answer.samples) return;
    answer.reach(position);
    this.#tell("turn", answer);
    const audio_end_ms = Math.floor((answer.heard / ANSWER_RATE) * 1000);
    this.realtime.send("conversation.item.truncate", { item_id: answer.item, content_index: 0, audio_end_ms });
  }

  /** What to do at the server's events. */
  #events = {
    "input_audio_buffer.speech_started": () => {
      this.#hearing = true;
      if (this.policy === "barge-in") this.interrupt(true);
      this.#tell("speech");
      this.#tell("change");
    },
    "input_audio_buffer.speech_stopped": ({ audio_end_ms }) => {
      this.#hearing = false;
      const detected = this.#sentUntil - (this.#sent - audio_end_ms);
      this.#asked = { ended: detected - PAUSE, pause: PAUSE };
      this.#tell("change");
    },
    "input_audio_buffer.committed": ({ item_id }) => {
      this.#add(new Question({ item: item_id, picture: this.#picture }));
      this.#picture = null;
    },
    "conversation.item.input_audio_transcription.delta": ({ item_id, delta }) => this.#write(item_id, delta),
    "conversation.item.input_audio_transcription.completed": ({ item_id, transcript }) =>
      this.#edit(item_id, (turn) => (turn.text = transcript)),
    "response.created": () => {
      if (this.ducked) this.#duck(false);
      this.#answer = this.#add(new Answer(this.player?.written ?? 0));
    },
    "response.output_item.added": ({ item }) => (this.#answer.item = item.id),
    "response.output_audio_transcript.delta": ({ item_id, delta }) => this.#write(item_id, delta),
    "response.output_text.delta": ({ item_id, delta }) => this.#write(item_id, delta),
    "response.output_audio.delta": ({ item_id, delta }) => this.#edit(item_id, (turn) => this.#play(turn, delta)),
    "output_audio_buffer.cleared": () => this.interrupt(true),
    "omni2.output_audio_buffer.ducked": () => this.#duck(true),
    "omni2.output_audio_buffer.resumed": () => this.#duck(false),
    "response.done": ({ response }) => this.#finish(this.#answer, response),
    error: ({ error }) => {
      if (this.#quiet.delete(error.event_id)) return;
      this.#asked = null;
      this.#tell("problem", error.message);
      this.#tell("change");
    },
  };

  #configure() {
    const detection = { type: "server_vad", silence_duration_ms: PAUSE };
    this.realtime.configure({
      type: "realtime",
      output_modalities: [this.player ? "audio" : "text"],
      omni2: { interruption: this.policy, ducking: true },
      audio: { input: { transcription: { model: "omni2" }, turn_detection: this.handsFree ? detection : null } },
    });
  }

  /** Hold the sound where it is, or let it go on with the very next sample. */
  #duck(on) {
    this.ducked = on;
    this.player?.hold(on);
    this.#tell("change");
  }

  /** Forget what was being said. */
  #drop() {
    [this.held, this.#hearing] = [false, false];
    this.realtime.send("input_audio_buffer.clear");
    this.#tell("change");
  }

  #begin() {
    this.#sent = 0;
    this.#tell("change");
  }

  #lose() {
    [this.held, this.#hearing, this.#asked] = [false, false, null];
    const answer = this.#answer;
    if (answer?.open) this.#finish(answer, { status: answer.cut ? "cancelled" : "failed", status_details: LOST });
    this.#tell("change");
  }

  #send(content) {
    this.realtime.send("conversation.item.create", { item: { type: "message", role: "user", content } });
  }

  #ask(ended) {
    if (this.realtime.send("response.create")) this.#asked = { ended, pause: 0 };
    this.#tell("change");
  }

  #play(answer, delta) {
    if (answer.cut) return; // what was on its way when it was interrupted
    const pcm = decode(delta);
    answer.samples += pcm.length;
    this.player?.push(pcm);
    this.#tell("change");
  }

  #finish(answer, { status, status_details: details }) {
    answer.whole = status === "completed";
    if (status === "failed") answer.error = details?.error?.message ?? "The answer failed.";
    if (status === "cancelled") this.interrupt(true);
    answer.close();
    if (!answer.samples) this.#asked = null;
    this.#tell("turn", answer);
    this.#tell("change");
  }

  #firstSound(when) {
    if (this.#asked) {
      Object.assign(this.#answer, { latency: when - this.#asked.ended, pause: this.#asked.pause });
      this.#asked = null;
      this.#tell("turn", this.#answer);
    }
    this.#tell("change");
  }

  #progress() {
    if (!this.#answer || this.#answer.cut) return;
    this.#answer.reach(this.player.position);
    this.#tell("turn", this.#answer);
  }

  #add(turn) {
    this.turns.push(turn);
    this.#tell("turn", turn);
    this.#tell("change");
    return turn;
  }

  #edit(item, change) {
    const turn = this.turns.findLast((one) => one.item === item);
    if (!turn) return;
    change(turn);
    this.#tell("turn", turn);
  }

  #write(item, delta) {
    this.#edit(item, (turn) => (turn.text += delta));
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const LOST = { error: { message: "The connection was lost." } };
