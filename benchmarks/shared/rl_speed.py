"""What benchmarks of the loop share: a run of ours with the time of its parts, the clock, and memory."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.shared.memory import memory_mib, reset_peak
from odin_rm.rl.config import RLConfig
from odin_rm.rl.trainer import RLTrainer
from odin_rm.workflows.rl.run import train_policy

PARTS = ("generate", "score", "forward", "learn")


def clock() -> float:
    """Seconds: of wall clock where a GPU works, else of CPU time, which other programs disturb less."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


@dataclass
class Turn:
    """The measured collections of one run.

    Attributes:
        responses: that were learnt from.
        seconds: of all of it, by :func:`clock`.
        wall_seconds: of all of it.
        parts: seconds of each part, by :func:`clock`.
        tokens: mean length of a response.
        peak_mib: how far the peak of memory lay above the memory before; ``None`` where it cannot be read.
    """

    responses: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    tokens: float = 0.0
    peak_mib: float | None = None


@dataclass
class Stopwatch:
    """Stamps the end of each collection, and keeps what happens after the first ones."""

    stamps: list[tuple[float, float]] = field(default_factory=list)

    def stamp(self) -> None:
        """The end of a collection's last update."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stamps.append((clock(), time.perf_counter()))

    def fill(self, turn: Turn, warmup: int) -> None:
        """Write the time between the ``warmup``-th stamp and the last one into a turn."""
        start, end = self.stamps[warmup - 1], self.stamps[-1]
        turn.seconds, turn.wall_seconds = end[0] - start[0], end[1] - start[1]


class PeakMemory:
    """How far the block drives the peak of memory: the GPU's where there is one, else the process's."""

    def __enter__(self) -> PeakMemory:
        self.mib: float | None = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before: float | None = torch.cuda.memory_allocated() / 2**20
        else:
            self.before = reset_peak()
        return self

    def __exit__(self, *exc: Any) -> None:
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        elif self.before is not None:
            peak = memory_mib("VmHWM")
        if self.before is not None:
            self.mib = peak - self.before


def run_ours(config: RLConfig, turn: Turn, warmup: int) -> None:
    """Run a config whose collections all have one size, and measure it without its first ones.

    Args:
        config: writes metrics at every step.
        turn: takes the figures.
        warmup: collections that are not counted.
    """
    watch, own_log = Stopwatch(), RLTrainer._log
    steps = config.optimiser_steps_per_collection

    def log(trainer: RLTrainer) -> None:
        own_log(trainer)
        if trainer.state.step % steps == 0:
            watch.stamp()

    timer = SimpleNamespace(perf_counter=clock)
    with (
        mock.patch.object(RLTrainer, "_log", log),
        mock.patch("odin_rm.rl.collect.time", timer),
        mock.patch("odin_rm.rl.trainer.time", timer),
    ):
        run = train_policy(config)
    watch.fill(turn, warmup)
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    counted = [row for row in rows if row["step"] > warmup * steps and "seconds_learn" in row]
    for part in PARTS:
        turn.parts[part] = sum(row.get(f"seconds_{part}", 0.0) for row in counted)
    turn.tokens = float(np.mean([row["mean_response_tokens"] for row in counted]))
    turn.responses = (config.max_steps // steps - warmup) * config.responses_per_collection


def table(turns: dict[str, list[Turn]]) -> str:
    """Markdown, one line an arm: rates and the milliseconds per response of each part, by :func:`clock`."""
    lines = [
        "| arm | responses/s | generate, ms | score, ms | forward, ms | learn, ms | rest, ms | tokens | peak, MiB |",
        "|---" * 9 + "|",
    ]
    for name, own in turns.items():
        responses, seconds = sum(t.responses for t in own), sum(t.seconds for t in own)
        parts = [sum(t.parts[part] for t in own) for part in PARTS]
        cells = [f"{1000 * s / responses:.1f}" for s in (*parts, seconds - sum(parts))]
        peaks = [t.peak_mib for t in own if t.peak_mib is not None]
        peak = f"{max(peaks):.0f}" if peaks else ""
        tokens = float(np.mean([t.tokens for t in own]))
        lines.append(f"| {name} | {responses / seconds:.2f} | " + " | ".join(cells) + f" | {tokens:.1f} | {peak} |")
    return "\n".join(lines)
