"""Pairwise judgements from files: AlpacaEval's annotation files as they are, and what our judge writes.

A row holds ``instruction`` (or ``prompt``), ``output_1`` of the baseline ``generator_1``, ``output_2`` of the candidate
``generator_2``, and ``preference`` between 1 (the baseline is better) and 2 (the candidate is better). 1.5 is a tie,
and so is 0, the older sign for it. Where both orders of showing the answers were judged, a row says what each gave in
``preference_candidate_first`` and ``preference_candidate_second``, or each order is a row of its own with another
``order``; a preference means the candidate in any order. Other fields are ignored, but for ``annotator``: judgements of
different judges are never mixed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.files import FORMATS, PathLike, bad_row, read_rows
from odin_rm.core.reading import read_json
from odin_rm.results.annotation_rows import Annotation, check_preferences, parse_annotation, parse_orders
from odin_rm.results.preference_codes import ALPACA_EVAL, PreferenceCodes

# Where a judge was reached does not make another judge of it; its name stands in the rows.
_JUDGES_PLACE = ("name", "model", "base_url", "state")


@dataclass(frozen=True)
class SystemAnnotations:
    """All judgements of one candidate, prompt by prompt, sorted by prompt.

    Attributes:
        candidate, baseline: generator names.
        files: where the rows come from.
        prompts: ``P`` instructions with a preference.
        preference: ``(P,)`` the mean over orders, 1 to 2.
        by_order: for each order ``(P,)`` preferences; empty where only one order was judged.
        candidate_outputs, baseline_outputs: ``P`` texts.
        judged: all instructions of the files, also those that lack a preference.
        annotator: the judge, where the files name one.
    """

    candidate: str
    baseline: str
    files: tuple[str, ...]
    prompts: tuple[str, ...]
    preference: np.ndarray
    by_order: dict[str, np.ndarray]
    candidate_outputs: tuple[str, ...]
    baseline_outputs: tuple[str, ...]
    judged: frozenset[str]
    annotator: str | None = None

    def only(self, prompts: Iterable[str]) -> SystemAnnotations:
        """The same without other prompts than these."""
        wanted = set(prompts)
        kept = [k for k, prompt in enumerate(self.prompts) if prompt in wanted]
        return replace(
            self,
            prompts=tuple(self.prompts[k] for k in kept),
            preference=self.preference[kept],
            by_order={order: values[kept] for order, values in self.by_order.items()},
            candidate_outputs=tuple(self.candidate_outputs[k] for k in kept),
            baseline_outputs=tuple(self.baseline_outputs[k] for k in kept),
        )


@dataclass(frozen=True)
class Annotations:
    """What the files hold.

    Attributes:
        systems: one record per candidate, in the order of first appearance.
        left_out: number of rows left out, by reason.
    """

    systems: list[SystemAnnotations]
    left_out: dict[str, int]


def annotation_files(places: Sequence[PathLike]) -> list[Path]:
    """The annotation files that ``places`` name.

    A folder stands for every ``annotations.json`` (or ``.jsonl``, ``.gz``) at any depth, which is how AlpacaEval's
    result folders and our judge's are laid out; where there is none, for all row files directly in it.

    Raises:
        DataError: a folder without any such file, a file named twice.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.is_dir():
            found.append(place)
            continue
        endings = tuple(ending for suffix in FORMATS for ending in (suffix, suffix + ".gz"))
        files = sorted(p for p in place.rglob("*") if p.name.lower().endswith(endings) and p.is_file())
        inside = [p for p in files if p.name.split(".")[0] == "annotations"] or [p for p in files if p.parent == place]
        if not inside:
            raise DataError("the folder holds no annotation file", where=str(place), fix="Give files of annotations.")
        found += inside
    twice = [str(path) for path, count in Counter(path.resolve() for path in found).items() if count > 1]
    if twice:
        raise DataError("is given twice", where=twice[0], fix="Name each file once.")
    return found


def read_annotations(
    places: Sequence[PathLike],
    *,
    on_bad_row: Literal["error", "skip"] = "error",
    codes: PreferenceCodes = ALPACA_EVAL,
) -> Annotations:
    """Read judgements of one or several candidates against one baseline.

    Args:
        places: files and folders (:func:`annotation_files`). Rows of one ``generator_2`` belong together.
        on_bad_row: stop at rows without preference, with empty outputs or the like, or leave them out and count them.
        codes: how preferences are written.

    Raises:
        DataError: unreadable files, preferences that may be written in other codes, no usable row, more than one
            baseline or judge.
        RowError: unusable rows, duplicates; the message counts them.
    """
    files = annotation_files(places)
    rows: list[Annotation] = []
    bad: list[RowError] = []
    named: dict[str, set[str]] = {}
    seen: dict[tuple[str, str, str | None], Annotation] = {}
    for path in files:
        numbered = list(read_rows(path, on_bad_row=bad.append))
        check_preferences(path, [row for _, row in numbered], codes)
        for number, row in numbered:
            try:
                item = parse_annotation(path, number, row, named, codes=codes)
                first = seen.setdefault((item.candidate, item.instruction, item.order), item)
                if first is not item:
                    what = f"judges '{item.candidate}' on the instruction of {first.where} again"
                    raise RowError(what, where=item.where, fix="Keep one judgement per instruction, model and order.")
                if item.preference is None:
                    fix = "Judge again what is missing, or leave it out: --on_bad_row skip."
                    raise RowError("has no preference", where=item.where, fix=fix)
                rows += _orders(path, item, row, codes)
            except RowError as error:
                bad.append(error)
    if bad and on_bad_row == "error":
        more = f" ({len(bad)} unusable rows in all)" if len(bad) > 1 else ""
        raise RowError(bad[0].what + more, where=bad[0].where, fix=bad[0].fix)
    if not rows:
        raise DataError("no row can be used", where=str(files[0]), fix=bad[0].fix)
    _check_one(rows, "baseline", "Win rates against different baselines cannot be compared.")
    _check_one(rows, "annotator", "Compare judgements of one judge only.")
    _check_judges(files)
    reasons = ("a judgement given twice" if error.what.endswith(" again") else error.what for error in bad)
    names = dict.fromkeys(row.candidate for row in rows)
    systems = [_system([row for row in rows if row.candidate == name], frozenset(named[name])) for name in names]
    return Annotations(systems, dict(Counter(reasons)))


def _orders(path: Path, item: Annotation, row: dict[str, Any], codes: PreferenceCodes) -> list[Annotation]:
    """The judgement, or one for each order where the row says what each of them gave."""
    given = parse_orders(path, item.row, row, codes)
    if not given:
        return [item]
    if None in given.values():
        fix = "Judge both orders, or leave it out: --on_bad_row skip."
        raise bad_row(path, item.row, "has a preference in one order only", fix)
    return [replace(item, order=order, preference=value) for order, value in given.items()]


def _check_one(rows: list[Annotation], name: str, fix: str) -> None:
    """Refuse rows that differ in who the baseline or the judge is."""
    first: dict[str, Annotation] = {}
    for row in rows:
        if (value := getattr(row, name)) is not None:
            first.setdefault(value, row)
    if len(first) > 1:
        (one, there), (other, here), *_ = first.items()
        what = f"the {name} is '{other}', but '{one}' in {there.where}: mixed {name}s"
        raise DataError(what, where=here.where, fix=fix)


def _check_judges(files: Sequence[Path]) -> None:
    """Refuse judgements of one name by other settings, where ``judge.json`` beside the files tells them."""
    first: tuple[Path, dict[str, Any]] | None = None
    for path in files:
        try:
            judge = read_json(path.parent / "judge.json")["judge"]
            settings = {name: value for name, value in judge.items() if name not in _JUDGES_PLACE}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if settings.get("kind") == "recorded":  # each file of recorded judgements is one of its own
            continue
        first = first or (path, settings)
        differing = [name for name in settings | first[1] if settings.get(name) != first[1].get(name)]
        if differing:
            what = f"the judge had another {differing[0]} than in {first[0]}: mixed judges"
            raise DataError(what, where=str(path), fix="Compare judgements of one judge with one set of settings.")


def _system(rows: list[Annotation], judged: frozenset[str]) -> SystemAnnotations:
    """The rows of one candidate, both orders of a prompt brought together."""
    orders = list(dict.fromkeys(sorted(row.order for row in rows if row.order is not None)))
    of_prompt: dict[str, dict[str | None, Annotation]] = {}
    for row in rows:
        if orders and row.order is None:
            raise RowError("has no 'order', but other rows have", where=row.where, fix="Give it in all rows or none.")
        first = next(iter(of_prompt.setdefault(row.instruction, {}).values()), row)
        if (row.baseline_output, row.candidate_output) != (first.baseline_output, first.candidate_output):
            what = f"the outputs differ from those in {first.where}, the same instruction in another order"
            raise RowError(what, where=row.where, fix="output_1 is the baseline's in both orders.")
        of_prompt[row.instruction][row.order] = row
    # One order alone would carry the judge's liking for a place into the mean.
    complete = {prompt: of_prompt[prompt] for prompt in sorted(of_prompt) if len(of_prompt[prompt]) >= len(orders)}
    if not complete:
        what = f"no prompt of '{rows[0].candidate}' has a preference in all orders"
        raise DataError(what, where=rows[0].file, fix="Judge both orders, or give the rows of one.")
    wanted: list[str | None] = [*orders] or [None]
    by_order = {
        order: np.array([held[order].preference for held in complete.values()], dtype=np.float64) for order in wanted
    }
    any_row = [next(iter(held.values())) for held in complete.values()]
    return SystemAnnotations(
        candidate=rows[0].candidate,
        baseline=rows[0].baseline,
        files=tuple(dict.fromkeys(row.file for row in rows)),
        prompts=tuple(complete),
        preference=np.mean(list(by_order.values()), axis=0),
        by_order={str(order): values for order, values in by_order.items()} if len(orders) > 1 else {},
        candidate_outputs=tuple(row.candidate_output for row in any_row),
        baseline_outputs=tuple(row.baseline_output for row in any_row),
        judged=judged,
        annotator=next((row.annotator for row in rows if row.annotator is not None), None),
    )


def on_the_same_prompts(
    systems: Sequence[SystemAnnotations], prompts: Literal["same", "shared"]
) -> list[SystemAnnotations]:
    """The systems, fit to be compared with each other.

    Args:
        systems: of :func:`read_annotations`.
        prompts: ``same`` refuses systems that were judged on different prompts; ``shared`` keeps the prompts on which
            all of them have a preference.

    Raises:
        DataError: different prompts, no shared one, or a baseline that answers one prompt in two ways.
    """
    first = systems[0]
    answers: dict[str, str] = {}
    for system in systems:
        for prompt, text in zip(system.prompts, system.baseline_outputs, strict=True):
            if answers.setdefault(prompt, text) != text:
                what = f"'{system.baseline}' answers the instruction '{_short(prompt)}' in two ways: mixed baselines"
                raise DataError(what, where=system.files[0], fix="Compare judgements against one file of outputs.")
    if prompts == "shared":
        shared = set.intersection(*(set(system.prompts) for system in systems))
        if not shared:
            raise DataError("no prompt is judged for all systems", where="--annotations", fix="Run each file alone.")
        return [system.only(shared) for system in systems]
    for system in systems[1:]:
        if system.judged != first.judged:
            here, there = len(system.judged - first.judged), len(first.judged - system.judged)
            what = f"judged on different prompts than {first.files[0]} ({here} only here, {there} only there)"
            fix = "Give annotations of the same prompts, or pass --prompts shared."
            raise DataError(what, where=system.files[0], fix=fix)
    return list(systems)


def prompt_digest(instruction: str) -> str:
    """What stands for an instruction where its text would take too much room."""
    return hashlib.sha256(instruction.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_set_digest(digests: Iterable[str]) -> str:
    """What stands for a set of instructions, in any order."""
    return hashlib.sha256(" ".join(sorted(set(digests))).encode("ascii")).hexdigest()[:16]


def read_difficulty(path: PathLike) -> dict[str, float]:
    """Prompt difficulty by instruction, from rows of ``instruction`` (or ``prompt``) and ``difficulty``.

    Raises:
        DataError: an unreadable file, a row without number, an instruction given twice.
    """
    difficulty: dict[str, float] = {}
    for number, row in read_rows(path):
        instruction, given = row.get("instruction", row.get("prompt")), row.get("difficulty")
        try:
            value = float(given)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not isinstance(instruction, str) or not math.isfinite(value):
            raise bad_row(path, number, "needs an instruction and a number 'difficulty'", "Write both fields.")
        if instruction in difficulty:
            raise bad_row(path, number, "gives an instruction again", "Keep one row per instruction.")
        difficulty[instruction] = value
    return difficulty


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."
