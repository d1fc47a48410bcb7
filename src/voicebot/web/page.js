import { Player } from "./player.js";

const RATE = 24000;
const KEPT = 20;
const STAGES = {
  endpoint_s: "turn is over", stt_s: "speech to text", prompt_s: "prompt", llm_first_token_s: "first word",
  first_clause_s: "first clause", tts_first_audio_s: "voice", unexplained_s: "unexplained",
};
const $ = (id) => document.getElementById(id);
const [state, talk, start, hold, manual, text] = ["state", "talk", "start", "hold", "manual", "text"].map($);

let socket = null;
let player = null;
let capture = null;
let speaker = null;
let stream = null;
let holding = false;
let answers = 0;
const lines = new Map();

function line(id, kind) {
  if (!lines.has(id)) {
    const item = document.createElement("li");
    item.className = kind;
    lines.set(id, item);
    talk.append(item);
    item.scrollIntoView({ block: "nearest" });
  }
  return lines.get(id);
}

function send(event) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(event));
}

function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}

function bytes(encoded) {
  return Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0)).buffer;
}

/** The user speaks: be silent at once, and say how much was heard. */
function fallSilent() {
  if (!player?.playing) return;
  send({ type: "conversation.item.truncate", item_id: player.item, content_index: 0, audio_end_ms: player.heardMs });
  player.stop();
}

const handlers = {
  "session.updated": () => { state.textContent = "listening"; },
  "input_audio_buffer.speech_started": (event) => {
    fallSilent();
    state.textContent = "you speak";
    line(event.item_id, "user going").textContent = "…";
  },
  "input_audio_buffer.committed": (event) => {
    line(event.item_id, "user going").textContent ||= "…";
    state.textContent = "thinking";
  },
  "conversation.item.input_audio_transcription.delta": (event) => {
    const item = line(event.item_id, "user going");
    item.textContent = item.textContent.replace("…", "") + event.delta;
  },
  "conversation.item.input_audio_transcription.completed": (event) => {
    const item = line(event.item_id, "user");
    item.textContent = event.transcript || "(nothing)";
    item.classList.remove("going");
  },
  "conversation.item.input_audio_transcription.failed": (event) => {
    line(event.item_id, "user error").textContent = event.error.message;
  },
  "response.output_audio_transcript.delta": (event) => {
    line(event.item_id, "assistant").textContent += event.delta;
    state.textContent = "answering";
  },
  "response.output_audio.delta": (event) => player.add(event.item_id, bytes(event.delta)),
  "conversation.item.truncated": (event) => send({ type: "conversation.item.retrieve", item_id: event.item_id }),
  "conversation.item.retrieved": ({ item }) => {
    const shown = lines.get(item.id);
    const heard = item.content?.[0]?.text ?? "";
    const rest = document.createElement("span");
    if (item.role !== "assistant" || !shown) return;
    rest.className = "unheard";
    rest.textContent = shown.textContent.slice(heard.length);
    shown.replaceChildren(heard, rest);
  },
  "response.done": ({ response }) => {
    state.textContent = "listening";
    waterfall(response.metadata ?? {});
    if (response.status === "failed") line(response.id, "error").textContent = response.status_details.error.message;
  },
  error: (event) => {
    if (event.error.code !== "item_not_found") line(event.event_id, "error").textContent = event.error.message;
  },
};

/** One bar for each stage of an answer, each where the one before it ends. */
function bars(metadata, whole) {
  let before = 0;
  return Object.entries(STAGES).flatMap(([name, label]) => {
    const seconds = Math.max(0, Number(metadata[name] ?? 0));
    const [term, bar, figure] = ["dt", "dd", "dd"].map((tag) => document.createElement(tag));
    const mark = document.createElement("span");
    term.textContent = label;
    bar.className = "bar";
    mark.style.left = `${(100 * before) / whole}%`;
    mark.style.width = `${(100 * seconds) / whole}%`;
    figure.textContent = `${Math.round(seconds * 1000)} ms`;
    bar.append(mark);
    before += seconds;
    return [term, bar, figure];
  });
}

/** The newest answer's stages are open, those of earlier ones a line each. */
function waterfall(metadata) {
  const whole = Number(metadata.first_audio_s);
  if (!whole) return;
  const [turn, summary, list] = ["details", "summary", "dl"].map((tag) => document.createElement(tag));
  answers += 1;
  summary.textContent = `Answer ${answers}: ${Math.round(whole * 1000)} ms to the first sound`;
  list.append(...bars(metadata, whole));
  turn.append(summary, list);
  for (const earlier of $("turns").children) earlier.open = false;
  turn.open = true;
  $("turns").prepend(turn);
  if ($("turns").children.length > KEPT) $("turns").lastElementChild.remove();
}

function detection() {
  // What the configuration says comes back with the first session.created; only the kind is chosen here.
  return manual.checked ? null : configured;
}

let configured = { type: "server_vad" };

function agree() {
  send({ type: "session.update", session: { type: "realtime", audio: { input: { turn_detection: detection() } } } });
  hold.disabled = !manual.checked || socket === null;
}

// A key, where the service wants one, stands behind the address's #: that part stays in the browser.
function protocols() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  return key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
}

async function open() {
  if (!navigator.mediaDevices) throw new Error("This browser gives the microphone only on HTTPS or localhost.");
  stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
  // Sound goes out at the device's own rate; at another one some browsers crackle, or play nothing.
  speaker = new AudioContext();
  player = new Player(speaker, RATE);
  const source = await listen();
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/v1/realtime${location.search}`, protocols());
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.type === "session.created") {
      configured = event.session.audio.input.turn_detection ?? configured;
      agree();
    }
    handlers[event.type]?.(event);
  };
  socket.onclose = () => close("connection ended");
  const worklet = new AudioWorkletNode(capture, "microphone", { processorOptions: { rate: RATE } });
  worklet.port.onmessage = ({ data }) => {
    if (!manual.checked || holding) send({ type: "input_audio_buffer.append", audio: base64(data) });
  };
  source.connect(worklet);
}

/** The microphone, at our rate where the browser resamples it, else at the device's: the worklet does the rest. */
async function listen() {
  let source;
  try {
    capture = new AudioContext({ sampleRate: RATE });
    source = capture.createMediaStreamSource(stream);
  } catch {
    capture?.close();
    capture = new AudioContext();
    source = capture.createMediaStreamSource(stream);
  }
  await capture.audioWorklet.addModule("microphone.js");
  return source;
}

function close(why) {
  stream?.getTracks().forEach((track) => track.stop());
  player?.stop();
  capture?.close();
  speaker?.close();
  if (socket) socket.onclose = null;
  socket?.close();
  socket = stream = capture = speaker = player = null;
  show(false);
  state.textContent = why;
}

function show(on) {
  start.textContent = on ? "Stop" : "Start talking";
  hold.disabled = !on || !manual.checked;
  text.disabled = $("forget").disabled = !on;
  $("write").querySelector("button").disabled = !on;
}

function press() {
  if (hold.disabled || holding) return;
  holding = true;
  hold.classList.add("down");
  if (state.textContent === "answering") send({ type: "response.cancel" });
  fallSilent();
  send({ type: "input_audio_buffer.clear" });
  state.textContent = "you speak";
}

function release() {
  if (!holding) return;
  holding = false;
  hold.classList.remove("down");
  send({ type: "input_audio_buffer.commit" });
  send({ type: "response.create" });
}

start.onclick = async () => {
  if (socket || stream) return close("not connected");
  try {
    state.textContent = "connecting";
    await open();
    show(true);
  } catch (error) {
    close(error.message);
  }
};
manual.onchange = agree;
$("forget").onclick = () => {
  for (const [id, shown] of lines) {
    if (!shown.classList.contains("error")) send({ type: "conversation.item.delete", item_id: id });
  }
  lines.clear();
  talk.replaceChildren();
};
hold.onpointerdown = press;
hold.onpointerup = hold.onpointercancel = hold.onlostpointercapture = release;
const isTalkKey = (event) => event.code === "Space" && (event.target === hold || event.target === document.body);
document.onkeydown = (event) => { if (isTalkKey(event) && !event.repeat) { event.preventDefault(); press(); } };
document.onkeyup = (event) => { if (isTalkKey(event)) { event.preventDefault(); release(); } };
$("write").onsubmit = (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words) return;
  text.value = "";
  if (state.textContent === "answering") send({ type: "response.cancel" });
  fallSilent();
  const id = `item_page${Date.now()}`;
  const item = { id, type: "message", role: "user", content: [{ type: "input_text", text: words }] };
  line(id, "user").textContent = words;
  send({ type: "conversation.item.create", item });
  send({ type: "response.create" });
};
