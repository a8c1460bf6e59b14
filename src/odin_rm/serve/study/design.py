"""What is rated: the prompts of a study, and for each rater an order and sides of one's own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.matched_sample import matched_sample
from odin_rm.results.outputs import ModelOutputs, OutputPair, pair_outputs, read_outputs
from odin_rm.serve.study.config import DESIGN, StudyConfig

Choice = Literal["a", "tie", "b"]
CHOICES: tuple[Choice, ...] = ("b", "tie", "a")
"""In the order of AlpacaEval's preference for ``a``: 1, 1.5, 2."""


@dataclass(frozen=True)
class Pair:
    """Both policies' answers to one prompt."""

    instruction: str
    answer_a: str
    answer_b: str
    dataset: Any = None


@dataclass(frozen=True)
class Study:
    """A study as it was laid out; it does not change any more.

    Attributes:
        a, b: generator, file name and digest of both policies.
        settings: those that decide what is rated.
        secret: what makes the pairs' ids on the page impossible to guess.
        prompts: number of prompts in the files.
        identical: prompts left out because both answers are the same.
        pairs: what is rated.
    """

    a: dict[str, str]
    b: dict[str, str]
    settings: dict[str, Any]
    secret: str
    prompts: int
    identical: int
    pairs: list[Pair]


def length_counter(unit: str) -> Callable[[str], int]:
    """Counts the characters or the words (at least one) of a text."""
    return len if unit == "characters" else lambda text: max(len(text.split()), 1)


def lay_out(config: StudyConfig, secret: str) -> Study:
    """Read both files and draw the sample.

    Raises:
        OdinError: unusable files, outputs of different prompts, nothing to compare at matched length.
    """
    a, b = read_outputs(str(config.a)), read_outputs(str(config.b))
    matched = pair_outputs(a, b)
    differing = [pair for pair in matched if pair.candidate != pair.baseline]
    if not differing:
        what = f"gives the same answers as {b.path}"
        raise DataError(what, where=a.path, fix="Give two models' outputs.")
    count = length_counter(config.length_unit)
    kept = matched_sample(
        np.array([count(pair.candidate) for pair in differing]),
        np.array([count(pair.baseline) for pair in differing]),
        size=config.sample_size,
        max_ratio=config.max_length_ratio,
        match_mean=config.match_mean_length,
        seed=config.seed,
    )
    return Study(
        a=_side(a),
        b=_side(b),
        settings={name: getattr(config, name) for name in DESIGN},
        secret=secret,
        prompts=len(matched),
        identical=len(matched) - len(differing),
        pairs=[_pair(differing[k]) for k in kept],
    )


def _pair(pair: OutputPair) -> Pair:
    return Pair(pair.instruction, pair.candidate, pair.baseline, pair.dataset)


def _side(outputs: ModelOutputs) -> dict[str, str]:
    return {"generator": outputs.generator, "file": Path(outputs.path).name, "sha256": outputs.digest()}


@dataclass(frozen=True)
class Turn:
    """One pair as one rater meets it.

    Attributes:
        item: its id on the page; says nothing of the pair, and is another one for each rater.
        pair: its number in the study.
        a_left: whether ``a`` is shown on the left.
    """

    item: str
    pair: int
    a_left: bool

    def choice(self, side: str) -> Choice:
        """What ``left``, ``right`` or ``tie`` on the page means."""
        if side == "tie":
            return "tie"
        return "a" if (side == "left") == self.a_left else "b"


def turns(study: Study, rater: str) -> list[Turn]:
    """A rater's turns in order, always the same for one name; ``a`` is on the left in half of them.

    Args:
        study: the study.
        rater: the rater's key.
    """
    rng = random.Random(f"{study.settings['seed']} {rater}")
    n = len(study.pairs)
    order = list(range(n))
    rng.shuffle(order)
    # The odd one of an odd number goes to either side.
    sides = [k < (n + rng.randrange(2)) // 2 for k in range(n)]
    rng.shuffle(sides)
    return [Turn(_item(study.secret, rater, pair), pair, left) for pair, left in zip(order, sides, strict=True)]


def _item(secret: str, rater: str, pair: int) -> str:
    return hashlib.blake2b(f"{rater}\0{pair}".encode(), key=secret.encode(), digest_size=12).hexdigest()
