"""What ``odin-rm sweep`` takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option

RUN = "{run}"
"""Stands for the run's folder in any setting."""


@dataclass
class SweepConfig:
    """Everything that ``odin-rm sweep`` takes. The first four are given in the ``--config`` file."""

    output: str = option(help="Folder for all runs and the table of them.")
    command: str = option("rl", "The command of odin-rm that is run.")
    base: dict = option({}, "Settings that all runs share (in --config).")
    grid: dict = option({}, "Lists of values by field; every combination is run (in --config).")
    random: dict = option({}, "samples, seed and fields to draw (in --config); see docs/sweep.md.")
    workers: int = option(1, "Runs at a time.", at_least=1)
    max_runs: int | None = option(None, "Start at most so many runs this time; the same command goes on.", above=0)
    max_hours: float | None = option(
        None, "Start no run after so many hours; those under way are finished.", above=0, infinite=True
    )
    retry_failed: bool = option(False, "Run those again that failed before.")
    engine: Literal["local", "ray", "slurm"] = option(
        "local", "local processes, tasks of a Ray cluster (an extra), or jobs of Slurm through submitit (an extra)."
    )
    slurm: dict = option({}, "Settings of Slurm jobs by submitit's names (in --config); see docs/sweep.md.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is written."""
        check_options(self)
        if not self.grid and not self.random:
            fix = "Write lists of values under grid, or samples, seed and fields under random."
            raise ConfigError("there is nothing to vary", where="--config", fix=fix)
        if self.slurm and self.engine != "slurm":
            raise ConfigError(f"has no effect: --engine is {self.engine}", where="slurm", fix="Pass --engine slurm.")
        for name, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ConfigError("is no list of values", where=f"grid: {name}", fix=f"Write {name}: [A, B].")
        _check_random(self.random)
        drawn = self.random.get("fields", {})
        for one, other, names in (
            ("base", "grid", self.base.keys() & self.grid.keys()),
            ("base", "random", self.base.keys() & drawn.keys()),
            ("grid", "random", self.grid.keys() & drawn.keys()),
        ):
            if names:
                raise ConfigError(f"is in {one} and in {other}", where=min(names), fix="Give it in one place.")


def _check_random(random: dict[str, Any]) -> None:
    if not random:
        return
    wrong = random.keys() - {"samples", "seed", "fields"}
    if wrong:
        raise ConfigError(f"unknown key '{min(wrong)}'", where="random", fix="Give samples, seed and fields.")
    samples, seed, fields = random.get("samples"), random.get("seed", 0), random.get("fields")
    for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            what = f"is {value!r}"
            raise ConfigError(what, where=f"random: {name}", fix=f"Give a whole number of at least {least}.")
    if not isinstance(fields, dict) or not fields:
        raise ConfigError("names no field", where="random: fields", fix="Give a list or a range for each field.")
    for name, how in fields.items():
        if isinstance(how, list) and how:
            continue
        numbers = isinstance(how, dict) and how.keys() <= {"low", "high", "log"} and {"low", "high"} <= how.keys()
        low, high = (as_number(how[end]) for end in ("low", "high")) if numbers else (math.nan, math.nan)
        known = numbers and isinstance(how.get("log", False), bool) and -math.inf < low < high < math.inf
        if not known or (how.get("log") and low <= 0):
            fix = (
                "Write [A, B, ...], or {low: X, high: Y}, with log: true (and low above 0) for a draw of the logarithm."
            )
            raise ConfigError("is neither a list nor a range", where=f"random: {name}", fix=fix)


def as_number(value: Any) -> float:
    """YAML reads 1e-5 as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
