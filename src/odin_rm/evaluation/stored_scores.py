"""Scores that somebody stored: rows of prompt, responses and scores of any model, API, judge or benchmark.

Three forms, told apart by their fields:

* a pair: ``chosen_score`` and ``rejected_score`` beside a preference row;
* a list: ``responses`` and ``scores``, optionally ``labels`` (higher is better);
* a response a row: ``score`` beside ``prompt_id`` (or ``prompt``) and ``response``, optionally ``label``.

Optional in all: ``model`` (several models may share a file), ``gold`` (a second reward, in a list ``gold``, in a pair
``chosen_gold`` and ``rejected_gold``), ``writer`` (who wrote a response; ``writers`` in a list, ``chosen_writer`` and
``rejected_writer`` in a pair) and ``attributes`` (name to number; ``chosen_attributes`` and
``rejected_attributes`` in a pair, a list of such objects in a list), which may stand for the text. Every two responses
of a prompt with different labels are a pair. A response without a score is left out and counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.reading import parse_json
from odin_rm.data.attributes import COLUMN, DEFAULT, TOKENS, Attribute, find_attribute, given, measure_texts
from odin_rm.data.columns import NO_NAMES, Columns
from odin_rm.data.render import Prompt, response_texts
from odin_rm.data.rows import parse_preference_row, parse_prompt_response
from odin_rm.data.sources import PlacedRow, iter_preference_rows

OnBadRow = Literal["error", "skip"]
Numbers = Mapping[str, float]
_BLOCK_TEXTS = 1024
"""Texts that are measured at a time."""
_LONGEST_KEY = 32
"""Characters of a prompt's id that is kept as it is where texts are not."""


@dataclass(frozen=True)
class _Response:
    """One response as a row states it."""

    score: float | None
    text: str | None = None
    label: float | None = None
    gold: float | None = None
    writer: str | None = None
    attributes: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """What a row says: one prompt, its responses, the pair among them."""

    key: str
    prompt: Prompt | None
    model: str
    responses: Sequence[_Response]
    pair: bool = False


@dataclass(frozen=True)
class StoredScores:
    """The scores of one model: ``R`` responses to ``P`` prompts and ``B`` pairs.

    Attributes:
        model: its name; the file's where the rows give none.
        source: the file.
        prompt_keys: ``P`` ids of the prompts, or their texts.
        prompts: ``P`` prompts, ``None`` where the rows give an id alone or texts are not kept.
        quality: ``(R,)`` scores.
        prompt: ``(R,)`` prompt numbers.
        texts: ``R`` responses, ``None`` where a row has attributes alone or texts are not kept.
        label, gold: ``(R,)`` numbers, NaN where there is none.
        chosen, rejected: ``(B,)`` response numbers.
        attributes: name to ``(R,)`` numbers.
        writers: ``R`` names of who wrote a response, ``None`` where a row does not say.
        described: the attributes' units, by name.
        report: counts of what was read and left out.
    """

    model: str
    source: str
    prompt_keys: list[str]
    prompts: list[Prompt | None]
    quality: np.ndarray
    prompt: np.ndarray
    texts: list[str | None]
    label: np.ndarray
    gold: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    attributes: dict[str, np.ndarray]
    described: dict[str, Attribute]
    report: dict[str, Any]
    writers: list[str | None] = field(default_factory=list)


def read_stored_scores(
    source: Any,
    *,
    attributes: Sequence[str] = (),
    columns: Columns = NO_NAMES,
    on_bad_row: OnBadRow = "error",
    keep_texts: bool = True,
) -> list[StoredScores]:
    """The scores of every model in a file, in the order in which the models appear.

    Texts are measured as they are read, each once whatever the number of models.

    Args:
        source: a file, a dataset folder or id, or a list of rows.
        attributes: what to measure; empty takes the 20 of the default where the rows have texts, and all that the rows
            carry themselves.
        columns: other names of the fields.
        on_bad_row: stop at an unusable row, or leave it out and count it.
        keep_texts: without the texts a response takes some hundred bytes, whatever its length; prompts and their ids
            then are not kept either.

    Raises:
        RowError: an unusable row, where ``on_bad_row`` is ``"error"``.
        DataError: no row can be used, or an attribute is missing.
        ConfigError: an attribute that there is not.
    """
    wanted = [find_attribute(name) for name in attributes]
    column_names = [name.removeprefix(COLUMN) for name in attributes if name.startswith(COLUMN)]
    name = str(source) if isinstance(source, str) else "rows"
    measured = _Measured(wanted, name)
    collected: dict[str, _Collected] = {}
    rows = 0
    skipped: list[str] = []
    for placed in _placed_rows(source, columns, on_bad_row, skipped):
        rows += 1
        try:
            row = read_score_row(placed.row, column_names)
        except RowError as error:
            if on_bad_row == "error":
                fix = f"{error.fix} To leave such rows out: --on_bad_row skip".strip()
                raise RowError(columns.renamed(error).what, where=placed.place, fix=fix) from error
            skipped.append(placed.place)
            continue
        collected.setdefault(row.model, _Collected(measured, keep_texts)).add(row)
    if not any(one.quality for one in collected.values()):
        fix = "Give rows with chosen_score and rejected_score, responses and scores, or response and score."
        raise DataError("no row has a score", where=name, fix=fix)
    report = {"rows": rows + len([s for s in skipped if s == ""]), "skipped_rows": len(skipped)}
    found = []
    for model in list(collected):
        one = collected.pop(model)  # what it holds may go before the next one is made
        if one.quality:
            found.append(one.finish(model or _stem(name), name, report))
    return found


def _placed_rows(source: Any, columns: Columns, on_bad_row: OnBadRow, skipped: list[str]) -> Iterator[PlacedRow]:
    malformed = (lambda error: skipped.append("")) if on_bad_row == "skip" else None
    for k, placed in enumerate(iter_preference_rows(source, malformed)):
        if k == 0:
            columns.check(placed.row, str(source) if isinstance(source, str) else "rows")
        yield PlacedRow(placed.number, placed.place, columns.apply(placed.row))


def _stem(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return last.split(".")[0] or last


# ---- one row ---------------------------------------------------------------------------------------------------------


def read_score_row(row: Mapping[str, Any], columns: Sequence[str] = ()) -> _Row:
    """Check one row of any of the three forms.

    Args:
        row: field names to values.
        columns: further numbers to take along as attributes.

    Raises:
        RowError: the row is unusable; names the field.
    """
    model = "" if row.get("model") is None else str(row["model"])
    if row.get("chosen_score") is not None or row.get("rejected_score") is not None:
        prompt, responses = _pair_row(row, columns)
        return _Row(_key(row, prompt), prompt, model, responses, pair=True)
    if row.get("scores") is not None:
        prompt, responses = _list_row(row, columns)
        return _Row(_key(row, prompt), prompt, model, responses)
    if "score" in row:
        prompt, response = _long_row(row, columns)
        return _Row(_key(row, prompt), prompt, model, [response])
    fields = ", ".join(map(str, list(row)[:8]))
    fix = "Give chosen_score and rejected_score, responses and scores, or response and score; --columns maps names."
    raise RowError(f"has no score (its fields are {fields})", fix=fix)


def _pair_row(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Prompt | None, list[_Response]]:
    prompt: Prompt | None = None
    texts: list[str | None] = [None, None]
    if row.get("chosen") is not None or row.get("rejected") is not None:
        asked = row.get("prompt")
        parsed = parse_preference_row({**row, "prompt": "?"} if asked is None and _has_id(row) else row)
        prompt = None if asked is None and _has_id(row) else parsed.prompt
        texts = [_joined(response) for response in parsed.responses]
    elif row.get("prompt") is not None:
        prompt = row["prompt"]
    responses = []
    for side, text, label in zip(("chosen", "rejected"), texts, (1.0, 0.0), strict=True):
        numbers = _numbers(row.get(f"{side}_attributes"), f"{side}_attributes")
        for name in (*columns, *([TOKENS] if row.get(f"{side}_{TOKENS}") is not None else [])):
            numbers[name] = _required_number(row.get(f"{side}_{name}"), f"{side}_{name}")
        score, gold = (_number(row.get(f"{side}_{name}"), f"{side}_{name}") for name in ("score", "gold"))
        writer = _name(row.get(f"{side}_writer"))
        responses.append(_checked(_Response(score, text, label, gold, writer, numbers), f"{side}"))
    return prompt, responses


def _list_row(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Prompt | None, list[_Response]]:
    scores = _list(row["scores"], "scores")
    n = len(scores)

    def column(name: str) -> list[Any]:
        if row.get(name) is None:
            return [None] * n
        values = _list(row[name], name)
        if len(values) != n:
            what = f"'{name}' has {len(values)} entries and 'scores' has {n}"
            raise RowError(what, fix="Give one for each response.")
        return values

    texts = [_text(value, f"responses[{i}]") for i, value in enumerate(column("responses"))]
    labels, gold, objects = column("labels"), column("gold"), column("attributes")
    writers = column("writers")
    taken = [*columns, *([TOKENS] if row.get(TOKENS) is not None else [])]
    further = {name: column(name) for name in taken}
    responses = []
    for i in range(n):
        numbers = _numbers(objects[i], f"attributes[{i}]")
        numbers |= {name: _required_number(values[i], f"{name}[{i}]") for name, values in further.items()}
        score, label, second = (
            _number(values[i], f"{name}[{i}]")
            for name, values in (("scores", scores), ("labels", labels), ("gold", gold))
        )
        written = _Response(score, texts[i], label, second, _name(writers[i]), numbers)
        responses.append(_checked(written, f"responses[{i}]"))
    return row.get("prompt"), responses


def _long_row(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Prompt | None, _Response]:
    prompt, text = row.get("prompt"), row.get("response")
    if text is not None and not (isinstance(text, str) and (prompt is None or isinstance(prompt, str))):
        prompt, reply = parse_prompt_response(row if prompt is not None else {**row, "prompt": "?"})
        text = _joined(reply)
    numbers = _numbers(row.get("attributes"), "attributes")
    for name in (*columns, *([TOKENS] if row.get(TOKENS) is not None else [])):
        numbers[name] = _required_number(row.get(name), name)
    score, label, gold = (_number(row.get(name), name) for name in ("score", "label", "gold"))
    return prompt, _checked(_Response(score, text, label, gold, _name(row.get("writer")), numbers), "response")


def _name(value: Any) -> str | None:
    return None if value is None else str(value)


def _has_id(row: Mapping[str, Any]) -> bool:
    return row.get("prompt_id") is not None


def _key(row: Mapping[str, Any], prompt: Prompt | None) -> str:
    if _has_id(row):
        return str(row["prompt_id"])
    if prompt is None:
        raise RowError("has neither 'prompt_id' nor 'prompt'", fix="Say which prompt it answers.")
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, sort_keys=True)


def _checked(response: _Response, name: str) -> _Response:
    if response.text is None and not response.attributes:
        what = f"'{name}' has neither a text nor attributes"
        raise RowError(what, fix="Give the response, or its attributes as name: number.")
    return response


def _joined(response: Any) -> str:
    return "\n\n".join(response_texts(response))


def _text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return _joined(parse_prompt_response({"prompt": "?", "response": value})[1])
    raise RowError(f"'{name}' is {type(value).__name__}, not text", fix="Write it as a string or as chat messages.")


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = parse_json(value)
    if not isinstance(value, (list, tuple)):
        raise RowError(f"'{name}' is no list", fix="Write one entry for each response.")
    return list(value)


def _numbers(value: Any, name: str) -> dict[str, float]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = parse_json(value)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError(f"'{name}' is no object", fix="Write name: number for each attribute.")
    return {str(key): _required_number(number, f"{name}.{key}") for key, number in value.items()}


def _required_number(value: Any, name: str) -> float:
    number = _number(value, name)
    if number is None:
        raise RowError(f"'{name}' is missing or no number", fix="Give a number for every response.")
    return number


def _number(value: Any, name: str) -> float | None:
    """A finite number; ``None`` for a missing one (null, an empty cell, NaN)."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "null", "none")):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowError(f"'{name}' is {value!r}, not a number", fix="Write a finite number.") from None
    if math.isinf(number):
        raise RowError(f"'{name}' is infinite", fix="Write a finite number.")
    return None if math.isnan(number) else number


# ---- all rows of a model ---------------------------------------------------------------------------------------------


class _Measured:
    """Attributes of texts, measured as they come, each text once whatever the number of models."""

    def __init__(self, wanted: Sequence[Attribute], source: str) -> None:
        self.wanted, self.source = list(wanted), source
        found = self.wanted or [find_attribute(name) for name in DEFAULT]
        self.attributes = [one for one in found if one.measure is not None]
        self._row: dict[bytes, int] = {}
        self._waiting: list[str] = []
        self._table: dict[str, array[float]] = {one.name: array("d") for one in self.attributes}

    def row(self, text: str, digest: bytes) -> int:
        """The row of a text in the table."""
        row = self._row.get(digest)
        if row is None:
            row = self._row[digest] = len(self._row)
            self._waiting.append(text)
            if len(self._waiting) == _BLOCK_TEXTS:
                self._measure()
        return row

    def _measure(self) -> None:
        for name, values in measure_texts(self._waiting, self.attributes).items():
            self._table[name].frombytes(values.tobytes())
        self._waiting = []

    def of(self, rows: np.ndarray, carried: Mapping[str, np.ndarray], model: str) -> _Attributes:
        """The attributes of a model's responses: those asked for, else the rows' own and the default ones.

        Args:
            rows: of the responses' texts, -1 where there is none.
            carried: what every response states itself.
            model: its name.
        """
        has_texts = bool((rows >= 0).all())
        wanted = list(self.wanted)
        if not wanted:
            wanted = [given(name) for name in carried]
            if has_texts:
                wanted += [find_attribute(name) for name in DEFAULT if name not in carried]
        elif TOKENS in carried and all(one.name != TOKENS for one in wanted):
            wanted.append(given(TOKENS))
        for one in wanted:
            if one.name not in carried and (one.measure is None or not has_texts):
                what = f"the rows of '{model}' have no '{one.name}'" + ("" if one.measure is None else " and no texts")
                fix = "Give it in 'attributes' of every response, or leave it out of --attributes."
                raise DataError(what, where=self.source, fix=fix)
        if self._waiting:
            self._measure()
        columns = {
            one.name: carried[one.name]
            if one.name in carried
            else np.frombuffer(self._table[one.name], dtype=np.float64)[rows]
            for one in wanted
        }
        return {one.name: one for one in wanted}, columns


_Attributes = tuple[dict[str, Attribute], dict[str, np.ndarray]]


class _Collected:
    """The responses of one model as they come, in columns."""

    def __init__(self, measured: _Measured, keep_texts: bool) -> None:
        self.measured, self.keep_texts = measured, keep_texts
        self.prompt_number: dict[str | bytes, int] = {}
        self.prompts: list[Prompt | None] = []
        self.quality, self.label, self.gold = array("d"), array("d"), array("d")
        self.prompt, self.text_row = array("q"), array("q")
        self.texts: list[str | None] = []
        self.carried: dict[str, array[float]] = {}
        self.writers: list[str | None] = []
        self.pairs = array("q")
        self.labelled: dict[int, list[int]] = {}
        self.known: dict[bytes, int] = {}
        self.without_score = 0
        self.pairs_left_out = 0

    def add(self, row: _Row) -> None:
        """Take a row's responses; a pair's are looked up among those of other pairs."""
        key = row.key if self.keep_texts or len(row.key) <= _LONGEST_KEY else _digest(row.key)
        number = self.prompt_number.setdefault(key, len(self.prompt_number))
        if self.keep_texts and number == len(self.prompts):
            self.prompts.append(row.prompt)
        places = [self._place(number, response, row.pair) for response in row.responses]
        if row.pair:
            if None in places:
                self.pairs_left_out += 1
            else:
                self.pairs.extend(place for place in places if place is not None)
            return
        for place, response in zip(places, row.responses, strict=True):
            if place is not None and response.label is not None:
                self.labelled.setdefault(number, []).append(place)

    def _place(self, prompt: int, response: _Response, distinct: bool) -> int | None:
        if response.score is None:
            self.without_score += 1
            return None
        text_row = -1
        if response.text is not None:
            digest = _digest(response.text)
            # 0.0 and -0.0 are the same score.
            key = struct.pack("<qd", prompt, response.score + 0.0) + digest
            if distinct and key in self.known:
                return self.known[key]
            self.known[key] = len(self.quality)
            text_row = self.measured.row(response.text, digest)
        place = len(self.quality)
        self.quality.append(response.score)
        self.prompt.append(prompt)
        self.text_row.append(text_row)
        if self.keep_texts:
            self.texts.append(response.text)
        self.label.append(math.nan if response.label is None or distinct else response.label)
        self.gold.append(math.nan if response.gold is None else response.gold)
        self.writers.append(response.writer)
        self._carry(response.attributes, place)
        return place

    def _carry(self, numbers: Numbers, place: int) -> None:
        """Take along what every response so far has stated."""
        if place == 0:
            self.carried = {name: array("d") for name in numbers}
        for name in [name for name in self.carried if name not in numbers]:
            del self.carried[name]
        for name, column in self.carried.items():
            column.append(numbers[name])

    def finish(self, model: str, source: str, report: Mapping[str, Any]) -> StoredScores:
        """The columns, with the prompts that kept a response numbered in their order."""
        for places in self.labelled.values():
            labels = np.array([self.label[k] for k in places])
            ordered = np.argwhere(labels[:, None] > labels[None, :])
            self.pairs.frombytes(np.array(places, dtype=np.int64)[ordered].tobytes())
        pairs = np.array(self.pairs, dtype=int).reshape(-1, 2)
        kept, prompt = np.unique(np.array(self.prompt, dtype=int), return_inverse=True)
        keys = list(self.prompt_number) if self.keep_texts else []
        self.known.clear()
        carried = {name: np.array(column) for name, column in self.carried.items()}
        described, columns = self.measured.of(np.array(self.text_row, dtype=int), carried, model)
        counts = {"responses_without_score": self.without_score, "pairs_without_score": self.pairs_left_out}
        counts |= {"pairs": len(pairs), "pairs_stated": len(pairs) + self.pairs_left_out}
        return StoredScores(
            model=model,
            source=source,
            prompt_keys=[str(keys[k]) for k in kept] if keys else [],
            prompts=[self.prompts[k] for k in kept] if keys else [],
            quality=np.array(self.quality),
            prompt=prompt,
            texts=self.texts,
            label=np.array(self.label),
            gold=np.array(self.gold),
            chosen=np.ascontiguousarray(pairs[:, 0]),
            rejected=np.ascontiguousarray(pairs[:, 1]),
            attributes=columns,
            described=described,
            report={**report, **counts},
            writers=self.writers,
        )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
