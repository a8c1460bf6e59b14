"""The kit for settings: a dataclass field with its help, its choices and its bounds, and the one check of them all.

It imports nothing heavy, and neither may a module that describes a command's settings: help is made from it alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from odin_rm.core.errors import ConfigError

# What several commands let the user choose from; torch's dtypes and the kernels themselves are found by these names.
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("tree", "packed", "padded", "single")
BATCH_LAYOUTS = ("auto", *LAYOUTS)
TREE_ATTENTION = ("auto", "segments", "varlen", "flex", "dense")
CPU_PRODUCTS = ("auto", "torch", "onednn")
ON_BAD_ROW = ("error", "skip")
RESAMPLES = 100_000
"""Resamples of an interval at most: beyond them only time and memory grow."""
SEEDS = 2**32
"""Seeds are below it: numpy's old generator, which libraries use, takes no others."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The numbers that an option takes; every number given is finite unless ``infinite``.

    Attributes:
        at_least, above: the lower end, itself included or not.
        at_most, below: the upper end, itself included or not.
        infinite: whether infinity will do.
        also: one more number that will do, as a sign for something else.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    infinite: bool = False
    also: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the number lies inside. NaN never does."""
        return (self.also is not None and value == self.also) or (
            not math.isnan(value)
            and (self.infinite or math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = f"at least {self.at_least:g}" if self.at_least is not None else ""
        if self.above is not None:
            low = "positive" if self.above == 0 else f"above {self.above:g}"
        high = f"at most {self.at_most:.16g}" if self.at_most is not None else ""
        if self.below is not None:
            high = f"below {self.below:.16g}"
        also = "" if self.also is None else f", or {self.also:g}"
        return (" and ".join(part for part in (low, high) if part) or "a finite number") + also


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    choices: Collection[str] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    infinite: bool = False,
    finite: bool = False,
    group: str | None = None,
    required: bool = False,
    flag: str | None = None,
    stock: bool = False,
    old: Collection[str] = (),
    instead: str | None = None,
    positional: bool = False,
    elsewhere: Any = None,
    needs: str | None = None,
) -> Any:
    """A field of a config.

    Args:
        default: its default; a list or dict is copied for each config. Without one the field is required.
        help: what ``--help`` says.
        choices: the words that it takes.
        at_least, above, at_most, below, infinite: the numbers that it takes, see :class:`Bounds`.
        finite: take any number but NaN and infinity, where no end is given.
        group: the heading under which ``--help`` lists it.
        required: it must be given although a base class forces a default on it.
        flag: what users call it, where that is not the field's name. Files and Python may say the field's name; as a
            flag it is an old spelling, unless ``stock``.
        stock: the field's name is the one of transformers' own training arguments, so it is no old spelling.
        old: further old spellings, which keep working with a line that names the new one.
        instead: the flag to use instead of this one, which keeps working too but is not listed.
        positional: it is the word after the command, not a flag.
        elsewhere: its value in configs of objectives that do not have it (:mod:`odin_rm.objectives.flags`).
        needs: what such an objective lacks, for the message.
    """
    metadata: dict[str, Any] = {"help": help}
    if choices is not None:
        metadata["choices"] = list(choices)
    if infinite or finite or any(end is not None for end in (at_least, above, at_most, below)):
        metadata["bounds"] = Bounds(at_least, above, at_most, below, infinite)
    extra = {"group": group, "required": required, "flag": flag, "stock": stock, "old": tuple(old), "instead": instead}
    extra["positional"] = positional
    metadata |= {name: value for name, value in extra.items() if value}
    metadata |= {name: value for name, value in {"elsewhere": elsewhere, "needs": needs}.items() if value is not None}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=partial(_copy, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _copy(default: Any) -> Any:
    return default.copy()


def options_of(group: str) -> Callable[..., Any]:
    """:func:`option` for the fields under one heading of ``--help``."""
    return partial(option, group=group)


def resamples_option(default: int = 1000, of: Callable[..., Any] = option) -> Any:
    """``--bootstrap_samples`` of the commands with intervals.

    Args:
        default: how many.
        of: :func:`option`, or that of a group (:func:`options_of`).
    """
    return of(default, "Resamples of the intervals, at least 2.", at_least=2, at_most=RESAMPLES)


def flag_of(item: dataclasses.Field[Any]) -> str:
    """What users call a field: the name of its flag."""
    return str(item.metadata.get("flag", item.name))


def old_flags(item: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The further spellings of a field that keep working."""
    return (*((item.name,) if "flag" in item.metadata else ()), *item.metadata.get("old", ()))


def check_options(config: Any) -> None:
    """Hold the values of a config against the choices and bounds of its fields; ``None`` stays where it is allowed.

    Args:
        config: a dataclass.

    Raises:
        ConfigError: a word that is none of the choices, or a number outside the bounds.
    """
    for item in dataclasses.fields(config):
        value = getattr(config, item.name, None)
        if value is None and (item.default is None or "None" in str(item.type)):
            continue
        choices, bounds = item.metadata.get("choices"), item.metadata.get("bounds")
        if choices and value not in choices:
            raise ConfigError(f"must be one of {', '.join(choices)}, it is {value!r}", where=f"--{flag_of(item)}")
        if bounds is not None and not (isinstance(value, (int, float)) and bounds.holds(value)):
            raise ConfigError(f"must be {bounds}, it is {value}", where=f"--{flag_of(item)}")
