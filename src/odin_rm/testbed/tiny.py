"""A word-level tokenizer and a tiny Llama for the testbed, saved as a folder that every command takes as a model.

The tokenizer has no chat template, so the plain template of ``odin_rm.data.tokenise`` applies; its marker words are in
the vocabulary. It lower-cases, so a policy writes lower case; the true quality does not mind.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from odin_rm.core.files import atomic_folder
from odin_rm.model.backbone import quiet_loading
from odin_rm.testbed import phrases
from odin_rm.testbed.world import TOKEN

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
MARKER_WORDS = ("human", "assistant", "user", "prompt", "response", ":", ".", "!", "?", ",", "-")


def vocabulary() -> list[str]:
    """Special tokens, markers and every word of the world (whatever its settings), in a fixed order."""
    texts = [
        *phrases.TOPICS,
        *phrases.CONTEXTS,
        *(template.format(topic="", context="") for template in phrases.PROMPT_TEMPLATES),
        *phrases.HELPFUL,
        *phrases.HARMFUL,
        *phrases.FILLERS,
        *phrases.OPENERS,
    ]
    words = {word for text in texts for word in TOKEN.findall(text.lower())}
    return [*SPECIAL_TOKENS, *sorted(words | set(MARKER_WORDS))]


def build_tokenizer(max_length: int = 256) -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the world: lower case, split at white space and punctuation.

    Args:
        max_length: what the tokenizer states as the model's longest input, in tokens.
    """
    words = {word: number for number, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # joins words by spaces, none before punctuation
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=max_length,
        padding_side="right",
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, *, hidden: int = 96, layers: int = 2, heads: int = 4
) -> LlamaForCausalLM:
    """A Llama of random weights (about 0.26 million parameters by default); equal seeds give equal weights.

    The global random state of torch is left as it was.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save_tiny_model(
    folder: str | Path, seed: int, *, hidden: int = 96, layers: int = 2, heads: int = 4, overwrite: bool = False
) -> Path:
    """Writes tokenizer and random tiny Llama as an ``AutoModelForCausalLM`` folder; returns the folder.

    Raises:
        OutputError: the folder exists and ``overwrite`` is false.
    """
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed, hidden=hidden, layers=layers, heads=heads)
    with atomic_folder(folder, overwrite=overwrite) as place, quiet_loading():
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return Path(folder)
