"""Speed of reward training side by side with TRL's RewardTrainer at its best settings for the data.

    make bench-reward-speed ARGS="--data DIR --output FILE.json"
    python -m benchmarks.reward_speed --data DIR --scenarios oasst --output FILE.json

One process; the same random Llama, token ids, pairs in each step, optimiser and precision on both sides, both training
plain Bradley-Terry, so their losses must agree (printed). The arms take turns step by step.

Scenarios: ``oasst`` (``oasst_en_val``), ``oasst-single`` (the same, one pair of each prompt, nothing shared but the
prompt), ``alpaca`` (``alpaca_eval_preferences_train``), ``long`` (generated: prompts of 2,000 tokens, two answers of
200, one pair), ``long-ranked`` (the same with four answers, six pairs). ``DIR`` holds the two files.

Arms: ``trl`` (with the micro-batch that is fastest on these pairs), ``trl-grouped`` (the pairs of all measured steps in
the order of transformers' length grouping, which TRL can be made to take), ``trl-compiled`` (the same, compiled with
torch.compile for any shape), ``ours`` (micro-batches of
``--microbatch_tokens``, two passes where a step needs several), ``ours-kept`` (the same with the graphs of the scoring
pass kept: one pass; the ratio of the two is what exactness costs), ``ours-some-kept`` (those of some micro-batches),
``ours-compiled`` (all kept, layers compiled), ``ours-torch-products`` (two passes, torch's usual matrix products),
``ours-auto`` (the budget that ``odin-rm reward``
chooses by itself), ``ours-padded`` and ``ours-packed`` (without prompt trees), ``ours-odin`` (two heads and the
correlation terms).

Ratios are to TRL's faster arm. ``--output`` is added to, so scenarios can run one by one; ``--figure`` draws all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.shared.relay import Turns, run_in_processes
from benchmarks.shared.reward_arms import Arm, Work, grouped_by_length, train_ours, train_trl, tune
from benchmarks.shared.reward_data import generated, one_pair_per_prompt
from benchmarks.shared.reward_flops import ModelSize, matrix_peak, need_of
from benchmarks.shared.reward_setup import VOCABULARY, make_tokenizer, quiet, save_models
from benchmarks.shared.reward_summary import ratio_of, summary_of, table
from odin_rm.core.files import atomic_write_json, environment_record, json_safe
from odin_rm.data.batching import plan_epoch
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.tokenise import EncodingSettings

SCENARIOS = ("oasst", "oasst-single", "alpaca", "long", "long-ranked")
FILES = {
    "oasst": "oasst_en_val.jsonl.gz",
    "oasst-single": "oasst_en_val.jsonl.gz",
    "alpaca": "alpaca_eval_preferences_train.jsonl.gz",
}
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours-kept": {"single_pass_tokens": 10**9},
    "ours-some-kept": {"single_pass_tokens": 2048},
    "ours-compiled": {"single_pass_tokens": 10**9, "compile_layers": True},
    "ours-torch-products": {"cpu_products": "torch"},
    "ours-auto": {"microbatch_tokens": "auto"},
    "ours-padded": {"batch_layout": "padded"},
    "ours-packed": {"batch_layout": "packed"},
    "ours-odin": {"objective": "odin"},
}
ARMS = ("trl", "trl-grouped", "trl-compiled", *OURS)
PROMPT_TOKENS, ANSWER_TOKENS = 2000, (100, 300)
Train = Callable[[Arm, Work, Turns], None]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def load(name: str, options: argparse.Namespace, folder: Path) -> tuple[TokenisedPreferences, Any]:
    """The data of a scenario, and its tokenizer."""
    if name not in FILES:
        responses = 2 if name == "long" else 4
        prompts = 4 + 2 * options.long_batch_pairs * (options.warmup + options.steps)
        data = generated(
            prompts, responses, prompt_tokens=options.prompt_tokens, response_tokens=ANSWER_TOKENS, seed=options.seed
        )
        return data, make_tokenizer([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    source = Path(options.data) / FILES[name]
    tokenizer = make_tokenizer(source, options.vocabulary)
    settings = EncodingSettings(max_length=options.max_length, overlong="drop")
    data = load_preferences(source, tokenizer, settings, on_bad_row="skip", cache_dir=folder / "cache")
    return (one_pair_per_prompt(data, options.seed) if name == "oasst-single" else data), tokenizer


def plan_steps(data: TokenisedPreferences, size: int, options: argparse.Namespace) -> list[np.ndarray]:
    """Full steps of our planner from all over an epoch."""
    planned = plan_epoch(data, size, options.max_pairs_per_prompt, options.seed, 0)
    full = [batch for batch in planned if len(batch) == size]
    wanted = options.warmup + options.steps
    if len(full) < wanted:
        raise SystemExit(f"{len(full)} full steps of {size} pairs, {wanted} are wanted: give a smaller --batch_pairs")
    return [full[round(i)] for i in np.linspace(0, len(full) - 1, wanted)]


def prepare(name: str, options: argparse.Namespace, folder: Path) -> tuple[Work, ModelSize]:
    """Data, plan and models of a scenario."""
    data, tokenizer = load(name, options, folder)
    long = name.startswith("long")
    plan = plan_steps(data, options.long_batch_pairs if long else options.batch_pairs, options)
    positions = options.prompt_tokens + ANSWER_TOKENS[1] if long else options.max_length
    vocabulary = VOCABULARY if long else 0
    backbone, classifier = save_models(
        folder, tokenizer, options.layers, options.hidden, positions, vocabulary=vocabulary
    )
    size = ModelSize.of(transformers.AutoModelForSequenceClassification.from_pretrained(classifier))
    return Work(data, plan, tokenizer, backbone, classifier, bf16=options.bf16, threads=options.threads), size


def tuned(work: Work, options: argparse.Namespace, *, grouped: bool) -> tuple[int, dict[int, float]]:
    """TRL's best micro-batch on some pairs of the plan; with ``grouped`` on pairs of like length."""
    if len(options.trl_pairs) == 1:
        return options.trl_pairs[0], {}
    plan = grouped_by_length(work.plan, work.data, options.warmup) if grouped else work.plan
    together = np.concatenate(plan[options.warmup :])
    count = min(options.tune_pairs, len(together))
    start = (len(together) - count) // 2
    pairs = together[start : start + count]
    say(f"TRL's micro-batch on {count} pairs{' of like length' if grouped else ''}:")
    return tune(replace(work, plan=[pairs, pairs]), options.trl_pairs, say=say)


def jobs_of(work: Work, options: argparse.Namespace) -> tuple[list[tuple[Arm, Train, Work]], dict[str, Any]]:
    """The arms that are asked for, and how TRL's micro-batch was chosen."""
    jobs: list[tuple[Arm, Train, Work]] = []
    tuning: dict[str, Any] = {}
    for name in options.arms:
        if name.startswith("trl"):
            grouped = name != "trl"
            pairs, tuning[name] = tuned(work, options, grouped=grouped)
            plan = grouped_by_length(work.plan, work.data, options.warmup) if grouped else work.plan
            compiled = {"torch_compile": True} if name == "trl-compiled" else {}
            jobs.append((Arm(name, {"pairs": pairs, **compiled}), train_trl, replace(work, plan=plan)))
        else:
            settings = {"microbatch_tokens": options.microbatch_tokens, **OURS[name]}
            jobs.append((Arm(name, settings), train_ours, work))
    return jobs, tuning


def run_arm(train: Train, work: Work, arm: Arm, baton: Turns) -> None:
    """One arm, in its own process."""
    quiet()
    os.environ["ACCELERATE_DYNAMO_USE_DYNAMIC"] = "true"  # of a compiled TRL
    train(arm, work, baton)


def run_scenario(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All arms on one scenario, in turns."""
    say(f"{name}:")
    work, size = prepare(name, options, folder)
    needs = [need_of(work.data, pairs) for pairs in work.plan]
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    torch.set_num_threads(options.threads)
    peak = matrix_peak("cpu", dtype, options.matrix)
    jobs, tuning = jobs_of(work, options)
    alone = {arm.name: (partial(run_arm, train, replace(own, alone=True)), arm) for arm, train, own in jobs}
    found = run_in_processes(alone)
    peak = max(peak, matrix_peak("cpu", dtype, options.matrix))
    arms = {arm.name: found[arm.name][0] for arm, _, _ in jobs}
    for arm in arms.values():
        arm.error = found[arm.name][1]
        if arm.error:
            say(f"{arm.name}: {arm.error}")
    summaries = {n: summary_of(arm, options.warmup, needs, size, peak) for n, arm in arms.items()}
    scenario: dict[str, Any] = {
        "arms": {n: asdict(arm) | {"summary": summaries[n]} for n, arm in arms.items()},
        "matrix_peak": peak,
        "model": asdict(size),
        "needs": [asdict(need) for need in needs],
        "tuning": tuning,
        "loss_difference": loss_difference(arms),
        "settings": vars(options) | {"data": None, "output": None, "figure": None},
        "environment": environment_record(),
    }
    return scenario | {"ratios": ratios(arms, summaries, options.warmup), "exactness": exactness(arms, options.warmup)}


def ratios(arms: dict[str, Arm], summaries: dict[str, dict[str, Any]], warmup: int) -> dict[str, Any]:
    """Ours over TRL's faster arm, by wall clock and by CPU time, and over the same steps ungrouped."""
    peers = [n for n in arms if n.startswith("trl") and "error" not in summaries[n]]
    if not peers:
        return {}
    best = max(peers, key=lambda n: summaries[n]["pairs_per_second"])
    found = {}
    for name in [n for n in arms if n.startswith("ours") and "error" not in summaries[n]]:
        found[name] = ratio_of(arms[name], arms[best], warmup)
        assert found[name] is not None
        found[name]["by_cpu_time"] = ratio_of(arms[name], arms[best], warmup, "cpu_seconds")
        if "trl" in peers and best != "trl":
            found[name]["to_ungrouped"] = ratio_of(arms[name], arms["trl"], warmup)
    return {"peer": best, **found}


def exactness(arms: dict[str, Arm], warmup: int) -> dict[str, float] | None:
    """Time of a step in two passes over that with the graphs kept."""
    if not {"ours", "ours-kept"} <= set(arms):
        return None
    return ratio_of(arms["ours-kept"], arms["ours"], warmup)


def loss_difference(arms: dict[str, Arm]) -> float | None:
    """Largest difference of a step's Bradley-Terry loss between arms on the same steps."""
    losses = [
        arm.losses for n, arm in arms.items() if n not in ("trl-grouped", "trl-compiled", "ours-odin") and arm.losses
    ]
    steps = min(map(len, losses), default=0)
    return float(np.ptp(np.array([own[:steps] for own in losses]), axis=0).max()) if steps else None


def draw(found: dict[str, Any], path: Path) -> None:
    """Pairs per second of each arm by scenario, and the share of the machine's peak that the distinct tokens make."""
    from odin_rm.reports.style import model_colours, new_canvas, styled

    scenarios = found["scenarios"]
    names = [n for n in ARMS if any(n in s["arms"] for s in scenarios.values())]
    colours = model_colours(names)
    with styled():
        canvas, (left, right) = new_canvas(1, 2, width=11, height=4.2)
        for place, (key, title) in enumerate([("pairs", "Pairs per second"), ("peak", "Share of the matrix peak, %")]):
            axes = (left, right)[place]
            for k, name in enumerate(names):
                width = 0.8 / len(names)
                for x, scenario in enumerate(scenarios.values()):
                    row = scenario["arms"].get(name, {}).get("summary", {"error": ""})
                    if "error" in row:
                        continue
                    seconds = row["seconds_per_step"]
                    value = row["pairs_per_second"] if key == "pairs" else 100 * row["useful_share_of_peak"]
                    spread = [
                        [value * max(0.0, 1 - seconds["median"] / seconds["high"])],
                        [value * max(0.0, seconds["median"] / seconds["low"] - 1)],
                    ]
                    label = name if x == 0 else None
                    where = x + (k - (len(names) - 1) / 2) * width
                    axes.bar(where, value, width, yerr=spread, color=colours[name], label=label, capsize=2)
            axes.set_xticks(range(len(scenarios)), list(scenarios))
            axes.set_title(title)
        left.set_yscale("log")
        handles, labels = left.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        canvas.savefig(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the preference files")
    parser.add_argument("--output", type=Path, help="JSON file; scenarios that it holds already stay")
    parser.add_argument("--figure", type=Path, help="PNG of all scenarios in --output")
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS[:4]), choices=ARMS)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--prompt_tokens", type=int, default=PROMPT_TOKENS, help="of the long scenarios")
    parser.add_argument("--batch_pairs", type=int, default=64)
    parser.add_argument("--long_batch_pairs", type=int, default=16, help="of the long scenarios (64 take minutes)")
    parser.add_argument("--max_pairs_per_prompt", type=int, default=8)
    parser.add_argument("--microbatch_tokens", type=int, default=2048)
    parser.add_argument("--trl_pairs", type=int, nargs="+", default=[1, 2, 4, 8], help="TRL's micro-batches to try")
    parser.add_argument("--tune_pairs", type=int, default=16, help="pairs on which they are tried")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matrix", type=int, default=2048, help="size of the matrix product that measures the peak")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 passes on both sides")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data is None and set(options.scenarios) & set(FILES):
        parser.error("--data: the folder with the preference files is needed for " + ", ".join(FILES))
    return options


def main() -> None:
    quiet()
    options = parse()
    found: dict[str, Any] = {"scenarios": {}}
    if options.output and options.output.exists():
        found = json.loads(options.output.read_text(encoding="utf-8"))
    for name in options.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            scenario = json_safe(run_scenario(name, options, Path(folder)))
        found["scenarios"][name] = scenario
        if options.output:
            atomic_write_json(options.output, found)
        rows = {n: arm["summary"] for n, arm in scenario["arms"].items()}
        tokens = sum(need["tokens"] for need in scenario["needs"]) / len(scenario["needs"])
        slots = sum(need["slot_tokens"] for need in scenario["needs"]) / len(scenario["needs"])
        print(f"\n{name}: {slots:,.0f} tokens in the slots of a step, {tokens:,.0f} of them distinct; losses apart by ")
        print(f"{scenario['loss_difference']}; exactness costs {scenario['exactness']}\n")
        print(table(rows, scenario["ratios"]), flush=True)
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
