"""Which batch layout a model is run in: a request, held against what the model was seen to do.

Trees and packed rows rest on the model attending as it is told. Whether it does is decided by its structure and by
scores on a few sequences (:mod:`odin_rm.fast.tree_check`); where it does not, sequences are padded as usual, or
computed one at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from odin_rm.core.errors import ConfigError
from odin_rm.data.planning import Cost
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast.tree_check import TreeSupport, padded_reason, tree_support

log = logging.getLogger(__name__)


def choose_layout(
    model: nn.Module,
    sequences: Sequence[np.ndarray],
    pad_token_id: int,
    *,
    requested: str = "auto",
    kernel: str = "auto",
    device: torch.device,
) -> TreeSupport:
    """The layout that a model is run in, verified on some sequences; its attention kernel is set.

    Args:
        model: the reward model.
        sequences: a few token sequences, some of them with a common beginning.
        pad_token_id: what to pad with.
        requested: ``auto``, ``tree``, ``packed``, ``padded`` or ``single``.
        kernel: attention of trees: ``auto`` or a name.
        device: where the model is.

    Raises:
        ConfigError: what is wished for does not give the model's own scores.
    """
    if requested == "single":
        return TreeSupport("single", None, "as asked")
    if requested == "padded":
        if reason := padded_reason(model, sequences, pad_token_id, device=device):
            raise ConfigError(f"is not possible: {reason}", where="--batch_layout padded", fix="Use auto.")
        return TreeSupport("padded", None, "as asked")
    support = tree_support(model, sequences, pad_token_id, kernel=kernel, device=device)
    if requested in ("auto", support.layout):
        if kernel != "auto" and support.kernel != kernel:
            raise ConfigError(f"is not possible: {support.why}", where=f"--tree_attention {kernel}", fix="Use auto.")
        return support
    if requested == "packed" and support.layout == "tree":
        return replace(support, layout="packed")
    raise ConfigError(f"is not possible: {support.why}", where=f"--batch_layout {requested}", fix="Use auto.")


def known_layout(
    model: object,
    sequences: Sequence[np.ndarray],
    pad_token_id: int,
    *,
    requested: str = "auto",
    kernel: str = "auto",
    device: torch.device,
) -> TreeSupport:
    """The layout of a loaded model, verified once on the first sequences that it scores; see :func:`choose_layout`.

    Raises:
        ConfigError: what is wished for does not give the model's own scores.
    """
    if not isinstance(model, nn.Module):
        return TreeSupport("padded", None, "padded batches: not a model")
    place = (requested, kernel, str(device), next(model.parameters()).dtype)
    known = _KNOWN.get(model)
    longest = max(map(len, sequences), default=0)
    if known is None or known[0] != place or longest > known[2]:
        with torch.no_grad():
            found = choose_layout(
                model, representative(sequences), pad_token_id, requested=requested, kernel=kernel, device=device
            )
        if found.layout == "single" and requested == "auto":
            log.warning("%s", found.why)
        # Some models change with the length of what they read, so much longer ones are verified again.
        known = (place, found, max(2 * longest, _LENGTHS_ALIKE))
        _KNOWN[model] = known
    return known[1]


_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, TreeSupport, int]] = WeakKeyDictionary()
_LENGTHS_ALIKE = 256


def representative(sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first, the last and the longest of some sequences: enough to verify a layout on."""
    longest = max(range(len(sequences)), key=lambda i: len(sequences[i]))
    return [sequences[i] for i in sorted({0, longest, len(sequences) - 1})]


def some_sequences(data: TokenisedPreferences, tokens: int) -> list[np.ndarray]:
    """The first sequences of a preference set up to so many tokens in all, at least one."""
    last = int(np.searchsorted(data.offsets, tokens, side="right")) - 1
    return [data.input_ids(r) for r in range(max(1, min(last, data.num_responses)))]


def longest_and_first(data: TokenisedPreferences) -> list[np.ndarray]:
    """The longest and the first sequence of a preference set."""
    return [data.input_ids(int(np.argmax(data.sequence_tokens))), data.input_ids(0)]


def forward_cost(model: Any) -> Cost:
    """Floating-point operations of a model's forward pass per token and per pair of query and key.

    Two per weight and token (embeddings are looked up, not multiplied), and for each pair the products of the scores
    and of the weighted sum: four times the attention's width, in each layer.
    """
    looked_up = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    weights = sum(p.numel() for p in model.parameters() if id(p) not in looked_up and p.dim() > 1)
    config = model.config
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    hidden = int(getattr(config, "hidden_size", 0) or 0)
    width = heads * int(getattr(config, "head_dim", None) or (hidden // heads if heads else 0))
    return Cost(token=2.0 * max(weights, 1), pair=4.0 * layers * width)
