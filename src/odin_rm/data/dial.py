"""The dial: an explicit curve of a response's attributes that is taken off a reward in a stated share.

    calibrated(x, y) = quality(x, y) - kappa * sum_k g_k(a_k(y))

``a_k`` is an attribute (:mod:`odin_rm.data.attributes`) and ``g_k`` a curve of it, straight in ``log(1 + a)`` between
knots, plus a straight line in ``a``. Outside the range of values that it was fitted on a curve stays at the value of
that end. Its mean over the responses that it was fitted on is taken off, so that the reward's level stays.

This module holds what is needed to apply a dial. How it is fitted is in :mod:`odin_rm.evaluation.dial_fit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.reading import read_json

CALIBRATION_FILE = "calibration.json"
FORMAT_VERSION = 1
ANCHORS = ("interventions", "twins", "writers", "zero")


def curve_columns(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """``(R, 2 + K)`` columns of a curve: ``a``, ``log(1 + a)`` and ``max(log(1 + a) - knot, 0)`` for each knot.

    Args:
        values: ``(R,)`` numbers of at least 0.
        knots: ``(K,)`` on the scale of ``log(1 + a)``.
    """
    values = np.asarray(values, np.float64)
    log_R = np.log1p(values)
    return np.column_stack([values, log_R, np.maximum(log_R[:, None] - np.asarray(knots, np.float64)[None], 0.0)])


@dataclass(frozen=True)
class AttributeCurve:
    """The curve of one attribute, in reward units.

    Attributes:
        attribute: its name.
        low, high: the range of values that it was fitted on.
        knots: ``K`` bends, on the scale of ``log(1 + a)``.
        coefficients: ``2 + K``, of :func:`curve_columns`.
        centre: its mean over the responses that it was fitted on, before it is taken off.
    """

    attribute: str
    low: float
    high: float
    knots: tuple[float, ...]
    coefficients: tuple[float, ...]
    centre: float = 0.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """``(R,)`` height of the curve at the attribute's values ``(R,)``, held at the ends of its range."""
        held = np.clip(np.asarray(values, np.float64), self.low, self.high)
        return curve_columns(held, np.array(self.knots)) @ np.array(self.coefficients) - self.centre

    def outside(self, values: np.ndarray) -> np.ndarray:
        """``(R,)`` whether a value is outside of the fitted range."""
        values = np.asarray(values, np.float64)
        return (values < self.low) | (values > self.high)

    def to_json(self) -> dict[str, Any]:
        """As ``calibration.json`` has it."""
        return {
            "attribute": self.attribute,
            "range": {"low": self.low, "high": self.high},
            "knots": list(self.knots),
            "coefficients": list(self.coefficients),
            "centre": self.centre,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AttributeCurve:
        """What :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        knots, coefficients = _numbers(content["knots"]), _numbers(content["coefficients"])
        low, high, centre = _numbers([content["range"]["low"], content["range"]["high"], content["centre"]])
        if len(coefficients) != 2 + len(knots) or not 0 <= low <= high:
            raise ValueError("a curve needs a range and two coefficients more than knots")
        return cls(str(content["attribute"]), low, high, knots, coefficients, centre)


@dataclass(frozen=True)
class Dial:
    """Curves and the share of them that is taken off.

    Attributes:
        curves: one for each attribute.
        kappa: the share; 0 changes nothing.
        anchor: what the share comes from, one of :data:`ANCHORS`.
    """

    curves: tuple[AttributeCurve, ...]
    kappa: float
    anchor: str

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes that a response must come with."""
        return [curve.attribute for curve in self.curves]

    def curve(self, attributes: Mapping[str, np.ndarray]) -> np.ndarray:
        """``(R,)`` sum of the curves.

        Args:
            attributes: name to ``(R,)`` values.

        Raises:
            DataError: one is missing.
        """
        for name in self.attributes:
            if name not in attributes:
                fix = "Give it, or score with --calibration none."
                raise DataError(f"the calibration needs '{name}' of every response", fix=fix)
        return np.sum([curve(attributes[curve.attribute]) for curve in self.curves], axis=0)

    def taken_off(self, attributes: Mapping[str, np.ndarray]) -> np.ndarray:
        """``(R,)`` what is subtracted from each reward; arguments as of :meth:`curve`."""
        return self.kappa * self.curve(attributes)


@dataclass(frozen=True)
class Calibration:
    """What a ``calibration.json`` says, as far as scoring needs it.

    Attributes:
        dial: what is taken off.
        model: name of the model that it was fitted for.
        digest: of the model's weights; ``None`` where only scores were known.
        reward_mean, reward_std: of the calibrated rewards that it was fitted on.
        path: the file.
    """

    dial: Dial
    model: str
    digest: str | None
    reward_mean: float | None
    reward_std: float | None
    path: str

    def sentence(self) -> str:
        """One line for logs."""
        of = " and ".join(name.replace("_", " ") for name in self.dial.attributes)
        share = "" if self.dial.kappa == 1 else f"{self.dial.kappa:.3g} times "
        return f"{share}the curve of {of} is taken off each reward (anchor {self.dial.anchor}, {self.path})"

    def record(self) -> dict[str, Any]:
        """What output files say of it."""
        return {
            "file": self.path,
            "anchor": self.dial.anchor,
            "kappa": self.dial.kappa,
            "attributes": self.dial.attributes,
        }


def read_calibration(path: str | Path) -> Calibration:
    """A ``calibration.json``.

    Raises:
        ConfigError: it is not there.
        DataError: it cannot be read, or is none.
    """
    if not Path(path).is_file():
        fix = "Give a calibration.json that odin-rm calibrate wrote, or none."
        raise ConfigError("there is no such calibration", where=f"--calibration {path}", fix=fix)
    content = read_json(path)
    try:
        if int(content["format_version"]) > FORMAT_VERSION:
            raise DataError("comes from a newer odin-rm", where=str(path), fix="Update odin-rm.")
        curves = tuple(AttributeCurve.from_json(one) for one in content["curve"])
        (kappa,) = _numbers([content["kappa"]["value"]])
        model, figures = content["model"], content["calibrated_reward"]
        if not curves or content["anchor"] not in ANCHORS:
            raise ValueError("it has no curve or no anchor")
        return Calibration(
            dial=Dial(curves, kappa, str(content["anchor"])),
            model=str(model["name"]),
            digest=None if model["digest"] is None else str(model["digest"]),
            reward_mean=figures["mean"],
            reward_std=figures["std"],
            path=str(path),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is no calibration of odin-rm ({error})"
        raise DataError(what, where=str(path), fix="Run odin-rm calibrate again.") from error


def _numbers(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if not all(math.isfinite(value) for value in found):
        raise ValueError("a number of it is not finite")
    return found
