"""How often the 95 % bootstrap intervals of ``odin-rm win-rate`` hold the truth, on simulated judgements.

    python benchmarks/coverage.py [--runs 2000] [--control_runs 200] [--seed 0] [--output FILE.json]

Worlds draw prompts with baseline lengths and difficulties, candidates with lengths and abilities, and preferences of a
judge that follows the joint model, fractional as GPT-4's (a logit with noise) or plain wins and losses. The truth is
the figure of the same candidate on 200,000 other prompts. Every run is a new sample with its own bootstrap.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from odin_rm.core.files import atomic_write_json
from odin_rm.evaluation.bootstrap import Statistic
from odin_rm.evaluation.length_control import (
    difficulty_given,
    fit_joint,
    joint,
    length_only,
    relative_length_term,
)
from odin_rm.evaluation.win_score import interval_levels, mean_of, resample, win_rate_values, win_score_values

SLOPE = 1.5
ABILITY = np.array([-2.0, -0.8, 0.4])
FACTOR = np.array([0.5, 0.9, 1.3])
TRUTH_PROMPTS = 200_000


@dataclass(frozen=True)
class World:
    name: str
    prompts: int
    fractional: bool


WORLDS = (
    World("805 prompts, fractional preferences", 805, True),
    World("805 prompts, wins and losses", 805, False),
    World("300 prompts, wins and losses", 300, False),
    World("100 prompts, wins and losses", 100, False),
)


def draw(rng: np.random.Generator, prompts: int, fractional: bool) -> dict[str, np.ndarray]:
    baseline = rng.lognormal(7, 0.6, size=prompts)
    difficulty = 0.8 * rng.normal(size=prompts)
    length = baseline * FACTOR[:, None] * rng.lognormal(0, 0.4, size=(3, prompts))
    logit = ABILITY[:, None] + SLOPE * relative_length_term(length, baseline) + difficulty
    noisy = expit(3 * (logit + rng.logistic(size=logit.shape)))  # the judge is surer than the preference is clear
    label = noisy if fractional else (rng.random(logit.shape) < expit(logit)).astype(float)
    return {"label": label, "length": length, "baseline": baseline, "difficulty": difficulty}


def means(data: dict[str, np.ndarray]) -> dict[str, Statistic]:
    """Figures of a weak and a strong candidate that are means over prompts, and their paired difference."""
    preference = 1 + data["label"]
    found: dict[str, Statistic] = {"mean length": mean_of(data["length"][2])}
    for name, m in (("weak", 0), ("strong", 2)):
        found[f"win rate, {name}"] = mean_of(win_rate_values(preference[m]))
        found[f"win score, {name}"] = mean_of(win_score_values(preference[m]))
    found["win rate difference"] = mean_of(win_rate_values(preference[2]) - win_rate_values(preference[0]))
    return found


def controls(data: dict[str, np.ndarray]) -> dict[str, Statistic]:
    """The controlled win rates of both, each by itself, and of all three candidates together."""
    label, length, baseline = data["label"], data["length"], data["baseline"]
    found: dict[str, Statistic] = {}
    for name, m in (("weak", 0), ("strong", 2)):
        found[f"LC length only, {name}"] = length_only(label[m], length[m], baseline)
        found[f"LC difficulty, {name}"] = difficulty_given(label[m], length[m], baseline, data["difficulty"])
    term = relative_length_term(length, baseline)
    found["LC joint"] = joint(label, term, fit_joint(label, term, np.ones((1, label.shape[1]))))
    return found


def coverage(
    world: World, make: Callable[..., dict[str, Statistic]], runs: int, samples: int, seed: int
) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng([seed, 1])
    everything = make(draw(rng, TRUTH_PROMPTS, world.fractional))
    truth = {name: np.atleast_1d(statistic(np.ones((1, TRUTH_PROMPTS)))[0]) for name, statistic in everything.items()}
    held: dict[str, list[np.ndarray]] = defaultdict(list)
    for run in range(runs):
        statistics = make(draw(np.random.default_rng([seed, 2, run]), world.prompts, world.fractional))
        for name, drawn in resample(statistics, world.prompts, samples, run).items():
            low, high = np.quantile(drawn.reshape(samples, -1), interval_levels(world.prompts), axis=0)
            held[name].append((low <= truth[name]) & (truth[name] <= high))
    out = {}
    for name, rows in held.items():
        for k, share in enumerate(np.mean(rows, axis=0)):
            label = name if len(truth[name]) == 1 else f"{name}, {('weak', 'middle', 'strong')[k]}"
            out[label] = {"truth": float(truth[name][k]), "coverage": float(share), "runs": runs}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="samples for win rates, win scores and lengths")
    parser.add_argument("--control_runs", type=int, default=200, help="samples for length control, which is slower")
    parser.add_argument("--samples", type=int, default=400, help="resamples of each interval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output")
    args = parser.parse_args()
    content = {}
    for world in WORLDS:
        content[world.name] = found = coverage(world, means, args.runs, args.samples, args.seed)
        found |= coverage(world, controls, args.control_runs, args.samples, args.seed)
        print(f"\n{world.name}")
        for name, figure in found.items():
            share = figure["coverage"]
            error = np.sqrt(share * (1 - share) / figure["runs"])
            covered = f"covered {100 * share:5.1f} ± {100 * error:.1f} %"
            print(f"  {name:<24} truth {figure['truth']:8.2f}   {covered}", flush=True)
    if args.output:
        atomic_write_json(args.output, {"arguments": vars(args), "coverage": content})


if __name__ == "__main__":
    main()
