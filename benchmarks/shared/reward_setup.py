"""What the speed benchmarks of reward training share: texts, tokenizer, models, settings that both sides get alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.sources import iter_preference_rows
from odin_rm.model.reward_model import RewardModel

VOCABULARY = 8192
# What both trainers are given alike; TRL's own defaults would add bf16 and gradient checkpointing.
SHARED: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch",
    "seed": 0,
    "bf16": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def quiet() -> None:
    """No word from the libraries."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def make_tokenizer(source: Any, vocabulary: int = VOCABULARY) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE trained on the texts at hand."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(texts_of(source), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def texts_of(source: Any) -> Iterable[str]:
    """Every text of a preference source."""
    for placed in iter_preference_rows(source):
        for value in placed.row.values():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield text


def model_config(
    tokenizer: Any, layers: int, hidden: int, positions: int, *, family: str = "llama", vocabulary: int = 0
) -> Any:
    """The config of a random causal model: heads of 64, gated layers of 2.75 times the hidden size.

    Args:
        tokenizer: gives the special tokens and, where ``vocabulary`` is smaller, the size of the vocabulary.
        layers, hidden: of the model.
        positions: longest sequence.
        family: ``llama``, or ``qwen3`` (heads of 128, half as many key-value heads, layers of 3 times the hidden size).
        vocabulary: at least so many tokens.
    """
    shared = {
        "vocab_size": max(vocabulary, len(tokenizer)),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if family == "llama":
        heads = max(1, hidden // 64)
        return transformers.LlamaConfig(**shared, intermediate_size=hidden * 11 // 4, num_attention_heads=heads)
    heads = max(2, hidden // 64)
    return transformers.Qwen3Config(
        **shared,
        intermediate_size=3 * hidden,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=128 if hidden >= 1024 else 32,
        tie_word_embeddings=True,
    )


def save_models(
    folder: Path,
    tokenizer: Any,
    layers: int,
    hidden: int,
    positions: int,
    *,
    family: str = "llama",
    vocabulary: int = 0,
    device: str = "cpu",
) -> tuple[Path, Path]:
    """A random model as a backbone for us, and the one-label classifier with our initial quality head for TRL."""
    torch.manual_seed(0)
    config = model_config(tokenizer, layers, hidden, positions, family=family, vocabulary=vocabulary)
    with torch.device(device):
        backbone = transformers.AutoModelForCausalLM.from_config(config)
    backbone.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    our_model(folder / "backbone", "bradley_terry").save_pretrained(folder / "classifier", tokenizer=tokenizer)
    return folder / "backbone", folder / "classifier"


def our_model(backbone: Path, objective: str, dtype: torch.dtype | None = None) -> RewardModel:
    """The same initial weights each time."""
    torch.manual_seed(1)
    odin = objective == "odin"
    return RewardModel.from_backbone(
        backbone, heads=("quality", "length") if odin else ("quality",), normalise_heads=odin, dtype=dtype
    )


def without_sharing(data: TokenisedPreferences) -> TokenisedPreferences:
    """The same pairs, each with two responses of its own."""
    slots = np.stack([data.pair_chosen, data.pair_rejected], axis=1).reshape(-1)
    sequences = [data.input_ids(int(r)) for r in slots]
    return replace(
        data,
        input_ids_flat=np.concatenate(sequences),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        response_tokens=np.asarray(data.response_tokens)[slots],
        response_prompt=np.asarray(data.response_prompt)[slots],
        pair_chosen=np.arange(0, len(slots), 2, dtype=np.int32),
        pair_rejected=np.arange(1, len(slots), 2, dtype=np.int32),
        extra={},
    )
