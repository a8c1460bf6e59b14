"""A calibration beside a model: found, held against the model's weights, applied to every score, watched.

``load_scorer`` looks for ``calibration.json`` in the model's folder, and in the run folder around a folder called
``model``. What it finds belongs to these weights or is refused. Everything that scores by a :class:`Scorer` then reads
calibrated numbers; ``calibration="none"`` leaves them as they are.

A dial is fitted on the texts of one domain. So the scorer counts what it sees: how many responses lie outside the
range of lengths that the curve was fitted on, and how steeply the reward rises with the curve within prompts, which is
1 by construction in the domain of the fit. It warns once where one of them says that the domain is another.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.reading import opened
from odin_rm.data.attributes import TOKENS, find_attribute, measure_texts
from odin_rm.data.dial import CALIBRATION_FILE, Calibration, read_calibration
from odin_rm.data.render import Reply, response_texts
from odin_rm.data.tokenise import EncodedResponse
from odin_rm.model.info import is_reward_model_folder

log = logging.getLogger(__name__)

NONE = "none"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_WHOLE = 32 * 2**20
_SAMPLES, _SAMPLE = 64, 64 * 2**10

OUTSIDE_SHARE = 0.1
OUTSIDE_FROM = 50
SLOPE_APART = 0.5
SLOPE_FROM = 50
_CERTAIN = 2.0


def weights_digest(folder: str | Path) -> str | None:
    """What tells the weights of a folder from others; ``None`` where there is no folder (a hub id).

    Files up to 32 MiB count whole, larger ones by their size and 64 samples, so that it takes no minutes.
    """
    place = Path(folder)
    if not place.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted({file for pattern in _WEIGHTS for file in place.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with opened(path) as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for start in np.linspace(0, size - _SAMPLE, _SAMPLES).astype(int).tolist():
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def model_folder(path: str | Path) -> str | Path:
    """The folder of the model that a path means: a run folder holds it as ``model``."""
    inside = Path(path) / "model"
    return inside if is_reward_model_folder(inside) else path


def find_calibration(folder: str | Path, requested: str | None, *, name: str) -> Calibration | None:
    """The calibration of a model.

    Args:
        folder: the model's folder, or its hub id.
        requested: ``none``, a file, a folder that holds it, or ``None`` for what stands beside the model.
        name: what the user calls the model.

    Raises:
        ConfigError: there is no such file, or it belongs to another model.
        DataError: it cannot be read.
    """
    path = calibration_file(folder, requested)
    if path is None:
        return None
    found = read_calibration(path)
    digest = weights_digest(folder)
    if digest is None and found.digest is None:
        same = found.model == name
    else:
        same = digest is not None and digest == found.digest
    if not same:
        of = f"'{found.model}'" + ("" if found.digest else ", of which only scores were known")
        fix = "Run odin-rm calibrate for this model, or score with --calibration none."
        raise ConfigError(f"the calibration belongs to other weights ({of})", where=str(path), fix=fix)
    log.warning("%s is calibrated: %s; --calibration none turns it off", name, found.sentence())
    return found


def calibration_file(folder: str | Path, requested: str | None) -> Path | None:
    """Where the calibration of a model is, as requested; ``None`` where there is none."""
    if requested is not None:
        if requested == NONE:
            return None
        return Path(requested) / CALIBRATION_FILE if Path(requested).is_dir() else Path(requested)
    place = Path(folder)
    if not place.is_dir():
        return None
    around = [place.parent] if place.name == "model" else []
    return next((one / CALIBRATION_FILE for one in (place, *around) if (one / CALIBRATION_FILE).is_file()), None)


@dataclass
class AppliedDial:
    """A calibration at work on a model's scores.

    Attributes:
        calibration: what is taken off.
        name: of the model, for warnings.
    """

    calibration: Calibration
    name: str
    _seen: int = 0
    _outside: int = 0
    _prompts: int = 0
    _sums: np.ndarray = field(default_factory=lambda: np.zeros(5))
    _told: bool = False

    @property
    def text_attributes(self) -> list[str]:
        """Attributes that are counted in a response's text."""
        return [name for name in self.calibration.dial.attributes if name != TOKENS]

    def attributes_of(self, tokens: Sequence[float] | np.ndarray, responses: Sequence[Reply | None]) -> dict[str, Any]:
        """Name to ``(R,)`` values that the dial needs.

        Args:
            tokens: response tokens.
            responses: what they are; read only where the dial counts something in the text.

        Raises:
            DataError: the text of one is not known.
        """
        found: dict[str, Any] = {TOKENS: np.asarray(tokens, np.float64)}
        wanted = self.text_attributes
        if wanted:
            if any(one is None for one in responses):
                what = f"the calibration needs {wanted[0].replace('_', ' ')} of responses, and their text is not known"
                raise DataError(what, where=self.name, fix="Score with --calibration none.")
            texts = ["\n\n".join(response_texts(one)) for one in responses if one is not None]
            found |= measure_texts(texts, [find_attribute(name) for name in wanted])
        return found

    def __call__(
        self, quality_R: np.ndarray, attributes: Mapping[str, np.ndarray], prompts: Sequence[Hashable] | np.ndarray = ()
    ) -> np.ndarray:
        """``(R,)`` calibrated rewards.

        Args:
            quality_R: the model's own; NaN stays NaN.
            attributes: name to ``(R,)`` values.
            prompts: what tells prompts apart, ``R`` of them, for the watch; empty where that is not known.
        """
        curve_R = self.calibration.dial.curve(attributes)
        self._watch(quality_R, attributes, curve_R, prompts)
        return quality_R - self.calibration.dial.kappa * curve_R

    def of_encoded(self, quality_R: np.ndarray, encoded: Sequence[EncodedResponse]) -> np.ndarray:
        """The same for encoded responses, which know their length and their text."""
        tokens = [one.response_tokens for one in encoded]
        prompts = [one.asked if isinstance(one.asked, str) else repr(one.asked) for one in encoded]
        known = all(one.asked is not None for one in encoded)
        return self(quality_R, self.attributes_of(tokens, [one.said for one in encoded]), prompts if known else ())

    def _watch(
        self, quality_R: np.ndarray, attributes: Mapping[str, np.ndarray], curve_R: np.ndarray, prompts: Any
    ) -> None:
        if self._told:
            return
        read = np.isfinite(quality_R)
        outside = np.any([one.outside(attributes[one.attribute]) for one in self.calibration.dial.curves], axis=0)
        self._seen += int(read.sum())
        self._outside += int((read & outside).sum())
        if len(prompts):
            self._add_slope(
                quality_R[read], curve_R[read], np.unique(np.asarray(prompts), return_inverse=True)[1][read]
            )
        why = self._outside_range() or self._other_slope()
        if why is not None:
            self._told = True
            fix = "Fit it on responses of this domain (odin-rm calibrate)."
            log.warning("%s: the calibration was fitted on other texts: %s. %s", self.name, why, fix)

    def _add_slope(self, quality_R: np.ndarray, curve_R: np.ndarray, prompt_R: np.ndarray) -> None:
        """Sums over prompts of ``xy``, ``xx`` and of their products, for the slope and its standard error."""
        counts = np.bincount(prompt_R)
        means = [np.bincount(prompt_R, column) / np.maximum(counts, 1) for column in (curve_R, quality_R)]
        x, y = curve_R - means[0][prompt_R], quality_R - means[1][prompt_R]
        xy_P, xx_P = np.bincount(prompt_R, x * y), np.bincount(prompt_R, x * x)
        self._prompts += int((counts > 1).sum())
        self._sums += [xy_P.sum(), xx_P.sum(), (xy_P**2).sum(), (xy_P * xx_P).sum(), (xx_P**2).sum()]

    def _outside_range(self) -> str | None:
        if self._seen < OUTSIDE_FROM or self._outside <= OUTSIDE_SHARE * self._seen:
            return None
        return f"{self._outside:,} of {self._seen:,} responses lie outside its range"

    def _other_slope(self) -> str | None:
        xy, xx, xy2, xyxx, xx2 = self._sums
        if self._prompts < SLOPE_FROM or xx <= 0:
            return None
        slope = xy / xx
        error = np.sqrt(max(xy2 - 2 * slope * xyxx + slope**2 * xx2, 0.0)) / xx
        if abs(slope - 1) <= SLOPE_APART + _CERTAIN * error:
            return None
        return f"within prompts the reward rises {slope:.2f} times as steeply as its curve"
