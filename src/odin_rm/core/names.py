"""Names for folders that tell them apart: ``runs/odin/model`` is ``odin``, not ``model``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SAYS_NOTHING = ("model", "policy", "/")
"""Parts of a path that every run has."""


def telling_parts(place: str) -> list[str]:
    """The parts of a path that say something, the last one last; at least one."""
    path = Path(place)
    return [part for part in path.parts if part not in SAYS_NOTHING] or [path.name or str(place)]


def place_name(place: str) -> str:
    """The last part of a path that says something."""
    return telling_parts(place)[-1]


def distinct_names(places: Iterable[str]) -> dict[str, str]:
    """A name for each place: its last telling part, and as many of those before it as tell it from the others.

    Args:
        places: paths; one that is given twice has one name.

    Returns:
        Path to name. Paths that differ only in parts that say nothing are named in full.
    """
    parts = {place: telling_parts(place) for place in dict.fromkeys(places)}
    names = {}
    for place, own in parts.items():
        others = [other for there, other in parts.items() if there != place]
        for count in range(1, len(own) + 1):
            if all(other[-count:] != own[-count:] for other in others):
                names[place] = "/".join(own[-count:])
                break
        else:
            names[place] = place
    return names
