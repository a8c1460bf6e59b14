"""Attention over a forest inside any transformers model whose layers take their attention from outside.

Kernels (``kernel``): ``segments`` (the default on CPUs), ``varlen`` (the default on CUDA in 16-bit floats), ``flex``
and ``dense``; ``auto`` chooses by device and dtype at each call. What they compute is in ``tree_kernels``.

The layout of a row travels to the attention layers as a keyword argument, so a layer that is computed again in the
backward pass (gradient checkpointing), maybe in another thread, finds the layout of its own forward pass. For the same
reason each attention layer switches its model's attention over for itself, whenever it is called with a layout. All
other calls find the implementation that the user chose: padded batches are computed as ever, and configs are saved as
ever.

What a layer asks for beyond causal softmax attention with a window (soft caps, sinks, biases of position, dropout) is
refused with an error. Nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from odin_rm.fast.last_layer import read_by
from odin_rm.fast.tree_kernels import KERNELS, attend_read, choose_kernel
from odin_rm.fast.tree_layout import TreeLayout

IMPLEMENTATION = "odin_rm_tree"
"""Our name among transformers' attention functions. It has no mask function, so transformers makes no mask."""

ASKED = "_odin_rm_tree_asked"
BEFORE = "_odin_rm_tree_before"
HARMLESS = frozenset(
    {"position_ids", "position_embeddings", "cache_position", "use_cache", "deterministic", "return_dict"}
    | {"output_attentions", "output_hidden_states"}
)
"""Arguments that models hand on to their attention function and that change nothing here."""


# How often attention was asked for. Not kept in the layout, at each change of which layers would be compiled anew.
_CALLS = [0]


@torch.compiler.disable  # reads and notes plain Python objects; kernels are chosen by the row, not by the graph
def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree_layout: TreeLayout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: ``(1, H, T, D)`` to ``(1, T, H, D)``.

    Raises:
        NotImplementedError: the layer asks for something that is not computed here.
    """
    if tree_layout is None:
        raise NotImplementedError("the model does not hand the layout on to its attention layers")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", None)
    asked = [
        name for name, given in others.items() if name not in HARMLESS and given is not None and given is not False
    ]
    asked += ["dropout"] * bool(dropout) + ["a mask"] * (attention_mask is not None)
    if asked:
        raise NotImplementedError(f"its attention asks for {', '.join(asked)}")
    if causal is not None and bool(causal) != tree_layout.causal:
        raise NotImplementedError("its layers differ in whether they see later tokens")
    if query.shape[0] != 1 or not query.shape[2] == key.shape[2] == tree_layout.tokens:
        raise NotImplementedError(f"its attention gets {tuple(query.shape)} for a row of {tree_layout.tokens} tokens")
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = choose_kernel(tree_layout.kernel, query, value)
    _arm(module, Asked(sliding_window, kernel))
    _CALLS[0] += 1
    window = tree_layout.window(sliding_window)
    if read_by(module, tree_layout, query.device) is not None:
        return attend_read(query, key, value, tree_layout, scaling, window), None
    return KERNELS[kernel](query, key, value, tree_layout, scaling, window), None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attend)


def row_states(
    base: nn.Module,
    input_ids: Tensor,
    position_ids: Tensor,
    layout: TreeLayout,
    **kwargs: Any,
) -> Tensor:
    """``(T, D)`` last hidden states of a row, each as in its own sequence.

    Args:
        base: a transformers model without its head.
        input_ids, position_ids: ``(1, T)``.
        layout: of the row.
        **kwargs: handed to the model.

    Raises:
        NotImplementedError: see :func:`attend`; or no layer called it.
    """
    before = _CALLS[0]
    with tree_implementation(base):
        found = base(input_ids=input_ids, position_ids=position_ids, tree_layout=layout, **kwargs)
    if _CALLS[0] == before:
        raise NotImplementedError("its attention layers do not take their attention from outside")
    return found.last_hidden_state[0]


@contextmanager
def tree_implementation(model: nn.Module) -> Iterator[None]:
    """Our attention in all of a model's configs for a while."""
    modules = model.modules()
    configs = {id(c): c for m in modules if isinstance(c := getattr(m, "config", None), PretrainedConfig)}.values()
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = IMPLEMENTATION
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            config._attn_implementation_internal = old


@dataclass(frozen=True)
class Asked:
    """What an attention layer asked for when it last computed a row, and the kernel that did it."""

    window: int | None
    kernel: str


def what_layers_asked(model: nn.Module) -> list[tuple[nn.Module, Asked]]:
    """The attention layers that have computed a row, in the model's order, and what they asked for."""
    return [(module, getattr(module, ASKED)) for module in model.modules() if hasattr(module, ASKED)]


def _arm(module: nn.Module, asked: Asked) -> None:
    """Let a layer switch the attention over for itself from now on; remember what it asked for."""
    if not hasattr(module, ASKED):
        if not isinstance(getattr(module, "config", None), PretrainedConfig):
            raise NotImplementedError("its attention layers have no config of their own")
        module.register_forward_pre_hook(_switch_over, with_kwargs=True)
        module.register_forward_hook(_switch_back, with_kwargs=True, always_call=True)
    module.__dict__[ASKED] = asked


def _switch_over(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("tree_layout") is not None:
        module.__dict__[BEFORE] = module.config._attn_implementation_internal
        module.config._attn_implementation_internal = IMPLEMENTATION


def _switch_back(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    # The first call of all registers this hook on its way, so there may be nothing to undo.
    before = module.__dict__.pop(BEFORE, None)
    if before is not None:
        module.config._attn_implementation_internal = before
