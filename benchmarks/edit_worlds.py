"""Edits in training in a world where lists and flattery are paid for (docs/evidence.md, item 42).

    python -m benchmarks.edit_worlds [--seeds 0 1 2] [--world lists_and_flattery]             # make bench-edits

Heads on bags of words and of pairs of words, as in ``benchmarks.worlds``: 4,000 pairs, 64 a step, 5 epochs. A response
of each pair has copies with a filler, with bullets and with a flattering opener, which count nothing in the true
quality. The arms are ``matched`` on length, the same with ``--edits`` of all three, and ``matched`` on all three
attributes. Printed are agreement with the truth on held-out pairs, Pearson with length, and on held-out responses the
mean of ``tanh(change)`` under each edit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worlds import agreement
from odin_rm.core.files import atomic_write_json
from odin_rm.data.attributes import MEASURED
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.head_training import train_heads
from odin_rm.testbed.annotator import make_preferences
from odin_rm.testbed.interventions import add_filler, toggle_list, toggle_opener
from odin_rm.testbed.linear_worlds import Bag, as_data
from odin_rm.testbed.world import count_tokens, is_flattering, is_list, stream
from odin_rm.testbed.worlds import WORLDS

KINDS = ("filler", "list", "opener")
ALL = "response_tokens,list_items,flattery"
ARMS: dict[str, dict[str, Any]] = {
    "matched": {},
    "matched + edits, tolerance 0.05": {"edits": ",".join(KINDS), "edit_tolerance": 0.05},
    "matched + edits, tolerance 0.01": {"edits": ",".join(KINDS), "edit_tolerance": 0.01},
    "matched, three attributes": {"match_attributes": ALL},
    "matched, three attributes + edits": {"match_attributes": ALL, "edits": ",".join(KINDS)},
}


def edited(text: str, kind: str, rng: np.random.Generator) -> str | None:
    """The text with one thing *more* than it has; ``None`` where it has that already."""
    if kind == "filler":
        return add_filler(text, rng)
    if kind == "list":
        return None if is_list(text) else toggle_list(text, rng)
    return None if is_flattering(text) else toggle_opener(text, rng)


def with_edits(data: TokenisedPreferences, texts: list[str], seed: int) -> tuple[TokenisedPreferences, list[str]]:
    """The data with copies of each pair's first response behind its pair."""
    rng = stream(seed, "edits")
    told: list[str] = []
    prompts: list[int] = []
    variants = {kind: [] for kind in KINDS}  # type: dict[str, list[int]]
    first = []
    for pair in range(len(texts) // 2):
        first.append(len(told))
        copies = {kind: edited(texts[2 * pair + pair % 2], kind, rng) for kind in KINDS}
        mine = [*texts[2 * pair : 2 * pair + 2], *(copy for copy in copies.values() if copy is not None)]
        place = len(told) + 2
        for kind, copy in copies.items():
            column = [-1] * len(mine)
            if copy is not None:
                column[pair % 2], place = place, place + 1
            variants[kind] += column
        told += mine
        prompts += [pair] * len(mine)
    numbers, first_B = np.arange(len(told), dtype=np.int32), np.array(first, dtype=np.int32)
    listed = np.array([text.count("\n- ") + is_list(text) for text in told], dtype=np.float64)
    return (
        TokenisedPreferences(
            input_ids_flat=numbers,
            offsets=np.arange(len(told) + 1, dtype=np.int64),
            response_tokens=np.array([count_tokens(text) for text in told], dtype=np.int32),
            response_prompt=np.array(prompts, dtype=np.int32),
            pair_chosen=first_B,
            pair_rejected=first_B + 1,
            pair_margin=np.asarray(data.pair_margin),
            pair_row=np.asarray(data.pair_row),
            extra={
                f"{MEASURED}list_items": listed,
                f"{MEASURED}flattery": np.array([is_flattering(text) for text in told], dtype=np.float64),
            },
            variants={kind: np.array(column, dtype=np.int32) for kind, column in variants.items()},
        ),
        told,
    )


def run(world: str, seed: int, pairs: int, held_out: int, arms: list[str]) -> list[dict[str, Any]]:
    """Every arm of one seed."""
    named = WORLDS[world]
    plain, texts, _ = as_data(make_preferences(named.world, named.annotator, pairs, seed))
    _, held_texts, truth = as_data(make_preferences(named.world, named.annotator, held_out, seed, split="held_out"))
    bag = Bag(texts)
    data, told = with_edits(plain, texts, seed)
    feature_RD, held_RD = bag(told), bag(held_texts)
    rng = stream(seed, "edits", "held_out")
    copies = {
        kind: [(r, copy) for r, text in enumerate(held_texts) if (copy := edited(text, kind, rng)) is not None]
        for kind in KINDS
    }
    copies_RD = {kind: bag([copy for _, copy in pairs]) for kind, pairs in copies.items()}
    lengths = [count_tokens(text) for text in held_texts]
    rows = []
    for arm in arms:
        settings = OBJECTIVES["matched"].settings(**ARMS[arm])
        kwargs: dict[str, Any] = {"batch_pairs": 64, "epochs": 5, "learning_rate": 0.005, "seed": seed}
        trained = train_heads(feature_RD, data, "matched", settings=settings, **kwargs)
        quality = trained.scores(held_RD).quality.double().numpy()
        effects = {}
        for kind, pairs_of in copies.items():
            after = trained.scores(copies_RD[kind]).quality.double().numpy()
            effects[kind] = float(np.tanh(after - quality[[r for r, _ in pairs_of]]).mean())
        rows.append(
            {
                "arm": arm,
                "seed": seed,
                "agreement": agreement(quality, truth),
                "pearson": float(np.corrcoef(quality, lengths)[0, 1]),
                **effects,
                "tolerance_met": trained.metrics.get("tolerance_met"),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/edit_worlds"))
    parser.add_argument("--world", choices=list(WORLDS), default="lists_and_flattery")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--held_out", type=int, default=2000)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        rows += run(options.world, seed, options.pairs, options.held_out, options.arms)
        atomic_write_json(options.output / f"{options.world}.json", rows)
    print("| arm | agreement | Pearson | " + " | ".join(KINDS) + " |\n" + "|---" * 6 + "|")
    for arm in options.arms:
        cells = []
        for name in ("agreement", "pearson", *KINDS):
            values = [row[name] for row in rows if row["arm"] == arm]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
