"""Pairs to optimiser batches, optimiser batches to micro-batches under a token budget, micro-batches to tensors.

An optimiser batch is made of *pairs*, because the ranking loss and the batch correlation are defined on them. Pairs of
one prompt share responses, so a batch holds a short walk through a prompt's comparison graph rather than unrelated
pairs: fewer sequences are scored per step. At most ``max_pairs_per_prompt`` pairs of a prompt enter one batch, because
pairs of one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.data.epoch import fill_batches, order_within_prompts
from odin_rm.data.schema import TokenisedPreferences

if TYPE_CHECKING:
    import torch


_PAIR_COLUMNS = ("pair_chosen", "pair_rejected", "pair_margin", "pair_row")


@dataclass(frozen=True)
class OptimiserBatch:
    """All pairs of one optimiser step; the same object on every rank.

    Attributes:
        responses: ``(R,)`` distinct response numbers of the data set, ascending. Each is scored once.
        chosen, rejected: ``(B,)`` positions in ``responses``.
        margin: ``(B,)`` float32 margins in reward units.
        rows: ``(B,)`` row numbers in the source, for messages.
        variants: by kind, ``(n, 2)`` positions in ``responses`` of a response and of its variant.
    """

    responses: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    margin: np.ndarray
    rows: np.ndarray
    variants: dict[str, np.ndarray] = field(default_factory=dict)


def draw_pairs(probability_B: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Numbers of the pairs that enter an epoch, ascending: systematic draws from a random order.

    Every epoch has ``floor(sum p)`` pairs, and pair ``b`` is among them with the probability
    ``p_b * floor(sum p) / sum p``.

    Args:
        probability_B: ``(B,)`` numbers in ``[0, 1]``.
        seed, epoch: decide the draw.
    """
    generator = np.random.default_rng([seed, epoch, 1])
    order = generator.permutation(len(probability_B))
    total = float(probability_B.sum())
    size = max(1, int(total))
    ends = np.cumsum(probability_B[order]) * (size / total)
    ends[-1] = size  # whatever the rounding
    marks = np.arange(size) + generator.random()
    return np.sort(order[np.searchsorted(ends, marks, side="right")]).astype(np.int64)


def plan_epoch(
    data: TokenisedPreferences,
    batch_pairs: int,
    max_pairs_per_prompt: int,
    seed: int,
    epoch: int,
    draw: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Split the pairs of a data set into the optimiser batches of one epoch.

    Every pair is in exactly one batch, and no batch holds more than ``max_pairs_per_prompt`` pairs of a prompt. All
    batches have ``batch_pairs`` pairs and the last has the rest, as long as the cap allows it. Where one prompt has so
    many pairs that the cap asks for more batches than that, the cap holds, and batches become smaller, as equal as the
    cap allows (see :func:`batches_per_epoch`); no pair is left out.

    Args:
        data: the preference set.
        batch_pairs: pairs per optimiser batch, over all ranks.
        max_pairs_per_prompt: cap on the pairs of one prompt in one batch.
        seed: with ``epoch`` decides everything that is random here.
        epoch: number of the epoch, from 0.
        draw: ``(B,)`` probability with which each pair enters an epoch (:func:`draw_pairs`); ``None`` for all pairs.

    Returns:
        Pair numbers of each batch, int64.

    Raises:
        ConfigError: ``batch_pairs`` or ``max_pairs_per_prompt`` is below 1.
        DataError: the data set has no pair.
    """
    if draw is not None:
        drawn = draw_pairs(draw, seed, epoch)
        columns = {name: np.asarray(getattr(data, name))[drawn] for name in _PAIR_COLUMNS}
        fewer = plan_epoch(replace(data, **columns), batch_pairs, max_pairs_per_prompt, seed, epoch)
        return [drawn[numbers] for numbers in fewer]
    counts, target = _counts_and_target(data, batch_pairs, max_pairs_per_prompt)
    number_of_batches = batches_per_epoch(data, batch_pairs, max_pairs_per_prompt)
    generator = np.random.default_rng([seed, epoch])
    starts = np.concatenate([[0], np.cumsum(counts)])
    order = order_within_prompts(data.pair_chosen, data.pair_rejected, starts, max_pairs_per_prompt, generator)
    return fill_batches(order, starts, target, max_pairs_per_prompt, number_of_batches, generator)


def batches_per_epoch(data: TokenisedPreferences, batch_pairs: int, max_pairs_per_prompt: int) -> int:
    """Number of optimiser batches of an epoch: ``max(ceil(B / batch_pairs), max_p ceil(B_p / cap))``."""
    counts, _ = _counts_and_target(data, batch_pairs, max_pairs_per_prompt)
    return _number_of_batches(counts, batch_pairs, max_pairs_per_prompt)


def _number_of_batches(counts: np.ndarray, batch_pairs: int, cap: int) -> int:
    return int(max(-(-counts.sum() // batch_pairs), -(-counts.max() // cap)))


def _counts_and_target(data: TokenisedPreferences, batch_pairs: int, cap: int) -> tuple[np.ndarray, int]:
    """Pairs of each prompt, and the size of a batch: ``batch_pairs`` unless the cap asks for smaller, equal batches."""
    if batch_pairs < 1 or cap < 1:
        name, value = ("batch_pairs", batch_pairs) if batch_pairs < 1 else ("max_pairs_per_prompt", cap)
        raise ConfigError(f"{name} is {value}", where=f"--{name}", fix="Give a number of at least 1.")
    if data.num_pairs == 0:
        raise DataError("the data set has no pair", where=data.source, fix="Give a file with preference pairs.")
    counts = np.bincount(data.response_prompt[data.pair_chosen], minlength=data.num_prompts).astype(np.int64)
    batches = _number_of_batches(counts, batch_pairs, cap)
    by_size = -(-int(counts.sum()) // batch_pairs)
    return counts, batch_pairs if batches == by_size else -(-int(counts.sum()) // batches)


def build_optimiser_batch(
    data: TokenisedPreferences, pair_numbers: np.ndarray, variants: Sequence[str] = ()
) -> OptimiserBatch:
    """The distinct responses of some pairs, and the pairs as positions among them.

    A pair that the data state twice stays there twice, so it counts twice in the losses.

    Args:
        data: the preference set.
        pair_numbers: which pairs.
        variants: kinds of variants of these responses to take along; those that a response has.
    """
    chosen, rejected = data.pair_chosen[pair_numbers], data.pair_rejected[pair_numbers]
    slots = np.concatenate([chosen, rejected])
    beside: dict[str, np.ndarray] = {}
    for kind in variants:
        originals = np.unique(slots)
        theirs = np.asarray(data.variants[kind])[originals] if kind in data.variants else np.full(len(originals), -1)
        beside[kind] = np.stack([originals, theirs], axis=1)[theirs >= 0].astype(np.int64)
    everything = [slots, *(pairs.reshape(-1) for pairs in beside.values())]
    responses, positions = np.unique(np.concatenate(everything), return_inverse=True)
    positions = positions.reshape(-1).astype(np.int64)
    return OptimiserBatch(
        responses=responses.astype(np.int64),
        chosen=positions[: len(chosen)],
        rejected=positions[len(chosen) : len(slots)],
        variants={kind: np.searchsorted(responses, pairs) for kind, pairs in beside.items()},
        margin=np.asarray(data.pair_margin[pair_numbers], dtype=np.float32),
        rows=np.asarray(data.pair_row[pair_numbers], dtype=np.int64),
    )


def plan_microbatches(
    sequence_tokens: np.ndarray, microbatch_tokens: int, world_size: int = 1
) -> list[list[np.ndarray]]:
    """Group sequences into micro-batches of at most ``microbatch_tokens`` padded tokens, the same number on each rank.

    Sequences are taken longest first and a micro-batch is closed when the next one would break the budget
    (``longest * count <= microbatch_tokens``); a single sequence longer than the budget gets a micro-batch of its own.
    With several ranks the budget is tightened as far as the number of rounds allows, so that no rank waits long for
    another, and micro-batches go to the rank with the fewest padded tokens so far.

    Args:
        sequence_tokens: ``(R,)`` tokens of each sequence.
        microbatch_tokens: padded tokens that one micro-batch may have.
        world_size: number of ranks.

    Returns:
        ``plan[rank][i]``: positions in ``sequence_tokens``, int64. Empty arrays fill up ranks that have less to do.

    Raises:
        ConfigError: ``microbatch_tokens`` or ``world_size`` is below 1.
    """
    for name, value in (("microbatch_tokens", microbatch_tokens), ("world_size", world_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}", where=f"--{name}", fix="Give a number of at least 1.")
    tokens = np.asarray(sequence_tokens, dtype=np.int64)
    if not len(tokens):
        return [[] for _ in range(world_size)]
    order = np.argsort(-tokens, kind="stable")
    descending = tokens[order]
    starts = _cut(descending, microbatch_tokens)
    rounds = -(-len(starts) // world_size)
    if world_size > 1:
        starts = _cut(descending, _tightest_budget(descending, microbatch_tokens, rounds * world_size))
    groups = np.split(order, starts[1:])
    padded = descending[starts] * np.diff([*starts, len(order)])
    return _share_out(groups, padded, rounds, world_size)


def _cut(descending: np.ndarray, budget: int) -> list[int]:
    """First positions of the groups of a greedy pass over lengths in descending order."""
    starts, position = [], 0
    while position < len(descending):
        starts.append(position)
        position += max(1, budget // max(1, int(descending[position])))
    return starts


def _tightest_budget(descending: np.ndarray, budget: int, most_groups: int) -> int:
    """The smallest budget (by bisection) that still needs at most ``most_groups`` groups."""
    low, high = 0, budget
    while high - low > 1:
        middle = (low + high) // 2
        if len(_cut(descending, middle)) <= most_groups:
            high = middle
        else:
            low = middle
    return high


def _share_out(groups: list[np.ndarray], padded: np.ndarray, rounds: int, world_size: int) -> list[list[np.ndarray]]:
    plan: list[list[np.ndarray]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for index in np.argsort(-padded, kind="stable"):
        rank = min((r for r in range(world_size) if len(plan[r]) < rounds), key=lambda r: (load[r], r))
        plan[rank].append(groups[index].astype(np.int64))
        load[rank] += int(padded[index])
    for micro_batches in plan:
        micro_batches.extend(np.empty(0, dtype=np.int64) for _ in range(rounds - len(micro_batches)))
    return plan


def collate(sequences: Sequence[np.ndarray], pad_token_id: int, padding_side: str = "right") -> dict[str, torch.Tensor]:
    """Pad sequences to the longest of them.

    Args:
        sequences: token ids of each sequence.
        pad_token_id: the id that fills up; it may be a real token (the attention mask says what is padding).
        padding_side: ``"right"`` or ``"left"``.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 of shape ``(R, T)``. With left padding also ``position_ids``, so a
        token has the position that it has without padding.

    Raises:
        ConfigError: ``padding_side`` is neither.
        ValueError: there is no sequence.
    """
    import torch

    if padding_side not in ("right", "left"):
        raise ConfigError(f"padding_side is {padding_side!r}", fix="Use 'right' or 'left'.")
    if not len(sequences):
        raise ValueError("collate needs at least one sequence")
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    width = int(lengths.max())
    columns = torch.arange(width)
    real = columns < lengths[:, None] if padding_side == "right" else columns >= width - lengths[:, None]
    input_ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.int64)
    # Row-major order of the mask is the order of the concatenated sequences, whichever side is padded.
    input_ids[real] = torch.from_numpy(np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences]))
    batch = {"input_ids": input_ids, "attention_mask": real.to(torch.int64)}
    if padding_side == "left":
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    return batch
