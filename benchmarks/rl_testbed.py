"""Policies on the testbed, where the true quality is known: does a reward model that ignores length keep them short?

    python benchmarks/rl_testbed.py [--output runs/rl_testbed] [--seeds 0] [--workers 2]

For each seed: the quickstart's data and reward models, its starting policy, and the full sweep (twelve runs of each
arm: PPO and ReMax, three betas, two learning rates). Prints a markdown table, writes ``rl_testbed.json`` and the figure
``true_quality_against_length.png``. A second call goes on where the first stopped. Arms: vanilla, ODIN, vanilla with
clipped reward, vanilla with each of several length penalties, the true quality as reward (gold), and length alone.

Four questions, each answered with an interval over runs:

1. mean length over the optimum's: vanilla beyond 1.6, ODIN within 1.4;
2. the true quality at equal length, ODIN's front minus that of each vanilla arm;
3. the area under the fronts, ODIN's minus that of each vanilla arm, the best penalty chosen after the fact;
4. the ceiling: what the gold arm attains.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from odin_rm.core.files import atomic_write_json, json_safe
from odin_rm.evaluation.records import Figure
from odin_rm.reports.chart_still import draw_panels, still_files
from odin_rm.testbed.experiment import QuickstartConfig, run_quickstart
from odin_rm.testbed.rl_experiment import train_policies
from odin_rm.testbed.rl_figures import Policies, compare_policies
from odin_rm.testbed.rl_story import policy_front
from odin_rm.testbed.sweep import SweepSettings, sweep_runs

VANILLA_BEYOND, ODIN_WITHIN = 1.6, 1.4


def sweep_of_seed(seed: int, folder: Path, options: argparse.Namespace) -> Policies:
    """Reward models and policies of one seed; what is there already is not done again."""
    config = QuickstartConfig(output=str(folder), seed=seed, sweep="none", overwrite_output_dir=True)
    if not (folder / "summary.json").is_file():
        run_quickstart(config)
    settings = SweepSettings(
        sweep="full", policy_responses=options.responses, max_new_tokens=64, workers=options.workers
    )
    runs = [run for run in sweep_runs("full", seed) if not options.arms or run.arm in options.arms]
    return train_policies(folder, runs, settings, config.world, seed, say=lambda line: print(line, flush=True))


def pooled(sweeps: list[Policies]) -> Policies:
    """The runs of all seeds as one sweep; its start is the mean of the starts."""
    first = sweeps[0]
    mean = {
        name: sum(getattr(sweep.start, name) for sweep in sweeps) / len(sweeps)
        for name in ("mean_tokens", "true_quality", "win_score", "ended_share")
    }
    start = type(first.start)(**mean, samples=first.start.samples)
    return Policies(start, [result for sweep in sweeps for result in sweep.results], first.optimum_tokens)


def table(comparison: dict[str, Any], first: str = "ODIN") -> str:
    """Markdown: the arms, then the first one against each of the others."""
    lines = ["| arm | runs | length ratio | true quality | win score | area |", "|---" * 6 + "|"]
    for arm, f in comparison["arms"].items():
        cells = [_cell(figure) for figure in (f.length_ratio, f.true_quality, f.win_score, f.area)]
        best = " (best penalty)" if arm == comparison["best_penalty"] else ""
        lines.append(f"| {arm}{best} | {f.runs} | " + " | ".join(cells) + " |")
    if not comparison["comparisons"]:
        return "\n".join(lines)
    lengths = [f"{row['tokens']:.0f}" for row in comparison["comparisons"][0]["at_length"]]
    lines += ["", f"| {first} minus | area | " + " | ".join(f"quality at {at} tokens" for at in lengths) + " |"]
    lines.append("|---" * (2 + len(lengths)) + "|")
    for versus in comparison["comparisons"]:
        gaps = [f"{_cell(row['difference'])}, P = {row['dominance']:.2f}" for row in versus["at_length"]]
        lines.append(f"| {versus['second']} | {_cell(versus['area_difference'])} | " + " | ".join(gaps) + " |")
    return "\n".join(lines)


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "undefined"
    interval = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
    return f"{figure.value:.2f}{interval}"


def verdicts(comparison: dict[str, Any]) -> dict[str, str | None]:
    """The hopes: ``yes`` or ``no`` where the interval says so, else ``open``; ``None`` where an arm is missing."""
    arms = comparison["arms"]
    areas = {versus["second"]: versus["area_difference"] for versus in comparison["comparisons"]}
    clipped = next((arm for arm in areas if "clip" in arm), "")

    def ratio(arm: str) -> Figure | None:
        return arms[arm].length_ratio if arm in arms else None

    return {
        f"vanilla beyond {VANILLA_BEYOND} times the optimum": _above(ratio("vanilla"), VANILLA_BEYOND),
        f"odin within {ODIN_WITHIN} times the optimum": _NOT[_above(ratio("odin"), ODIN_WITHIN)],
        "front of odin above vanilla": _above(areas.get("vanilla"), 0.0),
        "front of odin above vanilla with clip": _above(areas.get(clipped), 0.0),
        "front of odin above vanilla with the best penalty": _above(areas.get(comparison["best_penalty"]), 0.0),
    }


_NOT = {"yes": "no", "no": "yes", "open": "open", None: None}


def _above(figure: Figure | None, bound: float) -> str | None:
    if figure is None or figure.low is None or figure.high is None:
        return None
    if figure.low > bound:
        return "yes"
    return "no" if figure.high < bound else "open"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/rl_testbed"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=[], choices=sorted({run.arm for run in sweep_runs("full", 0)}))
    parser.add_argument("--responses", type=int, default=SweepSettings().policy_responses)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bootstrap_samples", type=int, default=2000)
    options = parser.parse_args()

    sweeps = {seed: sweep_of_seed(seed, options.output / f"seed_{seed}", options) for seed in options.seeds}
    together = pooled(list(sweeps.values()))
    comparison = compare_policies(together, samples=options.bootstrap_samples, seed=0)
    content = {
        "all": comparison,
        "holds": verdicts(comparison),
        "seeds": {
            seed: {"holds": verdicts(own := compare_policies(sweep, samples=options.bootstrap_samples)), **own}
            for seed, sweep in sweeps.items()
        },
        "runs": [result.to_json() for result in together.results],
    }
    atomic_write_json(options.output / "rl_testbed.json", content)
    (options.output / "true_quality_against_length.png").write_bytes(
        still_files(draw_panels([policy_front(together)]))[0]
    )
    print("\n" + table(comparison))
    print("\n" + json.dumps(json_safe(content["holds"]), indent=2))


if __name__ == "__main__":
    main()
