"use strict";
const $ = (id) => document.getElementById(id);
const form = $("form"), sides = ["A", "B"];
const key = new URLSearchParams(location.search).get("key");
const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
let about = {}, asked = 0, last = null;

// What is shown as 0 has no sign.
const signed = (value, digits = 3) => {
  const size = Math.abs(value).toFixed(digits);
  return (Number(size) === 0 ? "" : value > 0 ? "+" : "−") + size;
};

async function ask(path, body) {
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const reply = await fetch(path, options);
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error?.message ?? content.detail ?? `status ${reply.status}`);
  return content;
}

// The numbers with the model's calibration, or as they are without it.
const uncalibrated = () => !$("calibrated-line").hidden && !$("calibrated").checked;
const quality = (score) => (uncalibrated() ? score.uncalibrated_quality : score.quality);
const earns = (edit) => (uncalibrated() ? edit.uncalibrated_earns : edit.earns);

function facts(score, model) {
  const rows = [];
  const known = about[model];
  if (known && known.reward_std) {
    rows.push(["in deviations", signed((quality(score) - known.reward_mean) / known.reward_std, 2)]);
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
  place.querySelector(".number").textContent = score ? signed(quality(score)) : "–";
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
  const margin = quality(scores.A) - quality(scores.B);
  if (Number(margin.toFixed(3)) === 0) return "Both answers earn the same.";
  const chance = 1 / (1 + Math.exp(-Math.abs(margin)));
  const name = margin > 0 ? "A" : "B";
  return `Answer ${name} earns ${Math.abs(margin).toFixed(3)} more: preferred with probability ${chance.toFixed(3)}.`;
}

function row(name, values, marked) {
  const line = document.createElement("tr"), head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(head);
  for (const value of values) {
    const cell = document.createElement("td");
    cell.textContent = value ?? "–";
    if (marked && value?.startsWith("+")) cell.className = "gains";
    line.append(cell);
  }
  return line;
}

function attributeRows(scores) {
  const given = sides.filter((side) => scores[side]);
  const rows = [];
  scores[given[0]].attributes.forEach(({ words }, i) => {
    const values = sides.map((side) => scores[side]?.attributes[i].value);
    if (values.some((value) => value)) rows.push(row(words, values.map((value) => value === undefined ? undefined :
      String(Math.round(value * 1000) / 1000)), false));
  });
  return rows;
}

function editRows(scores) {
  const found = new Map();
  for (const side of sides) for (const edit of scores[side]?.edits ?? []) {
    if (!found.has(edit.name)) found.set(edit.name, { edit, values: {} });
    found.get(edit.name).values[side] = signed(earns(edit));
  }
  return [...found.values()].map(({ edit, values }) =>
    row(edit.control ? `${edit.words} (should lose)` : edit.words, sides.map((side) => values[side]), true));
}

function render() {
  const { scores, model } = last ?? {};
  const given = sides.filter((side) => scores?.[side]);
  const best = Math.max(...given.map((side) => quality(scores[side])));
  for (const side of sides) {
    show(side, scores?.[side], model, given.length > 1 && Boolean(scores[side]) && quality(scores[side]) === best);
  }
  $("verdict").textContent = scores ? verdict(scores) : "";
  $("more").hidden = !given.length;
  const edits = given.length ? editRows(scores) : [];
  $("attributes").tBodies[0].replaceChildren(...(given.length ? attributeRows(scores) : []));
  $("edits").tBodies[0].replaceChildren(...edits);
  for (const part of [$("edits"), $("prices-name"), $("prices-name").nextElementSibling]) part.hidden = !edits.length;
}

function calibration() {
  const said = about[$("model").value]?.calibration;
  $("calibrated-line").hidden = !said;
  $("calibration").textContent = said ? `Calibration: ${said}` : "";
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
    const responses = given.map((side) => $(`answer-${side}`).value);
    const reply = await ask(form.dataset.path, { model, prompt: $("prompt").value, responses, edits: $("prices").checked });
    if (number !== asked) return;
    last = { model: reply.model, scores: Object.fromEntries(given.map((side, i) => [side, reply.scores[i]])) };
    render();
  } catch (error) {
    if (number !== asked) return;
    last = null;
    render();
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
$("calibrated").addEventListener("change", render);
$("model").addEventListener("change", calibration);
ask("info").then((content) => { about = content.models; calibration(); }).catch(() => {});
