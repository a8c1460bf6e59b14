"""A word-level tokenizer for the tiny families: words of the tests have ids below 64, special ids fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from odin_rm.model.reward_model import RewardModel
from tests.families import FAMILIES, VOCABULARY, family_configs, save_base

ENCODERS = ("bert", "roberta", "deberta-v2", "modernbert")
DECODERS = tuple(name for name in FAMILIES if name not in ENCODERS)
# fmt: off
WORDS = [
    "human", "assistant", "system", "user", ":", ".", ",", "?", "!", "what", "is", "the", "best", "way", "to", "cook",
    "rice", "wash", "it", "well", "then", "boil", "for", "ten", "minutes", "in", "salted", "water", "and", "let",
    "rest", "a", "red", "house", "stands", "on", "green", "hill", "cats", "sleep", "all", "day", "long", "yes", "no",
    "why", "not",
]
# fmt: on

TEXTS = [
    ("What is the best way to cook rice?", "Wash it well, then boil it for ten minutes in salted water."),
    ("Why?", "No."),
    ("Is the house red?", "Yes, the red house stands on the green hill, and cats sleep in it all day long."),
    ("What is it?", "Rice."),
    ("Why not let it rest?", "Let the rice rest well! Cats rest all day long, and no cats cook."),
]


def build_tokenizer(name: str, *, pad: bool = True) -> PreTrainedTokenizerFast:
    """The tokenizer for a family: a start token (GPT-2: none), for encoders an end token too."""
    config = family_configs()[name]
    special = {config.pad_token_id: "<pad>", config.bos_token_id: "<bos>", config.eos_token_id: "<eos>", 3: "<unk>"}
    tokens = [special[i] for i in range(4)]
    tokens += list(dict.fromkeys(WORDS))
    assert len(tokens) <= VOCABULARY
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if name != "gpt2":
        single = "<bos> $A <eos>" if name in ENCODERS else "<bos> $A"
        ids = [("<bos>", config.bos_token_id), ("<eos>", config.eos_token_id)]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    encoder = {"cls_token": "<bos>", "sep_token": "<eos>"} if name in ENCODERS else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        **({"pad_token": "<pad>"} if pad else {}),
        **encoder,
    )


def reward_model(name: str, folder: Path, **options: Any) -> RewardModel:
    """A reward model on a tiny base of a family; the base lies in ``folder``."""
    import torch

    save_base(name, folder)
    torch.manual_seed(1)
    return RewardModel.from_backbone(folder, **options).eval()


def saved_reward_model(folder: Path, max_length: int) -> Path:
    """A tiny Llama reward model with its tokenizer, as ``odin-rm reward`` saves one.

    Args:
        folder: of the model.
        max_length: of its texts, in tokens.
    """
    import transformers

    from odin_rm.model.backbone import ensure_pad_token

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = build_tokenizer("llama")
    made = reward_model("llama", folder.with_name(f"{folder.name}_base"), head_scale=2.0)
    ensure_pad_token(tokenizer, made.config)
    made.info = made.info.with_(encoding={"max_length": max_length})
    made.save_pretrained(folder, tokenizer=tokenizer)
    return folder
