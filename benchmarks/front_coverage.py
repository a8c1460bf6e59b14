"""How often the 95 % intervals of ``odin-rm pareto`` hold the truth where prompts are resampled, on simulated runs.

    python benchmarks/front_coverage.py [--worlds 400] [--samples 300] [--seed 0] [--output FILE.json]

A world has two arms of runs with known mean lengths (100 to 200, one run of 100) and known scores (10 points more for
100 tokens more, and the runs' own deviations). A run is measured on prompts: lengths and scores vary from prompt to
prompt, part of the score is the prompt's and shared by all runs. The truth is the front of the known figures; lengths
at which fronts are read are drawn between 115 and 205. Beside the intervals stand plain percentiles, which know nothing
of the excess of a front that picks the best of noisy runs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from odin_rm.core.files import atomic_write_json
from odin_rm.evaluation.pareto import RunPoints, areas, attained_score, front_area, matched_score
from odin_rm.evaluation.pareto_prompts import PromptColumns, PromptFrontBootstrap
from odin_rm.evaluation.win_score import interval_levels

BOUNDS, REFERENCE = (0.0, 215.0), 20.0


@dataclass(frozen=True)
class World:
    name: str
    runs: int
    spread: float
    prompts: int
    length_noise: float = 40.0


WORLDS = (
    World("6 runs, spread 8, 300 prompts", 6, 8.0, 300),
    World("12 runs, spread 5, 805 prompts", 12, 5.0, 805),
    World("12 runs, spread 3, 300 prompts", 12, 3.0, 300),
    World("24 runs, spread 2, 300 prompts", 24, 2.0, 300),
)


def draw_arm(rng: np.random.Generator, world: World, prompt_P: np.ndarray) -> tuple[RunPoints, PromptColumns]:
    length = np.sort(rng.uniform(100, 200, world.runs))
    length[0] = 100.0
    score = 55 + 0.1 * (length - 100) + world.spread * rng.normal(size=world.runs)
    shape = (world.runs, world.prompts)
    length_NP = length[:, None] + rng.normal(0, world.length_noise, shape)
    return RunPoints(length, score), PromptColumns(length_NP, score[:, None] + prompt_P + rng.normal(0, 70, shape))


def coverage(world: World, worlds: int, samples: int, seed: int) -> dict[str, float]:
    held: dict[str, list[bool]] = defaultdict(list)
    for number in range(worlds):
        rng = np.random.default_rng([seed, number])
        prompt_P = rng.normal(0, 60, world.prompts)
        (one, one_columns), (other, other_columns) = (draw_arm(rng, world, prompt_P) for _ in range(2))
        bootstrap = PromptFrontBootstrap({"a": one_columns, "b": other_columns}, samples=samples, seed=number)
        at = np.array([rng.uniform(115, 205)])
        area = front_area(one, BOUNDS, REFERENCE)
        found = {
            "hypervolume": (bootstrap.area("a", BOUNDS, REFERENCE), area),
            "front at a length": (bootstrap.band("a", at)[0], attained_score(one, at)[0]),
            "matched score": (bootstrap.band("a", at, "matched")[0], matched_score(one, at)[0]),
            "hypervolume difference": (
                bootstrap.area_difference("a", "b", BOUNDS, REFERENCE),
                area - front_area(other, BOUNDS, REFERENCE),
            ),
            "matched difference": (
                bootstrap.score_difference("a", "b", at)[0],
                matched_score(one, at)[0] - matched_score(other, at)[0],
            ),
        }
        for name, (figure, truth) in found.items():
            held[name].append(figure.low is not None and figure.low <= truth <= figure.high)
        low, high = np.quantile(areas(*bootstrap.draws("a"), BOUNDS, REFERENCE), interval_levels(world.prompts))
        held["hypervolume, plain percentiles"].append(bool(low <= area <= high))
    return {name: float(np.mean(rows)) for name, rows in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output")
    args = parser.parse_args()
    content = {}
    for world in WORLDS:
        content[world.name] = coverage(world, args.worlds, args.samples, args.seed)
        print(f"\n{world.name}")
        for name, share in content[world.name].items():
            error = np.sqrt(share * (1 - share) / args.worlds)
            print(f"  {name:<32} covered {100 * share:5.1f} ± {100 * error:.1f} %", flush=True)
    if args.output:
        atomic_write_json(args.output, {"arguments": vars(args), "coverage": content})


if __name__ == "__main__":
    main()
