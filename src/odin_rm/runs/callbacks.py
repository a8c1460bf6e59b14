"""What every training run on a ``transformers.Trainer`` does beside its steps: ``metrics.jsonl`` and signals."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from odin_rm.core.errors import NumericalError
from odin_rm.core.files import append_jsonl
from odin_rm.core.signals import StopFlag


class MetricsFile(TrainerCallback):
    """Appends each log as one object to ``metrics.jsonl`` of the run folder.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the log, the main process only."""
        if state.is_world_process_zero and logs:
            append_jsonl(self.path, {"step": state.global_step, **logs})


class FiniteLoss(TrainerCallback):
    """Ends the run where a logged loss is not finite; a run that goes on with NaN loses every weight."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at the loss.

        Raises:
            NumericalError: it is not finite.
        """
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            fix = "Lower --learning_rate, or train with --bf16 instead of --fp16."
            raise NumericalError("the loss is not finite", where=f"step {state.global_step}", fix=fix)


class StopOnSignal(StopFlag, TrainerCallback):
    """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint.

    ``name`` says afterwards whether a signal came. Of several processes the signal may reach one only, or in
    different steps: each step they ask each other, and stop together.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a checkpoint and the end of training where a signal came to any process."""
        if args.world_size > 1:
            number = torch.tensor(signal.Signals[self.name] if self.name else 0, device=args.device)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
            self.name = signal.Signals(int(number)).name if number else None
        if self.name:
            control.should_save = True
            control.should_training_stop = True
            control.should_evaluate = False
        return control
