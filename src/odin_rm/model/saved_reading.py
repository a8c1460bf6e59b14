"""Text settings of a saved reward model, and the refusal of one that does not say where it is read.

Models of odin-rm before ``read_at`` with a pad token that ends their texts were trained at the last token where their
batches were trees, and at the token before it where they were padded. The folder does not tell which.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ConfigError, ModelError
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.info import INFO_FILE, RewardModelInfo
from odin_rm.model.pad_token import rendered_ends
from odin_rm.model.reading import stock_skip_id

log = logging.getLogger(__name__)

OLD_READINGS = ("end", "before_pad")


def saved_settings(
    info: RewardModelInfo, tokenizer: Any, config: Any, where: str | Path, *, read_at: str | None = None
) -> EncodingSettings:
    """How a saved reward model renders, cuts and reads texts.

    Args:
        info: the model's description.
        tokenizer: the tokenizer as saved with it.
        config: the backbone's config as saved.
        where: what to call the model in an error.
        read_at: what the user says of a model that does not say it: ``end`` or ``before_pad``.

    Raises:
        ModelError: the model does not say where it is read, its texts end with its pad token, and ``read_at`` is None.
        ConfigError: ``read_at`` contradicts the model, or is neither of the two.
    """
    if read_at is not None and read_at not in OLD_READINGS:
        raise ConfigError(f"is {read_at!r}", where="--read_at", fix=f"Use one of {', '.join(OLD_READINGS)}.")
    said = info.encoding.get("read_at")
    if said is not None:
        if read_at is not None and read_at != said:
            raise ConfigError(f"the model was trained with {said}", where=f"--read_at {read_at}", fix="Leave it out.")
        return EncodingSettings(**info.encoding)
    settings = EncodingSettings(**info.encoding)
    if info.pooling == "backbone" and read_at is None and stock_skip_id(config) in rendered_ends(tokenizer, settings):
        raise ModelError(
            "an earlier odin-rm read this model at the last token of a text in trees, and before it in padded batches",
            where=str(where),
            fix=f"Say which with --read_at end (trees) or before_pad, or write it into encoding of {INFO_FILE}.",
        )
    return replace(settings, read_at=read_at or "end")  # type: ignore[arg-type]


def say_where_stock_reads(tokenizer: Any, config: Any, model: Any, settings: EncodingSettings, name: str) -> None:
    """One line where somebody's decoder is read before the end of a text, or does not say where."""
    skip = stock_skip_id(config)
    if not model.reads_left_to_right:
        return
    if skip is None:
        log.warning("%s: its config has no pad token; the reward is read at the last token of a text", name)
    elif skip in rendered_ends(tokenizer, settings):
        token = tokenizer.convert_ids_to_tokens(skip)
        log.warning("%s: its config says to skip %s at the end of a text, so the reward is read before it", name, token)
