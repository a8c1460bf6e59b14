"""The audit of many stored scores: seconds and peak memory for 20 attributes and 1,000 resamples (evidence, item 33).

    make bench-audit-scale            # OMP_NUM_THREADS=1 python -m benchmarks.audit_scale --rows 10000 100000

Rows are single responses of about 250 words with markdown, four to a prompt, with a score and a label. Each size is
audited by ``odin-rm audit --scores`` in a process of its own; its CPU seconds and its peak resident memory are told,
less those of a process that imports and does nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.attribute_speed import made_texts
from odin_rm.core.files import RowWriter

_RUN = """
import resource, sys, time
from odin_rm.workflows.audit.config import AuditConfig
from odin_rm.workflows.audit.run import run_audit
if len(sys.argv) > 2:
    run_audit(AuditConfig(scores=sys.argv[1], output=sys.argv[2]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def write_scores(path: Path, rows: int, seed: int = 0) -> None:
    """Texts are shuffled halves of 2,000 made ones, so that they differ and cost as much as real ones."""
    rng = np.random.default_rng(seed)
    texts = made_texts(2000)
    with RowWriter(path) as writer:
        for k in range(rows):
            first, second = (texts[int(j)] for j in rng.integers(0, len(texts), 2))
            text = f"{first[: len(first) // 2]}\n\n{second[len(second) // 2 :]}"
            score = 0.001 * len(text) + float(rng.normal())
            writer.write({"prompt_id": k // 4, "response": text, "score": score, "label": int(rng.integers(0, 3))})


def measured(*arguments: str) -> tuple[float, float, float]:
    """CPU seconds, peak MiB and wall seconds of a process."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory, time.time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    empty = measured("none")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.jsonl"
            write_scores(path, rows)
            size = path.stat().st_size / 2**20
            seconds, memory, wall = measured(str(path), str(Path(folder) / "audit"))
        told = {
            "rows": rows,
            "file_mib": round(size, 1),
            "cpu_seconds": round(seconds - empty[0], 1),
            "wall_seconds": round(wall, 1),
            "peak_mib": round(memory),
            "peak_without_work_mib": round(empty[1]),
        }
        print(json.dumps(told), flush=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


if __name__ == "__main__":
    main()
