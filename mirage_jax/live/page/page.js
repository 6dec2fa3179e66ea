// The page: puts source, connection and stage together.

import { Connection } from "./connection.js";
import { Controls } from "./controls.js";
import { encode, encodePicture } from "./protocol.js";
import { Prompts } from "./prompts.js";
import { Share } from "./share.js";
import { Source, cameraHelp, cameras, everyFrame } from "./source.js";
import { Recorder, Stage, download } from "./stage.js";

const AHEAD = 2; // frames on their way: one on the device, one on the wire
const LEAD = 60; // milliseconds before the device is free that the next one is taken
const PATIENCE = 1500; // milliseconds until a frame without an answer is given up
const QUALITY = 0.85;
const SILENCE = 1000; // milliseconds without a frame of ours: video that comes then is a free run

const STATES = {
  connecting: "Connecting",
  warming: "Warming up",
  ready: "Live",
  busy: "Busy",
  refused: "Refused",
  lost: "Connection lost",
  ended: "Paused",
  idle: "Not started",
};

const $ = (id) => document.getElementById(id);
const source = new Source($("video"), () => askForSource("The camera went away. Plug it in again, or take another source."));
const stage = new Stage($("canvas"));
const recorder = new Recorder();
const grab = document.createElement("canvas");
const waiting = new Map(); // source pictures by sequence, until their answer comes
let size = { width: 512, height: 512 };
let sequence = 0;
let answered = 0;
let answeredAt = 0;
let latency = 0;
let deviceTime = 0; // milliseconds of a step
let state = "idle";
let shown = 0; // sequence of the picture on the stage
let restyled = null; // whether it is; null where there is none yet
let free = false; // whether it was made without a source
let grabbedAt = 0;
let grabbing = false;
let mirrored = true;

const connection = new Connection(takeToken(), {
  state: showState,
  picture: showPicture,
  free: showFree,
  statistics: showStatistics,
  video: (stream) => playVideo(stream),
  track: () => grabbed(),
});

const prompts = new Prompts(connection);
const controls = new Controls(connection);
const share = new Share(connection);

/** The token of the address or of this tab's past; the address keeps none. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("token") ?? "";
}

// States

let clock = 0;

function showState(name, detail, message) {
  const joined = (name === "ready" || name === "warming") && state !== name;
  state = name;
  $("state").textContent = STATES[name];
  $("state").dataset.state = name;
  if (detail === "the recording ended") $("server-record").setAttribute("aria-pressed", false);
  if (message?.height) size = { width: message.width, height: message.height };
  if (joined) {
    answered = sequence;
    for (const bitmap of waiting.values()) bitmap.close();
    waiting.clear();
    controls.tellAgain();
    prompts.tellAgain();
    $("server-record").setAttribute("aria-pressed", false);
    share.tell(false);
  }
  if (name !== "ready") label(restyled); // no free run any more
  clearInterval(clock);
  const since = performance.now();
  const words = () => {
    const seconds = Math.round((performance.now() - since) / 1000);
    if (name === "warming") return `${detail || "preparing the model"} · ${seconds} s. The picture passes through until then.`;
    if (message?.pause) {
      const left = Math.max(0, Math.ceil(message.pause / 1000) - seconds);
      return `${detail ? `${detail}; ` : ""}trying again in ${left} s.`;
    }
    return detail;
  };
  const write = () => ($("notice-text").textContent = words());
  write();
  if (name === "warming" || message?.pause) clock = setInterval(write, 1000);
  $("notice-title").textContent = name === "ready" ? "" : STATES[name];
  $("notice").hidden = name === "ready" && !detail;
  const final = name === "refused" || name === "ended";
  $("retry").hidden = !(final && !message?.pause);
  document.querySelector(".spinner").hidden = name === "ready" || !$("retry").hidden;
  if (name === "ready" && detail) setTimeout(() => state === "ready" && ($("notice").hidden = true), 5000);
}

// Frames out

everyFrame($("video"), async (captured) => {
  if (!source.running || grabbing) return;
  grabbing = true;
  try {
    await send(captured);
  } finally {
    grabbing = false;
  }
});

async function send(captured) {
  if (!connection.ready) {
    stage.show(await createImageBitmap(picture()), null);
    return label(false);
  }
  if (connection.video) return picture(); // a track of the canvas carries it
  const now = performance.now();
  const onTheWay = sequence - answered;
  const waited = now - answeredAt;
  if (onTheWay >= AHEAD && waited < PATIENCE) return;
  if (onTheWay === 1 && waited < deviceTime - LEAD) return; // it would only grow old
  if (connection.backlog > 0) return;
  const image = picture();
  const number = ++sequence;
  const [blob, bitmap] = await Promise.all([
    new Promise((done) => image.toBlob(done, "image/jpeg", QUALITY)),
    createImageBitmap(image),
  ]);
  if (sequence - answered === 1) answeredAt = now;
  if (blob && connection.send(encodePicture(number, captured, blob))) waiting.set(number, bitmap);
  else bitmap.close();
}

/** The newest frame on a canvas of the size that the model takes, filled by cutting. */
function picture() {
  const { width, height } = size;
  grabbedAt = performance.now();
  grab.width = width;
  grab.height = height;
  const video = $("video");
  const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
  const across = video.videoWidth * scale;
  const down = video.videoHeight * scale;
  const context = grab.getContext("2d", { alpha: false });
  if (mirrored) {
    context.translate(width, 0);
    context.scale(-1, 1);
  }
  context.drawImage(video, (width - across) / 2, (height - down) / 2, across, down);
  return grab;
}

// Frames in

async function showPicture(message) {
  answered = Math.max(answered, message.sequence);
  answeredAt = performance.now();
  const styled = await createImageBitmap(message.data);
  if (message.sequence < shown) return styled.close();
  shown = message.sequence;
  const before = waiting.get(message.sequence) ?? null;
  for (const [number, bitmap] of waiting) {
    if (number > message.sequence) break;
    waiting.delete(number);
    if (bitmap !== before) bitmap.close();
  }
  stage.show(before, styled);
  const delay = performance.now() - message.captured;
  latency = latency ? latency + 0.1 * (delay - latency) : delay;
  label(message.styled);
}

/** The camera is lost, and the stream goes on by itself. */
async function showFree(message) {
  const styled = await createImageBitmap(message.data);
  if (message.sequence < shown) return styled.close();
  stage.showFree(styled);
  label(true, true);
}

// By WebRTC: the canvas is the camera, and a <video> has the result.

function grabbed() {
  grab.getContext("2d", { alpha: false });
  return grab.captureStream(30).getVideoTracks()[0];
}

function playVideo(stream) {
  $("remote").srcObject = stream;
  $("remote").play();
  latency = 0; // video has no time stamps of ours
}

everyFrame($("remote"), async () => {
  const video = $("remote");
  // A frame that was announced may be gone again where the video begins anew.
  const shows = video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
  if (!connection.video || !connection.ready || !shows) return;
  // The source is the newest one: its own is a moment older.
  const [before, styled] = await Promise.all([createImageBitmap(grab), createImageBitmap(video)]);
  stage.show(before, styled);
  label(state === "ready", performance.now() - grabbedAt > SILENCE);
});

/** Says of the picture on the stage what it does not show by itself. */
function label(styled, alone = false) {
  restyled = styled;
  free = alone;
  $("tags").hidden = stage.view !== "split" || !styled;
  $("badge").hidden = styled !== false && !free && !recorder.active;
  $("badge").textContent = recorder.active ? "Recording" : free ? "Camera lost: goes on by itself" : "Not restyled yet";
  $("badge").dataset.kind = recorder.active ? "recording" : "";
}

function showStatistics(message) {
  deviceTime = message.device_ms;
  $("fps").textContent = message.fps.toFixed(1);
  $("device").textContent = message.device_ms ? `${message.device_ms.toFixed(message.device_ms < 10 ? 1 : 0)} ms` : "–";
  $("drops").textContent = message.dropped;
  controls.show(message.steps);
  $("latency").textContent = latency ? `${Math.round(latency)} ms` : "–";
}

// Sources

async function useCamera(id) {
  try {
    await source.camera(id);
    begin(true);
    await listSources();
  } catch (error) {
    askForSource(cameraHelp(error));
  }
}

async function useFile(blob) {
  try {
    await source.file(blob);
    begin(false);
  } catch {
    askForSource("This browser cannot play that video.");
  }
}

function askForSource(help) {
  $("help").textContent = help;
  $("welcome").hidden = false;
}

async function begin(camera) {
  $("welcome").hidden = true;
  setMirror(camera);
  await listed;
  if (state === "idle" || state === "ended") connection.open();
}

async function useSample() {
  await useFile(await (await fetch("sample.mp4")).blob());
  $("picker").value = "sample";
}

async function listSources() {
  const options = (await cameras()).map(({ id, label }) => new Option(label, `camera ${id}`));
  if (!options.length) options.push(new Option("Camera", "camera "));
  options.push(new Option("Video file…", "file"), new Option("Sample clip: Big Buck Bunny", "sample"));
  const chosen = source.cameraId ? `camera ${source.cameraId}` : "";
  if (!chosen) options.unshift(new Option("Choose a source", ""));
  $("picker").replaceChildren(...options);
  $("picker").value = chosen;
}

$("picker").onchange = (event) => {
  const value = event.target.value;
  if (value === "file") $("file").click();
  else if (value === "sample") useSample();
  else if (value) useCamera(value.slice("camera ".length));
};
$("file").onchange = (event) => event.target.files[0] && useFile(event.target.files[0]);
$("start").onclick = () => useCamera("");
$("open-file").onclick = () => $("file").click();
$("sample").onclick = useSample;
navigator.mediaDevices?.addEventListener("devicechange", listSources);

// View, snapshot, recording

function setView(view) {
  stage.view = view;
  document.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === view));
  $("wipe").hidden = view !== "wipe";
  stage.draw();
  label(restyled, free);
}

function setMirror(on) {
  mirrored = on;
  $("mirror").setAttribute("aria-pressed", on);
}

function snapshot() {
  stage.canvas.toBlob((blob) => blob && download(blob, `mirage-${stamp()}.png`), "image/png");
}

function record() {
  if (recorder.active) recorder.stop();
  else recorder.start(stage.canvas, (blob, ending) => download(blob, `mirage-${stamp()}.${ending}`));
  $("record").setAttribute("aria-pressed", recorder.active);
  $("record-text").textContent = recorder.active ? "Stop" : "Record";
  label(restyled, free);
}

/** The server ends a recording with the connection. */
function recordOnServer(on) {
  if (!connection.send(encode("record", { on }))) on = false;
  $("server-record").setAttribute("aria-pressed", on);
}

const stamp = () => new Date().toISOString().slice(0, 19).replaceAll(":", "-");
const reset = () => connection.send(encode("reset", {}));

document.querySelectorAll("[data-view]").forEach((button) => (button.onclick = () => setView(button.dataset.view)));
$("wipe").oninput = (event) => {
  stage.wipe = event.target.value / 100;
  stage.draw();
};
$("mirror").onclick = () => setMirror(!mirrored);
$("snapshot").onclick = snapshot;
$("record").onclick = record;
$("record").disabled = !Recorder.possible;
$("server-record").onclick = () => recordOnServer($("server-record").getAttribute("aria-pressed") !== "true");
$("reset").onclick = reset;
$("retry").onclick = () => connection.open();

document.addEventListener("keydown", (event) => {
  const field = event.target.matches("textarea, select, input:not([type=range])");
  if (event.key === "Escape" && field) return event.target.blur();
  if (field || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    "/": () => $("prompt").focus(),
    1: () => setView("full"),
    2: () => setView("split"),
    3: () => setView("wipe"),
    m: () => setMirror(!mirrored),
    r: reset,
    s: snapshot,
    v: () => !$("record").disabled && record(),
  };
  const action = keys[event.key.toLowerCase()];
  if (action) {
    event.preventDefault();
    action();
  }
});

async function askServer() {
  const config = await (await fetch("styles.json")).json();
  const { prompt, styles, transport, recording } = config;
  const wanted = new URLSearchParams(location.search).get("transport") ?? transport;
  connection.webrtc = wanted === "webrtc" && "RTCPeerConnection" in window;
  $("server-record").hidden = !recording;
  prompts.list(prompt, styles);
  controls.list(config);
}

addEventListener("pagehide", () => connection.close()); // or its seat stays taken a while
addEventListener("pageshow", (event) => event.persisted && state !== "idle" && connection.open());
const listed = askServer().catch(() => {}); // a server that is gone is met again later
listSources();
