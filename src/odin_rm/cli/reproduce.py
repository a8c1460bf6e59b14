"""The paper's figures: on the testbed in one go, or the configs of the full-size study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from odin_rm.cli.config import parse_config, quiet_transformers
from odin_rm.core.errors import ConfigError


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ReproduceConfig:
    """Everything that ``odin-rm reproduce`` takes."""

    output: str = field(metadata={"help": "Folder for everything; the same command goes on in it."})
    preset: Literal["testbed", "miniature", "paper"] = _option(
        "testbed",
        "testbed: every figure of the paper in kind, about 35 minutes on 2 cores. miniature: the same with hardly any "
        "training, to see that it runs. paper: configs and a script of the full-size study, for a cluster.",
    )
    seed: int = _option(0, "Decides data, weights and sampling.")
    workers: int = _option(2, "Policies trained at the same time (testbed: each on one core).")
    overwrite_output_dir: bool = _option(False, "Replace another run in --output instead of refusing.")

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"must be at least {least}, it is {getattr(self, name)}", where=f"--{name}")


def run(argv: Sequence[str]) -> int:
    """Parse, run, print the verdicts."""
    quiet_transformers()
    config = parse_config(ReproduceConfig, list(argv), "reproduce")
    if config.preset == "paper":
        raise ConfigError("is not there yet", where="--preset paper")
    from odin_rm.testbed.reproduce import run_reproduce

    content = run_reproduce(
        config.preset,
        config.output,
        seed=config.seed,
        workers=config.workers,
        overwrite=config.overwrite_output_dir,
        say=lambda line: print(line, flush=True),
    )
    print_conclusions(content)
    folder = Path(config.output)
    print(f"The report: {folder / 'report.html'}\nThe figures: {folder / 'summary.json'}")
    return 0


def print_conclusions(content: dict[str, Any]) -> None:
    """Each conclusion of the paper with its verdict and the interval behind it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The paper's conclusions on the testbed (95 % intervals)", title_justify="left")
    for name in ("conclusion", "verdict"):
        table.add_column(name)
    table.add_column("measured", justify="right")
    for found in content["conclusions"].values():
        figure = found["figure"]
        value = "undefined" if figure.value is None else f"{figure.value:.2f}"
        interval = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
        table.add_row(found["claim"], found["verdict"], value + interval)
    Console().print(table)
