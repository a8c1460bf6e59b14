"""What ``odin-rm <command> --help`` costs: CPU seconds and peak memory of the process, the best of some runs.

python -m benchmarks.help_cost [--runs 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from odin_rm.cli.commands import COMMANDS


def main() -> None:
    """Print a row per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; the one with the least CPU counts")
    runs = parser.parse_args().runs
    print("| command | CPU, s | peak memory, MB |\n|---|---|---|")
    for name in ["", *COMMANDS]:
        seconds, memory = min(cost(*([name] if name else []), "--help") for _ in range(runs))
        print(f"| `odin-rm {name or '--help'}` | {seconds:.2f} | {memory:.0f} |", flush=True)


def cost(*arguments: str) -> tuple[float, float]:
    """CPU seconds, user and system, and megabytes of one process."""
    process = subprocess.Popen([sys.executable, "-m", "odin_rm", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"odin-rm {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
