"""What is probed: responses of preference rows or of plain rows, and pairs of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import DataError, RowError
from odin_rm.data.columns import Columns
from odin_rm.data.render import Prompt, Reply, response_texts
from odin_rm.data.rows import parse_preference_row, parse_prompt_response
from odin_rm.data.sources import iter_preference_rows, open_source

OnBadRow = Literal["error", "skip"]
TWINS = "twins"
"""What pairs of a shorter and a longer answer are called where the rows name no edit."""
_SIDES = (("shorter", "longer"), ("original", "edited"))
OWN_FIELDS = ("shorter", "longer", "original", "edited", "edit", "attribute")
"""Fields of :func:`read_own_pairs` beside the prompt."""


@dataclass
class ProbedRows:
    """``R`` distinct responses and the pairs among them.

    Attributes:
        prompts, responses: of each response.
        prompt: ``R`` prompt numbers.
        pairs: ``(chosen, rejected)`` response numbers; empty for plain rows.
        skipped: unusable rows that were left out.
        rows: rows that were read.
    """

    prompts: list[Prompt] = field(default_factory=list)
    responses: list[Reply] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    skipped: int = 0
    rows: int = 0


def read_probed(source: str, columns: Sequence[str], most: int, seed: int, on_bad_row: OnBadRow) -> ProbedRows:
    """Rows until ``most`` responses, drawn by ``seed``; a row is taken whole.

    Raises:
        RowError: an unusable row, where ``on_bad_row`` is ``"error"``.
        DataError: no row can be used.
    """
    found = ProbedRows()
    parsed: list[tuple[Prompt, list[Reply], list[tuple[int, int]]]] = []
    skip: Callable[[RowError], None] | None = None
    if on_bad_row == "skip":

        def skip(error: RowError) -> None:
            found.skipped += 1

    for placed in iter_preference_rows(source, skip, columns):
        row = placed.row
        try:
            if row.get("response") is not None and row.get("chosen") is None and row.get("responses") is None:
                prompt, response = parse_prompt_response(row)
                parsed.append((prompt, [response], []))
            else:
                read = parse_preference_row(row)
                parsed.append((read.prompt, list(read.responses), list(read.pairs)))
        except RowError as error:
            if skip is None:
                fix = f"{error.fix} To leave such rows out: --on_bad_row skip"
                raise RowError(placed.names.renamed(error).what, where=placed.place, fix=fix) from error
            found.skipped += 1
    found.rows = len(parsed) + found.skipped
    _take(found, parsed, most, seed)
    if not found.responses:
        raise DataError("no usable row", where=source, fix="Give preference rows, or rows of prompt and response.")
    return found


def _take(found: ProbedRows, parsed: list[Any], most: int, seed: int) -> None:
    numbers: dict[str, int] = {}
    places: dict[tuple[int, str], int] = {}
    for k in np.random.default_rng(seed).permutation(len(parsed)).tolist():
        prompt, responses, pairs = parsed[k]
        if found.responses and len(found.responses) + len(responses) > most:
            continue
        number = numbers.setdefault(repr(prompt), len(numbers))
        here = []
        for response in responses:
            key = (number, repr(response))
            if key not in places:
                places[key] = len(found.responses)
                found.prompts.append(prompt)
                found.responses.append(response)
                found.prompt.append(number)
            here.append(places[key])
        found.pairs += [(here[a], here[b]) for a, b in pairs]


def edited_reply(reply: Reply, change: Callable[[str], str | None]) -> Reply | None:
    """A response with its last text edited; ``None`` where there is nothing to change."""
    if isinstance(reply, str):
        return change(reply)
    last = reply[-1]
    edited = change(last["content"]) if isinstance(last.get("content"), str) else None
    return None if edited is None else [*reply[:-1], {**last, "content": edited}]


def reply_text(reply: Reply) -> str:
    """What the assistant says in a response."""
    return "\n\n".join(response_texts(reply))


@dataclass
class OwnPairs:
    """Pairs of the user's own, by the name of their edit."""

    name: str
    attribute: str
    prompts: list[Prompt] = field(default_factory=list)
    originals: list[Reply] = field(default_factory=list)
    edited: list[Reply] = field(default_factory=list)


def read_own_pairs(path: str, on_bad_row: OnBadRow, columns: Sequence[str] = ()) -> list[OwnPairs]:
    """Rows of ``prompt`` with ``shorter`` and ``longer``, or ``original`` and ``edited``; ``edit`` names the kind.

    Of the names in ``columns`` those of these fields count, where a file has not our own name.

    Raises:
        RowError: a row lacks one of them, and ``on_bad_row`` is ``"error"``.
        DataError: no row can be used.
    """
    found: dict[str, OwnPairs] = {}
    names: Columns | None = None
    for placed in open_source(path).rows((lambda error: None) if on_bad_row == "skip" else None):
        names = names or Columns(columns).beside(placed.row, path, ("prompt", *OWN_FIELDS))
        row = names.apply(placed.row)
        try:
            sides = next((s for s in _SIDES if row.get(s[0]) is not None and row.get(s[1]) is not None), None)
            if sides is None:
                fix = "Give shorter and longer, or original and edited."
                raise RowError("has no pair of responses", fix=fix)
            prompt, original = parse_prompt_response({"prompt": row.get("prompt"), "response": row[sides[0]]})
            _, edited = parse_prompt_response({"prompt": row.get("prompt"), "response": row[sides[1]]})
        except RowError as error:
            if on_bad_row == "skip":
                continue
            raise RowError(error.what, where=placed.place, fix=error.fix) from error
        name = str(row.get("edit") or (TWINS if sides == _SIDES[0] else "pairs"))
        own = found.setdefault(name, OwnPairs(name, str(row.get("attribute") or "response_tokens")))
        own.prompts.append(prompt)
        own.originals.append(original)
        own.edited.append(edited)
    if not found:
        raise DataError("no usable row", where=path, fix="Give rows of prompt, original and edited.")
    return list(found.values())
