"""Speed and memory of ``odin-rm score``: rows per second, and peak memory that does not grow with the file.

Writes files of generated rows in the testbed's language, runs the command on each in a process of its own, and prints a
Markdown table and a JSON line.

    OMP_NUM_THREADS=1 python benchmarks/score_rows.py --rows 10000 100000

The model is the testbed's tiny Llama (random weights: scores mean nothing here, their cost does), so the figures are
those of reading, tokenising, batching and writing; a real model adds its own forward passes to them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.files import RowWriter, read_rows
from odin_rm.model.reward_model import RewardModel
from odin_rm.testbed.tiny import build_tokenizer, save_tiny_model, vocabulary


def write_rows(path: Path, count: int, seed: int, words_of_a_response: int) -> None:
    """Rows of random words: prompts of 5 to 20, responses of about the given number (a geometric spread)."""
    generator = np.random.default_rng(seed)
    words = np.array([word for word in vocabulary() if word.isalpha()])
    with RowWriter(path) as writer:
        for number in range(count):
            prompt = generator.choice(words, generator.integers(5, 21))
            length = int(np.clip(generator.geometric(1 / words_of_a_response), 1, 200))
            response = generator.choice(words, length)
            writer.write({"id": number, "prompt": " ".join(prompt), "response": " ".join(response)})


def save_model(folder: Path) -> Path:
    """A reward model on the testbed's tiny Llama."""
    base = save_tiny_model(folder / "base", 0)
    model = RewardModel.from_backbone(base)
    model.info = model.info.with_(encoding={"max_length": 256})
    model.save_pretrained(folder / "model", tokenizer=build_tokenizer())
    return folder / "model"


def measure(model: Path, source: Path, target: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Run the command in a process of its own; its peak resident memory is what the kernel counted for it.

    Raises:
        RuntimeError: the command failed.
    """
    command = [sys.executable, "-m", "odin_rm.cli.main", "score", "--model", str(model), "--input", str(source)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--output", str(target), *flags], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"odin-rm score ended with {process.returncode}")
    seconds = time.perf_counter() - start
    unit = 1 if platform.system() == "Darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    rows = sum(1 for _ in read_rows(target))
    speed = float(printed.split("(")[1].split(" rows/s")[0].replace(",", ""))
    return {
        "rows": rows,
        "input_mb": source.stat().st_size / 1e6,
        "rows_per_second": speed,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,  # the figure to compare on a machine that is not idle
        "peak_mb": usage.ru_maxrss * unit / 1e6,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each size, print the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes of the files")
    parser.add_argument("--words", type=int, default=40, help="mean words of a response")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suffix", default=".jsonl", help="container: .jsonl, .jsonl.gz, .parquet, .csv, ...")
    options, flags = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = save_model(folder)
        found = []
        for count in options.rows:
            source, target = folder / f"rows{count}{options.suffix}", folder / f"scored{count}{options.suffix}"
            write_rows(source, count, options.seed, options.words)
            found.append(measure(model, source, target, flags))
            if found[-1]["rows"] != count:
                raise RuntimeError(f"{count} rows went in, {found[-1]['rows']} came out")
            target.unlink()
    print("| rows | input, MB | rows per second | whole command, s | CPU, s | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    for row in found:
        cells = [f"{row['rows']:,}", f"{row['input_mb']:.1f}", f"{row['rows_per_second']:,.0f}"]
        print(
            "| "
            + " | ".join([*cells, f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_mb']:,.0f}"])
            + " |"
        )
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(json.dumps({"score_rows": found, "threads": threads, "seed": options.seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
