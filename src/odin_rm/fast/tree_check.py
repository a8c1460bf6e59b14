"""Whether a model may be run on rows that hold trees: by its structure, then by its scores.

A tree gives the scores of padded batches only where nothing but attention passes between tokens, where attention is
computed by our function, and where no token's state depends on later ones. Structure rules out what is known to differ.
What remains must give the scores (and some gradients) of the same sequences one by one on a few of them. Where trees
fail, packed rows are tried, then padded batches. Those are held against the sequences one by one too, for some models
let the length of a batch decide a score; such a model computes one sequence at a time. The reason is one line.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from odin_rm.core.errors import OdinError
from odin_rm.core.types import RewardScores
from odin_rm.data.batching import collate
from odin_rm.data.trees import build_trees, tree_tensors
from odin_rm.fast.compiled import repeated_layers
from odin_rm.fast.direction import reads_left_to_right
from odin_rm.fast.last_layer import read_all, read_only_ends
from odin_rm.fast.tree_attention import Asked, what_layers_asked
from odin_rm.fast.tree_rows import neighbour_reason, structural_reason

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Largest difference of scores, as a share of the largest score; a wrong mask changes scores by tenths of it."""

GRADIENT_SLACK = 4
"""Gradients may differ by so many times as much: rounding adds up over both passes."""

PADDED_SHARE = 0.2
"""Padded batches may differ by this share of it: what passes between the rows of a batch is small."""

ENDING = 8
"""Tokens that count as the end of a sequence: an end-of-turn token, a line break, an end token."""

LONGEST_BRANCH = 256
LONGEST_FOR_A_WINDOW = 1024


@dataclass(frozen=True)
class TreeSupport:
    """How sequences may share a forward pass of a model.

    Attributes:
        layout: ``tree``, ``packed`` (no padding, nothing shared), ``padded`` or ``single`` (one at a time).
        kernel: attention kernel that was seen to work, or ``None`` for ``padded`` and ``single``.
        why: one line: what was checked, or why it is not a tree.
    """

    layout: str
    kernel: str | None
    why: str


def tree_support(
    model: Any,
    sequences: Sequence[np.ndarray],
    pad_token_id: int,
    *,
    kernel: str = "auto",
    device: torch.device,
) -> TreeSupport:
    """Check a model in the state it is in: dtype, autocast, adapter, checkpointing; gradients where they are enabled.

    The model's ``tree_kernel`` is set to ``kernel``; ``auto`` leaves a choice that it has.

    Args:
        model: a :class:`RewardModel` or a :class:`ColumnClassifier`.
        sequences: some token sequences of the data, the longest among them.
        pad_token_id: what padded batches are padded with.
        kernel: see :mod:`odin_rm.fast.tree_attention`.
        device: where the model is.
    """
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, PreTrainedModel) or not hasattr(model, "tree_kernel"):
        return TreeSupport("padded", None, "padded batches: the model is no sequence classifier of transformers")
    if kernel != "auto":
        model.tree_kernel = kernel
    if (reason := neighbour_reason(classifier)) is not None:
        return _single(reason)
    reference = _one_by_one(model, sequences, pad_token_id, device)
    if isinstance(reference, TreeSupport):
        return reference
    read, plain = reference
    causal = reads_left_to_right(classifier.base_model)
    structural = structural_reason(classifier)
    reasons = [] if structural is None else [structural]
    for layout in () if reasons else ("tree", "packed") if causal else ("packed",):
        row = tree_tensors(build_trees(read, share=layout == "tree", min_shared=2))
        try:
            difference = _difference(_scores_and_gradients(model, [row], device), plain, _tolerance(classifier))
            layers = what_layers_asked(classifier.base_model)
            check_layers(layers, classifier.base_model.config)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a foreign model does with a row, padded batches are still right
            reasons.append(_one_line(error))
            continue
        if causal and (reason := _confine_last_layer(model, row, layers, plain, device)):
            log.info("the last layer computes all tokens of a row: %s", reason)
        checked = f"equal to {len(read)} sequences one by one within {difference:.0e} of the largest score"
        why = f"no trees: {reasons[0]}" if reasons else checked
        return TreeSupport(layout, layers[0][1].kernel, why)
    if (reason := _apart_when_padded(model, read, plain, pad_token_id, device)) is None:
        return TreeSupport("padded", None, f"padded batches: {reasons[0]}")
    return _single(reason)


def padded_reason(
    model: Any, sequences: Sequence[np.ndarray], pad_token_id: int, *, device: torch.device
) -> str | None:
    """Why padded batches do not give a model's own scores, or ``None`` where they do; see :func:`tree_support`."""
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, PreTrainedModel):
        return None
    if (reason := neighbour_reason(classifier)) is not None:
        return reason
    reference = _one_by_one(model, sequences, pad_token_id, device)
    if isinstance(reference, TreeSupport):
        return None if reference.layout == "padded" else reference.why
    return _apart_when_padded(model, *reference, pad_token_id, device)


def _one_by_one(
    model: Any, sequences: Sequence[np.ndarray], pad_token_id: int, device: torch.device
) -> tuple[list[np.ndarray], list[Tensor]] | TreeSupport:
    """The examples as far as they are read, with their scores and gradients one by one; or the layout without them."""
    base = model.classifier.base_model
    examples = _examples(sequences, model.classifier.config, reads_left_to_right(base))
    read_all(base)  # of an earlier check in another state
    try:
        plain = _scores_and_gradients(model, [collate([e], pad_token_id) for e in examples], device)
    except (torch.OutOfMemoryError, OdinError):
        raise
    except Exception as error:  # some models take certain lengths only
        return _single(f"it cannot compute an example ({_one_line(error)})")
    if not bool(torch.isfinite(plain[0]).all()):  # whoever takes the scores says so
        return TreeSupport("padded", None, "padded batches: the model's scores are not finite")
    return [model.read_part(e) if hasattr(model, "read_part") else e for e in examples], plain


def _single(reason: str) -> TreeSupport:
    return TreeSupport("single", None, f"one sequence at a time: {reason}")


def _apart_when_padded(
    model: Any, examples: list[np.ndarray], plain: list[Tensor], pad_token_id: int, device: torch.device
) -> str | None:
    """Why padded batches do not give the scores of the sequences one by one, or ``None`` where they do."""
    # Pairs of a long and a short one: padding is largest, and memory holds them where it holds the longest alone.
    pairs = [collate(examples[i : i + 2], pad_token_id) for i in range(0, len(examples), 2)]
    try:
        # What differs here differs by little: nothing is masked wrongly, something is mixed that should not be.
        _difference(_scores_and_gradients(model, pairs, device), plain, PADDED_SHARE * _tolerance(model.classifier))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # some models refuse a batch
        return _one_line(error).replace("scores differ", "scores in padded batches differ")
    return None


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def _confine_last_layer(
    model: Any, row: dict[str, Tensor], layers: Sequence[tuple[nn.Module, Asked]], plain: list[Tensor], device: Any
) -> str | None:
    """Let the last layer compute what is read only, if a row then still is what it should be; else the reason."""
    base = model.classifier.base_model
    if not read_only_ends(repeated_layers(base), [module for module, _ in layers]):
        return "its parts are not those of the kinds known"
    try:
        _difference(_scores_and_gradients(model, [row], device), plain, _tolerance(model.classifier))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        read_all(base)
        return _one_line(error)
    return None


def check_layers(layers: Sequence[tuple[nn.Module, Asked]], config: Any) -> None:
    """Every layer must have come by our attention, and must have asked for the window that its config promises.

    Raises:
        NotImplementedError: one has not.
    """
    count = getattr(config, "num_hidden_layers", len(layers))
    if len(layers) != count:
        raise NotImplementedError(f"{len(layers)} of {count} layers take their attention from outside")
    kinds = getattr(config, "layer_types", None)
    common = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    for number, (_, asked) in enumerate(layers):
        windowed = kinds[number] == "sliding_attention" if kinds else common is not None
        if windowed != (asked.window is not None):
            raise NotImplementedError(f"layer {number} does not say what window it has")


def _examples(sequences: Sequence[np.ndarray], config: Any, causal: bool) -> list[np.ndarray]:
    """A few sequences with all that trees have: nested branches, a repeat, one that begins another, a stranger.

    The longest is as long as the data have it, and each ends as theirs do: with an end-of-turn token and a line break,
    say, or with an id that stock code takes for padding. Only two that begin others, for a causal model, do not: others
    may look for their end token. A long and a short one alternate.
    """
    arrays = sorted((np.asarray(s) for s in sequences if len(s)), key=len)
    trunk, other = arrays[-1], arrays[len(arrays) // 2]
    end, other_end = trunk[-ENDING:], other[-ENDING:]
    window = getattr(config, "sliding_window", None)
    if window is not None and window + 32 > len(trunk) and window + 32 <= LONGEST_FOR_A_WINDOW:
        # Long enough to look out of it.
        limit = getattr(config, "max_position_embeddings", None) or window + 32
        trunk = np.append(np.resize(trunk, max(len(trunk), min(window + 32, limit) - len(end))), end)
    short = trunk[:LONGEST_BRANCH]
    half, quarter = max(1, len(short) // 2), max(1, len(short) // 4)
    other = np.append(other[:LONGEST_BRANCH], other_end) if len(other) > LONGEST_BRANCH else other
    branch = other[::-1][: max(1, len(short) // 3)]
    return [
        trunk,
        np.concatenate([short[:half], branch, end]),
        np.concatenate([short[: half + half // 2], branch[: max(1, len(branch) // 2)], other_end]),
        np.concatenate([short[:quarter], branch[1:], trunk[:1], end]),
        other,
        np.append(other[: max(1, len(other) // 3)][::-1], other_end),
        trunk[: max(1, len(trunk) - ENDING // 2)] if causal else trunk,
        short[:half] if causal else np.append(short[:half], end),
    ]


def _scores_and_gradients(model: Any, batches: list[dict[str, Tensor]], device: torch.device) -> list[Tensor]:
    """Scores of all sequences in order, then gradients of a few early weights of one function of them."""
    weights = _early_weights(model)
    with torch.set_grad_enabled(bool(weights)):
        found: list[RewardScores] = [model(**{k: v.to(device) for k, v in batch.items()}) for batch in batches]
        # Of the quality alone: a length head decides nothing, not even how a reward is computed.
        score_R = torch.cat([one.quality for one in found]).double()
        total = (score_R * torch.linspace(-1, 2, len(score_R), dtype=score_R.dtype, device=score_R.device)).sum()
    if not weights:
        return [score_R]
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return [
        score_R.detach(),
        *(torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)),
    ]


def _early_weights(model: Any) -> list[Tensor]:
    """The first trained weights behind the embeddings, whose gradients come through every layer; none without any."""
    base = model.classifier.base_model
    checkpoints = [getattr(m, "_gradient_checkpointing_func", None) for m in base.modules()]
    # Neither reentrant checkpoints nor weights that FSDP has split allow gradients of single weights.
    reentrant = any(getattr(c, "keywords", {}).get("use_reentrant") for c in checkpoints)
    split = any(hasattr(p, "full_tensor") or hasattr(p, "_is_flat_param") for p in base.parameters())
    if reentrant or split or not torch.is_grad_enabled():
        return []
    looked_up = {id(p) for m in base.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [p for p in base.parameters() if p.requires_grad and id(p) not in looked_up]
    return trained[:4]


def _tolerance(classifier: PreTrainedModel) -> float:
    parameter = next(p for p in classifier.base_model.parameters() if p.is_floating_point())
    kind = parameter.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parameter.dtype
    if dtype == torch.float32 and kind == "cuda" and torch.get_float32_matmul_precision() != "highest":
        dtype = torch.float16  # products are rounded to as few bits
    return TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])


def _difference(found: list[Tensor], plain: list[Tensor], tolerance: float) -> float:
    """Largest difference of scores, relative to the largest score.

    Raises:
        ArithmeticError: it or that of a gradient is beyond the tolerance.
    """
    scores = _relative(found[:1], plain[:1])
    if not scores <= tolerance:
        raise ArithmeticError(f"scores differ from those of the sequences one by one by {scores:.1e}")
    gradients = _relative(found[1:], plain[1:])
    if not gradients <= GRADIENT_SLACK * tolerance:
        raise ArithmeticError(f"gradients differ from those of the sequences one by one by {gradients:.1e}")
    return scores


def _relative(found: list[Tensor], plain: list[Tensor]) -> float:
    # One scale for all: the gradient of a key's bias is 0 but for rounding.
    largest = max((float(x.abs().max()) for x in plain), default=0.0)
    apart = [float((mine - theirs).abs().max()) for mine, theirs in zip(found, plain, strict=True)]
    return float(np.max(apart, initial=0.0)) / (largest or 1.0)
