"""One run of a sweep, as a process: ``python -m odin_rm.cli.sweep_run FOLDER NAME COMMAND``.

It notes its own end, so that the end counts even when the sweep that started it is gone.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from odin_rm.cli.main import INTERRUPTED, main
from odin_rm.core.files import atomic_write_json, written
from odin_rm.core.lock import file_lock
from odin_rm.workflows.sweep.run import read_end


def run_once(folder: Path, name: str, command: str) -> int:
    """Run the command unless the run has ended; if it is under way in another process, wait for that one.

    Returns:
        The exit code. An interrupted run has not ended.
    """
    state = folder / "state"
    with file_lock(state / f"{name}.lock", wait=True):
        end = read_end(folder, name)
        if end is not None:
            return int(end["code"])
        shutil.rmtree(folder / "runs" / name, ignore_errors=True)  # what a killed run has left
        with written(state / f"{name}.log") as log:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(log.fileno(), stream.fileno())
        start = time.monotonic()
        code = main([command, "--config", str(state / f"{name}.yaml")])
        sys.stdout.flush()
        if code != INTERRUPTED:
            end = {"code": code, "seconds": round(time.monotonic() - start, 3)}
            atomic_write_json(state / f"{name}.json", end)
        return code


if __name__ == "__main__":
    sys.exit(run_once(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
