/** The page: what can be pressed, what is shown.  The conversation itself is in conversation.js. */

import { ANSWER_RATE, Microphone, Player, openContext } from "./audio.js";
import { Camera } from "./camera.js";
import { Conversation } from "./conversation.js";
import { holdable } from "./hold.js";
import { Realtime, serverAddress } from "./realtime.js";
import { Ring } from "./ring.js";
import { TurnView } from "./turn-view.js";
import { AWAY, NO_SOUND, refusal, words } from "./words.js";

const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const ring = new Ring($("ring"));
const view = new TurnView($("turns"));
const camera = new Camera($("preview"));

let server = null; // URL of its WebSocket
let context = null; // AudioContext; null before the first click, or where there is none
let talk = null; // the Conversation; null before the first click
let microphone = null; // null while closed
let picture = null; // data URI for the next question
let holding = false; // the talk button or the space bar is down
let made = null; // the promise of `talk`
let opening = false; // the person is being asked for the microphone

/** Text into an element, unless it is there already: what is written anew is read aloud anew. */
function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** Bring the page up to date with the conversation's state. */
function show() {
  const state = talk?.state ?? "off";
  const told = words(state, opening ? "asked" : microphone ? "open" : "closed", talk?.handsFree, holding, {
    policy: $("policy").value,
    listens: talk?.listensMeanwhile ?? false,
    ducked: talk?.ducked ?? false,
  });
  document.body.dataset.state = state;
  write("state", told.state);
  write("hint", told.hint);
  write("talk-label", told.button);
  $("talk").classList.toggle("held", holding);
  $("interrupt").disabled = state !== "speaking" && state !== "thinking";
  $("welcome").hidden = Boolean(talk?.turns.length);
  $("turns").hidden = !$("welcome").hidden;
  const speaker = { speaking: talk?.player, listening: microphone }[state];
  ring.follow(speaker?.analyser ?? null);
}

/** Say what went wrong, with a button that may help; without words, nothing is wrong any more. */
function notice(problem = "", action = "", act = null) {
  const text = Object.assign(document.createElement("span"), { textContent: problem });
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
  button.addEventListener("click", act);
  $("notice").replaceChildren(text, ...(act ? [button] : []));
  $("notice").hidden = !problem;
}

/** Make the conversation at the first click, wake its sound at every one, and connect. */
async function begin() {
  made ??= converse();
  talk = await made;
  await context?.resume();
  talk.realtime.connect();
  show();
}

async function converse() {
  context = await openContext();
  if (!context) notice(NO_SOUND);
  const rate = context?.sampleRate ?? ANSWER_RATE;
  const realtime = new Realtime(server, rate);
  realtime.key = givenKey ?? sessionStorage.getItem(`key ${server.host}`) ?? "";
  let away = false;
  realtime.addEventListener("open", () => {
    if (away) notice();
    away = false;
  });
  realtime.addEventListener("lost", () => {
    away = true;
    notice(AWAY, "Try now", () => realtime.retry());
  });
  realtime.addEventListener("over", () => microphone && realtime.connect());
  realtime.addEventListener("locked", () => {
    notice();
    $("locked").showModal();
  });

  const conversation = new Conversation(realtime, context && new Player(context), rate);
  conversation.setPolicy($("policy").value);
  conversation.setHandsFree($("hands-free").checked);
  conversation.addEventListener("change", show);
  conversation.addEventListener("turn", ({ detail }) => view.show(detail));
  conversation.addEventListener("problem", ({ detail }) => notice(detail));
  conversation.addEventListener("speech", () => {
    const shown = takePicture();
    if (shown) conversation.show(shown);
  });
  return conversation;
}

async function openMicrophone() {
  await begin();
  if (!context || opening) return;
  opening = true;
  show();
  try {
    microphone = await Microphone.open(context, (pcm, when) => talk.append(pcm, when));
  } catch (error) {
    return notice(refusal("microphone", error));
  } finally {
    opening = false;
    show();
  }
  notice();
  microphone.onlost(closeMicrophone);
  talk.setMicrophone(true);
}

function closeMicrophone() {
  microphone?.close();
  [microphone, holding] = [null, false];
  talk.setMicrophone(false);
}

function end() {
  talk.interrupt();
  closeMicrophone();
  if (camera.on) toggleCamera();
  talk.realtime.close();
  notice();
  show();
}

function hold() {
  if (holding || !talk.realtime.ready) return;
  holding = true;
  talk.press();
}

async function letGo() {
  holding = false;
  const ended = performance.now();
  await microphone.flush();
  talk.release(ended);
}

async function ask(question) {
  await begin();
  await talk.realtime.connect();
  await talk.ask(question, takePicture());
}

async function toggleCamera() {
  try {
    if (camera.on) camera.close();
    else await camera.open();
  } catch (error) {
    notice(refusal("camera", error));
  }
  $("view").hidden = !camera.on;
  $("camera").setAttribute("aria-pressed", camera.on);
  keepPicture(null);
}

function keepPicture(taken) {
  picture = taken;
  $("shoot").setAttribute("aria-pressed", picture !== null);
  $("shoot").textContent = picture ? "Picture taken; remove it" : "Show with next question";
}

/** The picture for the question that begins now, or null. */
function takePicture() {
  if (!camera.on) return null;
  const taken = $("every-turn").checked ? camera.still() : picture;
  keepPicture(null);
  return taken;
}

holdable($("talk"), {
  wanted: () => microphone !== null && !talk.handsFree,
  holding: () => holding,
  down: hold,
  up: letGo,
  click: () => (microphone ? closeMicrophone() : openMicrophone()),
});
document.addEventListener("keydown", ({ key }) => key === "Escape" && talk?.interrupt());
$("hands-free").addEventListener("change", ({ target }) => talk?.setHandsFree(target.checked));
$("policy").addEventListener("change", ({ target }) => {
  talk?.setPolicy(target.value);
  show();
});
$("interrupt").addEventListener("click", () => talk.interrupt());
$("end").addEventListener("click", end);
$("camera").addEventListener("click", toggleCamera);
$("shoot").addEventListener("click", () => keepPicture(picture ? null : camera.still()));
for (const chip of document.querySelectorAll(".chip")) chip.addEventListener("click", () => ask(chip.textContent));
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  $("question").value = "";
  if (question) ask(question);
});
$("locked").addEventListener("submit", () => {
  talk.realtime.key = $("key").value;
  sessionStorage.setItem(`key ${server.host}`, $("key").value);
  $("key").value = "";
  talk.realtime.connect();
});

const givenKey = asked.get("key");
if (givenKey) {
  asked.delete("key"); // not for who looks over the shoulder
  history.replaceState(null, "", `?${asked}`);
}
try {
  server = serverAddress(document.documentElement.dataset.server, asked.get("server"));
} catch (error) {
  notice(error.message);
  for (const control of document.querySelectorAll("main button, main input")) control.disabled = true;
}

document.body.classList.toggle("embedded", asked.get("embed") === "1");
$("hands-free").checked = asked.get("mode") !== "hold";
if (asked.get("interrupt")) $("policy").value = asked.get("interrupt");
if (!$("policy").value) $("policy").value = "command";
$("camera").hidden = asked.get("camera") === "0" || !navigator.mediaDevices;
show();

/** What tests and curious people may look at. */
window.omni = Object.freeze({
  get state() { return talk?.state ?? "off"; },
  get samplesPlayed() { return talk?.player?.played ?? 0; },
  get samplesReceived() { return talk?.player?.written ?? 0; },
  get ducked() { return talk?.ducked ?? false; },
  get hearing() { return talk?.hearing ?? false; },
  get soundSentMs() { return talk?.sent ?? 0; },
  get lastLatencyMs() { return talk?.lastLatency ?? null; },
  get analyser() { return talk?.player?.analyser ?? null; },
  get turns() { return structuredClone((talk?.turns ?? []).map(({ closed, close, ...turn }) => turn)); },
});
