// Players: one at a time; space plays and pauses, arrows go to another arm at the same position.
"use strict";
const listening = document.getElementById("listen-to");
let current = null;

const playersOf = (card) => [...card.querySelectorAll("audio")].sort((a, b) => place(a) - place(b));
const place = (player) => Number(player.closest(".take").style.order || 0);

document.addEventListener("play", (event) => {
  // the event comes later than the call: by then another arm may be playing
  if (event.target.paused) return;
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  current = event.target;
  for (const take of document.querySelectorAll(".take")) take.classList.toggle("now", take.contains(current));
}, true);

// a pause right behind it is no error
const play = (player) => player.play().catch(() => {});

function change(step) {
  const players = playersOf(current.closest(".card"));
  const next = players[(players.indexOf(current) + step + players.length) % players.length];
  const position = current.currentTime;
  // a shorter recording ends before this position: its last tenth of a second is played
  const start = () => { next.currentTime = Math.min(position, Math.max(0, next.duration - 0.1)); play(next); };
  current.pause();
  current = next;
  if (next.readyState >= 1) start(); else { next.addEventListener("loadedmetadata", start, { once: true }); next.load(); }
}

document.addEventListener("keydown", (event) => {
  const own = ["INPUT", "TEXTAREA", "SELECT", "BUTTON", "SUMMARY", "A"].includes(event.target.tagName);
  if (!current || own || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") { if (current.paused) play(current); else current.pause(); }
  else if (event.key === "ArrowRight") change(1);
  else if (event.key === "ArrowLeft") change(-1);
  else return;
  event.preventDefault();
}, true);

// blind: letters for names and an order by chance, until names are asked for again
const blind = document.getElementById("blind");
if (blind) blind.addEventListener("click", () => {
  const hidden = listening.classList.toggle("blind");
  blind.setAttribute("aria-pressed", hidden);
  blind.textContent = hidden ? "Show the names" : "Hide the names";
  for (const card of listening.querySelectorAll(".card")) {
    const takes = [...card.querySelectorAll(".take")];
    const order = takes.map((_, number) => number);
    if (hidden) for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    takes.forEach((take, number) => {
      take.style.order = order[number];
      take.querySelector(".letter").textContent = hidden ? "ABCDEFGHIJ"[order[number]] || "?" : "";
      const player = take.querySelector("audio");
      if (player) player.setAttribute("aria-label", hidden ? "a clip without its name" : player.dataset.label);
    });
  }
});

// on a telephone the later sections are folded, and a link to one opens it
if (matchMedia("(max-width: 759px)").matches) for (const part of document.querySelectorAll("details.part")) part.open = false;
function unfold() {
  const part = document.getElementById(location.hash.slice(1));
  if (part && part.tagName === "DETAILS") part.open = true;
}
addEventListener("hashchange", unfold);
unfold();
