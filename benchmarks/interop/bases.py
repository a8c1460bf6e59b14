"""Tiny base models for the comparison: what differs between them is what peers have been seen to read differently.

Each has a tokenizer trained on the texts at hand and random weights, larger than usual so that features of different
texts differ. Heads are 32 wide, the least that vLLM's attention on a CPU takes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.implementations import BertWordPieceTokenizer

WINDOW = 2048
VOCABULARY = 2000
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
DECODER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Base:
    """A base model of the comparison.

    Attributes:
        about: what is particular about it, for the table.
        tokenizer: makes its tokenizer from texts.
        config: makes its config from the tokenizer.
        encoder: whether it reads in both directions (its first token's feature is scored).
        spread: deviation of what is added to the weights that transformers draws. More of it makes texts differ more,
            and makes bfloat16 coarser.
    """

    about: str
    tokenizer: Callable[[Sequence[str]], Any]
    config: Callable[[Any], Any]
    encoder: bool = False
    spread: float = 0.03


def byte_pairs(texts: Sequence[str], special: Sequence[str]) -> Tokenizer:
    """A byte-level BPE trained on the texts, special tokens first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def parts(backend: Tokenizer) -> dict[str, Any]:
    """Vocabulary and merges of a BPE, as transformers' own tokenizer classes take them."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = backend.model.save(folder)
        pairs = Path(merges).read_text(encoding="utf-8").splitlines()
        rows = [tuple(line.split(" ")) for line in pairs if line and not line.startswith("#version")]
        return {"vocab": json.loads(Path(vocabulary).read_text(encoding="utf-8")), "merges": rows}


def qwen_tokenizer(texts: Sequence[str]) -> Any:
    """ChatML, no start token, pad and end tokens apart; the tokenizer class is Qwen's own."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend = byte_pairs(texts, special)
    tokenizer = tf.Qwen2Tokenizer(
        **parts(backend),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def llama3_tokenizer(texts: Sequence[str], *, pad: bool = True) -> Any:
    """Llama-3-like: headers, the template writes the start token and the tokenizer adds one too."""
    own = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    special = (*own, *(["<|pad|>"] if pad else []))
    backend = byte_pairs(texts, special)
    start = [("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))]
    backend.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=start)
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        additional_special_tokens=["<|start_header_id|>", "<|end_header_id|>"],
        **({"pad_token": "<|pad|>"} if pad else {}),
    )
    tokenizer.chat_template = HEADERS
    return tokenizer


def plain_tokenizer(texts: Sequence[str]) -> Any:
    """No chat template; the tokenizer adds a start token."""
    backend = byte_pairs(texts, ("<unk>", "<s>", "</s>", "<pad>"))
    start = [("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=start)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def gpt2_tokenizer(texts: Sequence[str]) -> Any:
    """No chat template and one special token for everything, so no pad token either."""
    return tf.GPT2Tokenizer(**parts(byte_pairs(texts, ("<|endoftext|>",))))


def bert_tokenizer(texts: Sequence[str]) -> Any:
    """Word pieces between [CLS] and [SEP]; no chat template."""
    backend = BertWordPieceTokenizer(lowercase=True)
    backend.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    return tf.BertTokenizer(vocab=backend.get_vocab(), do_lower_case=True)


def special_ids(tokenizer: Any) -> dict[str, Any]:
    """What a config says of the vocabulary."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def qwen_config(tokenizer: Any, theta: float = 10_000.0) -> Any:
    """A Qwen3 with rotations of the given base."""
    rotation = {"rope_type": "default", "rope_theta": theta}
    own = {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": WINDOW, "rope_parameters": rotation}
    return tf.Qwen3Config(**special_ids(tokenizer), **DECODER, **own)


def llama_config(tokenizer: Any) -> Any:
    """A Llama."""
    own = {"num_key_value_heads": 2, "max_position_embeddings": WINDOW}
    return tf.LlamaConfig(**special_ids(tokenizer), **DECODER, **own)


def gpt2_config(tokenizer: Any) -> Any:
    """A GPT-2."""
    return tf.GPT2Config(**special_ids(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=WINDOW)


def bert_config(tokenizer: Any) -> Any:
    """A BERT with positions for long texts."""
    own = {"pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": WINDOW}
    return tf.BertConfig(vocab_size=len(tokenizer), **DECODER, **own)


BASES: dict[str, Base] = {
    "qwen": Base("Qwen3, ChatML", qwen_tokenizer, qwen_config),
    "rope": Base("Qwen3, ChatML, rope_theta 1e6", qwen_tokenizer, lambda tokenizer: qwen_config(tokenizer, 1e6)),
    "llama3": Base("Llama, Llama-3 template, tokenizer adds BOS", llama3_tokenizer, llama_config),
    "nopad": Base("as llama3, no pad token", lambda texts: llama3_tokenizer(texts, pad=False), llama_config),
    "plain": Base("Llama, no chat template", plain_tokenizer, llama_config),
    "gpt2": Base("GPT-2, no chat template, no pad token", gpt2_tokenizer, gpt2_config),
    "bert": Base("BERT, no chat template", bert_tokenizer, bert_config, encoder=True, spread=0.2),
}


def save_base(name: str, folder: Path, texts: Sequence[str], seed: int) -> Path:
    """Write a base model with its tokenizer and return the folder.

    Args:
        name: in ``BASES``.
        folder: where to write.
        texts: the tokenizer is trained on them.
        seed: of the weights.
    """
    base = BASES[name]
    tokenizer = base.tokenizer(texts)
    config = base.config(tokenizer)
    torch.manual_seed(seed)
    model = (tf.AutoModel if base.encoder else tf.AutoModelForCausalLM).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * base.spread)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
