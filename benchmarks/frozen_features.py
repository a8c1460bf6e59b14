"""Objectives on frozen features of a real encoder, cross-fitted on real preferences (docs/evidence.md, item 35).

    python -m benchmarks.frozen_features --data DIR [--output DIR] [--arms vanilla matched ...]   # make bench-frozen

The pairs are the 600 instructions of AlpacaEval 2 (``alpaca_eval_preferences_train`` and ``_val``). Features are
MiniLM's mean of the last hidden states, 256 tokens, computed once (``odin_rm.reward.features``). In five folds by
instruction each arm trains its heads on four fifths and scores the rest; a fold's seed is its number. Figures are those
of the product's audit on the held-out pairs; beside them the share of verbosity twins won by the longer answer, the
correlation with log length given prompt *and writer* (which of 49 models wrote it), and the Spearman correlation of the
writers' mean held-out rewards with their strength in the labels beside a curve of length.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.real_preferences import OASST, TRAIN, TWINS, VAL, encoder_folder, rows_of, write_rows
from odin_rm.core.files import atomic_write_json, read_rows
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import select_pairs
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.evaluation.audit import point_figures
from odin_rm.evaluation.information import fit_pair_logistic, length_curve
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_tokenizer
from odin_rm.objectives.association import intraclass
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.features import frozen_features
from odin_rm.reward.frozen import as_rows
from odin_rm.reward.head_training import TrainedHeads, train_heads
from odin_rm.reward.scoring import as_scored

FOLDS = 5
ENCODING = EncodingSettings(max_length=256, overlong="truncate_response", read_at="end")
STEPWISE: dict[str, Any] = {"batch_pairs": 64, "max_pairs_per_prompt": 8, "epochs": 4}
WHOLE: dict[str, Any] = {"epochs": 200}
"""All pairs in each of so many steps."""


def odin(scale: float, **options: Any) -> dict[str, Any]:
    """An ODIN arm at a head scale."""
    return {"objective": "odin", "head_scale": scale, **options}


ARMS: dict[str, dict[str, Any]] = {
    "vanilla": {"objective": "bradley_terry", **STEPWISE},
    "vanilla, all pairs": {"objective": "bradley_terry", **WHOLE},
    "matched": {"objective": "matched", **STEPWISE},
    "matched, all pairs": {"objective": "matched", **WHOLE},
    "matched, spline": {"objective": "matched", "settings": {"match_curve_shape": "spline"}, **STEPWISE},
    "matched, drawn": {"objective": "matched", "settings": {"match_by": "draws"}, **STEPWISE},
    "matched, no curve": {"objective": "matched", "settings": {"match_curve": "none"}, **STEPWISE},
    "matched, tau 0.15": {"objective": "matched", "settings": {"match_tau": 0.15}, **STEPWISE},
    "matched, tau 0.6": {"objective": "matched", "settings": {"match_tau": 0.6}, **STEPWISE},
    "joint expert": {"objective": "matched", "settings": {"match_tau": float("inf")}, **STEPWISE},
    "fixed expert": {
        "objective": "matched",
        "settings": {"match_tau": float("inf"), "match_curve": "fixed"},
        **STEPWISE,
    },
    **{f"odin, scale {scale:g}, 64 pairs": odin(scale, **STEPWISE) for scale in (0.1, 0.3, 1, 3, 10)},
    **{f"odin, scale {scale:g}, all pairs": odin(scale, **WHOLE) for scale in (0.1, 0.3, 1, 3, 10)},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "squared": {"length_measure": "squared"},
    "unbiased": {"length_measure": "unbiased"},
    "memory 8": {"length_memory": 8},
    "squared, memory 8": {"length_measure": "squared", "length_memory": 8},
    "tolerance 0.05": {"length_tolerance": 0.05},
    "tolerance 0.05, memory 8": {"length_tolerance": 0.05, "length_memory": 8},
    "both scopes": {"length_scope": "both"},
    "outputs": {"orthogonality_of": "outputs"},
    "prompt offsets": {"prompt_offset_weight": 1.0},
}
"""Options of ODIN at a scale of 0.3 and 64 pairs a step (docs/evidence.md, item 41)."""
ARMS |= {f"odin, {name}": odin(0.3, settings=changes, **STEPWISE) for name, changes in OPTIONS.items()}
BEST: dict[str, Any] = {"length_measure": "squared", "length_memory": 8}
ARMS |= {f"odin, squared, memory 8, scale {scale:g}": odin(scale, settings=BEST, **STEPWISE) for scale in (1, 3, 10)}
BITS = "information_beyond_length_curve"
FIGURES = (BITS, "accuracy", "accuracy_length_balanced", "pearson", "pearson_within_prompt")


class Bench:
    """Data, writers and features.

    Args:
        data: folder of the files.
        output: where features and results go.
        pairs: how many of the 8,000 pairs of the file ``train``; those of ``val`` are all there.
        oasst: whether OpenAssistant's pairs are scored too.
    """

    def __init__(self, data: Path, output: Path, pairs: int = 8000, *, oasst: bool = False) -> None:
        rows = rows_of(data / TRAIN)
        random.Random(0).shuffle(rows)
        rows = [*rows[:pairs], *rows_of(data / VAL)]
        rows.sort(key=lambda row: row["prompt"])
        pair_file = write_rows(output / "data" / "pairs.jsonl.gz", rows)
        twins = [
            {"prompt": row["prompt"], "chosen": row["longer"], "rejected": row["shorter"]}
            for _, row in read_rows(data / TWINS)
        ]
        twin_file = write_rows(output / "data" / "twins.jsonl.gz", twins)
        folder = encoder_folder()
        tokenizer = load_tokenizer(folder)
        torch.manual_seed(0)
        model = RewardModel.from_backbone(folder, heads=("quality",), normalise_heads=False, pooling="mean")
        started = time.perf_counter()

        def read(file: Path) -> tuple[TokenisedPreferences, np.ndarray]:
            cache = output / "cache"
            found = load_preferences(file, tokenizer, ENCODING, on_bad_row="skip", cache_dir=cache)
            kwargs: dict[str, Any] = {"pad_token_id": int(tokenizer.pad_token_id), "cache_dir": cache}
            return found, frozen_features(model, found, microbatch_tokens=4096, **kwargs).rows

        self.data, self.features = read(pair_file)
        self.twins, self.twin_features = read(twin_file)
        self.oasst = read(data / OASST) if oasst else None
        self.seconds = time.perf_counter() - started
        # Features of one encoder differ in scale by direction; divided by their deviations they learn at one rate.
        deviation = self.features.std(0)
        self.deviation = np.where(deviation > 0, deviation, 1)
        self.writer_R = self._writers(rows)
        prompts = np.unique(self.data.response_prompt)
        fold_P = np.random.default_rng(0).permutation(len(prompts)) % FOLDS
        self.fold_R = fold_P[np.searchsorted(prompts, self.data.response_prompt)]
        self.fold_B = self.fold_R[self.data.pair_chosen]
        self.strength = self._strengths()

    def _writers(self, rows: list[dict[str, Any]]) -> np.ndarray:
        """``(R,)`` number of the model that wrote each response."""
        names = sorted({row[side] for row in rows for side in ("chosen_model", "rejected_model")})
        writer_R = np.full(self.data.num_responses, -1)
        for pair in range(self.data.num_pairs):
            row = rows[int(self.data.pair_row[pair]) - 1]
            writer_R[self.data.pair_chosen[pair]] = names.index(row["chosen_model"])
            writer_R[self.data.pair_rejected[pair]] = names.index(row["rejected_model"])
        return writer_R

    def _strengths(self) -> np.ndarray:
        """Coefficients of the writers in a logistic model of all labels beside a curve of length."""
        chosen, rejected = np.asarray(self.data.pair_chosen), np.asarray(self.data.pair_rejected)
        length_R = np.asarray(self.data.response_tokens, dtype=float)
        curve_BK = length_curve(length_R[chosen], length_R[rejected])
        curve_BK = curve_BK / np.sqrt((curve_BK**2).mean(0))
        one_hot = np.eye(int(self.writer_R.max()) + 1)
        difference = one_hot[self.writer_R[chosen]] - one_hot[self.writer_R[rejected]]
        return fit_pair_logistic(np.column_stack([difference, curve_BK]), ridge=1.0)[: difference.shape[1]]

    def train(self, arm: str, fold: int, **changes: Any) -> tuple[TrainedHeads, float]:
        """One arm on the pairs of the other folds, and the seconds that it took."""
        options = {**ARMS[arm], **changes}
        name = options.pop("objective")
        settings = OBJECTIVES[name].settings(**options.pop("settings", {}))
        pairs = np.flatnonzero(self.fold_B != fold)
        started = time.perf_counter()
        kwargs: dict[str, Any] = {"learning_rate": 3e-3, **options}
        rows_RD = self.features / self.deviation
        found = train_heads(rows_RD, self.data, name, settings=settings, pairs=pairs, seed=fold, **kwargs)
        return found, time.perf_counter() - started

    def measure(self, quality: Callable[[np.ndarray], np.ndarray], fold: int) -> dict[str, Any]:
        """Figures of a reward on the held-out fold; ``quality`` gives it from scaled features."""
        quality_R = quality(self.features / self.deviation)
        held = select_pairs(as_rows(self.data), self.fold_B == fold)
        numbers = np.asarray(held.input_ids_flat)
        figures = point_figures(as_scored(held, {"quality": quality_R[numbers]}, "model"))
        twin_R = quality(self.twin_features / self.deviation)
        gap = twin_R[self.twins.pair_chosen] - twin_R[self.twins.pair_rejected]
        there: dict[str, Any] = {}
        if self.oasst is not None:
            oasst_R = quality(self.oasst[1] / self.deviation)
            figures_there = point_figures(as_scored(self.oasst[0], {"quality": oasst_R}, "model"))
            there = {f"oasst_{name}": figures_there[name] for name in (BITS, "pearson")}
        return {
            **{name: figures[name] for name in FIGURES},
            "twins": float((gap > 0).mean() + 0.5 * (gap == 0).mean()),
            "given_writer": self.given_writer(quality_R, self.fold_R == fold),
            **there,
            "quality": quality_R[self.fold_R == fold].tolist(),
            "deviation": float(quality_R.std()),
            "between_prompts": self.between_prompts(quality_R, self.fold_R == fold),
        }

    def given_writer(self, quality_R: np.ndarray, held_R: np.ndarray) -> float:
        """Partial correlation of the reward with log length given prompt and writer, over held-out responses."""
        log_R = np.log(np.maximum(1, np.asarray(self.data.response_tokens)[held_R]))
        prompt_R = np.unique(np.asarray(self.data.response_prompt)[held_R], return_inverse=True)[1]
        writer_R = self.writer_R[held_R]
        known = writer_R >= 0
        design = np.column_stack([np.eye(prompt_R.max() + 1)[prompt_R], np.eye(self.writer_R.max() + 1)[writer_R]])
        left = []
        for values in (quality_R[held_R], log_R):
            fitted = np.linalg.lstsq(design[known], values[known], rcond=None)[0]
            left.append(values[known] - design[known] @ fitted)
        return float(np.corrcoef(left[0], left[1])[0, 1])

    def between_prompts(self, quality_R: np.ndarray, held_R: np.ndarray) -> float:
        """Share of the held-out rewards' variance that lies between prompts (intraclass correlation)."""
        _, prompt_R = np.unique(np.asarray(self.data.response_prompt)[held_R], return_inverse=True)
        return float(intraclass(torch.as_tensor(quality_R[held_R]).double(), torch.as_tensor(prompt_R)).value)

    def writers(self, folds: list[dict[str, Any]]) -> float:
        """Spearman of the writers' mean held-out rewards, standardised in each fold, with their strength."""
        reward_R = np.zeros(self.data.num_responses)
        for fold, row in enumerate(folds):
            values = np.array(row["quality"])
            reward_R[self.fold_R == fold] = (values - values.mean()) / values.std()
        means = [reward_R[self.writer_R == writer].mean() for writer in range(len(self.strength))]
        return float(spearmanr(means, self.strength).statistic)


def run(bench: Bench, arms: list[str], output: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Every arm in every fold; finished arms in the file are kept."""
    path = output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for arm in arms:
        if arm in results:
            continue
        folds = []
        for fold in range(FOLDS):
            trained, seconds = bench.train(arm, fold, **changes)
            row = bench.measure(lambda rows, heads=trained: heads.scores(rows).quality.numpy(), fold)  # type: ignore[misc]
            folds.append(row | {"seconds": seconds, "steps": len(trained.losses)})
        writers = bench.writers(folds)
        for row in folds:
            del row["quality"]
        results[arm] = {"folds": folds, "writers": writers}
        atomic_write_json(path, results)
        print(line(arm, results), flush=True)
    return results


def line(arm: str, results: dict[str, Any]) -> str:
    """A row of the table: means and deviations over folds, and bits less vanilla's of the same fold."""
    folds = results[arm]["folds"]

    def cell(name: str) -> str:
        values = [row[name] for row in folds]
        return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"

    names = (*FIGURES, "twins", "given_writer", "deviation", "between_prompts", "seconds")
    cells = [cell(name) for name in names]
    if "vanilla" in results:
        gaps = [a[BITS] - b[BITS] for a, b in zip(folds, results["vanilla"]["folds"], strict=True)]
        cells.append(f"{np.mean(gaps):+.3f} ± {np.std(gaps, ddof=1) / len(gaps) ** 0.5:.3f}")
    return f"| {arm} | " + " | ".join(cells) + f" | {results[arm]['writers']:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/frozen"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--pairs", type=int, default=8000)
    parser.add_argument("--oasst", action="store_true")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.data, arguments.output, arguments.pairs, oasst=arguments.oasst)
    counts = f"{bench.data.num_pairs:,} pairs, {bench.data.num_responses:,} responses"
    print(f"{counts}; data and features {bench.seconds:.0f} s", flush=True)
    names = [*FIGURES, "twins", "given writer", "deviation", "between prompts", "seconds"]
    names += ["bits less vanilla's", "writers"]
    print("| arm | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1), flush=True)
    results = run(bench, arguments.arms, arguments.output, {"learning_rate": arguments.learning_rate})
    print("\n" + "\n".join(line(arm, results) for arm in arguments.arms))


if __name__ == "__main__":
    main()
