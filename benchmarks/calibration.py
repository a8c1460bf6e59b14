"""The dial on real rewards, beside pooled LOESS, zero and a tuned penalty (docs/evidence.md, item 31).

    OMP_NUM_THREADS=1 python -m benchmarks.calibration --data DIR [--output DIR] [--seeds 0 1 2] [--end_to_end]

*MiniLM*: vanilla Bradley-Terry rewards, a linear head on frozen features (``benchmarks/shared/dial_features.py``). Each
seed draws 400 of the 500 training instructions. The rewards of the 100 validation instructions are calibrated by
``odin-rm calibrate --scores`` with each anchor: verbosity twins (another, weaker model's), edits of validation
responses, the writers that the rows name, and zero. Every figure is of prompts that the fit did not see. Features are
computed once.

*JudgeBench*: the published scores of real reward models. No twin of theirs is scored, but its pairs are by one writer
(GPT-4o), of different length, and the longer one is right in 48 %: so each side should win half. They are both the
domain and the anchor.

With ``--end_to_end`` the first seed's model is saved, and ``odin-rm calibrate --model`` must find what the scores gave.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.shared.dial_features import Features, fit_head
from odin_rm.core.files import RowWriter, atomic_write_json, read_rows
from odin_rm.evaluation.edits import EDITS
from odin_rm.workflows.calibrate.config import CalibrateConfig
from odin_rm.workflows.calibrate.run import run_calibrate

TRAIN, VAL = "alpaca_eval_preferences_train.jsonl.gz", "alpaca_eval_preferences_val.jsonl.gz"
TWINS = "verbosity_twins_alpaca7b.jsonl.gz"
BENCH_PAIRS, BENCH_SCORES = "public/judgebench_pairs.jsonl.gz", "public/judgebench_rm_scores.jsonl.gz"
RIDGE = 0.03
"""Of 0.001 to 1 the best accuracy on training instructions that were held out."""
INSTRUCTIONS = 400
EDITED = 100
ANCHORS = ("twins", "interventions", "writers", "zero")
METHODS = {"none": "as it is", "dial": "dial", "zero": "zero", "loess": "pooled LOESS", "penalty": "tuned penalty"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for _, row in read_rows(path)]


def written(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


class RealRewards:
    """Features of everything, and the files of scores that a head gives."""

    def __init__(self, data: Path, output: Path, training_rows: int) -> None:
        self.output = output
        self.features = Features(output / "features.npz")
        self.twins = rows_of(data / TWINS)
        self.val = rows_of(data / VAL)
        train = rows_of(data / TRAIN)
        random.Random(0).shuffle(train)
        self.train = train[:training_rows]
        self.edits = list(self._edits())

    def _edits(self) -> Iterable[dict[str, Any]]:
        """Edits of length of responses that are read whole, those of one prompt side by side."""
        distinct = list({(row["prompt"], row[side]) for row in self.val for side in ("chosen", "rejected")})
        distinct.sort()
        random.Random(1).shuffle(distinct)
        _, _, cut = self.features.of([p for p, _ in distinct], [r for _, r in distinct])
        whole = [text for text, lost in zip(distinct, cut, strict=True) if not lost]
        for prompt, response in whole[:EDITED]:
            for edit in EDITS:
                changed = edit.apply(response) if edit.group == "length" and not edit.control else None
                if changed is not None:
                    yield {"prompt": prompt, "shorter": response, "longer": changed, "edit": edit.name}

    def head(self, seed: int) -> np.ndarray:
        """A vanilla reward's weight."""
        prompts = sorted({row["prompt"] for row in self.train})
        drawn = set(random.Random(seed).sample(prompts, INSTRUCTIONS))
        rows = [row for row in self.train if row["prompt"] in drawn]
        prompts = [row["prompt"] for row in rows]
        chosen, rejected = (self.features.of(prompts, [r[side] for r in rows])[0] for side in ("chosen", "rejected"))
        return fit_head(chosen, rejected, RIDGE)

    def scores_file(self, weight_D: np.ndarray, folder: Path) -> str:
        """The validation pairs with scores, as ``--scores`` reads them."""
        prompts = [row["prompt"] for row in self.val]
        rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
        for side in ("chosen", "rejected"):
            feature_BD, tokens, _ = self.features.of(prompts, [row[side] for row in self.val])
            for row, source, score, length in zip(rows, self.val, feature_BD @ weight_D, tokens, strict=True):
                row |= {side: source[side], f"{side}_score": float(score), f"{side}_writer": source[f"{side}_model"]}
                row |= {f"{side}_attributes": {"response_tokens": float(length)}}
        return written(folder / "scores.jsonl", rows)

    def pairs_file(self, weight_D: np.ndarray, rows: list[dict[str, Any]], path: Path) -> str:
        """Pairs with scores, each a prompt of its own; those that are not read whole are left out."""
        prompts = [row["prompt"] for row in rows]
        sides = [self.features.of(prompts, [row[side] for row in rows]) for side in ("shorter", "longer")]
        whole = ~(sides[0][2] | sides[1][2])
        found = []
        for k in np.flatnonzero(whole).tolist():
            for feature_BD, tokens, _ in sides:
                attributes = {"response_tokens": float(tokens[k])}
                score = float(feature_BD[k] @ weight_D)
                found.append({"prompt_id": f"{rows[k].get('edit', '')} {k}", "score": score, "attributes": attributes})
        return written(path, found)


def calibrated(scores: str, output: Path, anchor: str, **settings: Any) -> dict[str, dict[str, Any]]:
    return run_calibrate(
        CalibrateConfig(scores=scores, output=str(output / anchor), anchor=anchor, overwrite_output=True, **settings)
    )


def shown(figure: dict[str, Any] | None, digits: int = 3) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.{digits}f}"
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def print_table(title: str, content: dict[str, Any]) -> None:
    kappa, seconds = content["kappa"], content["seconds_after_scoring"]
    print(f"\n{title}: kappa {shown(kappa, 2)}, {seconds:.1f} s after scoring")
    print("| | longer of a pair wins | within | pooled | given writer | bits | change of bits | accuracy | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, words in METHODS.items():
        one = content["held_out"]["methods"][name]
        writer = "-" if one["given_writer"] is None else f"{one['given_writer']:+.2f}"
        cells = [
            shown(one.get("more_wins", {}).get("all")), shown(one["within"], 2), shown(one["pooled"], 2), writer,
            shown(one.get("bits")), shown(one.get("bits_change"), 4), shown(one.get("accuracy")),
            "flips the sign" if one["flips_sign"] else "",
        ]  # fmt: skip
        print(f"| {words} | {' | '.join(cells)} |", flush=True)


def minilm(options: argparse.Namespace) -> dict[str, Any]:
    data, output, seeds = options.data, options.output, options.seeds
    rewards, found = RealRewards(data, output, options.training_rows), {}
    for seed in seeds:
        folder = output / f"minilm_{seed}"
        weight_D = rewards.head(seed)
        scores = rewards.scores_file(weight_D, folder)
        pairs = {
            "twins": rewards.pairs_file(weight_D, rewards.twins, folder / "twins.jsonl"),
            "interventions": rewards.pairs_file(weight_D, rewards.edits, folder / "edits.jsonl"),
        }
        for anchor in ANCHORS:
            twins = {"twins": pairs[anchor]} if anchor in pairs else {}
            (content,) = calibrated(scores, folder, anchor, **twins).values()
            print_table(f"MiniLM, seed {seed}, {anchor}", content)
            found[f"seed {seed}, {anchor}"] = content
        if options.end_to_end and seed == seeds[0]:
            check_end_to_end(rewards, weight_D, data, folder, found[f"seed {seed}, twins"])
    return found


def check_end_to_end(
    rewards: RealRewards, weight_D: np.ndarray, data: Path, folder: Path, expected: dict[str, Any]
) -> None:
    """The saved model through ``odin-rm calibrate --model``: the same share, and how long it takes."""
    features = rewards.features
    model = features.model
    with torch.no_grad():
        model.heads.vectors["quality"].copy_(torch.tensor(weight_D, dtype=torch.float32))
    model.info = model.info.with_(encoding=vars(features.settings), objective="bradley_terry")
    model.save_pretrained(folder / "model", tokenizer=features.tokenizer)
    began = time.perf_counter()
    config = CalibrateConfig(
        model=str(folder / "model"), dataset=str(data / VAL), twins=str(data / TWINS), anchor="twins",
        overwrite_output=True,
    )  # fmt: skip
    (content,) = run_calibrate(config).values()
    seconds = time.perf_counter() - began
    print(f"\nend to end: kappa {shown(content['kappa'], 3)} (from scores {shown(expected['kappa'], 3)}), "
          f"{content['seconds_after_scoring']:.1f} of {seconds:.0f} s after scoring")  # fmt: skip


def judgebench(data: Path, output: Path) -> dict[str, Any]:
    pairs = {row["pair_id"]: row for row in rows_of(data / BENCH_PAIRS)}
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows_of(data / BENCH_SCORES):
        scores.setdefault((row["model"], row["pair_id"]), {})[row["response"]] = row["score"]
    domain, twins = [], []
    for (model, key), both in scores.items():
        row = pairs[key]
        chosen, rejected = ("A", "B") if row["label"] == "A>B" else ("B", "A")
        texts = {side: row[f"response_{side}"] for side in "AB"}
        head = {"model": model, "prompt_id": key}
        domain.append(head | {"chosen": texts[chosen], "rejected": texts[rejected], "prompt": row["question"],
                              "chosen_score": both[chosen], "rejected_score": both[rejected]})  # fmt: skip
        twins += [head | {"response": texts[side], "score": both[side]} for side in "AB"]
    folder = output / "judgebench"
    files = written(folder / "scores.jsonl", domain), written(folder / "twins.jsonl", twins)
    found = {}
    for anchor in ("twins", "zero"):
        extra = {"twins": files[1]} if anchor == "twins" else {}
        for content in calibrated(files[0], folder, anchor, attributes=["words"], **extra).values():
            name = f"{content['model']['name']}, {anchor}"
            print_table(f"JudgeBench, {name}", content)
            found[name] = content
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("calibration_benchmark"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training_rows", type=int, default=2000)
    parser.add_argument("--parts", nargs="+", default=["judgebench", "minilm"])
    parser.add_argument("--end_to_end", action="store_true")
    options = parser.parse_args()
    found = {}
    if "judgebench" in options.parts:
        found["judgebench"] = judgebench(options.data, options.output)
    if "minilm" in options.parts:
        found["minilm"] = minilm(options)
    atomic_write_json(options.output / "results.json", found)


if __name__ == "__main__":
    main()
