"""Somebody's classifiers, 30 architectures and every kind of pad id: our scores against stock transformers, one by one.

    python -m benchmarks.one_score --part foreign

The reference is a model loaded afresh for each sequence, with the config as saved, without padding. Ours are scored in
four companies: all together, reversed, shuffled, and in small micro-batches.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from tests.families import VOCABULARY, family_configs
from tests.model.words import build_tokenizer
from transformers import AutoModelForSequenceClassification

from odin_rm.model.scoring import load_scorer, score_sequences

EOS, OWN = 2, 0
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTHS = (300, 9, 41, 130, 8, 64, 257, 18)  # Canine needs at least 4 tokens
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 8.0,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}


def architectures() -> dict[str, Any]:
    """Name -> config of a one-label classifier with room for the longest sequence."""
    common = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": EOS, "num_labels": 1}
    room = {"max_position_embeddings": 512}
    found = {name: copy.deepcopy(config) for name, config in family_configs().items()}
    for config in found.values():
        config.num_labels = 1
        for field in ("max_position_embeddings", "n_positions"):
            if hasattr(config, field):
                setattr(config, field, 640)
    found |= {
        "llama dynamic": tf.LlamaConfig(**common, **SMALL, max_position_embeddings=64, rope_parameters=DYNAMIC),
        "llama longrope": tf.LlamaConfig(**common, **SMALL, **room, rope_parameters=LONGROPE),
        "mistral window": tf.MistralConfig(**common, **SMALL, num_key_value_heads=1, sliding_window=16),
        "qwen2": tf.Qwen2Config(**common, **SMALL, num_key_value_heads=1),
        "gemma2": tf.Gemma2Config(**common, **SMALL, num_key_value_heads=1, head_dim=8, sliding_window=32),
        "phi": tf.PhiConfig(**common, **SMALL),
        "phi3": tf.Phi3Config(**common, **SMALL, pad_token_id=OWN),
        "gpt-neox": tf.GPTNeoXConfig(**common, **SMALL),
        "gpt-neo": tf.GPTNeoConfig(
            **common, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], **room
        ),
        "gpt-j": tf.GPTJConfig(**common, n_embd=16, n_layer=2, n_head=2, rotary_dim=4, n_positions=512),
        "bloom": tf.BloomConfig(**common, hidden_size=16, n_layer=2, n_head=2),
        "falcon": tf.FalconConfig(**common, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
        "mpt": tf.MptConfig(**common, d_model=16, n_layers=2, n_heads=2, max_seq_len=512),
        "biogpt": tf.BioGptConfig(**common, **SMALL, **room),
        "openai-gpt": tf.OpenAIGPTConfig(**common, n_embd=16, n_layer=2, n_head=2, n_positions=512),
        "ctrl": tf.CTRLConfig(**common, n_embd=16, dff=32, n_layer=2, n_head=2, n_positions=512),
        "mixtral": tf.MixtralConfig(**common, **SMALL, num_key_value_heads=1, num_local_experts=2),
        "t5": tf.T5Config(**common, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0),
        "bart": tf.BartConfig(
            **common, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, **room, decoder_start_token_id=EOS,
        ),
        "xlnet": tf.XLNetConfig(**common, d_model=16, n_layer=2, n_head=2, d_inner=32),
        "albert": tf.AlbertConfig(**common, **SMALL, embedding_size=8, **room),
        "electra": tf.ElectraConfig(**common, **SMALL, embedding_size=16, **room),
        "distilbert": tf.DistilBertConfig(**common, dim=16, hidden_dim=32, n_layers=2, n_heads=2, **room),
        "mpnet": tf.MPNetConfig(**common, **SMALL, **room),
        "nystromformer": tf.NystromformerConfig(**common, **SMALL, **room),
        "canine": tf.CanineConfig(
            **{**common, "vocab_size": 1}, **SMALL, **room, downsampling_rate=4, num_hash_functions=2,
            num_hash_buckets=512, local_transformer_stride=16,
        ),
        "fnet": tf.FNetConfig(**{**common}, **{k: v for k, v in SMALL.items() if k != "num_attention_heads"}, **room),
        "funnel": tf.FunnelConfig(
            **common, block_sizes=[1, 1], num_decoder_layers=1, d_model=16, n_head=2, d_head=8, d_inner=32
        ),
        "longformer": tf.LongformerConfig(**common, **SMALL, **room, attention_window=16),
        "big-bird": tf.BigBirdConfig(**common, **SMALL, **room, block_size=8, num_random_blocks=1),
        "roformer": tf.RoFormerConfig(**common, **SMALL, **room),
        "ernie": tf.ErnieConfig(**common, **SMALL, **room),
        "mamba": None,
    }  # fmt: skip
    return {name: config for name, config in found.items() if config is not None}


def sequences(closing: int) -> list[np.ndarray]:
    """Token sequences of very different lengths, each of which ends with ``closing``."""
    draw = np.random.default_rng(0)
    return [np.append(draw.integers(5, VOCABULARY, n - 1), closing).astype(np.int32) for n in LENGTHS]


def pads_of(name: str, config: Any) -> dict[str, int | None]:
    """Pad ids to save the config with; encoders keep the one that their embedding was made for."""
    own = config.pad_token_id if config.pad_token_id is not None else OWN
    decoder = hasattr(config, "use_cache") and getattr(config, "is_decoder", True) is not False
    if not decoder or getattr(config, "is_encoder_decoder", False):
        return {"own": own}
    return {"own": own, "eos": EOS, "none": None, "-1": -1}


@torch.no_grad()
def reference(folder: Path, ids: list[np.ndarray]) -> np.ndarray:
    """Stock transformers, a fresh model for each sequence."""
    found = []
    for one in ids:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        found.append(float(model(input_ids=torch.tensor(one[None], dtype=torch.int64)).logits[0, 0]))
    return np.array(found)


def ours(folder: Path, ids: list[np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Scores in four companies, in the order of ``ids``; and the layout that was chosen."""
    orders = {
        "together": np.arange(len(ids)),
        "reversed": np.arange(len(ids))[::-1],
        "shuffled": np.random.default_rng(1).permutation(len(ids)),
    }
    found, layout = {}, ""
    for company, tokens in [*((name, 100_000) for name in orders), ("small", 128)]:
        scorer = load_scorer(folder)
        order = orders.get(company, orders["shuffled"])
        arranged = [ids[i] for i in order]
        scores, _ = score_sequences(
            scorer.model, arranged, pad_token_id=scorer.pad_token_id, microbatch_tokens=tokens, device=scorer.device
        )
        found[company] = np.empty(len(ids))
        found[company][order] = scores
        layout = scorer.layout(arranged).layout
    return found, layout


def foreign(names: list[str] | None = None) -> list[dict[str, Any]]:
    """One row for each architecture and pad id: largest difference to the reference by company."""
    rows = []
    for name, config in architectures().items():
        if names and name not in names:
            continue
        for pad, pad_id in pads_of(name, config).items():
            config = copy.deepcopy(config)
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                model.save_pretrained(folder)
                content = json.loads((folder / "config.json").read_text())
                content["pad_token_id"] = pad_id
                (folder / "config.json").write_text(json.dumps(content))
                build_tokenizer("llama").save_pretrained(folder)
                ids = sequences(EOS)
                truth = reference(folder, ids)
                found, layout = ours(folder, ids)
            differences = {company: float(np.abs(scores - truth).max()) for company, scores in found.items()}
            row = {"family": name, "pad": pad, "layout": layout, "deviation": float(truth.std())}
            rows.append({**row, "differences": differences})
            print(json.dumps(rows[-1]), flush=True)
    return rows
