"""Which device a model is put on."""

from __future__ import annotations

import torch

from odin_rm.core.errors import ConfigError


def pick_device(name: str | None = None) -> torch.device:
    """The device of a name, tried out; by default CUDA where there is one.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ... or ``None``.

    Raises:
        ConfigError: the name means nothing, or this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    # torch says "no such device" by an AssertionError where it was built without that kind.
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(
            f"'{name}' cannot be used ({reason})", where="--device", fix="Use cpu, or leave it out."
        ) from error
    return device


_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "failed to allocate",
    "bad_alloc",
    "can't start new thread",  # which needs a stack
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's own class, or the bare ``RuntimeError`` of some allocators."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
