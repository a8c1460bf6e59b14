"""The settings of ``odin-rm quickstart``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import option
from odin_rm.testbed.annotator import Annotator, AnnotatorSettings
from odin_rm.testbed.sweep import SweepSettings
from odin_rm.testbed.world import World, WorldSettings

SMALLEST_HELD_OUT = 10

Knobs = TypeVar("Knobs", WorldSettings, AnnotatorSettings, SweepSettings)


@dataclass(frozen=True)
class _RunSettings:
    output: str = option("", "folder for data, both reward models, summary.json, figures and report.html")
    seed: int = option(0, "decides data, first weights and order of the batches")
    pairs: int = option(4000, "preference pairs to train on")
    held_out_pairs: int = option(2500, "preference pairs to audit on, on prompts that training never sees")
    epochs: float = option(3.0, "passes over the training pairs")
    batch_pairs: int = option(64, "pairs per optimiser step")
    learning_rate: float = option(1e-3, "peak learning rate")
    hidden: int = option(96, "width of the tiny Llama")
    layers: int = option(2, "depth of the tiny Llama")
    bootstrap_samples: int = option(1000, "resamples behind each 95 % interval of the audits")
    overwrite_output_dir: bool = option(False, "replace another run in --output instead of refusing")


@dataclass(frozen=True)
class QuickstartConfig(SweepSettings, AnnotatorSettings, WorldSettings, _RunSettings):
    """Everything that ``odin-rm quickstart`` takes: the run, the world's knobs, the annotator's and the policies'."""

    def __post_init__(self) -> None:
        for knobs in (WorldSettings, AnnotatorSettings, SweepSettings):
            knobs.__post_init__(self)
        if not self.output:
            raise ConfigError("is required", where="--output", fix="Name a folder, for example: --output quickstart")
        least = {"seed": 0, "pairs": 1, "held_out_pairs": SMALLEST_HELD_OUT, "batch_pairs": 1, "layers": 1}
        for name, low in (least | {"bootstrap_samples": 10, "hidden": 8}).items():
            if getattr(self, name) < low:
                raise ConfigError(f"must be at least {low}, it is {getattr(self, name)}", where=f"--{name}")
        for name in ("epochs", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"must be positive, it is {getattr(self, name)}", where=f"--{name}")
        if self.hidden % 8:
            raise ConfigError(f"must be a multiple of 8, it is {self.hidden}", where="--hidden")

    @property
    def world(self) -> World:
        """The world that the knobs describe."""
        return World(self._part(WorldSettings))

    @property
    def annotator(self) -> Annotator:
        """The annotator that the knobs describe."""
        return Annotator(self.world, self._part(AnnotatorSettings))

    @property
    def policies(self) -> SweepSettings:
        """Which policies are trained, and how long."""
        return self._part(SweepSettings)

    def _part(self, knobs: type[Knobs]) -> Knobs:
        return knobs(**{f.name: getattr(self, f.name) for f in fields(knobs)})  # type: ignore[arg-type]
