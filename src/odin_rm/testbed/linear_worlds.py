"""Objectives in the testbed's named worlds, by reward models that are linear on bags of words: seconds a model.

A world in which quality and length are unrelated cannot tell a method that takes length off from one that takes off
what belongs to it. These models are small enough to be trained in every world beside the quickstart's own, in which
that is the case: heads on which words and pairs of words a response has, by the objectives that ``odin-rm reward`` has.

``vanilla + dial`` is the plain model less the share of its own curve of length that makes an answer with two fillers
more worth as much as without; fillers are worthless by definition.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from odin_rm.data.attributes import MEASURED
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.evaluation.audit import AuditResult, audit_preferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.objectives.attribute_curve import length_powers
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.head_training import train_heads
from odin_rm.testbed import phrases
from odin_rm.testbed.annotator import Row, make_preferences
from odin_rm.testbed.world import TOKEN, count_tokens, is_flattering, is_list, stream
from odin_rm.testbed.worlds import NamedWorld

PAIRS, HELD_OUT = 4000, 2000
RESAMPLES = 200
"""Behind each interval; four models are audited for a table of two columns."""
DIALLED = "vanilla + dial"
OBJECTIVE_OF = {"vanilla": "bradley_terry", "odin": "odin", "matched": "matched"}
ARMS = ("vanilla", DIALLED, "odin", "matched")

Score = Callable[[list[str]], np.ndarray]


def words_of(text: str) -> set[str]:
    """Words and pairs of neighbouring words of a response."""
    tokens = TOKEN.findall(text.lower())
    return {*tokens, *(f"{a} {b}" for a, b in itertools.pairwise(tokens))}


class Bag:
    """Features of texts: which of the training texts' common words and pairs of words they have.

    Args:
        texts: of the training responses.
        at_least: how many of them must have a word; by default one in 400, and two.
    """

    def __init__(self, texts: list[str], at_least: int | None = None) -> None:
        least = max(2, len(texts) // 400) if at_least is None else at_least
        counts: dict[str, int] = {}
        for text in texts:
            for word in words_of(text):
                counts[word] = counts.get(word, 0) + 1
        self.column = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n >= least))}

    def __call__(self, texts: list[str]) -> np.ndarray:
        """``(R, D)`` float32, zeros and ones."""
        out = np.zeros((len(texts), len(self.column)), dtype=np.float32)
        for row, text in enumerate(texts):
            out[row, [self.column[word] for word in words_of(text) if word in self.column]] = 1
        return out


def as_data(rows: list[Row], tokenizer: Any = None) -> tuple[TokenisedPreferences, list[str], np.ndarray]:
    """A preference set of the rows with two responses each, chosen first, their texts and true qualities.

    Args:
        rows: as ``make_preferences`` gives them.
        tokenizer: of a model that reads the texts; without one the ids are the numbers of the responses.
    """
    texts = [row[side] for row in rows for side in ("chosen", "rejected")]
    truth_R = np.array([row[f"{side}_true_quality"] for row in rows for side in ("chosen", "rejected")])
    numbers = np.arange(len(texts), dtype=np.int32)
    ids = [numbers[r : r + 1] for r in range(len(texts))]
    if tokenizer is not None:
        prompts = [row["prompt"] for row in rows for _ in range(2)]
        pairs = zip(prompts, texts, strict=True)
        ids = [
            np.array(tokenizer(f"human: {prompt} assistant: {text} <eos>")["input_ids"], dtype=np.int32)
            for prompt, text in pairs
        ]
    data = TokenisedPreferences(
        input_ids_flat=np.concatenate(ids),
        offsets=np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64),
        response_tokens=np.array([count_tokens(text) for text in texts], dtype=np.int32),
        response_prompt=(numbers // 2).astype(np.int32),
        pair_chosen=numbers[::2],
        pair_rejected=numbers[1::2],
        pair_margin=np.zeros(len(rows), dtype=np.float32),
        pair_row=np.arange(1, len(rows) + 1),
        extra={
            f"{MEASURED}list_items": np.array([text.count("\n- ") + is_list(text) for text in texts], dtype=np.float64),
            f"{MEASURED}flattery": np.array([is_flattering(text) for text in texts], dtype=np.float64),
        },
    )
    return data, texts, truth_R


def with_fillers(texts: list[str], seed: int) -> list[str]:
    """The same answers with two fillers more at the end."""
    rng = stream(seed, "interventions")
    joint = "\n- " if texts and is_list(texts[0]) else " "
    return [
        text + "".join(joint + phrases.FILLERS[int(rng.integers(len(phrases.FILLERS)))] for _ in range(2))
        for text in texts
    ]


def dial(score: Score, texts: list[str], seed: int) -> np.ndarray:
    """``(R,)`` rewards less ``kappa`` times their own curve of length; fillers are then worth nothing on average."""
    quality_R = score(texts)
    return quality_R - powers_of_length(texts) @ dial_curve(score, texts, seed, quality_R)


def powers_of_length(texts: list[str]) -> np.ndarray:
    """``(R, 3)`` what the dial's curve is linear in."""
    return length_powers(torch.tensor([count_tokens(text) for text in texts], dtype=torch.float64)).numpy()


def dial_curve(score: Score, texts: list[str], seed: int, quality_R: np.ndarray | None = None) -> np.ndarray:
    """``(3,)`` coefficients of what the dial takes off: ``kappa`` times the reward's own curve of length.

    Args:
        score: the reward.
        texts: unlabelled answers that the curve and ``kappa`` are fitted on.
        seed: of the fillers that are added.
        quality_R: ``(R,)`` the rewards of ``texts``, where they are known.
    """
    quality_R = score(texts) if quality_R is None else quality_R
    changed = with_fillers(texts, seed)
    before, after = powers_of_length(texts), powers_of_length(changed)
    centred = before - before.mean(0)
    gamma = np.linalg.lstsq(centred, quality_R - quality_R.mean(), rcond=None)[0]
    change_R = score(changed) - quality_R
    effect_R = (after - before) @ gamma
    return np.asarray(change_R.mean() / effect_R.mean() * gamma)


def linear_scores(
    objective: str,
    data: TokenisedPreferences,
    bag: Bag,
    features_RD: np.ndarray,
    seed: int,
    *,
    settings: Mapping[str, Any] | None = None,
    head_scale: float = 1.0,
) -> Score:
    """Trains a head on bags of words: 64 pairs a step, 5 epochs, rate 0.005; returns the reward as a function of texts.

    Args:
        objective: a name of the registry.
        data: the training pairs.
        bag: makes features of texts.
        features_RD: ``(R, D)`` of the responses.
        seed: of the order.
        settings: of the objective, where they differ from its defaults.
        head_scale: of the paper's heads.
    """
    found = train_heads(
        features_RD,
        data,
        objective,
        settings=OBJECTIVES[objective].settings(**(settings or {})),
        head_scale=head_scale,
        batch_pairs=64,
        epochs=5,
        learning_rate=0.005,
        seed=seed,
    )
    return lambda some: found.scores(bag(some)).quality.double().numpy()


def audit_world(
    named: NamedWorld, seed: int, *, pairs: int = PAIRS, held_out: int = HELD_OUT, bootstrap_samples: int = RESAMPLES
) -> dict[str, AuditResult]:
    """The audit of each of :data:`ARMS`, and of the truth itself, on held-out pairs of other prompts of a world.

    Args:
        named: the world.
        seed: of pairs and order of training.
        pairs: to train on.
        held_out: pairs to audit on.
        bootstrap_samples: resamples behind each interval.
    """
    data, texts, _ = as_data(make_preferences(named.world, named.annotator, pairs, seed))
    rows = make_preferences(named.world, named.annotator, held_out, seed, split="test")
    held, held_texts, truth_R = as_data(rows)
    numbers = {row["prompt"]: number for number, row in enumerate(rows)}
    prompt = np.array([numbers[row["prompt"]] for row in rows for _ in range(2)])

    def audit(name: str, quality_R: np.ndarray) -> AuditResult:
        scored = ScoredPreferences(
            quality=quality_R,
            response_tokens=np.asarray(held.response_tokens),
            prompt=prompt,
            chosen=held.pair_chosen,
            rejected=held.pair_rejected,
            true_quality=truth_R,
            name=name,
        )
        return audit_preferences(scored, bootstrap_samples=bootstrap_samples, seed=seed)

    found = {"the truth": audit("the truth", truth_R)}
    bag = Bag(texts)
    features_RD = bag(texts)
    for arm, objective in OBJECTIVE_OF.items():
        score = linear_scores(objective, data, bag, features_RD, seed)
        found[arm] = audit(arm, score(held_texts))
        if arm == "vanilla":
            found[DIALLED] = audit(DIALLED, dial(score, held_texts, seed))
    return found
