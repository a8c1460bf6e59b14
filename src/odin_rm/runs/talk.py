"""What a training run says while it goes on: one short line, the same for all trainers.

On a terminal it stands beside a bar, elsewhere it is printed every 30 seconds and at the end
(:mod:`odin_rm.core.progress`); ``metrics.jsonl`` has everything else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from odin_rm.core.console import remark
from odin_rm.core.progress import Clock, Progress, rate

WORDS = {
    "loss": "loss",
    "accuracy": "acc",
    "rewards/accuracies": "acc",
    "mean_token_accuracy": "acc",
    "rewards/margins": "margin",
    "quality_length_correlation": "length",
    "pearson": "length",
    "mean_quality_reward": "quality",
    "mean_response_tokens": "tokens",
    "kl_to_reference": "KL",
    "kl": "KL",
    "ended_share": "ended",
}
"""Figures of a log that the line has, in this order, by the names of ``metrics.jsonl`` and of TRL."""
COUNTERS = {"num_tokens": "tokens", "samples_seen": "responses"}
"""Counts since the start of a run, from which the line has a speed."""
HELD_OUT = "eval_"


def figures(log: Mapping[str, Any]) -> str:
    """The figures of a log that the line has, in words; one that is undefined is left out."""
    found: dict[str, str] = {}
    for name, word in WORDS.items():  # DPO has two accuracies: the first one is meant
        if isinstance(value := log.get(name), int | float) and math.isfinite(value):
            found.setdefault(word, _number(float(value)))
    return "  ".join(f"{word} {value}" for word, value in found.items())


def _number(value: float) -> str:
    size = abs(value)
    if size >= 10:
        return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}"
    return f"{value:.1e}" if 0 < size < 0.005 else f"{value:.2f}"


class RunTalk:
    """The line of a run.

    Args:
        steps: of the whole run.
        done: steps of an earlier part of it.
        bar: whether a bar may be drawn.
        clock: seconds from some start on.
    """

    def __init__(self, steps: int, done: int = 0, *, bar: bool = True, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or time.monotonic
        self._progress = Progress("step", steps, done=done, always=True, bar=bar, clock=self._clock)
        self._counted: dict[str, tuple[float, float]] = {}

    def log(self, log: Mapping[str, Any]) -> None:
        """Take what was logged of training; the line has it from the next step on."""
        self._progress.tell("  ".join(part for part in (figures(log), self._speed(log)) if part))

    def held_out(self, step: int, log: Mapping[str, Any]) -> None:
        """A line for figures on held-out data, which are few and worth one each."""
        words = figures({name.removeprefix(HELD_OUT): value for name, value in log.items()})
        if words:
            remark(f"step {step:,}  held out: {words}")

    def step(self, done: int) -> None:
        """So many steps are done, and logged."""
        self._progress.reach(done)

    def close(self, *, finished: bool) -> None:
        """The last line, where the run came to its end."""
        self._progress.close(finished=finished)

    def _speed(self, log: Mapping[str, Any]) -> str:
        if isinstance(pairs := log.get("pairs_per_second"), int | float):
            return rate(pairs, "pairs")
        speed = ""
        for name, unit in COUNTERS.items():
            if isinstance(count := log.get(name), int | float):
                now, before = self._clock(), self._counted.get(name)
                self._counted[name] = (now, count)
                if before is not None and now > before[0] and count > before[1]:
                    speed = rate((count - before[1]) / (now - before[0]), unit)
        return speed


class TalkCallback(TrainerCallback):
    """:class:`RunTalk` in a ``transformers.Trainer``.

    Args:
        clock: seconds from some start on.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._talk: RunTalk | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the line."""
        self._talk = RunTalk(state.max_steps, state.global_step, bar=not args.disable_tqdm, clock=self._clock)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the figures of a step or of an evaluation."""
        if self._talk is None or not logs:
            return
        if "loss" in logs:
            self._talk.log(logs)
        elif any(name.startswith(HELD_OUT) for name in logs) and state.is_world_process_zero:
            self._talk.held_out(state.global_step, logs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how far it is: here, because the log of a step comes after the step's own end."""
        if self._talk is not None:
            self._talk.step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how it ended."""
        if self._talk is not None:
            self._talk.step(state.global_step)
            self.close(finished=True)

    def close(self, *, finished: bool) -> None:
        """Take the bar away."""
        if self._talk is not None:
            self._talk.close(finished=finished)
        self._talk = None


@contextmanager
def talking(trainer: Any, clock: Clock | None = None) -> Iterator[None]:
    """A block in which a Trainer says the line of all trainers instead of its own bar and its logs.

    Args:
        trainer: any ``transformers.Trainer``.
        clock: seconds from some start on.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    talk = TalkCallback(clock)
    trainer.add_callback(talk)
    try:
        yield
    finally:
        talk.close(finished=False)
