"use strict";
// One listener's way through a test: welcome, practice, trials, comment, end. All that was answered or
// played is in `state`, which is stored after every change, so a reload goes on at the same trial.
const TEST = JSON.parse(document.getElementById("test").textContent);
const STORE = "wishbone-listen-" + TEST.test;
const ADDRESS = new URLSearchParams(location.search);
const COLLECTED = location.protocol.startsWith("http") && ADDRESS.has("collect");
const LETTERS = "ABCDEFGHIJKLMNOPQSTUVW";
const $ = (id) => document.getElementById(id);
const players = new Map();
let playing = null;
let last = null;
let state = restored() || begun();

function begun() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const asked = parseInt(ADDRESS.get("listener"), 10);
  const form = asked > 0 ? (asked - 1) % TEST.forms.length : crypto.getRandomValues(new Uint32Array(1))[0] % TEST.forms.length;
  return {
    session: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""), form: form, stage: "welcome",
    step: 0, code: ADDRESS.get("code") || "", device: "", began: "", finished: "", comment: "", answers: [], draft: null,
  };
}

function restored() {
  try {
    const old = JSON.parse(localStorage.getItem(STORE));
    return old && old.form < TEST.forms.length ? old : null;
  } catch (error) {
    return null;
  }
}

function store() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch (error) {
    $("nostore").hidden = false;
  }
}

// ---- sound

function player(clip) {
  if (!players.has(clip)) {
    const sound = new Audio("audio/" + clip + ".wav");
    sound.preload = "auto";
    sound.addEventListener("ended", () => { note(clip, 1); stop(); });
    sound.addEventListener("timeupdate", () => { if (sound.duration) note(clip, sound.currentTime / sound.duration); });
    sound.addEventListener("error", () => { $("hint").textContent = "A clip cannot be loaded. Please reload the page."; });
    players.set(clip, sound);
  }
  return players.get(clip);
}

function note(clip, share) {
  const draft = state.draft;
  if (!draft || !(clip in draft.played)) return;
  const before = draft.played[clip];
  draft.played[clip] = Math.max(before, Math.round(share * 1000) / 1000);
  paint();
  if (share === 1 && before < 1) store();
}

function stop() {
  if (playing) {
    player(playing).pause();
    playing = null;
  }
  paint();
}

function toggle(clip) {
  const resumed = playing === clip;
  stop();
  if (resumed) return;
  for (const [name, sound] of players) if (name !== clip) sound.currentTime = 0;
  const sound = player(clip);
  if (sound.ended) sound.currentTime = 0;
  playing = last = clip;
  if (state.draft && clip in state.draft.plays) state.draft.plays[clip] += 1;
  sound.play().catch(() => { playing = null; paint(); });
  paint();
}

// ---- trials

function trials() {
  return [...TEST.training, ...TEST.forms[state.form]];
}

function current() {
  return trials()[state.step];
}

function label(trial, place) {
  if (TEST.design === "abx" && place === 2) return "X";
  return LETTERS[place];
}

function everything(trial) {
  return trial.reference ? [trial.reference, ...trial.clips] : trial.clips;
}

function open() {
  const trial = current();
  if (!state.draft || state.draft.trial !== trial.trial) {
    const zero = () => Object.fromEntries(everything(trial).map((clip) => [clip, 0]));
    state.draft = { trial: trial.trial, played: zero(), plays: zero(), answer: TEST.design === "mushra" ? trial.clips.map(() => null) : null, began: Date.now() };
    store();
  }
  last = null;
  const count = TEST.training.length;
  const practice = state.step < count;
  $("practice").hidden = !practice;
  $("practice").textContent = `Practice ${state.step + 1} of ${count}: this one does not count.`;
  $("place").textContent = practice ? "Practice" : `${state.step - count + 1} of ${trials().length - count}`;
  $("progress").value = practice ? 0 : (state.step - count) / (trials().length - count);
  $("question").textContent = TEST.question;
  $("sentence").hidden = !trial.text;
  $("sentence").textContent = trial.text || "";
  $("clips").replaceChildren();
  $("answers").replaceChildren();
  const sliders = TEST.design === "mushra";
  if (sliders) {
    if (trial.reference) $("clips").append(clipButton(trial.reference, "Reference", "r"));
    drawSliders(trial);
  } else {
    trial.clips.forEach((clip, place) => {
      const letter = label(trial, place);
      $("clips").append(clipButton(clip, trial.clips.length > 1 ? letter : "Clip", letter.toLowerCase()));
    });
    drawOptions();
  }
  for (const clip of everything(trial)) player(clip);
  const following = trials()[state.step + 1];
  if (following) for (const clip of everything(following)) player(clip);
  $("next").textContent = state.step + 1 === trials().length ? "Done" : "Next";
  paint();
  window.scrollTo(0, 0);
}

function clipButton(clip, name, key) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "clip";
  button.dataset.clip = clip;
  button.dataset.key = key;
  const parts = { i: "▶", b: name, state: "", bar: "" };
  for (const [kind, text] of Object.entries(parts)) {
    const part = document.createElement(kind === "b" ? "b" : "span");
    if (kind === "i") part.setAttribute("aria-hidden", "true");
    part.className = kind;
    part.textContent = text;
    button.append(part);
  }
  button.addEventListener("click", () => toggle(clip));
  return button;
}

function choices() {
  if (TEST.design === "ab") {
    const sides = [["a", "A"], ["b", "B"]];
    return TEST.ties ? [sides[0], ["same", "No difference"], sides[1]] : sides;
  }
  if (TEST.design === "abx") return [["a", "X is A"], ["b", "X is B"]];
  if (TEST.design === "cmos") return TEST.steps.map((words, place) => [place - 3, "B is " + words]).reverse();
  return TEST.steps.map((words, place) => [place + 1, `${place + 1} · ${words}`]).reverse();
}

function digit(value, place) {
  // a step's own number where it has one, otherwise its place
  return TEST.design === "mos" ? value : place + 1;
}

function drawOptions() {
  const box = document.createElement("div");
  box.className = "options" + (TEST.steps.length ? "" : " pair");
  box.setAttribute("role", "radiogroup");
  box.setAttribute("aria-label", TEST.question);
  choices().forEach(([value, words], place) => {
    const option = document.createElement("label");
    option.className = "option";
    const input = document.createElement("input");
    input.type = "radio";
    input.name = "answer";
    input.value = value;
    input.checked = state.draft.answer === value;
    input.addEventListener("change", () => { state.draft.answer = value; store(); paint(); });
    const key = document.createElement("kbd");
    key.textContent = digit(value, place);
    option.append(input, words, key);
    box.append(option);
  });
  $("answers").append(box);
}

function drawSliders(trial) {
  const scale = document.createElement("div");
  scale.className = "scale";
  scale.setAttribute("aria-hidden", "true");
  for (const words of TEST.steps) scale.append(Object.assign(document.createElement("span"), { textContent: words }));
  $("answers").append(scale);
  trial.clips.forEach((clip, place) => {
    const row = document.createElement("div");
    row.className = "slider";
    const range = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100, step: 1 });
    const value = state.draft.answer[place];
    range.value = value === null ? 50 : value;
    range.setAttribute("aria-label", "quality of " + label(trial, place));
    const number = document.createElement("output");
    number.textContent = value === null ? "–" : value;
    const set = () => {
      state.draft.answer[place] = Number(range.value);
      number.textContent = range.value;
      paint();
    };
    range.addEventListener("input", set);
    range.addEventListener("change", () => { set(); store(); });
    // a click on the middle, where the slider stands already, is an answer too
    range.addEventListener("pointerup", () => { if (!range.disabled) { set(); store(); } });
    row.append(clipButton(clip, label(trial, place), label(trial, place).toLowerCase()), range, number);
    $("answers").append(row);
  });
}

function missing() {
  return everything(current()).filter((clip) => state.draft.played[clip] < 1);
}

function answered() {
  const answer = state.draft.answer;
  return Array.isArray(answer) ? answer.every((value) => value !== null) : answer !== null;
}

function paint() {
  if (state.stage !== "trial" || !state.draft) return;
  for (const button of document.querySelectorAll(".clip")) {
    const clip = button.dataset.clip, share = state.draft.played[clip], sound = player(clip);
    button.classList.toggle("playing", playing === clip);
    button.classList.toggle("heard", share >= 1);
    button.setAttribute("aria-pressed", playing === clip);
    button.querySelector(".i").textContent = playing === clip ? "❚❚" : "▶";
    button.querySelector(".state").textContent = share >= 1 ? "✓" : playing === clip ? "playing" : "";
    button.querySelector(".bar").style.width = (sound.duration ? 100 * sound.currentTime / sound.duration : 0) + "%";
  }
  const unheard = missing().length;
  // of sliders only those that may be moved are; a fieldset would disable their play buttons too
  if (TEST.design === "mushra") for (const range of document.querySelectorAll(".slider input")) range.disabled = unheard > 0;
  else $("answers").disabled = unheard > 0;
  $("next").disabled = unheard > 0 || !answered();
  const last = TEST.design === "mushra" ? "Move every slider, then go on." : "Choose an answer, then go on.";
  $("hint").textContent = unheard ? "Play each clip to its end first." : answered() ? "" : last;
}

function next() {
  if ($("next").disabled) return;
  stop();
  const trial = current(), draft = state.draft;
  if (state.step >= TEST.training.length) {
    state.answers.push({
      trial: trial.trial, clips: trial.clips, answer: draft.answer, seconds: Math.round((Date.now() - draft.began) / 100) / 10,
      played: everything(trial).map((clip) => draft.played[clip]), plays: everything(trial).map((clip) => draft.plays[clip]),
    });
  }
  for (const clip of everything(trial)) players.delete(clip);
  state.step += 1;
  state.draft = null;
  if (state.step === trials().length) state.stage = "comment";
  store();
  if (COLLECTED && state.answers.length) send();
  show();
}

// ---- answers

function result() {
  return {
    version: TEST.version, test: TEST.test, design: TEST.design, session: state.session, form: state.form, code: state.code,
    device: state.device, began: state.began, finished: state.finished, complete: Boolean(state.finished),
    comment: state.comment, answers: state.answers,
  };
}

function csv() {
  const cell = (value) => /[",\n]/.test(String(value)) ? '"' + String(value).replaceAll('"', '""') + '"' : String(value);
  const rows = [["test", "session", "code", "form", "place", "trial", "clips", "answer", "seconds", "played"]];
  state.answers.forEach((answer, place) => rows.push([
    TEST.test, state.session, state.code, state.form, place, answer.trial, answer.clips.join(" "),
    [].concat(answer.answer).join(" "), answer.seconds, answer.played.join(" "),
  ]));
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

async function send() {
  try {
    const reply = await fetch("results", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(result()) });
    return reply.ok;
  } catch (error) {
    return false;
  }
}

async function hand() {
  $("again").hidden = true;
  if (!COLLECTED) {
    $("sent").textContent = "Please download your answers and send the file to whoever asked you to listen.";
    return;
  }
  $("sent").textContent = "Sending your answers…";
  const reached = await send();
  $("again").hidden = reached;
  $("sent").textContent = reached ? "Your answers have arrived. You can close this page."
    : "Your answers could not be sent. Try again, or download them and send the file.";
}

function download(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- the page

function show() {
  for (const id of ["welcome", "trial", "comment", "end"]) $(id).hidden = id !== state.stage;
  if (state.stage === "welcome") ready();
  if (state.stage === "trial") open();
  if (state.stage === "end") hand();
}

function ready() {
  $("begin").disabled = !($("consent").checked && $("device").value);
  $("sound").hidden = !TEST.sound;
}

$("code").value = state.code;
$("code").addEventListener("input", () => { state.code = $("code").value.trim(); });
$("device").addEventListener("change", () => { state.device = $("device").value; ready(); });
$("consent").addEventListener("change", ready);
$("sound").addEventListener("click", () => { const sound = new Audio(TEST.sound); sound.play(); });
$("begin").addEventListener("click", () => { state.began = new Date().toISOString(); state.stage = "trial"; store(); show(); });
$("next").addEventListener("click", next);
$("finish").addEventListener("click", () => {
  state.comment = $("words").value;
  state.finished = new Date().toISOString();
  state.stage = "end";
  store();
  show();
});
$("again").addEventListener("click", hand);
$("json").addEventListener("click", () => download(`answers-${state.session}.json`, "application/json", JSON.stringify(result(), null, 1)));
$("csv").addEventListener("click", () => download(`answers-${state.session}.csv`, "text/csv", csv()));
$("other").addEventListener("click", () => {
  if (!confirm("Forget these answers on this device? Send or download them before.")) return;
  localStorage.removeItem(STORE);
  location.href = COLLECTED ? "/" : location.pathname;
});

document.addEventListener("keydown", (event) => {
  const inside = event.target.tagName;
  if (state.stage !== "trial" || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const button = [...document.querySelectorAll(".clip")].find((each) => each.dataset.key === key);
  if (button) {
    toggle(button.dataset.clip);
  } else if (key === " " && inside !== "BUTTON" && inside !== "INPUT") {
    toggle(last || everything(current())[0]);
  } else if (key === "enter" && inside !== "BUTTON") {
    next();
  } else if (/^[1-9]$/.test(key) && TEST.design !== "mushra" && !$("answers").disabled) {
    const place = choices().findIndex(([value], index) => String(digit(value, index)) === key);
    if (place < 0) return;
    const input = document.querySelectorAll(".option input")[place];
    input.checked = true;
    state.draft.answer = choices()[place][0];
    store();
    paint();
  } else {
    return;
  }
  event.preventDefault();
});

store();
show();
