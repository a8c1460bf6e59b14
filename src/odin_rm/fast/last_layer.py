"""The last layer of a causal model at the tokens that are read, and nowhere else.

A reward is read from a sequence's last token. In the last layer the other tokens serve only as keys and values: their
queries, what follows attention and the feed-forward part give states that nobody looks at, and their gradients are
exactly zero. So in a row of ``T`` tokens with ``R`` read ones that layer's attention has ``R`` queries, and its parts
behind attention run on ``R`` rows: a model of ``L`` layers costs about ``L - 0.85`` layers, with the same scores and
gradients.

Which parts of a layer those are is guessed from their names (output projection, feed-forward block) and then verified
with the whole row by :mod:`odin_rm.fast.tree_check`. The states of tokens that are not read mean nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odin_rm.fast.tree_layout import TreeLayout

FEED_FORWARD, TWO_LAYERS = ("mlp", "feed_forward", "ffn"), ("fc1", "fc2")
PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "wo")
FEWEST = 4
"""Where more than one token in so many is read, all are computed."""

_PARTS = "_odin_rm_parts"
_ROWS = "_odin_rm_rows"
_CONFINED = "_odin_rm_confined"


def read_only_ends(layers: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> bool:
    """Let the last layer compute what is read of a row only, from now on.

    Args:
        layers: a model's layers in order.
        attentions: their attention modules, one each.

    Returns:
        Whether the last layer is of a known kind; otherwise nothing has been done. :func:`read_all` undoes it.
    """
    if not layers or len(attentions) != len(layers) or attentions[-1] not in set(layers[-1].modules()):
        return False
    layer, attention = layers[-1], attentions[-1]
    feed_forward = _children(layer, FEED_FORWARD) or _children(layer, TWO_LAYERS)
    if not feed_forward or any("experts" in name for part in feed_forward for name, _ in part.named_modules()):
        return False
    parts: list[Any] = [*feed_forward, *_children(attention, PROJECTION)]
    # Classes of their own rather than hooks: layers are compiled once for all that are alike, hooks or not.
    changes = [(layer, _on_its_own(type(layer))), *((part, _on_rows(type(part))) for part in parts)]
    for module, changed in changes:
        module.__class__ = changed
    for module in (layer, attention):
        module.__dict__[_PARTS] = tuple(parts)
    for part in parts:
        part.__dict__[_ROWS] = None
    return True


def read_all(model: nn.Module) -> None:
    """Let a model's last layer compute all tokens again."""
    for module in model.modules():
        if _CONFINED in type(module).__dict__:
            module.__class__ = type(module).__bases__[0]
        module.__dict__.pop(_ROWS, None), module.__dict__.pop(_PARTS, None)


def read_by(attention: nn.Module, layout: TreeLayout, device: torch.device) -> Tensor | None:
    """The tokens whose queries an attention layer computes, or ``None`` for all; what comes behind it is told."""
    parts = attention.__dict__.get(_PARTS)
    if parts is None:
        return None
    read = layout.read_on(device)
    for part in parts:
        setattr(part, _ROWS, read)
    return read


def tokens_to_read(end_r: Tensor, tokens: int) -> Tensor | None:
    """``(R,)`` distinct tokens that are read, in order; ``None`` where they are too many to bother."""
    read = torch.unique(end_r.cpu())  # each once: a state that is put back twice would have its gradient twice
    return read if FEWEST * len(read) <= tokens else None


def _children(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name in names]


def _on_its_own(kind: Any) -> type:
    """A layer that begins without knowing what is read; its attention tells it."""

    class OnItsOwn(kind):  # type: ignore[misc,valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            for part in getattr(self, _PARTS):
                setattr(part, _ROWS, None)  # of a pass that was broken off
            return super().forward(*args, **kwargs)

    return _named_like(OnItsOwn, kind)


def _on_rows(kind: Any) -> type:
    """A module that computes the rows it was told of; the others of its output are 0."""

    class OnRows(kind):  # type: ignore[misc,valid-type]
        def forward(self, states: Tensor) -> Tensor:
            rows = getattr(self, _ROWS)
            if rows is None:
                return super().forward(states)
            setattr(self, _ROWS, None)
            found = super().forward(states.index_select(-2, rows))
            whole = found.new_zeros(*states.shape[:-1], found.shape[-1])
            return whole.index_copy(-2, rows, found)

    return _named_like(OnRows, kind)


def _named_like(changed: type, kind: type) -> type:
    setattr(changed, _CONFINED, True)
    # Engines that split models know their layers by name.
    changed.__name__, changed.__qualname__, changed.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return changed
