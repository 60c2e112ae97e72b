// The page: what its buttons do, and what is shown of a reply while it comes.
import { Dialogue } from "./dialogue.js";
import { drawScale, Picture } from "./picture.js";
import { Realtime } from "./realtime.js";
import { Microphone, Player, RATE, concatenate, decode, fromBase64, trim } from "./sound.js";

const KEYS = [
  "audio_steps_per_block", "audio_confidence_threshold", "audio_entropy_bound", "audio_temperature", "temperature", "seed",
];
const HOLD = 400; // milliseconds after which letting go of a button ends the turn
// Errors of what is stopped: it had ended, or was forgotten, by itself.
const TOO_LATE = ["response_cancel_not_active", "item_not_found"];
const $ = (id) => document.getElementById(id);

const about = await (await fetch("about.json")).json();
const dialogue = new Dialogue($("dialogue"));
let microphone = null;
const player = new Player(showState);
const picture = new Picture($("picture"), (words) => ($("numbers").textContent = words));
let mode = "quiet"; // "turn" while a turn is spoken, "line" while the line is open
let heard = []; // pieces of the microphone
let forgotten = 0; // samples before them
let isSpeech = false; // on an open line
let turnStart = 0; // of that speech, in milliseconds
let reply = null; // the reply that comes, or is heard
let asked = 0; // when its question ended
let waiting = []; // recordings of the user whose items are not there yet
let items = [];

const isMaking = () => reply !== null && !reply.isDone;

// -- the connection --------------------------------------------------------------------------------------------------

const realtime = new Realtime(
  {
    "session.created": configure,
    "input_audio_buffer.speech_started": (event) => {
      turnStart = event.audio_start_ms;
      isSpeech = true;
      silence(); // the server has ended the reply
    },
    "input_audio_buffer.speech_stopped": (event) => {
      isSpeech = false;
      asked = performance.now();
      const all = concatenate(heard);
      waiting.push(all.slice(Math.max(0, sample(turnStart) - forgotten), sample(event.audio_end_ms) - forgotten));
      forgetBefore(sample(event.audio_end_ms));
    },
    "conversation.item.added": ({ item }) => {
      items.push(item.id);
      if (item.role !== "user") return;
      const [part] = item.content;
      const turn = dialogue.add("user", item.id, part.text ?? "");
      if (part.type === "input_audio") {
        dialogue.play(turn, waiting.shift() ?? new Int16Array(), "question.wav");
        if (!transcribes()) dialogue.write(item.id, "(spoken)");
      }
    },
    "conversation.item.input_audio_transcription.completed": (event) => dialogue.write(event.item_id, event.transcript),
    "conversation.item.input_audio_transcription.failed": (event) => dialogue.write(event.item_id, "(spoken)"),
    "response.output_item.added": ({ item }) => {
      player.begin();
      picture.clear();
      $("numbers").textContent = "";
      reply = { id: item.id, pieces: [], isDone: false, turn: dialogue.add("assistant", item.id) };
      showState();
    },
    "response.output_audio_transcript.delta": ({ item_id, delta }) => {
      dialogue.write(item_id, delta);
      picture.text(delta);
    },
    "response.output_audio.delta": ({ delta }) => {
      if (!reply || reply.isStopped) return;
      if (!reply.pieces.length) reply.wait = (performance.now() - asked) / 1000;
      const samples = fromBase64(delta);
      reply.pieces.push(samples);
      player.push(samples);
    },
    "response.draft": ({ committed, confidences }) => picture.draft(committed, confidences),
    "response.block": ({ codes }) => picture.block(codes),
    "response.done": ({ response }) => finish(response),
    error: ({ error }) => TOO_LATE.includes(error.code) || notify(error.message),
  },
  (isOpen) => {
    $("status").textContent = isOpen ? "ready" : "not connected: is the server running?";
    if (!isOpen) startAnew();
  },
);

function configure() {
  const generation = Object.fromEntries(KEYS.map((key) => [key, $(key).value === "" ? null : Number($(key).value)]));
  realtime.send("session.update", {
    session: {
      type: "realtime",
      drafts: true,
      generation: { ...generation, task: $("task").value },
      audio: {
        input: {
          turn_detection: mode === "line" ? { type: "server_vad" } : null,
          transcription: transcribes() ? { model: about.model } : null,
        },
      },
    },
  });
}

// Requests of the other tasks stand alone, and one of them writes down what is said itself.
const transcribes = () => ["chat", "text"].includes($("task").value);
const sample = (milliseconds) => Math.round((milliseconds * RATE) / 1000);

function finish(response) {
  if (!reply) return;
  reply.isDone = true;
  dialogue.play(reply.turn, concatenate(reply.pieces), "reply.wav");
  const reason = response.status_details?.error?.message ?? response.status_details?.reason;
  if (response.status !== "completed") dialogue.note(reply.id, `${response.status}: ${reason}`);
  picture.tell(about.frame_rate);
  if (reply.wait !== undefined) $("numbers").textContent += `; first sound after ${reply.wait.toFixed(2)} s`;
  for (const id of ["replay", "keep"]) $(id).disabled = false;
  if (!$("remember").checked || !transcribes()) forget();
  showState();
}

// -- speaking --------------------------------------------------------------------------------------------------------

async function listen(next) {
  player.wake();
  if (mode !== "quiet") hush();
  mode = next;
  heard = [];
  forgotten = 0;
  isSpeech = false;
  if (next === "turn") interrupt();
  realtime.send("input_audio_buffer.clear");
  configure();
  notify("");
  const own = (microphone = new Microphone());
  try {
    await own.start(hear);
  } catch (error) {
    if (own.isStopped) return;
    hush();
    notify(`The microphone cannot be used: ${error.message}. Write, or upload a recording.`);
  }
  showState();
}

function hear(samples) {
  heard.push(samples);
  if (mode === "line") realtime.hear(samples);
  const level = Math.sqrt(samples.reduce((sum, value) => sum + (value / 32768) ** 2, 0) / samples.length);
  $(mode === "line" ? "line" : "speak").style.setProperty("--level", Math.min(1, level * 6).toFixed(2));
  // What is long past on an open line is not kept.
  if (mode === "line" && !isSpeech) forgetBefore(forgotten + heard.length * samples.length - 10 * RATE);
}

function forgetBefore(position) {
  while (heard.length && forgotten + heard[0].length <= position) forgotten += heard.shift().length;
}

function hush() {
  microphone?.stop();
  mode = "quiet";
  for (const id of ["speak", "line"]) $(id).style.removeProperty("--level");
  showState();
}

function endTurn() {
  hush();
  asked = performance.now();
  const samples = trim(concatenate(heard));
  if (samples.length) sendRecording(samples);
  else notify("Nothing was heard: press, speak, and press again; or hold the button while you speak.");
}

function sendRecording(samples) {
  waiting.push(samples);
  realtime.send("input_audio_buffer.clear");
  for (let start = 0; start < samples.length; start += 10 * RATE) realtime.hear(samples.slice(start, start + 10 * RATE));
  realtime.send("input_audio_buffer.commit");
  realtime.send("response.create");
}

// Ends the reply.
function interrupt() {
  if (isMaking()) realtime.send("response.cancel");
  silence();
}

// Ends the sound; the model is told how much of it was heard.
function silence() {
  if (!player.isPlaying) return;
  reply.isStopped = true;
  const milliseconds = Math.floor(player.played * 1000);
  player.stop();
  realtime.send("conversation.item.truncate", { item_id: reply.id, content_index: 0, audio_end_ms: milliseconds });
}

function askInWriting(words) {
  if (!words.trim()) return;
  prepare();
  realtime.ask({ type: "input_text", text: words.trim() });
}

async function askByFile(file) {
  try {
    const samples = await decode(await file.arrayBuffer());
    if (samples.length > RATE * about.max_seconds) throw new Error(`at most ${about.max_seconds} s can be sent`);
    if (mode === "line") hush();
    prepare();
    sendRecording(samples);
  } catch (error) {
    notify(`The recording cannot be used: ${error.message}`);
  }
}

function prepare() {
  notify("");
  player.wake();
  if (mode === "turn") hush();
  interrupt();
  configure();
  asked = performance.now();
}

// -- the page --------------------------------------------------------------------------------------------------------

function forget() {
  for (const item_id of items) realtime.send("conversation.item.delete", { item_id });
  items = [];
}

function startAnew() {
  player.stop();
  dialogue.clear();
  picture.clear();
  items = [];
  waiting = [];
  reply = null;
  $("numbers").textContent = "";
  for (const id of ["replay", "keep"]) $(id).disabled = true;
  if (mode !== "quiet") hush();
  showState();
}

function notify(text) {
  $("notice").textContent = text;
}

function showState() {
  $("speak").setAttribute("aria-pressed", String(mode === "turn"));
  $("speak").lastElementChild.textContent = mode === "turn" ? "Send" : "Speak";
  $("line").setAttribute("aria-pressed", String(mode === "line"));
  $("line").textContent = mode === "line" ? "Close line" : "Open line";
  $("stop").disabled = !isMaking() && !player.isPlaying;
  $("welcome").hidden = dialogue.list.children.length > 0;
  if (!realtime?.isOpen) return;
  const doing = { turn: "listening", line: "the line is open" }[mode] ?? "ready";
  $("status").textContent = isMaking() ? "answering" : player.isPlaying ? "speaking" : doing;
}

function save(link, name) {
  Object.assign(document.createElement("a"), { href: link, download: name }).click();
}

// Pressing starts a turn and pressing again ends it; letting go ends it, too, if the button was held.
let pressed = 0;
function press() {
  if (mode === "turn") {
    endTurn();
    pressed = 0;
  } else {
    listen("turn");
    pressed = performance.now();
  }
}
function release() {
  if (mode === "turn" && pressed && performance.now() - pressed > HOLD) endTurn();
}

$("speak").addEventListener("pointerdown", (event) => event.button === 0 && press());
$("speak").addEventListener("pointerup", release);
$("speak").addEventListener("contextmenu", (event) => event.preventDefault());
$("speak").addEventListener("click", (event) => event.detail === 0 && press()); // by the keyboard
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return interrupt();
  if (event.key !== " " || event.target !== document.body) return;
  event.preventDefault();
  if (!event.repeat) press();
});
document.addEventListener("keyup", (event) => event.key === " " && event.target === document.body && release());
$("line").addEventListener("click", () => {
  if (mode !== "line") return listen("line");
  hush();
  configure();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  askInWriting($("words").value);
  $("words").value = "";
});
$("examples").addEventListener("click", ({ target }) => {
  if (target.className === "example") askInWriting(target.textContent);
});
$("recording").addEventListener("click", async () => askByFile(await (await fetch("example")).blob()));
$("upload").addEventListener("change", ({ target }) => {
  if (target.files.length) askByFile(target.files[0]);
  target.value = "";
});
$("stop").addEventListener("click", interrupt);
$("fresh").addEventListener("click", () => {
  interrupt();
  forget();
  startAnew();
});
$("task").addEventListener("change", forget);
$("settings").addEventListener("change", configure);
$("replay").addEventListener("click", () => picture.replay());
$("keep").addEventListener("click", () => save($("picture").toDataURL("image/png"), "reply.png"));

$("model").textContent = about.model;
document.title = `Talk to ${about.model}`;
for (const [key, value] of Object.entries(about.defaults)) $(key).placeholder = String(value);
$("remember").checked = about.has_dialogues;
drawScale($("scale"));
showState();
