"""The settings of ``odin-rm reproduce``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.options import SEEDS, check_options, option


@dataclass(frozen=True)
class ReproduceConfig:
    """Everything that ``odin-rm reproduce`` takes."""

    output: str = option(help="Folder for everything; the same command goes on in it.")
    preset: Literal["testbed", "miniature", "paper"] = option(
        "testbed",
        "testbed: every figure of the paper in kind, about 35 minutes on 2 cores. miniature: the same with hardly any "
        "training, to see that it runs. paper: configs and a script of the full-size study, for a cluster.",
    )
    seed: int = option(0, "Decides data, weights and sampling.", at_least=0, below=SEEDS)
    workers: int = option(2, "Policies trained at the same time (testbed: each on one core).", at_least=1)
    overwrite_output_dir: bool = option(False, "Replace another run in --output instead of refusing.", flag="overwrite")

    def __post_init__(self) -> None:
        check_options(self)
