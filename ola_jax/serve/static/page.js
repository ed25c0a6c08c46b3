// The page: attach or record, ask, read and hear the answer, interrupt it.

import { answer, getJson } from "./answer.js";
import { Conversation } from "./conversation.js";
import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const state = {
  conversation: new Conversation(),
  player: new Player(),
  attached: [], // {kind, name, url}
  recorder: null,
  running: null, // the AbortController of the answer under way
  model: null,
  voice: null,
};
window.olaPlayer = state.player; // for tests, which record what is played

const KINDS = ["image", "video", "audio"];

function show(message, bad = false) {
  $("status").textContent = message;
  $("status").className = bad ? "error" : "";
}

async function connect() {
  const key = $("key").value;
  try {
    state.model = (await getJson("/v1/models", key)).data[0].id;
    state.voice = (await getJson("/v1/audio/voices", key)).voices[0] ?? null;
  } catch (error) {
    $("key-field").hidden = error.status !== 401;
    return show(error.status === 401 ? "This server needs an API key." : error.message, true);
  }
  $("model").textContent = state.model;
  $("aloud").disabled = state.voice === null;
  $("aloud").checked &&= state.voice !== null;
  show(state.voice === null ? "This server has no voice: answers are text." : "");
}

function readUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function attach(files) {
  for (const file of files) {
    const kind = KINDS.find((known) => file.type.startsWith(known));
    if (!kind) show(`${file.name}: neither an image nor a video nor audio`, true);
    else state.attached.push({ kind, name: file.name, url: await readUrl(file) });
  }
  drawAttached();
}

function drawAttached() {
  $("attached").replaceChildren(
    ...state.attached.map((item) => {
      const entry = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "✕";
      remove.ariaLabel = `Remove ${item.name}`;
      remove.onclick = () => {
        state.attached = state.attached.filter((other) => other !== item);
        drawAttached();
        $("text").focus();
      };
      entry.append(`${item.kind}: ${item.name} `, remove);
      return entry;
    }),
  );
}

function bubble(role) {
  const element = document.createElement("article");
  element.className = `turn ${role}`;
  element.ariaLabel = role === "user" ? "You" : "Ola";
  $("log").append(element);
  return element;
}

function note(element, text, bad = false) {
  const line = document.createElement("span");
  line.className = bad ? "note error" : "note";
  line.textContent = text;
  element.append(line);
  scroll();
}

function scroll() {
  $("log").scrollTop = $("log").scrollHeight;
}

async function drawQuestion(text, media) {
  const element = bubble("user");
  for (const item of media) {
    const part = document.createElement({ image: "img", video: "video", audio: "audio" }[item.kind]);
    part.src = URL.createObjectURL(item.blob ?? (await blobOf(item.url)));
    if (item.kind === "image") part.alt = item.name;
    else part.controls = true;
    part.onload = part.onloadedmetadata = scroll; // it has its height only now
    item.element = part;
    element.append(part);
  }
  element.append(text);
  scroll();
}

async function blobOf(url) {
  const [head, data] = url.split(",", 2);
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5).replace(/;base64$/, "") });
}

// Text and sound stop at once.
function interrupt() {
  const heard = state.player.stop();
  if (state.running) state.running.abort(heard);
  else if (heard) note($("log").lastElementChild, heardNote(heard));
}

function heardNote(heard) {
  return heard ? `interrupted after ${heard.toFixed(1)} s of speech` : "interrupted";
}

async function ask() {
  const text = $("text").value.trim();
  const media = state.attached;
  if (!text && !media.length) return;
  const kinds = media.map((item) => item.kind);
  if (text && kinds.includes("image") && kinds.includes("audio"))
    return show("Beside an image, the recording is the question: leave out the text, or the recording.", true);
  interrupt();
  state.attached = [];
  $("text").value = "";
  resize();
  drawAttached();
  const { turn, left } = state.conversation.add(text, media);
  for (const item of left) item.element?.classList.add("old");
  await drawQuestion(text, media);
  await run(turn, bubble("assistant"));
}

async function run(turn, element) {
  const controller = new AbortController();
  state.running = controller;
  const aloud = $("aloud").checked;
  if (aloud) await state.player.unlock();
  show("Ola is thinking …");
  $("stop").hidden = false;
  const words = document.createElement("span");
  element.append(words);
  const body = {
    model: state.model,
    conversation: state.conversation.name,
    messages: state.conversation.messages(),
    ...(aloud ? { modalities: ["text", "audio"], audio: { voice: state.voice, format: "pcm16" } } : {}),
  };
  try {
    for await (const part of answer(body, $("key").value, controller.signal)) {
      if (controller.signal.aborted) break; // what had arrived already
      if (part.text) {
        show("");
        turn.answer += part.text;
        words.textContent = turn.answer;
        scroll();
      } else if (part.audio) state.player.add(part.audio);
      else if (part.skipped) drawSkipped(element, part.skipped);
      else if (part.reason === "length") note(element, "cut off: the answer has reached its greatest length");
    }
  } catch (error) {
    if (!controller.signal.aborted) {
      note(element, error.message, true);
      if (!turn.answer) state.conversation.remove(turn);
    }
  }
  if (controller.signal.aborted) {
    note(element, heardNote(controller.signal.reason));
  }
  if (state.running === controller) {
    state.running = null;
    if (!$("status").classList.contains("error")) show("");
    waitUntilHeard();
  }
}

function drawSkipped(element, skipped) {
  const reasons = skipped.map((piece) => piece.reason).filter((reason) => reason !== "nothing to say");
  for (const reason of new Set(reasons)) note(element, `not all of it is spoken: ${reason}`);
}

function waitUntilHeard() {
  if (state.running) return;
  if (state.player.playing) setTimeout(waitUntilHeard, 50);
  else {
    $("stop").hidden = true;
    state.player.reset();
  }
}

function stop() {
  interrupt();
  $("stop").hidden = true;
  $("text").focus();
}

async function record() {
  if (state.recorder) return state.recorder.stop();
  interrupt(); // who speaks wants to be heard
  await state.player.unlock();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    return show(`no microphone: ${error.message}`, true);
  }
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = async () => {
    state.recorder = null;
    $("record").ariaPressed = "false";
    $("record").textContent = "Record";
    show("");
    for (const track of stream.getTracks()) track.stop();
    if (recorder.cancelled) return;
    const blob = new Blob(parts, { type: recorder.mimeType });
    state.attached.push({ kind: "audio", name: "recording", url: await readUrl(blob) });
    drawAttached();
    await ask();
  };
  recorder.start();
  state.recorder = recorder;
  $("record").ariaPressed = "true";
  $("record").textContent = "Send recording";
  show("Recording. Press the button again to send it, Escape to give it up.");
}

function resize() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight + 2}px`;
}

function restart() {
  interrupt();
  state.conversation = new Conversation();
  $("log").replaceChildren();
  $("text").focus();
}

function listen() {
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    ask();
  };
  $("text").oninput = resize;
  $("text").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  };
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    if (state.recorder) {
      state.recorder.cancelled = true;
      state.recorder.stop();
    } else stop();
  };
  $("attach").onclick = () => $("files").click();
  $("files").onchange = async () => {
    await attach($("files").files);
    $("files").value = "";
    $("text").focus();
  };
  $("record").onclick = record;
  $("record").disabled = !navigator.mediaDevices || !window.MediaRecorder;
  if ($("record").disabled) $("record").title = "Browsers record on localhost and over HTTPS only";
  $("stop").onclick = stop;
  $("clear").onclick = restart;
  $("key-field").onsubmit = (event) => {
    event.preventDefault();
    connect();
  };
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    attach(event.dataTransfer.files);
  };
  document.onpaste = (event) => attach(event.clipboardData.files);
}

listen();
connect();
