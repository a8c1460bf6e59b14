"""Tiny random models of every family that the reward model is tested on."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

VOCABULARY, PAD, BOS, EOS = 64, 0, 1, 2
SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
DECODER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER = {**DECODER, "max_position_embeddings": 64}


def family_configs() -> dict[str, Any]:
    """Name -> config, small enough for milliseconds."""
    common: dict[str, Any] = {"vocab_size": VOCABULARY, **SPECIAL}
    grouped = {**DECODER, "num_key_value_heads": 1, "head_dim": 8}
    return {
        "llama": tf.LlamaConfig(**common, **DECODER, num_key_value_heads=1),
        "qwen3": tf.Qwen3Config(**common, **grouped),
        "mistral": tf.MistralConfig(**common, **grouped),
        "gemma": tf.GemmaConfig(**common, **grouped),
        "gpt2": tf.GPT2Config(**common, n_embd=16, n_layer=2, n_head=2, n_positions=64),
        "opt": tf.OPTConfig(
            **common,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=8,
            max_position_embeddings=64,
            do_layer_norm_before=False,
        ),
        "bert": tf.BertConfig(**common, **ENCODER),
        "roberta": tf.RobertaConfig(**{**common, "pad_token_id": 1, "bos_token_id": 0}, **ENCODER),
        "deberta-v2": tf.DebertaV2Config(
            **common, **ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0
        ),
        "modernbert": tf.ModernBertConfig(
            **{**common, "cls_token_id": BOS, "sep_token_id": EOS}, **ENCODER, global_attn_every_n_layers=2
        ),
    }


FAMILIES = tuple(family_configs())


def save_base(name: str, folder: Any, seed: int = 0) -> Any:
    """Write a tiny random base model (causal or encoder, as users have it) and return the folder."""
    config = family_configs()[name]
    torch.manual_seed(seed)
    causal = type(config) in tf.AutoModelForCausalLM._model_mapping and name not in ("bert", "roberta")
    model = (tf.AutoModelForCausalLM if causal else tf.AutoModel).from_config(config)
    # Random weights at the usual 0.02 give features too alike to tell a wrong read-out from a right one.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def random_sequences(count: int = 6, seed: int = 0, pad: int = PAD) -> list[list[int]]:
    """Token sequences of different lengths without special tokens inside."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [3, 17, 9, 30, 5, 12, 24, 2][:count]
    return [torch.randint(5, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
