"""The pad token of a reward model that we train or export: one that no text can end with.

Stock decoders find the end of a text by skipping the pad id, other tools take the last token that is attended. Both
read the same token if, and only if, no text ends with the pad id. Tokenizers without a pad token (Llama 3, Mistral,
GPT-2) are usually given their end token, which is the very id that ends a text.
"""

from __future__ import annotations

from typing import Any

from odin_rm.core.errors import DataError, ModelError
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.model.reading import set_pad_id, stock_skip_id

OWN_PAD = "<|pad|>"
"""Added where a vocabulary has nothing that fits; its embedding is never attended to."""

_NAMES = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|fim_pad|>", "<|endoftext|>")
_RESERVED = ("<|reserved_special_token_", "<unused", "<|extra_", "<|reserved_")
# One word, several words, and what a vocabulary without bytes does not know.
_SAMPLES = ("Yes", "It is 4.", "Red, green and blue", "\U0001f9ff\u0d9e")


def rendered_ends(tokenizer: Any, settings: EncodingSettings) -> set[int]:
    """The ids that texts end with as they are rendered.

    Args:
        tokenizer: the reward model's tokenizer.
        settings: how texts are rendered.
    """
    found = set()
    for response in _SAMPLES:
        try:
            ids = encode_response(tokenizer, "What is it?", response, settings.without_window()).input_ids
        except DataError:  # a template that wants another kind of conversation
            continue
        found.update(ids[-1:])
    return found


def closing_ids(tokenizer: Any, settings: EncodingSettings) -> set[int]:
    """The ids that a text can end with: as it is rendered, and by a policy or a tool that writes an end token.

    Args:
        tokenizer: the reward model's tokenizer.
        settings: how texts are rendered.
    """
    return rendered_ends(tokenizer, settings) | {
        i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id) if i is not None
    }


def ensure_sound_pad_token(tokenizer: Any, config: Any, settings: EncodingSettings) -> int:
    """Give tokenizer and config one pad token that no text ends with.

    Taken is, in this order: the config's (an encoder of RoBERTa's kind counts its positions from it), the tokenizer's,
    one that the vocabulary has for the purpose or keeps in reserve, the unknown token where no text gives it, a new
    token :data:`OWN_PAD`. A new one may need another row of the embedding (``RewardModel.grow_vocabulary``).

    Returns:
        The pad token id.

    Raises:
        ModelError: the tokenizer takes no new token.
    """
    closing = closing_ids(tokenizer, settings)
    token = next((t for t in _candidates(tokenizer, config) if _fits(tokenizer, t, closing)), None)
    if token is None and tokenizer.add_special_tokens({"pad_token": OWN_PAD}) < 1:
        raise ModelError(
            "the tokenizer has no pad token that a text cannot end with, and takes none",
            fix="Set tokenizer.pad_token to a token that ends no text, and save it.",
        )
    if token is not None and token != tokenizer.pad_token:
        tokenizer.pad_token = token
    set_pad_id(config, int(tokenizer.pad_token_id))
    return int(tokenizer.pad_token_id)


def _candidates(tokenizer: Any, config: Any) -> list[str]:
    added = tokenizer.get_added_vocab()
    vocabulary = tokenizer.get_vocab()
    names: list[str | None] = []
    configured = stock_skip_id(config)
    if configured is not None:
        token = tokenizer.convert_ids_to_tokens(configured) if configured < len(tokenizer) else None
        meant = token in added or token in tokenizer.all_special_tokens or token in _NAMES
        names.append(token if meant else None)  # many configs say 0 without meaning it
    names.append(tokenizer.pad_token)
    names += _NAMES
    names += sorted(name for name in added if name.startswith(_RESERVED))
    if tokenizer.unk_token is not None and tokenizer.unk_token_id not in tokenizer(_SAMPLES[-1])["input_ids"]:
        names.append(tokenizer.unk_token)
    return [name for name in dict.fromkeys(names) if name is not None and name in vocabulary]


def _fits(tokenizer: Any, token: str, closing: set[int]) -> bool:
    return tokenizer.convert_tokens_to_ids(token) not in closing
