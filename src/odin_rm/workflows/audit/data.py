"""What an audit reads besides scores: lengths in other units, known true quality, verbosity twins, earlier audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import DataError, RowError
from odin_rm.data.attributes import DEFAULT, TOKENS, Attribute, find_attribute
from odin_rm.data.columns import Columns
from odin_rm.data.load import load_preferences
from odin_rm.data.render import Reply, response_texts
from odin_rm.data.rows import TiesCount, parse_preference_row
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.sources import PlacedRow, iter_preference_rows, open_source
from odin_rm.data.tokenise import EncodingSettings

OnBadRow = Literal["error", "skip"]
LENGTH_UNITS = ("tokens", "characters", "words")
TRUE_QUALITY = "true_quality"
OF_TWINS = ("shorter", "longer")
"""Fields that only verbosity twins have."""
TWIN_FIELDS = ("prompt", *OF_TWINS)
_LENGTH = "audited_length"


def measure(response: Reply, unit: str) -> int:
    """The response's length in characters or words (runs of non-space), over what the assistant says in it."""
    texts = response_texts(response)
    return sum(len(text) if unit == "characters" else len(text.split()) for text in texts)


def load_audit_data(
    source: str,
    tokenizer: Any,
    settings: EncodingSettings,
    *,
    on_bad_row: OnBadRow,
    length_unit: str,
    columns: Sequence[str] = (),
    attributes: Sequence[Attribute] = (),
) -> TokenisedPreferences:
    """The pairs to audit, with the length of each response in the wanted unit (:func:`audited_lengths`).

    Rows that carry ``chosen_true_quality`` and ``rejected_true_quality`` (or a list ``true_quality``) bring the true
    quality along, as the testbed's do. Other units than tokens hold the rows in memory, since they need the texts.

    Args:
        source: file, dataset folder or hub id.
        tokenizer: the reward model's.
        settings: how texts are rendered and cut.
        on_bad_row: raise at an unusable row, or leave it out and count it.
        length_unit: ``tokens``, ``characters`` or ``words``.
        columns: names of fields, ``new=theirs`` each.
        attributes: what is wanted of each response beside the length; those without a ``measure`` are columns of the
            rows.
    """
    extra = [TRUE_QUALITY] if _has_true_quality(source, on_bad_row, columns) else []
    extra += [one.name for one in attributes if one.measure is None]
    measured = [one for one in attributes if one.measure is not None]
    if length_unit == "tokens":
        return load_preferences(
            source,
            tokenizer,
            settings,
            on_bad_row=on_bad_row,
            extra_columns=extra,
            columns=columns,
            measured=measured,
        )
    rows = _measured_rows(source, length_unit, on_bad_row, columns)
    data = load_preferences(
        rows, tokenizer, settings, on_bad_row=on_bad_row, extra_columns=[*extra, _LENGTH], measured=measured
    )
    return replace(data, source=source)


def wanted_attributes(names: Sequence[str]) -> list[Attribute]:
    """What a model's reward is held against beside the response tokens: those named, or the 20 of the default.

    Raises:
        ConfigError: there is none of that name.
    """
    found = [find_attribute(name) for name in names or DEFAULT]
    return [one for one in found if one.name != TOKENS]


def audited_lengths(data: TokenisedPreferences, length_unit: str) -> np.ndarray:
    """``(R,)`` lengths of the responses that :func:`load_audit_data` has read, in its unit."""
    return np.asarray(data.response_tokens if length_unit == "tokens" else data.extra[_LENGTH])


def _has_true_quality(source: str, on_bad_row: OnBadRow, columns: Sequence[str]) -> bool:
    skip = (lambda error: None) if on_bad_row == "skip" else None
    first = next(iter(iter_preference_rows(source, skip, columns)), None)
    if first is None:
        return False
    return any(first.row.get(name) is not None for name in (TRUE_QUALITY, f"chosen_{TRUE_QUALITY}"))


def _measured_rows(source: str, unit: str, on_bad_row: OnBadRow, columns: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[Any] = []
    # A malformed row stays in the list as None, so that the loader counts it among the skipped.
    skip = (lambda error: rows.append(None)) if on_bad_row == "skip" else None
    for placed in iter_preference_rows(source, skip, columns):
        row = placed.row if isinstance(placed.row, TiesCount) else dict(placed.row)
        try:
            lengths = [measure(response, unit) for response in parse_preference_row(row).responses]
        except RowError as error:
            if on_bad_row == "error":
                raise _placed(error, placed) from error
            rows.append(row)
            continue
        ranked = row.get("responses") is not None and row.get("chosen") is None
        sides = (f"chosen_{_LENGTH}", f"rejected_{_LENGTH}")
        measured = {_LENGTH: lengths} if ranked else dict(zip(sides, lengths, strict=True))
        rows.append(type(row)({**row, **measured}))
    return rows


def _placed(error: RowError, placed: PlacedRow) -> RowError:
    error = placed.placed(error)
    return RowError(error.what, where=error.where, fix=f"{error.fix} To leave such rows out: --on_bad_row skip")


@dataclass(frozen=True)
class Twins:
    """Rows of the verbosity check.

    Attributes:
        prompts: of each row.
        shorter, longer: the terse and the wordy answer.
        skipped: unusable rows that were left out.
    """

    prompts: list[Any]
    shorter: list[Any]
    longer: list[Any]
    skipped: int = 0


def read_twins(path: str, *, on_bad_row: OnBadRow, columns: Sequence[str] = ()) -> Twins:
    """Read rows ``{"prompt", "shorter", "longer"}``; the prompt may be chat messages, too.

    Args:
        path: a file or folder of rows.
        on_bad_row: raise at an unusable row, or leave it out and count it.
        columns: names of fields, ``new=theirs`` each; only those of the three are used, and a file that has our name
            keeps it.


    Raises:
        RowError: a row lacks one of them, and ``on_bad_row`` is ``"error"``.
        DataError: the file cannot be read, or has no usable row.
    """
    twins = Twins([], [], [])
    skipped = 0

    def skip(error: RowError) -> None:
        nonlocal skipped
        skipped += 1

    names: Columns | None = None
    for placed in open_source(path).rows(skip if on_bad_row == "skip" else None):
        names = names or Columns(columns).beside(placed.row, path, TWIN_FIELDS)
        row = names.apply(placed.row)
        fields = [row.get(name) for name in TWIN_FIELDS]
        missing = [
            name
            for name, value in zip(TWIN_FIELDS, fields, strict=True)
            if not isinstance(value, str) or not value.strip()
        ]
        if missing:
            fix = "Give every row prompt, shorter and longer as text. To leave such rows out: --on_bad_row skip"
            what = f"'{missing[0]}' is missing, empty or no text"
            error = names.renamed(RowError(what, where=placed.place, fix=fix))
            if on_bad_row == "error":
                raise error
            skip(error)
            continue
        for column, value in zip((twins.prompts, twins.shorter, twins.longer), fields, strict=True):
            column.append(value)
    if not twins.prompts:
        raise DataError("no usable row", where=path, fix="Give rows with prompt, shorter and longer.")
    return replace(twins, skipped=skipped)
