"""Sequences with all that a forest has, families with windows, and what a model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

from odin_rm.data.batching import collate
from odin_rm.data.trees import build_trees, tree_tensors
from odin_rm.model.reward_model import RewardModel
from tests.families import DECODER, ENCODER, FAMILIES, SPECIAL, VOCABULARY, family_configs
from tests.model.words import DECODERS

GROUPED = {**DECODER, "num_key_value_heads": 1, "head_dim": 8}
PACKED_ENCODERS = ("bert", "roberta", "modernbert", "modernbert-window")
WINDOWED = ("mistral-window", "qwen3-window", "gemma3-window")
CAUSAL = (*DECODERS, "gpt-neox", *WINDOWED)


def more_configs() -> dict[str, Any]:
    """Configs beside those of ``tests.families``: windows of 8 tokens and fewer, and what rows refuse."""
    common: dict[str, Any] = {"vocab_size": VOCABULARY, **SPECIAL}
    window = {"sliding_window": 8}
    mixed = {"layer_types": ["sliding_attention", "full_attention"]}
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return {
        "gpt-neox": tf.GPTNeoXConfig(**common, **DECODER),
        "mistral-window": tf.MistralConfig(**common, **GROUPED, **window),
        "qwen3-window": tf.Qwen3Config(**common, **GROUPED, **window, use_sliding_window=True, max_window_layers=1),
        "gemma3-window": tf.Gemma3TextConfig(**common, **GROUPED, **window, **mixed, query_pre_attn_scalar=8),
        "modernbert-window": tf.ModernBertConfig(
            **{**common, "cls_token_id": 1, "sep_token_id": 2},
            **ENCODER,
            global_attn_every_n_layers=2,
            local_attention=6,
        ),
        "gemma2": tf.Gemma2Config(**common, **GROUPED, **window, query_pre_attn_scalar=8),
        "gpt-oss": tf.GptOssConfig(**common, **GROUPED, **window, num_local_experts=2, num_experts_per_tok=1),
        "bloom": tf.BloomConfig(**common, hidden_size=16, n_layer=2, n_head=2),
        "jamba": tf.JambaConfig(
            **common,
            **DECODER,
            num_key_value_heads=1,
            num_experts=2,
            num_experts_per_tok=1,
            attn_layer_period=2,
            attn_layer_offset=1,
            use_mamba_kernels=False,
        ),
        "llama-dynamic": tf.LlamaConfig(**common, **DECODER, rope_parameters=rope),
    }


def model_of(name: str, folder: Path, **options: Any) -> RewardModel:
    """A tiny reward model in float32 whose features differ between sequences; the base lies in ``folder``."""
    config = family_configs()[name] if name in FAMILIES else more_configs()[name]
    torch.manual_seed(0)
    base = tf.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    base.save_pretrained(folder)
    torch.manual_seed(1)
    return RewardModel.from_backbone(folder, **options).eval()


def branching(seed: int = 0) -> list[np.ndarray]:
    """Nested branches, a repeat, sequences that begin others, a single token, a stranger; 3 to 36 tokens."""
    generator = np.random.default_rng(seed)

    def draw(count: int) -> list[int]:
        return generator.integers(5, VOCABULARY, count).tolist()

    prompt, turn, other = draw(12), draw(9), draw(14)
    sequences = [
        prompt + turn + draw(7),
        prompt + turn + draw(15),
        prompt + draw(5),
        prompt + turn + draw(1),
        other,
        other,
        other[:5],
        draw(1),
        prompt + turn,
        other + draw(10),
        draw(30),
    ]
    return [np.array(sequence) for sequence in sequences]


def padded(sequences: list[np.ndarray], model: RewardModel) -> dict[str, torch.Tensor]:
    return collate(sequences, int(model.config.pad_token_id))


def row(sequences: list[np.ndarray], *, share: bool = True) -> dict[str, torch.Tensor]:
    return tree_tensors(build_trees(sequences, share=share, min_shared=2))


@dataclass
class Outcome:
    """Scores of both heads and the gradients of a function that weighs every score differently."""

    scores_HR: torch.Tensor
    gradients: dict[str, torch.Tensor]

    def differences(self, other: Outcome) -> tuple[float, float]:
        """Largest difference of a score, and of a gradient's entry relative to the largest entry of all."""
        assert self.gradients.keys() == other.gradients.keys()
        largest = max(float(g.abs().max()) for g in other.gradients.values())
        apart = max(float((self.gradients[n] - g).abs().max()) for n, g in other.gradients.items())
        return float((self.scores_HR - other.scores_HR).abs().max()), apart / largest


def outcome(model: RewardModel, inputs: dict[str, torch.Tensor]) -> Outcome:
    """Forward and backward pass of one batch, padded or a row."""
    model.zero_grad()
    loss, scores_HR = weighted(model, inputs)
    loss.backward()
    return Outcome(scores_HR.detach(), {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None})


def weighted(model: RewardModel, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A function of all scores, each with its own weight, and the scores."""
    scores = model(**inputs)
    scores_HR = torch.stack([s for s in (scores.quality, scores.length) if s is not None])
    weight_HR = torch.linspace(-1, 1, scores_HR.numel(), device=scores_HR.device).view_as(scores_HR)
    return (scores_HR * weight_HR).sum(), scores_HR
