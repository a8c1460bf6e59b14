"""Stored scores as what the dial is fitted on, and the same rows with calibrated scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.core.files import RowWriter
from odin_rm.data.dial import AttributeCurve, Dial
from odin_rm.evaluation.dial_fit import DialPairs, DialRows
from odin_rm.evaluation.prompt_sums import places_of_prompts
from odin_rm.evaluation.stored_scores import StoredScores


def stored_rows(stored: StoredScores, names: Sequence[str], writer: np.ndarray | None) -> DialRows:
    """One model's scores."""
    attributes = {name: stored.attributes[name] for name in names}
    return DialRows(stored.quality, attributes, stored.prompt, writer, stored.chosen, stored.rejected)


def stored_pairs(
    stored: StoredScores, twins: Sequence[StoredScores], names: Sequence[str], kind: str, source: str
) -> DialPairs:
    """Every two responses of a prompt in the twins' file, as this model scores them.

    A prompt that the scores have too keeps its number, so that resamples and halves keep it whole.

    Raises:
        DataError: the file has no scores of this model, or no prompt with two responses.
    """
    own = next((one for one in twins if one.model == stored.model), twins[0] if len(twins) == 1 else None)
    if own is None:
        fix = "Give scores of the same models in both files."
        raise DataError(f"has no scores of '{stored.model}'", where=source, fix=fix)
    numbers = {key: k for k, key in enumerate(stored.prompt_keys)}
    number_P = [numbers.setdefault(key, len(numbers)) for key in own.prompt_keys]
    first: list[int] = []
    second: list[int] = []
    for group in places_of_prompts(own.prompt):
        a, b = np.triu_indices(len(group), 1)
        first += group[a].tolist()
        second += group[b].tolist()
    if not first:
        raise DataError("no prompt has two scored responses", where=source, fix="Give both sides of each pair.")
    one, two = np.array(first), np.array(second)
    return DialPairs(
        own.quality[one],
        own.quality[two],
        {name: own.attributes[name][one] for name in names},
        {name: own.attributes[name][two] for name in names},
        np.array(number_P)[own.prompt[one]],
        np.full(len(one), kind),
    )


def write_scores(path: Path, stored: StoredScores, content: dict[str, Any]) -> None:
    """The rows with calibrated scores, in a form that ``--scores`` reads again; the model's own stand beside them."""
    curves = tuple(AttributeCurve.from_json(one) for one in content["curve"])
    dial = Dial(curves, float(content["kappa"]["value"]), content["anchor"])
    calibrated = stored.quality - dial.taken_off(stored.attributes)
    of_pairs = not np.isfinite(stored.label).any() and len(stored.chosen)
    paired = set(np.concatenate([stored.chosen, stored.rejected]).tolist()) if of_pairs else set()
    with RowWriter(path) as rows:
        for c, r in zip(stored.chosen.tolist(), stored.rejected.tolist(), strict=True) if of_pairs else ():
            row = _prompt(stored, c)
            for side, k in (("chosen", c), ("rejected", r)):
                row |= {f"{side}_{name}": value for name, value in _response(stored, calibrated, k).items()}
                if (text := row.pop(f"{side}_response")) is not None:
                    row[side] = text
            rows.write(row | {"model": stored.model})
        for k in range(len(stored.quality)):
            if k not in paired:
                row = _prompt(stored, k) | _response(stored, calibrated, k)
                if np.isfinite(stored.label[k]):
                    row["label"] = float(stored.label[k])
                rows.write(row | {"model": stored.model})


def _prompt(stored: StoredScores, k: int) -> dict[str, Any]:
    number = int(stored.prompt[k])
    prompt = stored.prompts[number]
    found: dict[str, Any] = {"prompt_id": stored.prompt_keys[number]}
    return found if prompt is None else found | {"prompt": prompt}


def _response(stored: StoredScores, calibrated: np.ndarray, k: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "response": stored.texts[k],
        "score": float(calibrated[k]),
        "score_uncalibrated": float(stored.quality[k]),
        "attributes": {name: float(values[k]) for name, values in stored.attributes.items()},
    }
    if np.isfinite(stored.gold[k]):
        found["gold"] = float(stored.gold[k])
    if stored.writers and stored.writers[k] is not None:
        found["writer"] = stored.writers[k]
    return found
