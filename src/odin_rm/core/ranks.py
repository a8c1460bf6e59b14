"""Several processes of one run, as torchrun, accelerate and their like start them: who speaks, and ending together."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from odin_rm.core.errors import OdinError


def is_main_process() -> bool:
    """Whether this process speaks for the run: the only one, or the first of several."""
    return os.environ.get("RANK", "0") in ("", "0")


@contextmanager
def fail_on_all_ranks() -> Iterator[None]:
    """A block that ends for all processes alike: with an error of any of them, or with the work of all of them done.

    Without it a process whose file is missing would end alone and leave the others waiting for its gradients. In a
    single process this does nothing.

    Raises:
        OdinError: this process's own error, else that of the first process that has one.
    """
    torch = _torch_of_several()
    if torch is None:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    mine = own if own is None or isinstance(own, OdinError) else OdinError(f"a process failed ({type(own).__name__})")
    errors: list[OdinError | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(errors, mine)
    if own is not None and not isinstance(own, OdinError):
        raise own  # our own fault: with its traceback, wherever it happened
    first = next((error for error in errors if error is not None), None)
    if first is not None:
        first.raised_on_every_rank = True
        raise first


def end_processes() -> None:
    """Leave the process group at the end of a program, as torch wants it.

    Models that were wrapped for several processes go first: the group must not end with the last of them, see
    ``workflows.rl``.
    """
    if (torch := _torch_of_several()) is not None:
        gc.collect()
        torch.distributed.destroy_process_group()


def _torch_of_several() -> Any:
    """torch where it has joined several processes; whoever has not imported it is alone."""
    torch = sys.modules.get("torch")
    several = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch if several else None
