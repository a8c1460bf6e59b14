"""First pass over a source: check rows, put their texts aside on disk, keep only small columns of numbers.

Texts go to an Arrow file; what stays in memory per row are a few dozen bytes in flat arrays: a 128-bit digest of the
prompt and of each (prompt, response), the pairs as positions, the margin and the row number. Digests decide which texts
are the same; at a million texts the chance that two different ones collide is about 1e-27.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from odin_rm.core.errors import RowError
from odin_rm.core.files import RowWriter
from odin_rm.core.progress import Progress
from odin_rm.data.attributes import MEASURED, Attribute, measure_attributes, measure_reply, text_attributes
from odin_rm.data.messages import ChatPrompt, template_variables
from odin_rm.data.render import Prompt, Reply
from odin_rm.data.rows import PreferenceRow, parse_preference_row
from odin_rm.data.sources import Source

VariantMaker = Callable[[Reply], Reply | None]
"""Makes a variant of a response, or ``None`` where there is nothing to change."""
_DIGEST = 16
_WRITE_AT_ONCE = 1000


@dataclass
class Collected:
    """What is known of a source after the first pass. A *slot* is one response of one row, in reading order.

    Attributes:
        texts: Arrow file with a row per usable row: ``place``, ``prompt``, ``responses``.
        prompt_digests: 16 bytes per row.
        slot_digests: 16 bytes per slot, of prompt and response.
        slots_per_row: responses of each row.
        chosen, rejected: slots of each pair.
        margin: of each pair.
        row: row number of each pair in the source.
        extra: per column, one number per slot; the attributes of texts are among them.
        rows, skipped, ties: counts.
        first_reason: why the first of the skipped rows was.
        layouts: rows that were read from each public layout.
        measured: further attributes of the texts, kept in ``extra`` under ``MEASURED`` and their name.
        makers: by kind, what makes a variant of a response. Variants are slots of their row, behind its responses.
        variants: by kind, the slot of each slot's variant, -1 without one.
    """

    texts: Path
    prompt_digests: bytearray = field(default_factory=bytearray)
    slot_digests: bytearray = field(default_factory=bytearray)
    slots_per_row: array = field(default_factory=lambda: array("q"))
    chosen: array = field(default_factory=lambda: array("q"))
    rejected: array = field(default_factory=lambda: array("q"))
    margin: array = field(default_factory=lambda: array("f"))
    row: array = field(default_factory=lambda: array("q"))
    extra: dict[str, array] = field(default_factory=dict)
    rows: int = 0
    skipped: int = 0
    ties: int = 0
    first_reason: str = ""
    layouts: dict[str, int] = field(default_factory=dict)
    measured: Sequence[Attribute] = ()
    makers: Mapping[str, VariantMaker] = field(default_factory=dict)
    variants: dict[str, array] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Number of slots so far."""
        return len(self.slot_digests) // _DIGEST

    def add(self, row: PreferenceRow, number: int) -> tuple[str, list[str]]:
        """Take in a row; returns its texts as they are to be stored."""
        replies = [*row.responses, *self._add_variants(row.responses)]
        prompt, responses = pack(row.prompt), [pack(response) for response in replies]
        prompt_digest = _digest(prompt.encode("utf-8"))
        digests = [_digest(prompt_digest + response.encode("utf-8")) for response in responses]
        first = self.slots
        self.prompt_digests += prompt_digest
        self.slot_digests += b"".join(digests)
        self.slots_per_row.append(len(responses))
        for chosen, rejected in row.pairs:
            self.chosen.append(first + chosen)
            self.rejected.append(first + rejected)
            self.margin.append(row.margin)
            self.row.append(number)
        for name, values in row.extra.items():
            self.extra[name].extend(values)
            self.extra[name].extend([math.nan] * (len(replies) - len(row.responses)))
        for response in replies:
            for name, value in measure_attributes(response).items():
                self.extra[name].append(value)
            if self.measured:
                for one, value in zip(self.measured, measure_reply(response, self.measured), strict=True):
                    self.extra[MEASURED + one.name].append(value)
        self.ties += row.ties
        return prompt, responses

    def _add_variants(self, replies: Sequence[Reply]) -> list[Reply]:
        """The variants of a row's responses, after noting which slot each will have."""
        made: list[Reply] = []
        places: dict[str, list[int]] = {kind: [] for kind in self.makers}
        for reply in replies:
            for kind, make in self.makers.items():
                variant = make(reply)
                places[kind].append(-1 if variant is None else self.slots + len(replies) + len(made))
                if variant is not None:
                    made.append(variant)
        for kind, found in places.items():
            self.variants.setdefault(kind, array("q")).extend([*found, *[-1] * len(made)])
        return made


def collect(
    source: Source,
    folder: Path,
    *,
    skip_bad_rows: bool,
    extra_columns: Sequence[str] = (),
    check: Callable[[PreferenceRow], None] | None = None,
    measured: Sequence[Attribute] = (),
    makers: Mapping[str, VariantMaker] | None = None,
) -> Collected:
    """Read a source once.

    Args:
        source: where the rows come from.
        folder: scratch folder; gets ``texts.arrow`` and, where rows were skipped, ``skipped.jsonl``.
        skip_bad_rows: leave out unusable rows instead of raising.
        extra_columns: per-response numbers to keep.
        check: a further check of each row; raises :class:`RowError`.
        measured: further attributes to compute of every response's text.
        makers: by kind, what makes a variant of a response (:attr:`Collected.makers`).

    Raises:
        RowError: an unusable row, with file, row number, field and cure.
        DataError: the source cannot be read.
    """
    columns = dict.fromkeys([*extra_columns, *text_attributes(), *(MEASURED + one.name for one in measured)])
    found = Collected(
        folder / "texts.arrow", extra={name: array("d") for name in columns}, measured=measured, makers=makers or {}
    )
    with (
        _TextFile(found.texts) as texts,
        _SkippedRows(folder / "skipped.jsonl") as skipped,
        Progress("read", unit="rows") as bar,
    ):
        for placed in source.rows(skipped.malformed if skip_bad_rows else _refuse):
            found.rows += 1
            bar.advance()
            try:
                row = parse_preference_row(placed.row, extra_columns)
                if check is not None:
                    check(row)
                prompt, responses = found.add(row, placed.number)
            except RowError as error:
                if not skip_bad_rows:
                    _refuse(placed.placed(error))
                skipped.write(placed.number, placed.placed(error), placed.row)
                continue
            if placed.layout is not None:
                found.layouts[placed.layout] = found.layouts.get(placed.layout, 0) + 1
            texts.write(placed.place, prompt, responses)
    # A malformed row never came out of the reader, but the source holds it.
    found.rows += skipped.unread
    found.skipped, found.first_reason = skipped.count, skipped.first_reason
    return found


def _refuse(error: RowError) -> NoReturn:
    """Raise for an unusable row, with the flag that would leave it out."""
    raise RowError(
        error.what, where=error.where, fix=f"{error.fix} To leave such rows out: --on_bad_row skip"
    ) from error


class _TextFile:
    """Writes texts to an Arrow file, a thousand rows at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._pa = pa
        text = pa.large_string()
        self._schema = pa.schema([("place", text), ("prompt", text), ("responses", pa.list_(text))])
        self._path = path
        self._rows: tuple[list[Any], list[Any], list[Any]] = ([], [], [])

    def __enter__(self) -> _TextFile:
        self._sink = self._pa.OSFile(str(self._path), "wb")
        self._writer = self._pa.ipc.new_file(self._sink, self._schema)
        return self

    def write(self, *cells: Any) -> None:
        for column, cell in zip(self._rows, cells, strict=True):
            column.append(cell)
        if len(self._rows[0]) >= _WRITE_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        arrays = [self._pa.array(cells, type=kind) for cells, kind in zip(self._rows, self._schema.types, strict=True)]
        self._writer.write_batch(self._pa.record_batch(arrays, schema=self._schema))
        for column in self._rows:
            column.clear()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
        finally:
            self._sink.close()


class _SkippedRows:
    """Writes skipped rows with number and reason; makes no file where nothing is skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: RowWriter | None = None
        self.count = self.unread = 0
        self.first_reason = ""

    def __enter__(self) -> _SkippedRows:
        return self

    def malformed(self, error: RowError) -> None:
        """A row that could not even be read; its text is not known any more."""
        self.unread += 1
        number = error.where.rpartition("row ")[2]
        self.write(int(number) if number.isdigit() else None, error, None)

    def write(self, number: int | None, error: RowError, row: Any) -> None:
        if self._writer is None:
            self._writer = RowWriter(self._path).__enter__()
            self.first_reason = str(error)
        self.count += 1
        self._writer.write({"row": number, "reason": str(error), "data": row})

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


def pack(text: Prompt | Reply) -> str:
    """A string or chat messages as one string; :func:`unpack` is the way back."""
    if isinstance(text, str):
        return "s" + text
    variables = template_variables(text)
    return "v" + _json([list(text), variables]) if variables else "j" + _json(text)


def _json(value: Any) -> str:
    # Arrow's rows may hold dates and the like in arguments of tools; a template would write them as text, too.
    return json.dumps(value, ensure_ascii=False, default=str)


def unpack(packed: str) -> Any:
    """What :func:`pack` was given."""
    if packed[0] == "s":
        return packed[1:]
    value = json.loads(packed[1:])
    return ChatPrompt(*value) if packed[0] == "v" else value


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def first_appearances(digests: bytearray) -> tuple[np.ndarray, np.ndarray]:
    """Number equal digests alike, in order of first appearance.

    Args:
        digests: ``n`` digests of 16 bytes end to end.

    Returns:
        ``(positions (d,), number (n,))``: where each distinct digest first appears, ascending, and which one each is.
    """
    halves = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    # lexsort is stable, so the first of a run of equal digests is the first to appear.
    positions = order[new]
    rank = np.empty(len(positions), dtype=np.int64)
    rank[np.argsort(positions)] = np.arange(len(positions))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = rank[np.cumsum(new) - 1]
    return np.sort(positions), number
