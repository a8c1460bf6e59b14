"""What a benchmark is: its items, how they are read and computed, and what all rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Scores = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Item:
    """One row of a benchmark.

    Attributes:
        key: its id; unique in the benchmark.
        prompt: the question, text or chat messages.
        candidates: label to response.
        right: the labels of the right ones.
        groups: the groups that its figure counts in.
    """

    key: str
    prompt: Any
    candidates: dict[str, Any]
    right: frozenset[str]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is read and computed.

    Attributes:
        read: a row to an item; raises ``KeyError`` or ``RowError`` where it is none of its rows.
        figures: items and scores to figures by name.
        id_names: what score files may call the id.
    """

    read: Callable[[Mapping[str, Any]], Item]
    figures: Callable[[Sequence[Item], Scores], dict[str, Any]]
    id_names: tuple[str, ...]


def scored_items(items: Iterable[Item], scores: Scores) -> list[tuple[Item, dict[str, float]]]:
    """The items whose candidates all have a finite score, each with its scores by label."""
    found = []
    for item in items:
        own = {label: scores[item.key, label] for label in item.candidates if (item.key, label) in scores}
        if len(own) == len(item.candidates) and np.isfinite(list(own.values())).all():
            found.append((item, own))
    return found


def grouped(values: Iterable[tuple[Item, float]]) -> dict[str, Any]:
    """Mean in percent of every group, with its count."""
    groups: dict[str, list[float]] = {}
    for item, value in values:
        for group in item.groups:
            groups.setdefault(group, []).append(value)
    order = sorted(groups, key=lambda name: (name == "overall", name))
    return {name: {"accuracy": 100 * float(np.mean(groups[name])), "n": len(groups[name])} for name in order}
