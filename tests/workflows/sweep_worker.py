"""A sweep and its runs with a command that is over at once, as processes that tests can kill.

python -m tests.workflows.sweep_worker                      a sweep of 24 runs into ./out; SWEEP_ENGINE: JSON settings
python -m tests.workflows.sweep_worker FOLDER NAME COMMAND  one run, as odin_rm.cli.sweep_run
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from odin_rm.cli import sweep_run
from odin_rm.core.signals import interruptible
from odin_rm.workflows.sweep import engines as sweep_engines
from odin_rm.workflows.sweep.config import SweepConfig
from odin_rm.workflows.sweep.run import run_sweep

MODULE = "tests.workflows.sweep_worker"
FIELDS = {"x", "y", "seconds", "output"}


def say(file: str, text: str) -> None:
    with open(file, "a") as log:
        print(text, file=log)


def command(argv: list[str]) -> int:
    """x = 3 is the user's error, 4 ours, 5 dies, 6 is interrupted; all others do their work."""
    settings = yaml.safe_load(Path(argv[2]).read_text())
    folder, x = Path(settings["output"]), settings["x"]
    say("starts", folder.name)
    folder.mkdir(parents=True)  # a run finds nothing of one before
    time.sleep(settings.get("seconds", 0.0))
    if x == 3:
        print("some library warns\nodin-rm rl: error: --x: is 3. Give less.\nsome library goes", file=sys.stderr)
        return 2
    if x == 4:
        print("ValueError: x\nodin-rm rl: this is a bug in odin-rm; please report the lines above", file=sys.stderr)
        return 1
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 6:
        return 130
    (folder / "result").write_text(str(settings))
    say("ends", folder.name)
    return 0


if __name__ == "__main__":
    sweep_engines.WORKER = MODULE
    if len(sys.argv) > 1:
        sweep_run.main = command  # type: ignore[assignment]
        sys.exit(sweep_run.run_once(Path(sys.argv[1]), *sys.argv[2:]))
    engine = json.loads(os.environ.get("SWEEP_ENGINE", "{}"))
    whole = SweepConfig("out", base={"seconds": 0.3}, grid={"x": [0, 1, 2], "y": list(range(8))}, workers=2, **engine)
    with interruptible():
        run_sweep(whole, FIELDS)
