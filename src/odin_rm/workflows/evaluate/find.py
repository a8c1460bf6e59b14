"""Which policies ``odin-rm evaluate`` is about, and what each is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError
from odin_rm.core.names import distinct_names
from odin_rm.results.contents import expanded, read_settings, read_sweep

POLICY = "policy"
_NO_RUN = "Give a sweep, folders of rl, sft or dpo, policies, or outputs in AlpacaEval's format."


@dataclass(frozen=True)
class Candidate:
    """A policy, or its outputs where they are there already.

    Attributes:
        place: the run folder, the policy's folder or the file of outputs.
        name: what no other one is called.
        settings: of its run; in a sweep those that it varies win.
    """

    place: Path
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def has_outputs(self) -> bool:
        """Whether it is a file of outputs."""
        return self.place.is_file()

    @property
    def policy(self) -> Path:
        """The folder of the policy's weights."""
        return self.place / POLICY if (self.place / POLICY / "config.json").is_file() else self.place


def find_candidates(places: Sequence[str]) -> tuple[list[Candidate], Counter[str]]:
    """All policies in files, folders and patterns, and the counts of runs left out by reason.

    Raises:
        DataError: nothing is there, or a place that holds no policy.
    """
    left_out: Counter[str] = Counter()
    found: dict[Path, Candidate] = {}
    for place in expanded(places):
        if not place.exists():
            raise DataError("there is no such file or folder", where=str(place), fix="Check --runs.")
        before = left_out.total()
        inside = list(_inside(place, left_out))
        if not inside and left_out.total() == before:
            raise DataError("holds no policy", where=str(place), fix=_NO_RUN)
        for candidate in inside:
            found.setdefault(candidate.place.resolve(), candidate)
    if not found:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise DataError(f"no run has come to its end ({reasons})", where="--runs", fix=_NO_RUN)
    names = distinct_names(str(place.with_suffix("") if place.is_file() else place) for place in found)
    return [
        Candidate(
            candidate.place,
            names[str(place.with_suffix("") if place.is_file() else place)],
            candidate.settings,
        )
        for place, candidate in found.items()
    ], left_out


def _inside(place: Path, left_out: Counter[str]) -> Iterator[Candidate]:
    if place.is_file():
        yield Candidate(place)
    elif (place / "sweep.json").is_file():
        yield from _of_sweep(place, left_out)
    elif (place / POLICY / "config.json").is_file():
        yield Candidate(place, settings=read_settings(place))
    elif (place / "config.json").is_file():
        run = place.parent if place.name == POLICY else place
        yield Candidate(place, settings=read_settings(run))
    elif (place / "metrics.jsonl").is_file():  # it has not come to its end, or trains a reward model
        left_out["runs without a policy"] += 1
    else:
        for child in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from _inside(child, left_out)


def _of_sweep(folder: Path, left_out: Counter[str]) -> Iterator[Candidate]:
    for run in read_sweep(folder):
        if run.status != "done":
            left_out[f"runs of a sweep that are {run.status}"] += 1
        elif not (run.folder / POLICY / "config.json").is_file():
            left_out["runs without a policy"] += 1
        else:
            yield Candidate(run.folder, settings={**read_settings(run.folder), **run.varied})
