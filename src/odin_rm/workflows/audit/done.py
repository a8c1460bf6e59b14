"""The models of an audit that are scored already, so that a stopped comparison goes on with the next one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import OutputError
from odin_rm.core.journal import Journal, Part
from odin_rm.core.reading import opened
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.workflows.audit.config import AuditConfig
from odin_rm.workflows.audit.shared_rows import Measured, ScoredTwins, SharedRows

_ASIDE = ("output", "overwrite_output_dir")


class ScoredModels:
    """A journal of :class:`Measured`, one for each model that is scored and not read from an earlier audit.

    Args:
        config: the settings of the audit.
        places: the models in their order.
    """

    def __init__(self, config: AuditConfig, places: Sequence[str]) -> None:
        from odin_rm import __version__
        from odin_rm.judging.scored import folder_state

        settings = {name: value for name, value in asdict(config).items() if name not in _ASIDE}
        data = {name: _content(getattr(config, name)) for name in ("dataset", "twins")}
        states = [folder_state(place) for place in places]
        calibrations = [_calibration(place, config) for place in places]
        asked = {**settings, **data, "model_states": states, "calibrations": calibrations, "odin_rm": __version__}
        path = Path(f"{str(config.output).rstrip('/')}.partial.jsonl")
        self.journal = Journal(path, asked, anew=config.overwrite_output_dir)
        self.done, self._begun = 0, False

    def next(self, shared: SharedRows) -> Measured | None:
        """The scores of the next model if a stopped run has them; ``shared`` then is as it was after them."""
        if self.done >= len(self.journal.parts):
            return None
        part = self.journal.parts[self.done]
        try:
            measured = _measured(part)
            shared.keys, shared.twins = _array(part["shared"]["keys"]), _array(part["shared"]["twins"])
            shared.names = [str(name) for name in part["shared"]["names"]]
        except (KeyError, TypeError, ValueError) as error:
            what = "holds something else than the scores of a stopped audit"
            raise OutputError(what, where=str(self.journal.path), fix="Delete it.") from error
        self.done += 1
        return measured

    def add(self, measured: Measured, shared: SharedRows) -> None:
        """Note a model that is scored."""
        if not self._begun:
            self.journal.begin()
            self._begun = True
        scored = {item.name: getattr(measured.scored, item.name) for item in fields(measured.scored)}
        given = {} if measured.twins is None else vars(measured.twins)
        self.journal.add(
            {
                "scored": {name: _packed(value) for name, value in scored.items()},
                "pair_key": _packed(measured.pair_key),
                "twins": {name: _packed(value) for name, value in given.items()} or None,
                "shared": {"keys": _packed(shared.keys), "twins": _packed(shared.twins), "names": shared.names},
            }
        )
        self.done += 1


def _content(place: str | None) -> str | None:
    """What tells one version of a data set from another."""
    from odin_rm.judging.scored import folder_state

    if place is None or not Path(place).exists():
        return place
    if Path(place).is_dir():
        return folder_state(place)
    with opened(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _calibration(place: str, config: AuditConfig) -> str | None:
    """What tells the calibration of a model from another one."""
    from odin_rm.model.calibrated import calibration_file, model_folder

    wish = config.calibration if place == config.model or config.calibration == "none" else None
    path = calibration_file(model_folder(place), wish)
    return None if path is None or not path.is_file() else _content(str(path))


def _packed(value: Any) -> Any:
    """Arrays by their bytes, so that they come back to the last bit; everything else as it is."""
    if isinstance(value, dict):
        return {name: _packed(one) for name, one in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    content = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"dtype": value.dtype.str, "shape": list(value.shape), "bytes": content}


def _array(packed: Any) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "bytes" not in packed:
        return {name: _array(one) for name, one in packed.items()}
    flat = np.frombuffer(base64.b64decode(packed["bytes"]), dtype=np.dtype(packed["dtype"]))
    return flat.reshape(packed["shape"]).copy()


def _measured(part: Part) -> Measured:
    scored = ScoredPreferences(**{name: _array(value) for name, value in part["scored"].items()})
    twins = part["twins"]
    given = None if twins is None else ScoredTwins(**{name: _array(value) for name, value in twins.items()})
    return Measured(scored, _array(part["pair_key"]), given)
