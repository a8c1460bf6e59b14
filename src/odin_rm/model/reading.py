"""Where a reward is read: one rule, for training in every layout, scoring, audit, judge, RL and export.

- *A model of ours* is read at the last token of the conversation as it was rendered: the last token that is no padding,
  whatever its id. ``read_at`` of the text settings says where the rendered text ends (:mod:`odin_rm.data.tokenise`).
- *Somebody's classifier* is read where stock transformers reads it, one sequence at a time, with its config as saved.
  Stock decoders read the last token whose id is not ``config.pad_token_id``. Where a text ends with that very id, they
  read an earlier token; nobody but the model's author can say that this is wrong, so it is done, and said.
- An encoder is read by its own code (its first token, a pooler, a mean).

Two things in stock code do not fit these rules, and both are mended here for the time of one forward pass. Stock
decoders find the end of a padded row by comparing ids, not by its mask: padding is therefore filled with an id that no
row of the batch ends with. And some models remember the lengths that they have seen: they are made to forget them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from odin_rm.fast import reads_left_to_right


def stock_skip_id(config: Any) -> int | None:
    """The id that stock decoders skip at the end of a text: the pad id of the (text) config; ``None`` without one.

    Some configs say -1 for "none"; no token has that id, so nothing is skipped.
    """
    pad = getattr(_text_config(config), "pad_token_id", None)
    return None if pad is None or int(pad) < 0 else int(pad)


def set_pad_id(config: Any, pad_token_id: int | None) -> None:
    """Set the pad id of a config and of the text config in it, which is the one that stock decoders ask."""
    config.pad_token_id = pad_token_id
    _text_config(config).pad_token_id = pad_token_id


def up_to_reading(ids: np.ndarray, skip_id: int | None) -> np.ndarray:
    """A sequence up to the token that is read: the last whose id is not ``skip_id`` (the first where all are).

    In a causal model what comes after that token changes nothing.

    Args:
        ids: ``(T,)`` token ids.
        skip_id: see :func:`stock_skip_id`.
    """
    if skip_id is None or not len(ids) or ids[-1] != skip_id:
        return ids
    others = np.flatnonzero(np.asarray(ids) != skip_id)
    return ids[: int(others[-1]) + 1] if len(others) else ids[:1]


def padded_logits(
    classifier: Any, backbone: Any, input_ids: Tensor, attention_mask: Tensor, *, stock: bool = False
) -> Tensor:
    """``(R, H)`` output of a classifier for rows padded on the right, each read by the rule of this module.

    Args:
        classifier: the sequence classifier itself.
        backbone: what is called: the classifier or a wrapper around it (LoRA).
        input_ids: ``(R, T)`` token ids.
        attention_mask: ``(R, T)`` 1 for real tokens.
        stock: read where the saved config says; without it at the last real token.
    """
    forget_earlier(classifier.base_model)
    options: dict[str, Any] = {"use_cache": False} if hasattr(classifier.config, "use_cache") else {}
    if not _structure(classifier.base_model).causal:
        return backbone(input_ids=input_ids, attention_mask=attention_mask, **options).logits
    skip = stock_skip_id(classifier.config)
    if stock and skip is not None and not _beyond_vocabulary(classifier.config, skip):
        filled = input_ids.masked_fill(attention_mask == 0, skip)
        return backbone(input_ids=filled, attention_mask=attention_mask, **options).logits
    with last_token_read(classifier.config, input_ids, attention_mask) as filled:
        return backbone(input_ids=filled, attention_mask=attention_mask, **options).logits


@contextmanager
def last_token_read(config: Any, input_ids: Tensor, attention_mask: Tensor) -> Iterator[Tensor]:
    """Within the block a stock decoder with this config reads each row of the yielded ids at its last real token.

    Args:
        config: the classifier's config; its pad id is another one within the block where a row ends with it.
        input_ids: ``(R, T)`` token ids.
        attention_mask: ``(R, T)`` 1 for real tokens.
    """
    last_R1 = (attention_mask * torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)).argmax(-1, True)
    ends = set(input_ids.gather(1, last_R1).flatten().tolist())
    saved = config.pad_token_id, _text_config(config).pad_token_id
    filler = stock_skip_id(config)
    if filler is None or filler in ends or _beyond_vocabulary(config, filler):
        filler = next(number for number in range(len(ends) + 1) if number not in ends)
    set_pad_id(config, filler)
    try:
        yield input_ids.masked_fill(attention_mask == 0, filler)
    finally:
        config.pad_token_id, _text_config(config).pad_token_id = saved


def forget_earlier(base: Any) -> None:
    """Let a model forget the lengths that it has seen, so that no score depends on what was scored before.

    Rotary positions of the kind ``dynamic`` keep the frequencies of the longest sequence for every later one between
    the model's original window and it. BigBird gives up its sparse attention for good at the first short sequence.
    """
    attention = getattr(getattr(base, "config", None), "attention_type", None)
    if attention is not None and getattr(base, "attention_type", attention) != attention:
        base.set_attention_type(attention)
    for module in _structure(base).rotary:
        original = module.original_max_seq_len
        for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
            prefix = name.removesuffix("max_seq_len_cached")
            frequencies = getattr(module, f"{prefix}original_inv_freq", None)
            current = getattr(module, f"{prefix}inv_freq", None)
            if frequencies is None or current is None or getattr(module, name) == original:
                continue
            module.register_buffer(f"{prefix}inv_freq", frequencies.to(current.device), persistent=False)
            setattr(module, name, original)


@dataclass(frozen=True)
class _Structure:
    """What of a base model every forward pass asks, found once: it takes a walk over all modules.

    Attributes:
        causal: no token's state depends on later tokens.
        rotary: the modules that may remember a length.
    """

    causal: bool
    rotary: tuple[Any, ...]


_structures: WeakKeyDictionary[Any, _Structure] = WeakKeyDictionary()


def _structure(base: Any) -> _Structure:
    if base not in _structures:
        rotary = tuple(module for module in base.modules() if hasattr(module, "original_max_seq_len"))
        _structures[base] = _Structure(reads_left_to_right(base), rotary)
    return _structures[base]


def _beyond_vocabulary(config: Any, token_id: int) -> bool:
    """Whether an id has no row in the embedding: it ends no text, and cannot stand on padding either."""
    rows = getattr(_text_config(config), "vocab_size", None)
    return rows is not None and token_id >= int(rows)


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config
