"""Rewards that are curves of length and nothing else: what do they know beyond a curve of length? (evidence, item 2)

    OMP_NUM_THREADS=1 python benchmarks/length_curves.py --pairs alpaca_eval_preferences_val.jsonl.gz

Length is counted in tokens of ``--tokenizer`` (a ``tokenizer.json``), or in words without one. Each reward is measured
against two baselines: the three columns that the audit had at first (length, its root and its logarithm), and the
hinges at the deciles of log length that it has now. No figure should be above 0; its 95 % interval is by prompt (1,000
resamples, seed 0).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from odin_rm.core.files import read_rows
from odin_rm.data.rows import parse_preference_row
from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.information import heldout_gain, length_curve

CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "min(length, 100)": lambda length: np.minimum(length, 100),
    "min(length, 300)": lambda length: np.minimum(length, 300),
    "min(length, 400)": lambda length: np.minimum(length, 400),
    "a soft step at 150": lambda length: 1 / (1 + np.exp(-3 * (np.log(length + 1) - 5))),
    "a hill at 250": lambda length: -((np.log(length + 1) - 5.5) ** 2),
    "root of length": np.sqrt,
}


def three_columns(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    bends: tuple[Callable[[np.ndarray], np.ndarray], ...] = (np.asarray, np.sqrt, np.log1p)
    return np.stack([bend(chosen) - bend(rejected) for bend in bends], axis=1)


def counter(tokenizer: str | None) -> Callable[[str], int]:
    if tokenizer is None:
        return lambda text: len(text.split())
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(tokenizer)
    loaded.no_truncation()
    loaded.no_padding()
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--tokenizer")
    options = parser.parse_args()
    path, count = options.pairs, counter(options.tokenizer)
    rows = [parse_preference_row(row) for _, row in read_rows(path)]
    lengths = np.array([[count(str(row.responses[k])) for k in pair] for row in rows for pair in row.pairs], float)
    prompt = np.unique([str(row.prompt) for row in rows for _ in row.pairs], return_inverse=True)[1]
    chosen, rejected = lengths.T
    print(f"{len(prompt):,} pairs of {prompt.max() + 1:,} prompts; bits per pair")
    print("| reward | length, root, logarithm | hinges at the deciles |\n|---|---|---|")
    for name, curve in CURVES.items():
        cells = []
        for baseline in (three_columns(chosen, rejected), length_curve(chosen, rejected)):
            gain = heldout_gain(curve(chosen) - curve(rejected), baseline, prompt, 0)
            figure = bootstrap_mean(gain, prompt)
            cells.append(f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
