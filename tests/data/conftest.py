"""Small tokenizers whose ids can be counted by hand."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "Human: Assistant: System: user assistant system a b c d e f g h i j k what is up not much hello you good bad fine"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def word_level(**special: str) -> PreTrainedTokenizerFast:
    """One token per word between blanks; special tokens as given (``eos_token="</s>"``)."""
    names = ["[UNK]", "[PAD]", "<s>", "</s>", "[CLS]", "[SEP]", "<|im_start|>", "<|im_end|>", *WORDS.split()]
    model = models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", **special)


@pytest.fixture
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """Causal, with an end token, without start token and chat template."""
    return word_level(eos_token="</s>")


@pytest.fixture
def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Encoder: [CLS] ... [SEP]."""
    tokenizer = word_level(cls_token="[CLS]", sep_token="[SEP]")
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ids)
    return tokenizer


@pytest.fixture
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """Causal, adds a start token by itself and has an end token."""
    tokenizer = word_level(bos_token="<s>", eos_token="</s>")
    ids = [("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, ids)
    return tokenizer


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Causal with a ChatML template that begins with the start token, which the tokenizer would add as well."""
    specials = ["<|im_start|>", "<|im_end|>"]
    tokenizer = word_level(bos_token="<s>", eos_token="<|im_end|>", additional_special_tokens=specials)
    ids = [("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, ids)
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    return tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges, so that where texts are joined can matter."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = ["the yes is no, and the answer is yes.\n\nAssistant: yes\nHuman: no"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet
    )
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
