"""Tables ``(B, T)`` of response tokens, padded: which entries count, and zeros elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from odin_rm.core.errors import ShapeError


def kept_tokens(name: str, mask_BT: Tensor, shape: torch.Size) -> Tensor:
    """``(B, T)`` bool: where ``mask_BT``, a mask or a table of weights, is not 0.

    Raises:
        ShapeError: the argument ``name`` does not have ``shape``.
    """
    if mask_BT.shape != shape:
        raise ShapeError(f"'{name}' must have the shape {tuple(shape)}, it has {tuple(mask_BT.shape)}")
    return mask_BT != 0


def zero_padding(table_BT: Tensor, kept_BT: Tensor) -> Tensor:
    """The table with zeros, and without gradient, on padding: a NaN there times a weight of 0 would stay a NaN."""
    return torch.where(kept_BT, table_BT, torch.zeros_like(table_BT))
