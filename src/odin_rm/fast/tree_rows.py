"""Scores of the sequences in a row: the last hidden states once, then each sequence's read-out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from odin_rm.fast.direction import reads_left_to_right
from odin_rm.fast.last_layer import tokens_to_read
from odin_rm.fast.tree_attention import row_states
from odin_rm.fast.tree_layout import TreeLayout, make_layout

ROW = ("input_ids", "position_ids", "segment_start", "segment_length", "segment_parent", "response_end")
"""What a row consists of (``odin_rm.data.trees.tree_tensors``)."""


def score_row(
    classifier: PreTrainedModel,
    output_layer: nn.Module,
    row: dict[str, Tensor],
    *,
    kernel: str = "auto",
    mean: bool = False,
) -> Tensor:
    """``(r, H)`` output of a classifier for each sequence of a row.

    A causal model's output layer reads the state of a sequence's last token; with ``mean`` the mean of the states on
    its path. The states of an encoder, whose sequences lie side by side, go through the classifier's own read-out.

    Args:
        classifier: a sequence classifier of transformers.
        output_layer: its last layer.
        row: the tensors named in :data:`ROW`.
        kernel: see :mod:`odin_rm.fast.tree_attention`.
        mean: read the mean of the states instead of one of them.

    Raises:
        TypeError: a tensor of the row is missing, or there is one too many.
        NotImplementedError: the model's structure rules rows out, or its attention asks for something unknown.
    """
    if set(row) != set(ROW):
        raise TypeError(f"a row is {', '.join(ROW)}; got {', '.join(sorted(row))}")
    reason = neighbour_reason(classifier) or structural_reason(classifier)
    if reason is not None:
        raise NotImplementedError(reason)
    base: Any = classifier.base_model
    causal = reads_left_to_right(base)
    layout = make_layout(
        row["segment_start"], row["segment_length"], row["segment_parent"], causal=causal, kernel=kernel
    )
    if causal and not mean:
        layout = replace(layout, read=tokens_to_read(row["response_end"], layout.tokens))
    options: dict[str, Any] = {"use_cache": False} if hasattr(classifier.config, "use_cache") and causal else {}
    positions = row["position_ids"]
    if not causal:
        positions = encoder_positions(base, row["input_ids"][0], positions[0])[None]
    states_TD = row_states(base, row["input_ids"], positions, layout, **options)
    end_r = row["response_end"].to(states_TD.device)
    if mean:
        return output_layer(path_means(states_TD, end_r, layout))
    if causal:
        return output_layer(states_TD.index_select(0, end_r))
    return _own_read_out(classifier, row["input_ids"][0], states_TD, end_r, layout)


def structural_reason(classifier: PreTrainedModel) -> str | None:
    """Why a model's structure rules out rows of several sequences, or ``None`` where nothing known does."""
    base: Any = classifier.base_model
    config: Any = base.config
    if base is classifier:
        return "the classifier has no base model of its own"
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder with a decoder reads a sequence twice"
    if getattr(base, "_is_stateful", False):
        return "the model carries a state from token to token"
    if any(isinstance(m, nn.Conv1d) and max(m.kernel_size) > 1 for m in base.modules()):
        return "a convolution mixes neighbouring tokens"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(config, "attention_chunk_size", None):
        return f"layers of kind {', '.join(sorted(kinds)) or 'chunked_attention'}"
    if not getattr(base, "_supports_attention_backend", False):
        return "its attention layers do not take their attention from outside"
    return None


def neighbour_reason(classifier: PreTrainedModel) -> str | None:
    """Why a sequence's score depends on the longest one beside it, in rows and in padded batches; else ``None``."""
    config: Any = classifier.base_model.config
    scaled = _rope_types(getattr(config, "rope_parameters", None)) & {"dynamic", "longrope"}
    if scaled:
        return f"its rotary positions ({', '.join(sorted(scaled))}) depend on the longest sequence of a batch"
    return None


def _rope_types(parameters: Any) -> set[str]:
    if not isinstance(parameters, dict):
        return set()
    found = {str(parameters["rope_type"])} if "rope_type" in parameters else set()
    return found.union(*(_rope_types(value) for value in parameters.values()))


def encoder_positions(base: nn.Module, ids_T: Tensor, position_T: Tensor) -> Tensor:
    """``(T,)`` positions as an encoder counts them itself.

    RoBERTa's kind counts from after its padding index, and only the tokens that are not its padding token; a padding
    token that a text holds has the padding index as its position.

    Args:
        base: the encoder.
        ids_T: token ids of sequences side by side.
        position_T: position of each token in its sequence, from 0.
    """
    pad = _padding_index(base)
    if pad is None:
        return position_T
    real_T = (ids_T != pad).long()
    counted_T = real_T.cumsum(0)
    start_T = torch.arange(len(ids_T), device=ids_T.device) - position_T
    within_T = counted_T - (counted_T - real_T)[start_T]
    return within_T * real_T + pad


def _padding_index(base: nn.Module) -> int | None:
    """The padding index of a table of positions, which only RoBERTa's kind has."""
    for name, module in base.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.padding_idx
    return None


def path_means(states_TD: Tensor, end_r: Tensor, layout: TreeLayout) -> Tensor:
    """``(r, D)`` float32 mean of the states of the tokens that make up each sequence."""
    ends = end_r.cpu()
    index_T = torch.arange(layout.tokens)
    if layout.causal:
        on_path_rT = (index_T <= ends[:, None]) & (ends[:, None] < layout.end_T)
    else:
        on_path_rT = layout.root_T == layout.root_T[ends][:, None]
    weight_rT = on_path_rT.to(states_TD.device, torch.float32)
    with torch.autocast(states_TD.device.type, enabled=False):
        return weight_rT @ states_TD.float() / weight_rT.sum(1, keepdim=True)


def _own_read_out(
    classifier: PreTrainedModel, ids_T: Tensor, states_TD: Tensor, end_r: Tensor, layout: TreeLayout
) -> Tensor:
    """The classifier's forward pass with its base model's answer put in: the states, padded on the right."""
    start_r = layout.root_T.to(states_TD.device)[end_r]
    length_r = end_r - start_r + 1
    column_W = torch.arange(int(length_r.max()), device=states_TD.device)
    real_rW = column_W < length_r[:, None]
    index_rW = start_r[:, None] + column_W.minimum(length_r[:, None] - 1)
    states_rWD = states_TD[index_rW] * real_rW[..., None]
    base: Any = classifier.base_model
    pooler = getattr(base, "pooler", None)
    answer = BaseModelOutputWithPooling(
        last_hidden_state=states_rWD, pooler_output=None if pooler is None else pooler(states_rWD)
    )
    base.forward = lambda *args, **kwargs: answer
    try:
        return classifier(input_ids=ids_T[index_rW], attention_mask=real_rW.long()).logits
    finally:
        del base.forward
