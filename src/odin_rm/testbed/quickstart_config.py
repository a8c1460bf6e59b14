"""The settings of ``odin-rm quickstart``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import RESAMPLES, SEEDS, check_options, option
from odin_rm.testbed.annotator import Annotator, AnnotatorSettings
from odin_rm.testbed.sweep import SweepSettings
from odin_rm.testbed.world import World, WorldSettings

SMALLEST_HELD_OUT = 10

Knobs = TypeVar("Knobs", WorldSettings, AnnotatorSettings, SweepSettings)


@dataclass(frozen=True)
class _RunSettings:
    output: str = option("", "folder for data, both reward models, summary.json, figures and report.html")
    full: bool = option(False, "train policies on the rewards too: --sweep small, where no other one is asked for")
    seed: int = option(0, "decides data, first weights and order of the batches", at_least=0, below=SEEDS)
    pairs: int = option(4000, "preference pairs to train on", at_least=1)
    held_out_pairs: int = option(
        2500, "preference pairs to audit on, on prompts that training never sees", at_least=SMALLEST_HELD_OUT
    )
    epochs: float = option(3.0, "passes over the training pairs", above=0)
    batch_pairs: int = option(64, "pairs per optimiser step", at_least=1)
    learning_rate: float = option(1e-3, "peak learning rate", above=0)
    hidden: int = option(96, "width of the tiny Llama", at_least=8)
    layers: int = option(2, "depth of the tiny Llama", at_least=1)
    bootstrap_samples: int = option(
        1000, "resamples behind each 95 % interval of the audits", at_least=10, at_most=RESAMPLES
    )
    overwrite_output_dir: bool = option(False, "replace another run in --output instead of refusing", flag="overwrite")


@dataclass(frozen=True)
class QuickstartConfig(SweepSettings, AnnotatorSettings, WorldSettings, _RunSettings):
    """Everything that ``odin-rm quickstart`` takes: the run, the world's knobs, the annotator's and the policies'."""

    def __post_init__(self) -> None:
        if self.full and self.sweep == "none":
            object.__setattr__(self, "sweep", "small")
        for knobs in (WorldSettings, AnnotatorSettings, SweepSettings):
            knobs.__post_init__(self)
        if not self.output:
            raise ConfigError("is required", where="--output", fix="Name a folder, for example: --output quickstart")
        check_options(self)
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
