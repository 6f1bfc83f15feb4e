// The studio: speak with one arm or two, add a voice, and compare two arms blind.

import { Player, Recorder, decode, join, matched, output, wav } from "./sound.js";
import { spectrogram, waveform } from "./pictures.js";

const page = (id) => document.getElementById(id);
const PAINTS = ["--first", "--second"];
let running; // AbortController of what speaks now
let player; // of what is heard now
let pair; // the blind comparison that waits for a vote
let recording; // WAV of the microphone, to be uploaded
let recorder;

/** fetch with the token; an answer that is no success becomes an Error with the server's sentence. */
async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. It may have been stopped.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    page("access").hidden = false;
    page("access").open = true;
  }
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error?.message ?? `The server answered ${answer.status}.`);
}

function json(path, body) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

function say(message) {
  page("status").textContent = message;
}

/** Runs what a button does; an error becomes a sentence on the page. */
async function guarded(action) {
  page("message").hidden = true;
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return say("Stopped.");
    page("message").textContent = error.message;
    page("message").hidden = false;
    page("message").scrollIntoView({ block: "nearest" });  // a form below may be what it is about
    say("");
  }
}

function options(select, names, chosen) {
  const before = chosen ?? select.value;
  select.replaceChildren(...names.map(([value, label]) => new Option(label, value)));
  if (names.some(([value]) => value === before)) select.value = before;
}

async function refresh(voice) {
  const models = (await (await ask("/v1/models")).json()).data.map((model) => [model.id, model.id]);
  options(page("first"), models);
  options(page("second"), [["", "none"], ...models]);
  const voices = (await (await ask("/v1/audio/voices")).json()).data;
  const names = voices.filter((one) => one.name !== "default").map((one) => [one.name, `${one.name} (${one.seconds} s)`]);
  options(page("voice"), [["default", "default"], ...names], voice);
  page("remove").disabled = page("voice").value === "default";
  await showTally();
}

async function showTally() {
  const rows = (await (await ask("/v1/votes")).json()).data;
  const percent = (x) => `${Math.round(100 * x)} %`;
  const cells = [["", "votes", "first preferred", "first", "second", "same"]];
  for (const row of rows) {
    const share = row.rate === null ? "-" : `${percent(row.rate)} (${percent(row.low)} to ${percent(row.high)})`;
    cells.push([`${row.a} and ${row.b}`, row.votes, share, row.a_wins, row.b_wins, row.same]);
  }
  if (!rows.length) cells.splice(0, 1, ["Nobody has voted yet."]);
  page("tally").replaceChildren(
    ...cells.map((line, i) => {
      const row = document.createElement("tr");
      row.append(...line.map((text) => Object.assign(document.createElement(i || !rows.length ? "td" : "th"), { textContent: text })));
      return row;
    }),
  );
}

/** Fetches speech; `onPiece` gets samples as they arrive. Returns samples, rate and times. */
async function speech(model, signal, onPiece = () => {}) {
  const began = performance.now();
  const answer = await ask("/v1/audio/speech", {
    method: "POST", signal, headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      model, input: page("text").value, voice: page("voice").value, seed: Number(page("seed").value),
      response_format: "pcm",
    }),
  });
  const rate = Number(answer.headers.get("X-Sample-Rate"));
  const reader = answer.body.getReader();
  const pieces = [];
  let rest = new Uint8Array();
  let first;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const bytes = new Uint8Array(rest.length + value.length);
    bytes.set(rest);
    bytes.set(value, rest.length);
    const [samples, odd] = decode(bytes);
    rest = odd.slice();
    if (!samples.length) continue;
    first ??= performance.now() - began;
    pieces.push(samples);
    onPiece(samples, rate, first);
  }
  const samples = join(pieces);
  return { model, samples, rate, first, took: performance.now() - began, seconds: samples.length / rate };
}

/** Makes the card of a take and returns it with a function that fills it. */
function card(model, place) {
  const box = document.createElement("article");
  box.className = "take";
  box.style.setProperty("--paint", `var(${PAINTS[place]})`);
  box.innerHTML = `<h3></h3><canvas class="wave" role="img"></canvas><canvas class="spectrogram" role="img"></canvas>
    <dl></dl><div class="buttons"><button type="button" disabled>Play again</button><a></a></div>`;
  box.querySelector("h3").textContent = model;
  page("takes").append(box);
  const paint = getComputedStyle(document.documentElement).getPropertyValue(PAINTS[place]);
  const facts = (rows) => {
    box.querySelector("dl").replaceChildren(
      ...rows.flatMap(([name, value]) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: value }),
      ]),
    );
  };
  const fill = (take) => {
    facts([
      ["first sound", `${Math.round(take.first)} ms`],
      ["spoken", `${take.seconds.toFixed(2)} s in ${(take.took / 1000).toFixed(2)} s`],
    ]);
    const [wave, spectrum] = box.querySelectorAll("canvas");
    wave.setAttribute("aria-label", `waveform of ${model}`);
    spectrum.setAttribute("aria-label", `spectrogram of ${model}, 0 to 8 kHz`);
    waveform(wave, take.samples, paint);
    spectrogram(spectrum, take.samples, take.rate);
    const again = box.querySelector("button");
    again.disabled = false;
    again.onclick = () => play(take.samples, take.rate);
    const link = box.querySelector("a");
    link.href = URL.createObjectURL(wav(take.samples, take.rate));
    link.download = `${model}-${page("seed").value}.wav`;
    link.textContent = "Save as WAV";
  };
  return { facts, fill, remove: () => box.remove() };
}

function play(samples, rate) {
  player?.stop();
  player = new Player(rate);
  player.add(samples);
}

function busy(is) {
  page("stop").disabled = !is;
  page("go").disabled = page("blind").disabled = is;
  document.body.setAttribute("aria-busy", String(is));
}

/** Runs `action` with a signal that the stop button aborts. */
async function speaking(action) {
  output();
  running?.abort();
  player?.stop();
  running = new AbortController();
  busy(true);
  try {
    await action(running.signal);
  } finally {
    busy(false);
  }
}

async function speak(signal) {
  if (!page("text").value.trim()) throw new Error("Type a sentence first.");
  page("takes").replaceChildren();
  page("vote").hidden = true;
  const arms = [page("first").value, page("second").value].filter(Boolean);
  const totals = [];
  for (const [place, model] of arms.entries()) {
    say(`${model} speaks`);
    const { facts, fill, remove } = card(model, place);
    // the second arm is heard when the first has ended
    let voice;
    let take;
    try {
      take = await speech(model, signal, (samples, rate, first) => {
        if (!voice) {
          voice = player = new Player(rate);
          facts([["first sound", `${Math.round(first)} ms`]]);
        }
        voice.add(samples);
      });
      if (!take.samples.length) throw new Error(`${model} gave no sound for this text.`);
    } catch (error) {
      remove();
      throw error;
    }
    fill(take);
    totals.push(`${model}: first sound after ${Math.round(take.first)} ms`);
    if (place + 1 < arms.length) await pause(voice.left + 0.4, signal);
  }
  say(totals.join("; "));
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

async function compareBlind(signal) {
  const [a, b] = [page("first").value, page("second").value];
  if (!b || a === b) throw new Error("Choose two different arms to compare.");
  if (!page("text").value.trim()) throw new Error("Type a sentence first.");
  page("takes").replaceChildren();
  page("vote").hidden = true;
  say("Both arms speak; nothing is heard yet.");
  const takes = [await speech(a, signal), await speech(b, signal)];
  const silent = takes.find((take) => !take.samples.length);
  if (silent) throw new Error(`${silent.model} gave no sound for this text.`);
  const level = matched(takes.map((take) => take.samples));
  const sides = takes.map((take, i) => ({ model: take.model, rate: take.rate, samples: level[i], heard: false }));
  if (crypto.getRandomValues(new Uint8Array(1))[0] & 1) sides.reverse();
  pair = { a, b, sides, text: page("text").value, seed: Number(page("seed").value), voice: page("voice").value };
  page("vote").hidden = false;
  document.querySelectorAll("[data-vote]").forEach((button) => (button.disabled = true));
  say("Both are ready.");
  document.querySelector("[data-play]").focus();
}

function playSide(place) {
  if (!pair) return;
  const side = pair.sides[place];
  play(side.samples, side.rate);
  side.heard = true;
  const all = pair.sides.every((one) => one.heard);
  document.querySelectorAll("[data-vote]").forEach((button) => (button.disabled = !all));
}

async function vote(choice) {
  if (!pair?.sides.every((side) => side.heard)) return;
  const { a, b, sides, text, seed, voice } = pair;
  const preferred = choice === "same" ? "same" : sides[Number(choice)].model === a ? "a" : "b";
  await json("/v1/votes", { a, b, choice: preferred, text, seed, voice });
  pair = undefined;
  player?.stop();
  page("vote").hidden = true;
  say(`Thank you. First was ${sides[0].model}, second was ${sides[1].model}.`);
  await showTally();
}

async function record() {
  if (recorder) {
    const [samples, rate] = await recorder.stop();
    recorder = undefined;
    page("record").textContent = "Record";
    page("level").value = 0;
    recording = wav(samples, rate);
    page("recorded").src = URL.createObjectURL(recording);
    page("recorded").hidden = false;
    say(`Recorded ${(samples.length / rate).toFixed(1)} s.`);
    return;
  }
  recorder = await Recorder.start((level) => (page("level").value = level));
  page("record").textContent = "Stop recording";
  say("Recording.");
}

async function addVoice() {
  const audio = page("file").files[0] ?? recording;
  if (!audio) throw new Error("Record something, or choose a file.");
  const form = new FormData();
  form.append("name", page("name").value);
  form.append("transcript", page("transcript").value);
  form.append("model", page("first").value);
  form.append("audio", audio, audio.name ?? "recording.wav");
  say("The voice is made.");
  const voice = await (await ask("/v1/audio/voices", { method: "POST", body: form })).json();
  await refresh(voice.name);
  say(`The voice ${voice.name} is there and chosen.`);
}

async function removeVoice() {
  const name = page("voice").value;
  await ask(`/v1/audio/voices/${encodeURIComponent(name)}`, { method: "DELETE" });
  await refresh("default");
  say(`The voice ${name} is deleted.`);
}

function submitted(form, action) {
  page(form).addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(action);
  });
}

submitted("speak", () => speaking(speak));
submitted("add", addVoice);
submitted("enter", async () => {
  sessionStorage.setItem("token", page("token").value);
  await refresh();
});
page("blind").onclick = () => guarded(() => speaking(compareBlind));
page("stop").onclick = () => {
  running?.abort();
  player?.stop();
};
page("record").onclick = () => guarded(record);
page("remove").onclick = () => guarded(removeVoice);
page("voice").onchange = () => (page("remove").disabled = page("voice").value === "default");
// a file that is chosen takes the place of what was recorded
page("file").onchange = () => {
  recording = undefined;
  page("recorded").hidden = true;
};
document.querySelectorAll("[data-play]").forEach((button) => (button.onclick = () => playSide(Number(button.dataset.play))));
document.querySelectorAll("[data-vote]").forEach((button) => (button.onclick = () => guarded(() => vote(button.dataset.vote))));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return page("stop").click();
  if (event.key === "Enter" && event.ctrlKey) return page("speak").requestSubmit();
  if (page("vote").hidden || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey) return;
  const keys = { 1: () => playSide(0), 2: () => playSide(1), a: () => vote("0"), b: () => vote("1"), s: () => vote("same") };
  const action = keys[event.key.toLowerCase()];
  if (action) guarded(async () => action());
});
addEventListener("pagehide", () => running?.abort());
guarded(refresh);
