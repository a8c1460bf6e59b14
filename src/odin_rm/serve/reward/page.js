"use strict";
const $ = (id) => document.getElementById(id);
const form = $("form"), sides = ["A", "B"];
const key = new URLSearchParams(location.search).get("key");
const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
let about = {}, asked = 0;

const signed = (value, digits = 3) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(digits);

async function ask(path, body) {
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const reply = await fetch(path, options);
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error?.message ?? content.detail ?? `status ${reply.status}`);
  return content;
}

function facts(score, model) {
  const rows = [];
  const known = about[model];
  if (known && known.reward_std) {
    rows.push(["in deviations", signed((score.quality - known.reward_mean) / known.reward_std, 2)]);
  }
  if (score.length_reward !== null) rows.push(["length reward (not paid)", signed(score.length_reward)]);
  rows.push(["response tokens", String(score.response_tokens)]);
  rows.push(["tokens read", String(score.read_tokens)]);
  if (score.truncated) rows.push(["cut", "the text did not fit the model's window"]);
  return rows;
}

function show(side, score, model, better) {
  const place = $(`result-${side}`);
  place.classList.toggle("better", better);
  place.querySelector(".number").textContent = score ? signed(score.quality) : "–";
  const list = place.querySelector("dl");
  list.replaceChildren();
  for (const [name, value] of score ? facts(score, model) : []) {
    const term = document.createElement("dt"), detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = value;
    list.append(term, detail);
  }
}

function verdict(scores) {
  const given = sides.filter((side) => scores[side]);
  if (given.length < 2) return given.length ? `Answer ${given[0]} is scored.` : "";
  const margin = scores.A.quality - scores.B.quality;
  if (margin === 0) return "Both answers earn the same.";
  const chance = 1 / (1 + Math.exp(-Math.abs(margin)));
  const name = margin > 0 ? "A" : "B";
  return `Answer ${name} earns ${Math.abs(margin).toFixed(3)} more: preferred with probability ${chance.toFixed(3)}.`;
}

async function score() {
  const number = ++asked, button = $("score"), model = $("model").value;
  const given = sides.filter((side) => $(`answer-${side}`).value.trim() !== "");
  $("error").textContent = "";
  if (!$("prompt").value.trim() || !given.length) {
    $("error").textContent = "Write a prompt and at least one answer.";
    return;
  }
  button.setAttribute("aria-busy", "true");
  try {
    const body = { model, prompt: $("prompt").value, responses: given.map((side) => $(`answer-${side}`).value) };
    const reply = await ask(form.dataset.path, body);
    if (number !== asked) return;
    const scores = Object.fromEntries(given.map((side, i) => [side, reply.scores[i]]));
    const best = Math.max(...reply.scores.map((one) => one.quality));
    for (const side of sides) {
      show(side, scores[side], reply.model, given.length > 1 && scores[side]?.quality === best);
    }
    $("verdict").textContent = verdict(scores);
  } catch (error) {
    if (number !== asked) return;
    for (const side of sides) show(side, undefined, model, false);
    $("verdict").textContent = "";
    $("error").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
  } finally {
    if (number === asked) button.removeAttribute("aria-busy");
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    score();
  }
});
$("swap").addEventListener("click", () => {
  const [a, b] = sides.map((side) => $(`answer-${side}`));
  [a.value, b.value] = [b.value, a.value];
  score();
});
ask("info").then((content) => { about = content.models; }).catch(() => {});
