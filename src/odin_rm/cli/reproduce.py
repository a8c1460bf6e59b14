"""The paper's figures: on the testbed in one go, or the configs of the full-size study."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.config import parse_config
from odin_rm.cli.parser import stock_base
from odin_rm.core.console import remark, say
from odin_rm.core.errors import OutputError
from odin_rm.core.files import atomic_write_text
from odin_rm.core.hub import quiet_transformers
from odin_rm.testbed.reproduce_config import ReproduceConfig


def run(config: ReproduceConfig) -> None:
    """Run, print the verdicts."""
    quiet_transformers()
    if config.preset == "paper":
        write_paper(config)
        return
    from odin_rm.testbed.reproduce import run_reproduce

    content = run_reproduce(
        config.preset,
        config.output,
        seed=config.seed,
        workers=config.workers,
        overwrite=config.overwrite_output_dir,
        say=remark,
    )
    print_conclusions(content)
    folder = Path(config.output)
    say(f"The report: {folder / 'report.html'}\nThe figures: {folder / 'summary.json'}")


def write_paper(config: ReproduceConfig) -> None:
    """The full-size study's files, once every config has been read by the command that it is for."""
    from odin_rm.runs.output_folder import check_output_folder
    from odin_rm.testbed.reproduce_paper import paper_files

    files = paper_files(config.seed)
    folder = check_output_folder(config.output, "reproduce", overwrite=config.overwrite_output_dir, resume=True)
    there = [file.place for file in files if (folder / file.place).exists()]
    if there and not config.overwrite_output_dir:
        fix = "Choose another folder, or pass --overwrite true."
        raise OutputError(f"holds {there[0]} already", where=str(folder), fix=fix)
    with tempfile.TemporaryDirectory() as room:
        points = sum(check_config(file.command, file.text, Path(room)) for file in files if file.command)
    for file in files:
        place = folder / file.place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot be written ({error.strerror or error})"
            raise OutputError(what, where=str(place.parent), fix="Choose another folder.") from error
        atomic_write_text(place, file.text)
    configs = sum(file.command is not None for file in files)
    say(f"{configs} configs written and read by their commands, with {points} settings in all; nothing was run.")
    say(f"What it needs and what to do: {folder / 'README.md'}")


def check_config(command: str, text: str, room: Path) -> int:
    """Reads a config as its command would, and each run of a sweep as the swept command would.

    Args:
        command: whose config it is.
        text: the YAML.
        room: a folder for temporary files.

    Returns:
        How many settings were read: 1, or the runs of the sweep.

    Raises:
        OdinError: what the command itself would say.
    """
    file = room / f"{command}.yaml"
    atomic_write_text(file, text)
    if command != "sweep":
        config_class = load(COMMANDS[command].config)
        # What a GPU alone can do is no fault of the config: transformers would refuse bf16 on a machine without one.
        cpu = ["--use_cpu", "true"] if stock_base(config_class) else []
        parse_config(config_class, ["--config", str(file), *cpu], command)
        return 1
    from odin_rm.workflows.sweep.config import SweepConfig
    from odin_rm.workflows.sweep.run import plan_runs

    sweep = parse_config(SweepConfig, ["--config", str(file), "--output", str(room / "sweep")], command)
    runs = plan_runs(sweep)
    for run in runs:
        check_config(sweep.command, yaml.safe_dump(run.settings), room)
    return len(runs)


def print_conclusions(content: dict[str, Any]) -> None:
    """Each conclusion of the paper with its verdict and the interval behind it."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    table = Table(title="The paper's conclusions on the testbed (95 % intervals)", title_justify="left")
    for name in ("conclusion", "verdict"):
        table.add_column(name)
    table.add_column("measured", justify="right")
    for found in content["conclusions"].values():
        figure = found["figure"]
        value = "undefined" if figure.value is None else f"{figure.value:.2f}"
        interval = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
        table.add_row(found["claim"], found["verdict"], value + interval)
    PlainConsole().print(table)
