"""Argument checks that the objectives share: they name the argument and say what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

from odin_rm.core.errors import ShapeError


def check_vector(name: str, value: Tensor, size: int | None = None, *, finite: bool = False) -> None:
    """Raise :class:`ShapeError` unless ``value`` is a floating vector (of ``size`` entries; finite where asked)."""
    if value.ndim != 1:
        raise ShapeError(f"'{name}' must have one dimension, it has shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ShapeError(f"'{name}' must be a floating tensor, it is {value.dtype}")
    if size is not None and len(value) != size:
        raise ShapeError(f"'{name}' must have {size} entries, it has {len(value)}")
    if finite and not bool(torch.isfinite(value).all()):
        raise ShapeError(f"'{name}' holds a value that is not finite")


def check_index(name: str, value: Tensor, limit: int) -> None:
    """Raise :class:`ShapeError` unless ``value`` is a vector of integers in ``[0, limit)``."""
    if value.ndim != 1 or value.is_floating_point() or value.dtype == torch.bool:
        raise ShapeError(f"'{name}' must be a vector of integers, it is {value.dtype} of shape {tuple(value.shape)}")
    if len(value) and (int(value.min()) < 0 or int(value.max()) >= limit):
        raise ShapeError(f"'{name}' must point into {limit} responses, it has {int(value.min())}..{int(value.max())}")


def check_tokens(name: str, value: Tensor, shape: torch.Size | None = None) -> None:
    """Raise :class:`ShapeError` unless ``value`` is a floating ``(B, T)`` tensor (of ``shape``, where one is given)."""
    if value.ndim != 2 or not value.is_floating_point():
        raise ShapeError(
            f"'{name}' must be a floating (B, T) tensor, it is {value.dtype} of shape {tuple(value.shape)}"
        )
    if shape is not None and value.shape != shape:
        raise ShapeError(f"'{name}' must have the shape {tuple(shape)}, it has {tuple(value.shape)}")
