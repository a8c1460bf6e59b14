"""Objectives on RMB's helpfulness pairs and frozen features, audited on ten other sets (docs/evidence.md, item 45).

    python -m benchmarks.rmb_frozen --data DIR --output DIR [--parts features arms folds sets window]   # make bench-rmb

``features`` computes MiniLM's features of all sets (an hour on one core; it goes on where it ended), the others need
seconds an arm:

* ``arms``: every arm of :data:`ARMS` trained on ``rmb_helpful_pairs_train`` with five seeds; accuracy, balanced
  accuracy, information beyond a curve of length and correlations on its validation pairs, accuracy and correlation on
  the other sets, and for rewrites of the same content (longer, more structured, with more jargon) how often the side
  with more of it wins.
* ``folds``: the same arms on the training pairs, five parts by prompt: fewer pairs for training, more for intervals.
* ``sets``: some arms trained on RMB, on AlpacaEval's pairs, and on both.
* ``window``: some arms with 256 and with 512 tokens a text.

Figures are means over seeds; intervals resample prompts, the same ones for every arm, and differences are taken within
a resample.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shared.length_dial import length_dial
from benchmarks.shared.public_pairs import LEVELS, STYLES, rows_of_set
from benchmarks.shared.sequence_features import SequenceFeatures, deviations, encoding, sequences_of
from odin_rm.core.files import atomic_write_json
from odin_rm.core.types import RESPONSE_TOKENS
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.evaluation import association as assoc
from odin_rm.evaluation import bootstrap as boot
from odin_rm.evaluation.information import heldout_gain, length_curve
from odin_rm.evaluation.pairs import PairView, accuracy_figures, half_ties
from odin_rm.evaluation.records import Figure
from odin_rm.evaluation.rivals import Parts, compare_arms, mean_part, standardised
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.head_training import train_heads
from odin_rm.reward.scoring import as_scored
from odin_rm.workflows.rivals.bag import bag_of, fit_bag

AUDITED = ("qa_feedback", "llmbar", "panda_lm", "hh_harmless", "auto_j", "judgebench", "rm_bench")
ORDER = ("rmb_val", "counterfactual", "rmb_train", "alpaca_val", "twins", *AUDITED)
STEPWISE: dict[str, Any] = {"batch_pairs": 64, "max_pairs_per_prompt": 8, "epochs": 4, "learning_rate": 3e-3}
BEST: dict[str, Any] = {"length_measure": "squared", "length_memory": 8}
ARMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vanilla": ("bradley_terry", {}, {}),
    "odin, scale 10": ("odin", {}, {"head_scale": 10.0}),
    "odin, scale 1": ("odin", {}, {"head_scale": 1.0}),
    "odin, squared, memory 8, scale 1": ("odin", BEST, {"head_scale": 1.0}),
    "odin, squared, memory 8, scale 0.3": ("odin", BEST, {"head_scale": 0.3}),
    "matched": ("matched", {}, {}),
    "matched, no curve": ("matched", {"match_curve": "none"}, {}),
    "length_balanced": ("length_balanced", {}, {}),
    "inverse propensity": ("length_balanced", {"balance_bins": 8}, {}),
    "poe": ("poe", {}, {}),
    "crm": ("crm", {}, {}),
    "fimi": ("fimi", {}, {}),
    "bsr": ("bsr", {}, {}),
    "dir": ("dir", {"information_of": "reward"}, {}),
    "normbt": ("normbt", {}, {}),
    "inform": ("inform", {}, {}),
}
"""By name, an objective, its options, and what of the training is otherwise than :data:`STEPWISE`."""
ANCHORS = ("twins", "writers", "zero")
BAG = "bag of words"
FOLDS = 5
FEW = ("vanilla", "odin, squared, memory 8, scale 1", "matched", "inverse propensity")
BITS = "bits"


@dataclass(frozen=True)
class Set:
    """A preference set with the features of its responses.

    Attributes:
        name: of :data:`benchmarks.shared.public_pairs.SETS`.
        rows: its pairs as they are published.
        data: its pairs.
        feature_RD: of its responses, as the encoder gives them.
    """

    name: str
    rows: list[dict[str, Any]]
    data: TokenisedPreferences
    feature_RD: np.ndarray

    @property
    def kind_B(self) -> np.ndarray:
        """``(B,)`` what each pair is grouped by."""
        return np.array([self.rows[int(row) - 1].get("kind", "") for row in self.data.pair_row])

    @property
    def writer_R(self) -> np.ndarray:
        """``(R,)`` number of the model that wrote each response, -1 where that is not known."""
        names = sorted({row[side] for row in self.rows for side in ("chosen_model", "rejected_model") if side in row})
        found = np.full(self.data.num_responses, -1)
        for pair, number in enumerate(self.data.pair_row):
            row = self.rows[int(number) - 1]
            if "chosen_model" in row:
                found[self.data.pair_chosen[pair]] = names.index(row["chosen_model"])
                found[self.data.pair_rejected[pair]] = names.index(row["rejected_model"])
        return found


class Bench:
    """Sets and features.

    Args:
        data: folder of the files.
        output: where features and results go.
        caps: by set, how many of its prompts are taken; a larger number takes the same ones and more.
    """

    def __init__(self, data: Path, output: Path, caps: Mapping[str, int] | None = None) -> None:
        self.folder, self.output, self.caps = data, output, dict(caps or {})
        self.features = SequenceFeatures(output / "features.npz")
        self._read: dict[tuple[str, int], tuple[list[dict[str, Any]], TokenisedPreferences]] = {}

    def rows(self, name: str, most: int | None = None) -> list[dict[str, Any]]:
        """The pairs of a set's first prompts in a random order that does not depend on their number."""
        rows = rows_of_set(self.folder, name)
        prompts = sorted({str(row["prompt"]) for row in rows})
        order = np.random.default_rng(0).permutation(len(prompts))
        kept = {prompts[number] for number in order[: most or self.caps.get(name)]}
        return [row for row in rows if str(row["prompt"]) in kept]

    def pairs(self, name: str, window: int = 256) -> tuple[list[dict[str, Any]], TokenisedPreferences]:
        """Rows and pairs; sets with a plus between their names are joined."""
        if (name, window) not in self._read:
            rows = [row for one in name.split("+") for row in self.rows(one)]
            found = load_preferences(rows, self.features.tokenizer, encoding(window), on_bad_row="skip")
            self._read[name, window] = rows, found
        return self._read[name, window]

    def read(self, name: str, window: int = 256) -> Set:
        """A set with its features."""
        rows, data = self.pairs(name, window)
        return Set(name, rows, data, self.features.of(sequences_of(data), f"{name}, {window}"))

    def part(self, name: str, windows: Sequence[int], prompts: int | None = None) -> dict[int, Set]:
        """The same pairs at several windows: of the first prompts, and those that no window makes alike."""
        rows = self.rows(name, prompts)

        def load(wanted: list[dict[str, Any]], window: int) -> TokenisedPreferences:
            return load_preferences(wanted, self.features.tokenizer, encoding(window), on_bad_row="skip")

        common = set.intersection(*(set(load(rows, window).pair_row.tolist()) for window in windows))
        rows = [row for number, row in enumerate(rows, start=1) if number in common]
        found = {window: load(rows, window) for window in windows}
        return {
            window: Set(name, rows, data, self.features.of(sequences_of(data), f"{name}, {window}"))
            for window, data in found.items()
        }


Scorer = Callable[[Set], np.ndarray]


def scorer(train: Set, arm: str, seed: int, **changes: Any) -> Scorer:
    """The trained reward of an arm, as a function of a set; ``pairs`` are those to train on, by default all."""
    if arm == BAG:
        rows = bag_of(sequences_of(train.data))
        pairs = changes.get("pairs", slice(None))
        difference = rows[np.asarray(train.data.pair_chosen)[pairs]] - rows[np.asarray(train.data.pair_rejected)[pairs]]
        weights = fit_bag(difference)
        return lambda one: np.asarray(bag_of(sequences_of(one.data)) @ weights)
    name, options, training = ARMS[arm]
    deviation = deviations(train.feature_RD)
    kwargs: dict[str, Any] = {**STEPWISE, **training, **changes}
    settings = OBJECTIVES[name].settings(**options)
    trained = train_heads(train.feature_RD / deviation, train.data, name, settings=settings, seed=seed, **kwargs)
    weight_D = trained.heads.effective("quality").detach().double().numpy()
    return lambda one: (one.feature_RD / deviation).astype(np.float64) @ weight_D


def dialled(plain: Scorer, train: Set, twins: Set, anchor: str) -> tuple[Scorer, float]:
    """The reward less its curve of response tokens, fitted on the training responses without their labels."""
    dial = length_dial(
        plain(train), train.data, anchor, writer_R=train.writer_R, twin_quality_R=plain(twins), twins=twins.data
    )
    return (
        lambda one: plain(one) - dial.taken_off({RESPONSE_TOKENS: np.asarray(one.data.response_tokens, np.float64)}),
        dial.kappa,
    )


def parts_of(one: Set, quality_R: np.ndarray, seed: int, *, bits: bool) -> Parts:
    """Accuracies, correlations with length, shares won by kind; bits beyond a curve where asked for."""
    scored = as_scored(one.data, {"quality": quality_R}, "reward")
    prompt = np.asarray(scored.prompt)
    prompts, length = int(prompt.max()) + 1, np.asarray(scored.response_tokens, np.float64)
    view = PairView.of(scored, prompt)
    won, ones = half_ties(view.quality), np.ones(len(view.quality))
    parts: Parts = {}
    if one.name not in ("counterfactual", "twins"):
        values, statistics = accuracy_figures(view)
        parts = {name: (values[name], statistics[name]) for name in ("accuracy", "accuracy_length_balanced")}
        parts["pearson"] = (
            assoc.pearson(quality_R, length),
            boot.pearson_statistic(quality_R, length, prompt, prompts),
        )
        parts["pearson_within"] = (
            assoc.pearson_within_prompt(quality_R, length, prompt),
            boot.within_statistic(quality_R, length, prompt, prompts),
        )
    else:
        parts["won"] = Figure(float(won.mean())), boot.ratio_statistic(won, ones, view.prompt, prompts)
    for kind in (*STYLES, *LEVELS):
        here = (one.kind_B == kind).astype(float)
        if here.any():
            figure = Figure(float((won * here).sum() / here.sum()))
            parts[kind] = figure, boot.ratio_statistic(won * here, here, view.prompt, prompts)
    if bits:
        curve_BK = length_curve(length[scored.chosen], length[scored.rejected])
        gain = heldout_gain(view.quality, curve_BK, view.prompt, seed)
        parts[BITS] = Figure(float(gain.mean())), boot.ratio_statistic(gain, ones, view.prompt, prompts)
    return parts


def compared(rewards: Mapping[str, list[Scorer]], sets: list[Set], bits: tuple[str, ...], samples: int) -> Any:
    """Figures and differences to the first arm by set and arm."""
    found: dict[str, Any] = {}
    for one in sets:
        parts = {
            arm: [parts_of(one, reward(one), 0, bits=one.name in bits) for reward in seeds]
            for arm, seeds in rewards.items()
        }
        means = {arm: {name: mean_part([p[name] for p in own]) for name in own[0]} for arm, own in parts.items()}
        result = compare_arms(means, boot.PromptBootstrap(np.asarray(one.data.response_prompt), samples, 0))
        found[one.name] = {
            kind: {arm: {name: figure.to_json() for name, figure in own.items()} for arm, own in table.items()}
            for kind, table in (("figures", result.figures), ("differences", result.differences))
        }
        print_table(one.name, found[one.name], one.data)
    return found


def cell(figure: Mapping[str, Any]) -> str:
    """A value with its interval."""
    if figure.get("value") is None:
        return ""
    low, high = figure.get("low"), figure.get("high")
    return f"{figure['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def print_table(name: str, content: Mapping[str, Any], data: TokenisedPreferences) -> None:
    """Two tables of a set: figures, and differences to the first arm."""
    print(f"\n{name}: {data.num_pairs:,} pairs, {data.num_prompts:,} prompts, {data.num_responses:,} responses")
    for kind in ("figures", "differences"):
        table = {arm: own for arm, own in content[kind].items() if own}
        names = list(next(iter(table.values()), {}))
        print(f"\n| {kind} | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
        for arm, own in table.items():
            print(f"| {arm} | " + " | ".join(cell(own.get(figure, {})) for figure in names) + " |", flush=True)


def all_arms(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Every arm on RMB, audited everywhere."""
    train, twins = bench.read("rmb_train"), bench.read("twins")
    rewards: dict[str, list[Scorer]] = {}
    shares: dict[str, list[float]] = {}
    for arm in [*options.arms, BAG]:
        rewards[arm] = [scorer(train, arm, seed) for seed in (options.seeds if arm != BAG else [0])]
        print(f"trained {arm}", flush=True)
        if arm == "vanilla":
            for anchor in ANCHORS:
                pairs = [dialled(plain, train, twins, anchor) for plain in rewards["vanilla"]]
                rewards[f"vanilla + dial by {anchor}"] = [reward for reward, _ in pairs]
                shares[anchor] = [kappa for _, kappa in pairs]
    print("kappa", shares)
    sets = [bench.read(name) for name in ORDER if name != "rmb_train" and name not in options.without]
    deviation = {arm: float(np.mean([one(sets[0]).std() for one in own])) for arm, own in rewards.items()}
    found = compared(rewards, sets, ("rmb_val", "alpaca_val", "qa_feedback", "hh_harmless"), options.resamples)
    return {"sets": found, "kappa": shares, "deviation": deviation}


def cross_fitted(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Every arm on RMB's training pairs, five parts by prompt, each scored by heads trained on the others."""
    train = bench.read("rmb_train")
    fold_P = np.random.default_rng(0).permutation(train.data.num_prompts) % FOLDS
    fold_R = fold_P[np.asarray(train.data.response_prompt)]
    fold_B = fold_R[np.asarray(train.data.pair_chosen)]
    rewards: dict[str, list[Scorer]] = {}
    for arm in [*options.arms, BAG]:
        quality_R = np.empty(train.data.num_responses)
        for fold in range(FOLDS):
            reward = scorer(train, arm, fold, pairs=np.flatnonzero(fold_B != fold))
            quality_R[fold_R == fold] = reward(train)[fold_R == fold]
        held = standardised(quality_R, fold_R)[0]
        rewards[arm] = [lambda one, held=held: held]  # type: ignore[misc]
        print(f"cross-fitted {arm}", flush=True)
    return {"sets": compared(rewards, [train], ("rmb_train",), options.resamples)}


def two_sets(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The same arms trained on RMB, on AlpacaEval and on both."""
    sets = [bench.read(name) for name in ("rmb_val", "alpaca_val", "counterfactual", "twins")]
    rewards: dict[str, list[Scorer]] = {}
    for name in ("rmb_train", "alpaca_train", "rmb_train+alpaca_train"):
        train = bench.read(name)
        for arm in [*FEW, BAG]:
            rewards[f"{arm}, {name}"] = [scorer(train, arm, s) for s in (options.seeds if arm != BAG else [0])]
            print(f"trained {arm} on {name}, {train.data.num_pairs:,} pairs", flush=True)
    return {"sets": compared(rewards, sets, ("rmb_val", "alpaca_val"), options.resamples)}


def windows(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The same arms with 256 and 512 tokens a text, trained on the first prompts of RMB."""
    widths = (256, 512)
    train = bench.part("rmb_train", widths, options.prompts)
    audited = {name: bench.part(name, widths) for name in ("rmb_val", "counterfactual")}
    rewards: dict[str, list[Scorer]] = {}
    for arm in [*FEW, BAG]:
        for width in widths:
            plain = [scorer(train[width], arm, seed) for seed in (options.seeds if arm != BAG else [0])]
            rewards[f"{arm}, {width}"] = [at_width(reward, audited, width) for reward in plain]
    print(f"{train[256].data.num_pairs:,} training pairs", flush=True)
    sets = [found[256] for found in audited.values()]
    firsts = {arm: {f"{arm}, {width}": rewards[f"{arm}, {width}"] for width in widths} for arm in [*FEW, BAG]}
    return {arm: compared(own, sets, ("rmb_val",), options.resamples) for arm, own in firsts.items()}


def at_width(reward: Scorer, audited: Mapping[str, Mapping[int, Set]], width: int) -> Scorer:
    """The reward of the same responses as another window has them."""
    return lambda one: reward(audited[one.name][width])


def caps_of(texts: Sequence[str]) -> dict[str, int]:
    """How many prompts of a set are taken, from ``SET=PROMPTS``."""
    return {name: int(count) for name, _, count in (text.partition("=") for text in texts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/rmb"))
    parser.add_argument("--parts", nargs="+", default=["features", "arms", "folds", "sets", "window"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--prompts", type=int, default=400, help="of RMB that are read with 512 tokens")
    parser.add_argument("--sets", nargs="+", choices=list(ORDER), default=list(ORDER), help="whose features to compute")
    parser.add_argument("--cap", nargs="+", default=[], help="SET=PROMPTS: only so many prompts of a set")
    parser.add_argument("--without", nargs="+", default=[], help="sets that are not audited")
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.data, options.output, caps_of(options.cap))
    parts: dict[str, Callable[[Bench, argparse.Namespace], dict[str, Any]]] = {
        "arms": all_arms, "folds": cross_fitted, "sets": two_sets, "window": windows,
    }  # fmt: skip
    for part in options.parts:
        if part == "features":
            for name in options.sets:
                bench.read(name)
        else:
            atomic_write_json(options.output / f"{part}.json", parts[part](bench, options))


if __name__ == "__main__":
    main()
