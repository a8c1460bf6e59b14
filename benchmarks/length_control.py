"""Win rates and length control on real annotation files, and how much of them extreme length can buy.

    python benchmarks/length_control.py --data FOLDER [--published FILE.json]

For the annotation files of a folder: raw and controlled win rates; rank correlation and distance to published values
(``{"system": value}``), also under other penalties and other length terms than the ones the package uses; the joint fit
without each system in turn. Then simulated judges of several tastes: an honest system, and its equally good copies that
are cut to a few words, padded, or both by turns.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy.special import expit
from scipy.stats import spearmanr

from odin_rm.evaluation import length_control
from odin_rm.evaluation.length_control import (
    deviation_length_term,
    fit_joint,
    length_only,
    relative_length_term,
)
from odin_rm.results.annotations import on_the_same_prompts, read_annotations

TERMS = {
    "relative to the baseline's answer (ours)": relative_length_term,
    "half as steep": lambda c, b: np.tanh((c - b) / (2 * b)),
    "twice as steep": lambda c, b: np.tanh(2 * (c - b) / b),
    "by the system's own deviation": lambda c, b: np.stack(
        [-deviation_length_term(row, b, np.ones((1, len(b))))[0] for row in c]
    ),
    "by the deviation of the baseline's lengths": lambda c, b: np.tanh((c - b) / b.std(ddof=1)),
    "logarithm of the ratio": lambda c, b: np.log(c / b),
}
PENALTIES = (0.5, 1.0, 2.0)
JUDGES = {
    "the joint model": lambda c, b: 1.5 * relative_length_term(c, b),
    "logarithm, to a limit": lambda c, b: 1.5 * np.clip(np.log(c / b), -1.2, 1.2),
    "characters, saturating": lambda c, b: 1.5 * np.tanh((c - b) / 1000),
    "square root, to a limit": lambda c, b: 2.0 * np.clip(np.sqrt(c / b) - 1, -1, 1),
}
COPIES = {
    "cut to 2 %": (0.02, 0.02),
    "half as long": (0.5, 0.5),
    "padded to 5 times": (5.0, 5.0),
    "by turns": (0.02, 5.0),
}


def controlled(label: np.ndarray, term: np.ndarray, deviation: float = 1.0) -> np.ndarray:
    ones = np.ones((1, label.shape[1]))
    kept = length_control.DIFFICULTY_DEVIATION
    length_control.DIFFICULTY_DEVIATION = deviation
    try:
        return fit_joint(label, term, ones).controlled(ones)[0]
    finally:
        length_control.DIFFICULTY_DEVIATION = kept


def real(folder: str, published: dict[str, float]) -> None:
    systems = on_the_same_prompts(read_annotations([folder]).systems, "shared")
    names = [system.candidate for system in systems]
    label = np.stack([system.preference - 1 for system in systems])
    length = np.stack([[float(len(text)) for text in system.candidate_outputs] for system in systems])
    baseline = np.array([float(len(text)) for text in systems[0].baseline_outputs])
    ones = np.ones((1, label.shape[1]))
    ours = controlled(label, relative_length_term(length, baseline))
    own = [length_only(*row, baseline)(ones)[0] for row in zip(label, length, strict=True)]
    print(f"{'system':<30}{'win rate':>10}{'length only':>13}{'joint':>8}{'published':>11}{'characters':>12}")
    for k, name in enumerate(names):
        told = f"{published[name]:11.2f}" if name in published else f"{'-':>11}"
        figures = f"{100 * label[k].mean():10.4f}{own[k]:13.2f}{ours[k]:8.2f}"
        print(f"{name:<30}{figures}{told}{length[k].mean():12.0f}")
    known = [k for k, name in enumerate(names) if name in published]
    if len(known) > 2:
        target = np.array([published[names[k]] for k in known])
        agreement("length only", np.array(own)[known], target)
        agreement("raw win rate", 100 * label.mean(axis=1)[known], target)
        for name, make in TERMS.items():
            for deviation in PENALTIES:
                found = controlled(label, make(length, baseline), deviation)[known]
                agreement(f"joint, {name}, difficulty deviation {deviation}", found, target)
    print("\nthe joint fit without one system")
    for k, name in enumerate(names):
        rest = np.delete(np.arange(len(names)), k)
        moved = controlled(label[rest], relative_length_term(length[rest], baseline)) - ours[rest]
        print(f"  {name:<30} moves the others by {moved.min():+.1f} to {moved.max():+.1f}")


def agreement(name: str, found: np.ndarray, target: np.ndarray) -> None:
    rank, off = spearmanr(found, target).statistic, np.abs(found - target).mean()
    print(f"  {name:<80} Spearman {rank:5.2f}  mean distance {off:5.1f}")


def gaming(seed: int, prompts: int = 2000) -> None:
    print("\nsimulated: what a copy of another length gains over the honest system of equal quality, points")
    print(f"{'judge':<26}{'copy':<20}{'raw':>8}{'length only':>13}{'joint':>8}")
    for judge, pays in JUDGES.items():
        for copy, factors in COPIES.items():
            rng = np.random.default_rng(seed)
            baseline = rng.lognormal(7, 0.6, size=prompts)
            spread = rng.lognormal(0, 0.4, size=(6, prompts))
            turns = np.where(np.arange(prompts) % 2, *factors)
            factor = np.vstack([np.outer([0.4, 0.8, 1.2, 1.6, 1.0], np.ones(prompts)), turns])
            length = baseline * factor * spread
            ability = np.array([-1.5, -0.7, 0.2, 1.0, -0.2, -0.2])[:, None]
            label = expit(ability + pays(length, baseline) + 0.8 * rng.normal(size=prompts))
            own = [length_only(label[k], length[k], baseline)(np.ones((1, prompts)))[0] for k in (4, 5)]
            joint = controlled(label, relative_length_term(length, baseline))
            raw = 100 * (label[5] - label[4]).mean()
            print(f"{judge:<26}{copy:<20}{raw:+8.1f}{own[1] - own[0]:+13.1f}{joint[5] - joint[4]:+8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of annotation files")
    parser.add_argument("--published", help="JSON file of published length-controlled win rates by system")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    published = {}
    if args.published:
        with open(args.published, encoding="utf-8") as file:
            published = json.load(file)
    real(args.data, published)
    gaming(args.seed)


if __name__ == "__main__":
    main()
