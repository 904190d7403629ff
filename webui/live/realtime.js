/** The connection to `/v1/realtime`: speaks JSON, comes back after a loss.  Knows neither the page nor its sound. */

const FIRST_PAUSE = 500; // ms before the first new attempt; doubles
const LONGEST_PAUSE = 8000; // ms
const NORMAL = 1000; // close code
const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

/**
 * The server's WebSocket address.
 *
 * `trusted` comes from the page's author; `asked` from the page's address, which a stranger may have written: only
 * the page's own host, at any port, is let in there.  Throws an Error that says so.
 */
export function serverAddress(trusted, asked) {
  const url = new URL(trusted || asked || "../v1/realtime", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const host = (name) => (LOOPBACK.includes(name) ? "localhost" : name);
  if (!trusted && host(url.hostname) !== host(location.hostname)) {
    throw new Error(`This page does not send sound to ${url.host}, only to its own host.`);
  }
  return url;
}

/**
 * Events: "open" (a session has begun), "lost" (another attempt follows), "over" (the server ended an idle or long
 * session; `connect` begins another), "closed" (by `close`), "locked" (the server wants a key), and "event" (detail:
 * what the server sent).
 */
export class Realtime extends EventTarget {
  ready = false;
  key = "";
  #url;
  #socket = null;
  #timer = 0;
  #pause = FIRST_PAUSE;
  #session = {};

  /** `rate` is the microphone's, in Hz. */
  constructor(url, rate) {
    super();
    this.#url = new URL(url);
    this.#url.searchParams.set("input_rate", rate);
  }

  get live() {
    return this.#socket !== null || this.#timer !== 0;
  }

  /** Whether the last attempt failed or the last session was lost. */
  get lost() {
    return !this.ready && this.#pause > FIRST_PAUSE;
  }

  /** Resolves when a session is open.  From now on a lost connection is opened again, until `close`. */
  connect() {
    if (!this.live) this.#open();
    if (this.ready) return Promise.resolve();
    return new Promise((done) => this.addEventListener("open", done, { once: true }));
  }

  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    [this.#timer, this.#socket, this.ready, this.#pause] = [0, null, false, FIRST_PAUSE];
    socket?.close();
    this.#tell("closed");
  }

  /** Try now instead of after the pause. */
  retry() {
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#open();
  }

  /** The session's settings, sent now and again with every new connection. */
  configure(session) {
    this.#session = session;
    this.send("session.update", { session });
  }

  /** Send a client event; returns its id, or null when there is no session. */
  send(type, fields = {}) {
    if (!this.ready) return null;
    const id = `event_${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
    this.#socket.send(JSON.stringify({ type, event_id: id, ...fields }));
    return id;
  }

  #open() {
    this.#timer = 0;
    const protocols = this.key ? ["realtime", `openai-insecure-api-key.${this.key}`] : [];
    const socket = new WebSocket(this.#url, protocols);
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "session.created") this.#begin();
      this.#tell("event", event);
    };
    socket.onclose = ({ code }) => {
      if (this.#socket === socket) this.#lose(code);
    };
  }

  #begin() {
    this.ready = true;
    this.#pause = FIRST_PAUSE;
    this.send("session.update", { session: this.#session });
    this.#tell("open");
  }

  async #lose(code) {
    const began = this.ready;
    [this.#socket, this.ready] = [null, false];
    if (code === NORMAL) return this.#tell("over");
    const pause = this.#pause * (0.75 + Math.random() / 2); // many clients should not come back at the same moment
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
    this.#timer = setTimeout(() => this.#open(), pause);
    this.#tell("lost");
    if (!began && (await this.#keyWanted())) {
      this.close();
      this.#tell("locked");
    }
  }

  /** A refused WebSocket does not tell why; the list of models does. */
  async #keyWanted() {
    const url = new URL("models", this.#url);
    url.protocol = url.protocol.replace("ws", "http");
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const reply = await fetch(url, { headers }).catch(() => null);
    return reply?.status === 401;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
