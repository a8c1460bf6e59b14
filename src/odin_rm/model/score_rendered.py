"""Scores of texts that a model's own template has rendered, as policies and their servers hand them over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odin_rm.data.render import Prompt
from odin_rm.data.tokenise import encode_rendered
from odin_rm.model.scoring import Scorer, score_whole


def score_rendered(
    scorer: Scorer,
    texts: Sequence[str],
    prompts: Sequence[Prompt | None] | None = None,
    *,
    microbatch_tokens: int = 16384,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """Scores of rendered texts: prompt and response in the form of the model's template, special tokens as text.

    The scores are those of the same conversations as messages (:func:`odin_rm.score_texts`), whether a text has its
    start token or not, and wherever behind its end token it stops. A text without an end token is scored as it is
    (:mod:`odin_rm.data.rendered` has the rules).

    Args:
        scorer: the model.
        texts: ``R`` texts.
        prompts: what each begins with, rendered or not; without it a prompt ends at the last header of an assistant's
            turn.
        microbatch_tokens: computed tokens per forward pass.

    Returns:
        ``(R,)`` quality, length rewards or ``None``, true response lengths in tokens, and whether each was cut: its
        response has no end token.

    Raises:
        DataError: a text is not in the form of the model's template, does not begin with its prompt, or does not fit
            the scorer's window and its settings do not cut it.
        NumericalError: a score is not finite.
    """
    encoded = encode_rendered(scorer.tokenizer, texts, prompts, scorer.settings)
    quality_R, length_R = score_whole(scorer, encoded, "text", microbatch_tokens)
    tokens_R = np.array([one.response_tokens for one in encoded], dtype=np.int64)
    return quality_R, length_R, tokens_R, np.array([not one.ended for one in encoded], dtype=bool)
