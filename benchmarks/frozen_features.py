"""Objectives on frozen features of a real encoder, cross-fitted on real preferences (docs/evidence.md, item 35).

    python -m benchmarks.frozen_features --data DIR [--output DIR] [--arms vanilla matched ...]   # make bench-frozen

The pairs are the 600 instructions of AlpacaEval 2 (``alpaca_eval_preferences_train`` and ``_val``). Features are
MiniLM's mean of the last hidden states, 256 tokens, computed once (``odin_rm.reward.features``), or with ``--reader
layers`` principal components of what several layers say. In five folds by instruction each arm trains its heads on four
fifths and scores the rest; a fold's seed is its number. Figures are those of the product's audit on the held-out pairs;
beside them the share of verbosity twins won by the longer answer, the correlation with log length given prompt *and
writer* (which of 49 models wrote it), and the Spearman correlation of the writers' mean held-out rewards with their
strength in the labels beside a curve of length. A dial is fitted on the other folds, without labels, and on every other
twin; its twins are the rest.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.real_preferences import OASST, TRAIN, TWINS, VAL, encoder_folder, prompts_of, rows_of, write_rows
from benchmarks.shared.layer_features import PARTS, Components, LayerFeatures
from benchmarks.shared.length_dial import length_dial
from benchmarks.shared.sequence_features import deviations
from odin_rm.core.files import atomic_write_json, read_rows
from odin_rm.core.types import RESPONSE_TOKENS
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.split import select_pairs
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.evaluation.audit import point_figures
from odin_rm.evaluation.information import fit_pair_logistic, length_curve
from odin_rm.evaluation.pairs import half_ties
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
    **{
        f"matched, no curve, tau {tau:g}": {
            "objective": "matched",
            "settings": {"match_curve": "none", "match_tau": tau},
            **STEPWISE,
        }
        for tau in (0.1, 0.15, 0.2)
    },
    "matched, tau 0.15": {"objective": "matched", "settings": {"match_tau": 0.15}, **STEPWISE},
    "matched, tau 0.6": {"objective": "matched", "settings": {"match_tau": 0.6}, **STEPWISE},
    "joint expert": {"objective": "matched", "settings": {"match_tau": float("inf")}, **STEPWISE},
    "fixed expert": {
        "objective": "matched",
        "settings": {"match_tau": float("inf"), "match_curve": "fixed"},
        **STEPWISE,
    },
    **{f"odin, scale {scale:g}, 64 pairs": odin(scale, **STEPWISE) for scale in (0.1, 0.3, 1, 3, 10)},
    **{
        f"odin, scale {scale:g}, 512 pairs": odin(scale, batch_pairs=512, max_pairs_per_prompt=8, epochs=12)
        for scale in (1, 3, 6, 12, 24)
    },
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
DIALLED = {
    f"{plain} + dial by {anchor}": (plain, anchor)
    for plain in ("vanilla", "matched", "matched, no curve")
    for anchor in ("twins", "writers", "zero")
}
"""Arms that are another one less the share of its curve of length that an anchor asks for."""
RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "length_balanced": ("length_balanced", {}),
    "inverse propensity": ("length_balanced", {"balance_bins": 8}),
    "poe": ("poe", {}),
    "crm": ("crm", {"penalty_weight": 0.01}),
    "fimi": ("fimi", {}),
    "bsr": ("bsr", {}),
    "dir": ("dir", {"information_of": "reward"}),
    "normbt": ("normbt", {}),
    "inform": ("inform", {}),
}
ARMS |= {
    name: {"objective": objective, "settings": settings, **STEPWISE} for name, (objective, settings) in RIVALS.items()
}
BITS = "information_beyond_length_curve"
FIGURES = (BITS, "accuracy", "accuracy_length_balanced", "pearson", "pearson_within_prompt")


@dataclass(frozen=True)
class Rewards:
    """A reward of everything that is measured.

    Attributes:
        pairs: of the responses of the pairs.
        twins: of the twins' responses.
        oasst: of OpenAssistant's.
        kappa: the share of its curve of length that a dial took off.
    """

    pairs: np.ndarray
    twins: np.ndarray
    oasst: np.ndarray | None = None
    kappa: float | None = None


class Reader:
    """Reads a file of pairs and their features; the first one that is read decides how features are scaled.

    Args:
        output: where features go.
        reader: ``mean``, ``layers`` or ``last``.
        encoder: folder of the encoder.
    """

    def __init__(self, output: Path, reader: str, encoder: str) -> None:
        self.output, self.reader = output, reader
        self.tokenizer = load_tokenizer(encoder)
        torch.manual_seed(0)
        if reader != "mean":
            self.layers = LayerFeatures(encoder, output / "layers.npz")
        else:
            self.model = RewardModel.from_backbone(encoder, heads=("quality",), normalise_heads=False, pooling="mean")
        self.scale: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, file: Path) -> tuple[TokenisedPreferences, np.ndarray]:
        """Pairs, and ``(R, D)`` scaled features of their responses."""
        cache = self.output / "cache"
        found = load_preferences(file, self.tokenizer, ENCODING, on_bad_row="skip", cache_dir=cache)
        if self.reader != "mean":
            rows = self.layers.of(found, file.name)
        else:
            kwargs: dict[str, Any] = {"pad_token_id": int(self.tokenizer.pad_token_id), "cache_dir": cache}
            rows = frozen_features(self.model, found, microbatch_tokens=4096, **kwargs).rows
        if self.scale is None:
            self.scale = {"layers": Components.scaling, "last": _last_mean, "mean": _divided}[self.reader](rows)
        return found, self.scale(rows)


def _last_mean(feature_RD: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of several layers' features the mean of all tokens after the last one, as the encoder gives it."""
    width = feature_RD.shape[1] // PARTS
    return lambda rows: rows[:, 4 * width : 5 * width]


def _divided(feature_RD: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Features of one encoder differ in scale by direction; divided by their deviations they learn at one rate."""
    deviation = deviations(feature_RD)
    return lambda rows: np.asarray(rows / deviation)


class Bench:
    """Data, writers and features.

    Args:
        data: folder of the files.
        output: where features and results go.
        pairs: how many of the 8,000 pairs of the file ``train``; those of ``val`` are all there.
        oasst: whether OpenAssistant's pairs are scored too.
        reader: ``mean`` of the last hidden states, divided by its deviations; ``last``, not divided; or ``layers``:
            components of several layers' means (:mod:`benchmarks.shared.layer_features`).
        encoder: folder of the encoder; by default MiniLM's.
        prompts: how many instructions are taken, drawn once; by default all.
    """

    def __init__(
        self,
        data: Path,
        output: Path,
        pairs: int = 8000,
        *,
        oasst: bool = False,
        reader: str = "mean",
        encoder: str | None = None,
        prompts: int | None = None,
    ) -> None:
        rows = rows_of(data / TRAIN)
        random.Random(0).shuffle(rows)
        rows = [*rows[:pairs], *rows_of(data / VAL)]
        if prompts is not None:
            chosen = set(prompts_of(rows)[:prompts])
            rows = [row for row in rows if row["prompt"] in chosen]
        rows.sort(key=lambda row: row["prompt"])
        pair_file = write_rows(output / "data" / "pairs.jsonl.gz", rows)
        twins = [
            {"prompt": row["prompt"], "chosen": row["longer"], "rejected": row["shorter"]}
            for _, row in read_rows(data / TWINS)
        ]
        twin_file = write_rows(output / "data" / "twins.jsonl.gz", twins)
        read = Reader(output, reader, encoder or encoder_folder())
        started = time.perf_counter()
        self.data, self.features = read(pair_file)
        self.twins, self.twin_features = read(twin_file)
        self.oasst = read(data / OASST) if oasst else None
        self.seconds = time.perf_counter() - started
        self.writer_R = self._writers(rows)
        numbers = np.unique(self.data.response_prompt)
        fold_P = np.random.default_rng(0).permutation(len(numbers)) % FOLDS
        self.fold_R = fold_P[np.searchsorted(numbers, self.data.response_prompt)]
        self.fold_B = self.fold_R[self.data.pair_chosen]
        self.strength = self._strengths()
        self.trained: dict[tuple[str, int], tuple[TrainedHeads, float]] = {}

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
        found = train_heads(self.features, self.data, name, settings=settings, pairs=pairs, seed=fold, **kwargs)
        return found, time.perf_counter() - started

    def rewards(self, trained: TrainedHeads) -> Rewards:
        """What trained heads give to everything that is measured."""

        def quality(rows: np.ndarray) -> np.ndarray:
            return trained.scores(rows).quality.numpy()

        oasst_R = None if self.oasst is None else quality(self.oasst[1])
        return Rewards(quality(self.features), quality(self.twin_features), oasst_R)

    def dialled(self, plain: Rewards, fold: int, anchor: str) -> Rewards:
        """A reward less its curve of length; curve and share are fitted on the other folds and half of the twins."""
        dial = length_dial(
            plain.pairs,
            self.data,
            anchor,
            writer_R=self.writer_R,
            twin_quality_R=plain.twins,
            twins=self.twins,
            fit_R=self.fold_R != fold,
            fit_B=~self.held_twins,
        )

        def less(quality_R: np.ndarray, data: TokenisedPreferences) -> np.ndarray:
            tokens_R = np.asarray(data.response_tokens, np.float64)
            return np.asarray(quality_R - dial.taken_off({RESPONSE_TOKENS: tokens_R}))

        oasst_R = None if plain.oasst is None or self.oasst is None else less(plain.oasst, self.oasst[0])
        return Rewards(less(plain.pairs, self.data), less(plain.twins, self.twins), oasst_R, dial.kappa)

    @property
    def held_twins(self) -> np.ndarray:
        """``(B,)`` twins on which no dial is fitted: those of every other prompt."""
        return np.asarray(self.twins.response_prompt)[self.twins.pair_chosen] % 2 == 0

    def measure(self, rewards: Rewards, fold: int) -> dict[str, Any]:
        """Figures of a reward on the held-out fold."""
        quality_R = rewards.pairs
        held = select_pairs(as_rows(self.data), self.fold_B == fold)
        numbers = np.asarray(held.input_ids_flat)
        figures = point_figures(as_scored(held, {"quality": quality_R[numbers]}, "model"))
        gap = rewards.twins[self.twins.pair_chosen] - rewards.twins[self.twins.pair_rejected]
        won, held_twins = half_ties(gap), self.held_twins
        there: dict[str, Any] = {}
        if self.oasst is not None and rewards.oasst is not None:
            figures_there = point_figures(as_scored(self.oasst[0], {"quality": rewards.oasst}, "model"))
            there = {f"oasst_{name}": figures_there[name] for name in (BITS, "pearson")}
        return {
            **{name: figures[name] for name in FIGURES},
            "twins": float(won.mean() if rewards.kappa is None else won[held_twins].mean()),
            "kappa": rewards.kappa,
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

    def writers(self, folds: list[dict[str, Any]], *, within: bool = False) -> float:
        """Spearman of the writers' mean held-out rewards, standardised in each fold, with their strength.

        Args:
            folds: what :meth:`measure` gave.
            within: rewards less the mean of their prompt, so that who answered which prompts does not count.
        """
        reward_R = np.zeros(self.data.num_responses)
        for fold, row in enumerate(folds):
            values = np.array(row["quality"])
            reward_R[self.fold_R == fold] = (values - values.mean()) / values.std()
        if within:
            prompt_R = np.asarray(self.data.response_prompt)
            reward_R = reward_R - (np.bincount(prompt_R, reward_R) / np.bincount(prompt_R))[prompt_R]
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
        plain, anchor = DIALLED.get(arm, (arm, None))
        for fold in range(FOLDS):
            if (plain, fold) not in bench.trained:
                bench.trained[plain, fold] = bench.train(plain, fold, **changes)
            trained, seconds = bench.trained[plain, fold]
            rewards = bench.rewards(trained)
            if anchor is not None:
                rewards = bench.dialled(rewards, fold, anchor)
            folds.append(bench.measure(rewards, fold) | {"seconds": seconds, "steps": len(trained.losses)})
        writers = {
            name: bench.writers(folds, within=name == "writers_within") for name in ("writers", "writers_within")
        }
        for row in folds:
            del row["quality"]
        results[arm] = {"folds": folds, **writers}
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
    cells += [f"{results[arm][name]:.3f}" for name in ("writers", "writers_within")]
    return f"| {arm} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/frozen"))
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *DIALLED], default=[*ARMS, *DIALLED])
    parser.add_argument("--pairs", type=int, default=8000)
    parser.add_argument("--oasst", action="store_true")
    parser.add_argument("--reader", choices=["mean", "last", "layers"], default="mean")
    parser.add_argument("--prompts", type=int, help="only so many instructions; all of their pairs with --pairs 8000")
    parser.add_argument("--encoder", help="folder of another encoder")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(
        arguments.data,
        arguments.output,
        arguments.pairs,
        oasst=arguments.oasst,
        reader=arguments.reader,
        encoder=arguments.encoder,
        prompts=arguments.prompts,
    )
    counts = f"{bench.data.num_pairs:,} pairs, {bench.data.num_responses:,} responses"
    print(f"{counts}; data and features {bench.seconds:.0f} s", flush=True)
    names = [*FIGURES, "twins", "given writer", "deviation", "between prompts", "seconds"]
    names += ["bits less vanilla's", "writers", "writers within prompts"]
    print("| arm | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1), flush=True)
    results = run(bench, arguments.arms, arguments.output, {"learning_rate": arguments.learning_rate})
    print("\n" + "\n".join(line(arm, results) for arm in arguments.arms))


if __name__ == "__main__":
    main()
