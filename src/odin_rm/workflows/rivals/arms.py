"""The arms of a comparison: an objective with its options, and what of its training is its own."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import Bounds, check_options
from odin_rm.data.attributes import attributes_of_text
from odin_rm.objectives.registry import OBJECTIVES, make_objective

BAG = "bag_of_words"
LENGTH_HEAD, LOESS, NULLING = "length_head", "loess", "nulling"
"""What may be done to a reward after its training: see :mod:`odin_rm.workflows.rivals.cells`."""
AFTER = (LENGTH_HEAD, LOESS, NULLING)
TRAINING: dict[str, tuple[type, Bounds | None]] = {
    "learning_rate": (float, Bounds(above=0)), "weight_decay": (float, Bounds(at_least=0)),
    "epochs": (int, Bounds(at_least=1)), "batch_pairs": (int, Bounds(at_least=1)),
    "head_scale": (float, Bounds(above=0)), "normalise_heads": (bool, None), "ridge": (float, Bounds(above=0)),
    "after": (str, None), "average": (int, Bounds(at_least=1)),
}  # fmt: skip
"""What of the training an arm may have otherwise, with its numbers; ``ridge`` is the bag of words' own."""
_OF_BAG = ("ridge",)


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: in tables.
        objective: of the table of objectives, or ``bag_of_words``.
        options: of the objective, where they are not its defaults.
        training: see :data:`TRAINING`.
    """

    name: str
    objective: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Any:
        """The record of the objective's options."""
        return OBJECTIVES[self.objective].settings(**self.options)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What it reads of the texts beside the response tokens."""
        return () if self.objective == BAG else make_objective(self.objective, self.settings).attributes

    def to_json(self) -> dict[str, Any]:
        """For files and digests."""
        known = {} if self.objective == BAG else dataclasses.asdict(self.settings)
        return {"objective": self.objective, "options": known, "training": self.training}


def read_arms(texts: Sequence[str]) -> list[Arm]:
    """The arms that the texts name; all objectives and a bag of words where there are none.

    Raises:
        ConfigError: an unknown objective or option, a value that it does not take, two arms of one name.
    """
    if not texts:
        texts = [*sorted(OBJECTIVES, key=lambda name: name != "bradley_terry"), BAG]
        texts = ["dir=dir information_of=reward" if text == "dir" else text for text in texts]
    arms = [_read_arm(str(text)) for text in texts]
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two arms are called '{twice}'", where="--arms", fix="Write NAME=OBJECTIVE ... for one.")
    return arms


def _read_arm(text: str) -> Arm:
    name, objective, words = _parts(text)
    if objective not in OBJECTIVES and objective != BAG:
        fix = f"Use one of {', '.join([*OBJECTIVES, BAG])}."
        raise ConfigError(f"there is no objective '{objective}'", where=f"--arms '{text}'", fix=fix)
    kinds = {} if objective == BAG else typing.get_type_hints(OBJECTIVES[objective].settings)
    training = {key: kind for key, (kind, _) in TRAINING.items() if (key in _OF_BAG) == (objective == BAG)}
    options: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for word in words:
        key, given, value = word.partition("=")
        if not given or key not in kinds | training:
            fix = f"It takes {', '.join([*kinds, *training])}, each as option=value."
            raise ConfigError(f"'{word}' is no option of {objective}", where=f"--arms '{text}'", fix=fix)
        place, kind = (options, kinds[key]) if key in kinds else (own, training[key])
        if key in place:
            raise ConfigError(f"has {key} twice", where=f"--arms '{text}'", fix="Give it once.")
        place[key] = _value(value, kind, word, text)
    if not name:
        fix = "Write NAME=OBJECTIVE, or the objective alone."
        raise ConfigError("has no name before the =", where=f"--arms '{text}'", fix=fix)
    arm = Arm(name, objective, options, own)
    _check(arm, text)
    return arm


def _parts(text: str) -> tuple[str, str, list[str]]:
    """Name, objective and words of an arm: the name may have blanks and ends at the first ``=``."""
    name, named, rest = text.partition("=")
    objective, *words = (rest if named else text).split() or [""]
    if objective in OBJECTIVES or objective == BAG:
        return (name if named else text).strip(), objective, words
    first, *others = text.split() or [""]  # 'OBJECTIVE option=value': the first = is an option's
    return text.strip(), first if "=" not in first else objective, others


_KINDS = {bool: ("neither true nor false", "Give true or false."), int: ("no whole number", "Give a whole number.")}


def _value(text: str, kind: type, word: str, arm: str) -> Any:
    # An option that may be left out: what it is where it is given.
    kind = next((one for one in typing.get_args(kind) if one is not type(None)), kind)
    try:
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        pass
    what, fix = _KINDS.get(kind, ("no number", "Give a number."))
    raise ConfigError(f"'{word}' is {what}", where=f"--arms '{arm}'", fix=fix)


def _check(arm: Arm, text: str) -> None:
    where = f"--arms '{text}'"
    for key, value in arm.training.items():
        bounds = TRAINING[key][1]
        if bounds is not None and not bounds.holds(value):
            raise ConfigError(f"{key} must be {bounds}, it is {value}", where=where)
    if arm.objective == BAG:
        return
    _check_options(arm, where)
    after = arm.training.get("after")
    if after is not None and (
        after not in AFTER or (after == LENGTH_HEAD and "length" not in OBJECTIVES[arm.objective].heads)
    ):
        fix = f"Use one of {', '.join(AFTER)}; {LENGTH_HEAD} is for objectives with a length head."
        raise ConfigError(f"cannot have after={after}", where=where, fix=fix)
    if "head_scale" in arm.training and not arm.training.get(
        "normalise_heads", OBJECTIVES[arm.objective].normalise_heads
    ):
        raise ConfigError("head_scale scales normalised heads only", where=where, fix="Add normalise_heads=true.")


def _check_options(arm: Arm, where: str) -> None:
    """Refuse what the objective refuses of its options, in the words of an arm, and what no comparison has."""
    try:
        check_options(arm.settings)
        objective = make_objective(arm.objective, arm.settings)
        attributes_of_text(objective.attributes, "--match_attributes")
    except ConfigError as error:
        what, fix = (part.replace("--", "") for part in (f"{error.where}: {error.what}", error.fix))
        raise ConfigError(what, where=where, fix=fix) from error
    if objective.of_features:
        fix = f"Add information_of=reward, or train the whole model with odin-rm reward --objective {arm.objective}."
        raise ConfigError("its term has no gradient in heads on frozen features", where=where, fix=fix)
    if objective.variants:
        fix = "Leave edits out, or train the whole model with odin-rm reward --edits."
        raise ConfigError("a comparison makes no edited copies of responses", where=where, fix=fix)
