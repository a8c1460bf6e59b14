"""Tiny random policies of several families, with the tokenizer of ``tests.model.words``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf

from odin_rm.model.policy import load_policy
from tests.families import DECODER, EOS, SPECIAL, VOCABULARY, family_configs
from tests.model.words import build_tokenizer

GROUPED = {**DECODER, "num_key_value_heads": 1, "head_dim": 8}
# Learnt positions; rotary ones; a soft cap on the logits with sliding windows in turn.
FAMILIES = ("llama", "gpt2", "qwen3", "gemma2", "opt")


def policy_config(name: str) -> Any:
    if name == "gemma2":
        return tf.Gemma2Config(
            vocab_size=VOCABULARY, **SPECIAL, **GROUPED, final_logit_softcapping=2.0, sliding_window=8
        )
    return family_configs()[name]


def save_policy_folder(name: str, folder: Path, *, seed: int = 0, end_bias: float = 0.0) -> Path:
    """A random causal model whose distributions are neither flat nor sharp.

    Args:
        name: family.
        folder: where to.
        seed: of the weights.
        end_bias: makes the end token likelier, as the output weights allow it.
    """
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(policy_config(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    build_tokenizer(name if name in family_configs() else "gemma").save_pretrained(folder)
    return folder


def policy(name: str, folder: Path, **kwargs: Any) -> tuple[Any, Any]:
    return load_policy(save_policy_folder(name, folder / name), **kwargs)


def prompts(count: int = 6, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [3, 14, 7, 1, 10, 5, 2, 9][:count]
    return [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
