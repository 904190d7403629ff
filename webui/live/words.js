/** What the page says, for every state it can be in. */

const STATES = {
  off: "Ready when you are",
  connecting: "Connecting…",
  offline: "Not connected",
  ready: "Ready",
  listening: "Listening",
  thinking: "Thinking…",
  speaking: "Speaking",
};

const REFUSALS = {
  NotAllowedError: "is blocked. Allow it beside the page's address, then try again.",
  NotFoundError: "was not found. Plug one in, then try again.",
  NotReadableError: "is used by another program. Close that, then try again.",
};

export const NO_SOUND = "Sound needs https:// or this machine's own address. You can still type and read the answers.";
export const AWAY = "The server is away. The page keeps trying.";

/** Why `device`, "microphone" or "camera", could not be opened; `error` is getUserMedia's. */
export function refusal(device, { name, message }) {
  return `The ${device} ${REFUSALS[name] ?? `cannot be used: ${message}`}`;
}

/** {state, hint, button} in words; `microphone` is "closed", "asked" for or "open". */
export function words(state, microphone, handsFree, holding, { policy, listens, ducked }) {
  const told = hint(state, microphone, handsFree, holding, policy);
  return { state: state === "speaking" && listens ? meanwhile() : STATES[state], hint: told, button: button() };

  function meanwhile() {
    return ducked ? "Speaking paused; listening" : "Speaking and listening";
  }

  function button() {
    if (microphone !== "open") return "Start";
    if (handsFree) return "Mute";
    return holding ? "Listening" : "Hold to talk";
  }
}

const STOPS = {
  command: "Say \u201cStop Omni\u201d to interrupt.",
  "barge-in": "Speak up to interrupt.",
  off: "Press Interrupt or Esc to stop it.",
};

function hint(state, microphone, handsFree, holding, policy) {
  if (state === "offline") return "Trying again…";
  if (microphone === "asked") return "Allow the microphone.";
  if (state === "off") return "Press Start and allow the microphone.";
  if (microphone === "closed") return "Type a question, or press Start to speak.";
  if (holding) return "Let go to send.";
  if (state === "speaking") return handsFree ? STOPS[policy] : "Talk again to interrupt.";
  if (state === "ready") return "Hold the button or the space bar while you speak.";
  return state === "listening" ? "Just speak; a pause ends your question." : "";
}
