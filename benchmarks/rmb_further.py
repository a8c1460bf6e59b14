"""Further rows and edited copies on RMB's pairs and frozen features (docs/evidence.md, items 36, 42 and 45).

    python -m benchmarks.rmb_further --data DIR --output DIR [--parts rows edits]        # make bench-rmb-further

``rows``: plain training beside training with RRM's rows (``odin_rm.data.rrm``) of some pairs and with Rc-BT's
(``odin_rm.data.length_instructions``), audited as in ``benchmarks.rmb_frozen`` and by what the two papers want of a
reward: an answer to the prompt beats an answer to another one, and a length that was asked for is minded.

``edits``: ``matched`` beside ``matched --edits`` with copies of some responses; the mean of ``tanh(change)`` of each
edit on the validation responses, bits, and the rewrites of the same content.

The folder of features is that of ``benchmarks.rmb_frozen``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rmb_frozen import STEPWISE, Bench, Scorer, Set, caps_of, compared, scorer
from benchmarks.shared.sequence_features import deviations, encoding, sequences_of
from odin_rm.core.files import atomic_write_json
from odin_rm.data.length_instructions import length_instruction_pairs
from odin_rm.data.load import load_preferences
from odin_rm.data.rrm import rrm_rows
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.tokenise import encode_responses
from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.edits import EDITS
from odin_rm.evaluation.pairs import half_ties
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.head_training import train_heads
from odin_rm.workflows.probe.rows import edited_reply

KINDS = ("append_closing", "add_filler", "add_bold", "make_list")
ROOM = 200
"""Copies are of responses with at most so many tokens in all, so that the window holds what was added."""
TOLERANCES = (0.05, 0.01)


def some(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Rows drawn once, at most one of a prompt."""
    order = np.random.default_rng(0).permutation(len(rows))
    found: dict[str, dict[str, Any]] = {}
    for number in order:
        found.setdefault(str(rows[number]["prompt"]), rows[number])
    return list(found.values())[:count]


def same_prompts_together(
    data: TokenisedPreferences, sequences: list[np.ndarray], tokens: list[int], pairs: list[tuple[int, int]]
) -> TokenisedPreferences:
    """The data with further responses, each of a prompt of its own, and further pairs between any of them."""
    prompt_R = np.r_[data.response_prompt, data.num_prompts + np.arange(len(sequences))].astype(np.int32)
    chosen, rejected = (
        np.r_[old, [pair[side] for pair in pairs]].astype(np.int32)
        for side, old in enumerate((data.pair_chosen, data.pair_rejected))
    )
    order = np.argsort(prompt_R[chosen], kind="stable")
    ends = int(data.offsets[-1]) + np.cumsum([len(one) for one in sequences])
    return replace(
        data,
        input_ids_flat=np.concatenate([data.input_ids_flat, *sequences]),
        offsets=np.r_[data.offsets, ends].astype(np.int64),
        response_tokens=np.r_[data.response_tokens, tokens].astype(np.int32),
        response_prompt=prompt_R,
        pair_chosen=chosen[order],
        pair_rejected=rejected[order],
        pair_margin=np.r_[data.pair_margin, np.zeros(len(pairs))].astype(np.float32)[order],
        pair_row=np.r_[data.pair_row, np.zeros(len(pairs))].astype(np.int64)[order],
        pair_key=np.empty(0, np.uint64),
        extra={},
        variants={},
    )


def instruction_sides(bench: Bench, rows: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Encoded chosen and rejected sides of Rc-BT's pairs."""
    pairs = length_instruction_pairs(rows)
    said = [one["response"] for one in pairs]
    chosen, rejected = (
        encode_responses(bench.features.tokenizer, [one[f"{side}_prompt"] for one in pairs], said, encoding(256))
        for side in ("chosen", "rejected")
    )
    return chosen, rejected


def with_instructions(bench: Bench, train: Set, rows: list[dict[str, Any]]) -> Set:
    """The training pairs with Rc-BT's."""
    sides = instruction_sides(bench, rows)
    place = {one.tobytes(): number for number, one in enumerate(sequences_of(train.data))}
    sequences, tokens = list[np.ndarray](), list[int]()
    for one in (encoded for side in sides for encoded in side):
        ids = np.asarray(one.input_ids, np.int32)
        if ids.tobytes() not in place:
            place[ids.tobytes()] = len(place)
            sequences.append(ids)
            tokens.append(one.response_tokens)
    numbers = [[place[np.asarray(one.input_ids, np.int32).tobytes()] for one in side] for side in sides]
    pairs = [(c, r) for c, r in zip(*numbers, strict=True) if c != r]
    data = same_prompts_together(train.data, sequences, tokens, pairs)
    features = np.concatenate([train.feature_RD, bench.features.of(sequences, "length instructions")])
    return Set("rmb_train", train.rows, data, features)


def with_rrm(bench: Bench, rows: list[dict[str, Any]], further: list[dict[str, Any]]) -> Set:
    """The training pairs with RRM's."""
    every = [*({key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows), *further]
    data = load_preferences(every, bench.features.tokenizer, encoding(256), on_bad_row="skip")
    return Set("rmb_train", every, data, bench.features.of(sequences_of(data), "RRM"))


def further_rows(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Plain training beside training with further rows."""
    train = bench.read("rmb_train")
    sets = [bench.read(name) for name in ("rmb_val", "counterfactual", "twins")]
    source, held = some(train.rows, max(options.rrm, options.instructions)), some(sets[0].rows, options.held)
    trained_on = {
        "vanilla": train,
        "with RRM's rows": with_rrm(bench, train.rows, rrm_rows(source[: options.rrm])),
        "with Rc-BT's pairs": with_instructions(bench, train, source[: options.instructions]),
    }
    rewards = {name: [scorer(one, "vanilla", seed) for seed in options.seeds] for name, one in trained_on.items()}
    for name, one in trained_on.items():
        print(f"{name}: {one.data.num_pairs:,} pairs, {one.data.num_responses:,} responses", flush=True)
    found: dict[str, Any] = {"sets": compared(rewards, sets, ("rmb_val",), options.resamples)}
    # What the papers want: eight of RRM's fourteen rows have a side that should win, the others are alike.
    swapped = [row for number, row in enumerate(rrm_rows(held[: options.swapped])) if number % 14 < 8]
    data = load_preferences(swapped, bench.features.tokenizer, encoding(256), on_bad_row="skip")
    swaps = Set("swaps", swapped, data, bench.features.of(sequences_of(data), "swapped prompts"))
    chosen, rejected = (
        bench.features.of([np.asarray(one.input_ids, np.int32) for one in side], "length instructions")
        for side in instruction_sides(bench, held)
    )
    for name, own in rewards.items():
        quality = [reward(swaps) for reward in own]
        won = np.mean([half_ties(q[data.pair_chosen] - q[data.pair_rejected]) for q in quality], axis=0)
        prompt = np.asarray(data.response_prompt)[data.pair_chosen]
        minded = np.mean(
            [half_ties(reward(replace(swaps, feature_RD=chosen)) - reward(replace(swaps, feature_RD=rejected)))
             for reward in own], axis=0
        )  # fmt: skip
        found[name] = {
            "answer to the prompt wins": bootstrap_mean(won, prompt).to_json(),
            "length that was asked for is minded": bootstrap_mean(minded, np.arange(len(minded)) // 2).to_json(),
        }
        print(name, found[name], flush=True)
    return found


# ---- edits -----------------------------------------------------------------------------------------------------------


def with_copies(bench: Bench, name: str, count: int) -> tuple[Set, dict[str, np.ndarray]]:
    """A set with edited copies of some of its short responses, as the loader makes them for ``--edits``."""
    makers = {one.name: one.apply for one in EDITS if one.name in KINDS}
    rows = bench.pairs(name)[0]
    data = load_preferences(
        rows, bench.features.tokenizer, encoding(256), on_bad_row="skip",
        variants={kind: partial(edited_reply, change=make) for kind, make in makers.items()},
    )  # fmt: skip
    fits = np.asarray(data.sequence_tokens) <= ROOM
    able = np.all([np.asarray(column) >= 0 for column in data.variants.values()], axis=0) & fits
    kept = np.random.default_rng(0).permutation(np.flatnonzero(able))[:count]
    variants = {kind: np.full(data.num_responses, -1, np.int32) for kind in data.variants}
    for kind, column in data.variants.items():
        variants[kind][kept] = np.asarray(column)[kept]
    needed = np.zeros(data.num_responses, dtype=bool)
    needed[data.pair_chosen] = needed[data.pair_rejected] = True
    for column in variants.values():
        needed[column[column >= 0]] = True
    features = np.zeros((data.num_responses, 384), np.float32)
    places = np.flatnonzero(needed)
    every = sequences_of(data)
    features[places] = bench.features.of([every[place] for place in places], f"{name}, copies")
    return Set(name, rows, replace(data, variants=variants), features), variants


def edited(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """``matched`` with and without edits in training."""
    train, _ = with_copies(bench, "rmb_train", options.copies)
    held, places = with_copies(bench, "rmb_val", options.held_copies)
    sets = [bench.read(name) for name in ("rmb_val", "counterfactual", "twins")]
    # Deviations of the set without its copies, so that arms with and without them read the same features.
    used = np.unique(np.r_[train.data.pair_chosen, train.data.pair_rejected])
    deviation = deviations(train.feature_RD[used])
    arms: dict[str, dict[str, Any]] = {"matched": {}}
    arms |= {f"matched, edits, {eps:g}": {"edits": ",".join(KINDS), "edit_tolerance": eps} for eps in TOLERANCES}
    rewards: dict[str, list[Scorer]] = {}
    found: dict[str, Any] = {}
    for arm, changes in arms.items():
        settings = OBJECTIVES["matched"].settings(**changes)
        rewards[arm], effects, met = [], [], []
        for seed in options.seeds:
            kwargs: dict[str, Any] = {**STEPWISE, "epochs": options.epochs, "seed": seed}
            trained = train_heads(train.feature_RD / deviation, train.data, "matched", settings=settings, **kwargs)
            weight_D = trained.heads.effective("quality").detach().double().numpy()
            rewards[arm].append(linear(weight_D, deviation))
            effects.append(effects_of(rewards[arm][-1](held), places))
            met.append(trained.metrics.get("tolerance_met"))
        found[arm] = {
            "effects": {kind: [one[kind] for one in effects] for kind in KINDS}, "tolerance_met": met,
        }  # fmt: skip
        shown = {kind: f"{np.mean(own):.3f} ± {np.std(own, ddof=1):.3f}" for kind, own in found[arm]["effects"].items()}
        print(arm, shown, "met", met, flush=True)
    found["sets"] = compared(rewards, sets, ("rmb_val",), options.resamples)
    return found


def linear(weight_D: np.ndarray, deviation: np.ndarray) -> Scorer:
    """The reward of a head on features divided by their deviations."""
    return lambda one: (one.feature_RD / deviation).astype(np.float64) @ weight_D


def effects_of(quality_R: np.ndarray, places: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean ``tanh(change)`` of each edit."""
    found = {}
    for kind, column in places.items():
        having = np.flatnonzero(column >= 0)
        found[kind] = float(np.tanh(quality_R[column[having]] - quality_R[having]).mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/rmb"))
    parser.add_argument("--parts", nargs="+", default=["edits", "rows"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rrm", type=int, default=300, help="pairs that RRM's rows are made of")
    parser.add_argument("--instructions", type=int, default=600, help="pairs that Rc-BT's are made of")
    parser.add_argument("--held", type=int, default=100, help="validation pairs with length instructions")
    parser.add_argument("--swapped", type=int, default=60, help="validation pairs with swapped prompts")
    parser.add_argument("--copies", type=int, default=400, help="training responses with edited copies")
    parser.add_argument("--held_copies", type=int, default=100, help="validation responses with edited copies")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--cap", nargs="+", default=[], help="SET=PROMPTS: only so many prompts of a set")
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.data, options.output, caps_of(options.cap))
    parts: dict[str, Callable[[Bench, argparse.Namespace], dict[str, Any]]] = {"rows": further_rows, "edits": edited}
    for part in options.parts:
        atomic_write_json(options.output / f"{part}.json", parts[part](bench, options))


if __name__ == "__main__":
    main()
