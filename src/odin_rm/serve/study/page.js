"use strict";

const $ = (id) => document.getElementById(id);
const SAID = { left: "Left is better", tie: "About equal", right: "Right is better" };
const PAUSE = 300; // milliseconds in which a new pair takes no rating, so that a double press does not rate it unseen
const KEYS = { 1: "left", ArrowLeft: "left", 2: "tie", ArrowDown: "tie", 3: "right", ArrowRight: "right" };

let token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("token");
let rater = null;
let pair = null; // what is being rated
let shownAt = 0;
let busy = false; // while a call is under way, a second key press must not rate the next pair unseen

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let reply;
  try {
    reply = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Error("The study cannot be reached, so nothing was saved. Try again when it runs.");
  }
  if (reply.ok) return reply.json();
  if (reply.status === 401) $("token-field").hidden = false;
  const { detail } = await reply.json().catch(() => ({}));
  throw new Error(typeof detail === "string" ? detail : `The study answered with error ${reply.status}; nothing was saved.`);
}

// Runs one call after another has ended and shows what went wrong with it; true if nothing did.
async function attempt(action) {
  if (busy) return false;
  busy = true;
  try {
    await action();
    $("problem").hidden = true;
    return true;
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
    scrollTo({ top: 0 });
    return false;
  } finally {
    busy = false;
  }
}

function show(section) {
  for (const id of ["welcome", "pair", "finished"]) $(id).hidden = id !== section;
  for (const id of ["progress", "who", "choices"]) $(id).hidden = section === "welcome";
  $("choices").classList.toggle("over", section === "finished");
}

function render(state, said) {
  pair = state.pair;
  const number = Math.min(state.done + 1, state.total);
  $("count").textContent = `${state.done} of ${state.total} rated`;
  $("bar").max = state.total;
  $("bar").value = state.done;
  $("undo").disabled = state.done === 0;
  $("status").textContent = said;
  show(pair ? "pair" : "finished");
  if (pair) {
    $("pair-title").textContent = `Pair ${number} of ${state.total}`;
    for (const part of ["instruction", "left", "right"]) $(part).textContent = pair[part];
    const answers = document.querySelector(".answers");
    answers.classList.remove("fresh");
    void answers.offsetWidth; // starts the animation anew
    answers.classList.add("fresh");
  }
  shownAt = performance.now();
  scrollTo({ top: 0 });
  $(pair ? "pair-title" : "finished-title").focus({ preventScroll: true });
}

async function start(name) {
  const state = await call("/api/start", { rater: name });
  rater = name;
  sessionStorage.setItem("rater", name);
  if (token) sessionStorage.setItem("token", token);
  $("name-shown").textContent = name;
  render(state, state.done ? "Welcome back." : "");
}

function rate(side) {
  if (!pair || performance.now() - shownAt < PAUSE) return;
  attempt(async () => render(await call("/api/rate", { rater, item: pair.item, side }), `${SAID[side]}. Saved.`));
}

function undo() {
  if (!$("undo").disabled) attempt(async () => render(await call("/api/undo", { rater }), "The last rating is undone."));
}

function leave() {
  rater = pair = null;
  sessionStorage.removeItem("rater");
  $("name").value = "";
  $("problem").hidden = true;
  show("welcome");
  $("name").focus();
}

function endInView() {
  return innerHeight + scrollY >= document.documentElement.scrollHeight - 4;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("token-field").hidden) token = $("token").value;
  attempt(async () => {
    // A study that wants a token has not said its question yet.
    await introduce();
    await start($("name").value);
  });
});
for (const button of document.querySelectorAll("[data-side]")) {
  button.addEventListener("click", () => rate(button.dataset.side));
}
$("undo").addEventListener("click", undo);
$("leave").addEventListener("click", leave);

document.addEventListener("keydown", (event) => {
  if (rater === null || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const side = KEYS[event.key];
  if (event.key === "u" || event.key === "Backspace") undo();
  // Down scrolls as ever until there is nothing left to scroll to.
  else if (side && pair && (event.key !== "ArrowDown" || endInView())) rate(side);
  else return;
  event.preventDefault();
});

async function introduce() {
  const study = await call("/api/study");
  $("welcome-title").textContent = $("asked").textContent = study.question;
  $("name").maxLength = study.longest_name;
}

attempt(async () => {
  $("welcome-title").textContent = "Side by side";
  show("welcome");
  await introduce();
  const known = sessionStorage.getItem("rater");
  if (known) await start(known);
  else $("name").focus();
});
