"""The arithmetic a step needs at least, and how fast the machine multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast.cpu_matmul import faster_by, linear


@dataclass(frozen=True)
class ModelSize:
    """What the count of operations depends on.

    Attributes:
        parameters: without the embedding of tokens and the head.
        attention: layers times the width of all heads together.
    """

    parameters: int
    attention: int

    @classmethod
    def of(cls, classifier: Any) -> ModelSize:
        """The size of a causal transformer of transformers."""
        config = classifier.config
        embedding = classifier.get_input_embeddings().weight
        width = config.num_attention_heads * (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        body = sum(p.numel() for p in classifier.base_model.parameters()) - embedding.numel()
        return cls(body, config.num_hidden_layers * width)


@dataclass(frozen=True)
class Need:
    """What a step must compute at least.

    Attributes:
        slot_tokens: of all chosen and rejected sequences.
        response_tokens: of the distinct sequences.
        tokens: distinct ones; what sequences begin with alike counts once.
        visible: positions that these tokens attend to, summed.
    """

    slot_tokens: int
    response_tokens: int
    tokens: int
    visible: int

    def training_flops(self, size: ModelSize) -> float:
        """``6 N T`` of the matrices, and ``12 d`` per layer, token and visible position of causal attention."""
        return 6.0 * size.parameters * self.tokens + 12.0 * size.attention * self.visible

    def scoring_flops(self, size: ModelSize) -> float:
        """A third of it: the forward pass alone."""
        return self.training_flops(size) / 3


def need_of(data: TokenisedPreferences, pairs: np.ndarray) -> Need:
    """What a step over some pairs must compute at least."""
    lengths = np.asarray(data.sequence_tokens)
    slots = np.concatenate([data.pair_chosen[pairs], data.pair_rejected[pairs]])
    responses = np.unique(slots)
    tokens, visible = distinct_tokens([data.input_ids(int(r)) for r in responses])
    return Need(int(lengths[slots].sum()), int(lengths[responses].sum()), tokens, visible)


def distinct_tokens(sequences: Sequence[np.ndarray]) -> tuple[int, int]:
    """Tokens of some sequences when what they begin with alike counts once, and the positions that these see.

    In alphabetic order the longest beginning that a sequence shares with any before it is that with its neighbour.
    """
    tokens = visible = 0
    before = np.empty(0, dtype=np.int32)
    for sequence in sorted(sequences, key=lambda ids: np.asarray(ids).astype(">u4").tobytes()):
        shortest = min(len(before), len(sequence))
        differs = before[:shortest] != sequence[:shortest]
        shared = int(np.argmax(differs)) if differs.any() else shortest
        tokens += len(sequence) - shared
        visible += (len(sequence) * (len(sequence) + 1) - shared * (shared + 1)) // 2
        before = sequence
    return tokens, visible


def matrix_peak(device: str, dtype: torch.dtype, size: int = 0, repeats: int = 5) -> float:
    """Best rate of a square matrix product, FLOP/s; on a CPU in float32 that of the faster library."""
    size = size or (8192 if device == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    products = [lambda: a @ b]
    if device == "cpu" and dtype == torch.float32 and faster_by():
        products.append(lambda: linear(a, b))
    many = 10 if device == "cuda" else 1
    best = float("inf")
    for _ in range(repeats + 1):
        for product in products:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(many):
                product()
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, (time.perf_counter() - start) / many)
    return 2 * size**3 / best
