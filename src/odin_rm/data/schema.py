"""The unit of data: a prompt, its distinct responses and the pairs between them.

Preference sets repeat prompts and responses: a ranked list of five answers is ten pairs of five texts. Everything
downstream works on *distinct* responses and on pairs of indices into them, so each text is scored once per step.
Nothing here holds one Python object per pair: the columns are numpy arrays or memory-mapped Arrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odin_rm.core.types import RESPONSE_TOKENS
from odin_rm.data.attributes import MEASURED, text_attributes


@dataclass(frozen=True)
class Response:
    """One distinct response of a prompt.

    Attributes:
        index: its row in the :class:`TokenisedPreferences`.
        tokens: ``L(y)``, response tokens before truncation, without prompt and end marker.
        input_ids: the whole sequence that the model reads (prompt, response, end marker; after truncation).
    """

    index: int
    tokens: int
    input_ids: np.ndarray


@dataclass(frozen=True)
class PromptGroup:
    """One prompt, its distinct responses and the preference pairs between them.

    Attributes:
        index: the group's number.
        responses: the distinct responses.
        pairs: ``(n, 2)`` positions ``(chosen, rejected)`` in ``responses``; a pair that the data state twice is there
            twice (its multiplicity).
        margins: ``(n,)`` margins in reward units, 0 where the data give none.
    """

    index: int
    responses: Sequence[Response]
    pairs: np.ndarray
    margins: np.ndarray


@dataclass(frozen=True)
class TokenisedPreferences:
    """A tokenised preference set as columns (memory-mapped where it comes from the cache).

    ``R`` distinct responses, ``B`` pairs, ``P`` prompts. Responses of one prompt are contiguous, and so are its pairs.

    Attributes:
        input_ids_flat: all sequences end to end, int32; sequence ``r`` is ``[offsets[r]:offsets[r + 1]]``.
        offsets: ``(R + 1,)`` int64.
        response_tokens: ``(R,)`` int32 true lengths (before truncation).
        response_prompt: ``(R,)`` int32 prompt number of each response.
        pair_chosen, pair_rejected: ``(B,)`` int32 response numbers.
        pair_margin: ``(B,)`` float32, 0 where there is none.
        pair_row: ``(B,)`` int64 row number in the source (1-based), for messages.
        pair_key: ``(B,)`` uint64 digest of prompt, chosen and rejected text; the same pair has it with every tokenizer.
            Empty where the data were not read from texts.
        source: name of the file, folder or hub id.
        report: counts of what was read, skipped, dropped and truncated.
        extra: further per-response numeric columns of length ``R`` (attributes of the texts, the testbed's
            ``true_quality``).
        variants: by kind (an edit, a twin), ``(R,)`` int32 response number of each response's variant, -1 without one.
            A variant is a response of the same prompt that stands in no pair.
    """

    input_ids_flat: np.ndarray
    offsets: np.ndarray
    response_tokens: np.ndarray
    response_prompt: np.ndarray
    pair_chosen: np.ndarray
    pair_rejected: np.ndarray
    pair_margin: np.ndarray
    pair_row: np.ndarray
    pair_key: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    source: str = "in-memory rows"
    report: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    variants: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        """``(R,)`` columns by name (:mod:`odin_rm.data.attributes`): ``response_tokens``, and those of the texts."""
        others = {name: self.extra[name] for name in text_attributes() if name in self.extra}
        others |= {n.removeprefix(MEASURED): column for n, column in self.extra.items() if n.startswith(MEASURED)}
        return {RESPONSE_TOKENS: self.response_tokens, **others}

    @property
    def num_responses(self) -> int:
        """``R``, the number of distinct (prompt, response)."""
        return len(self.response_tokens)

    @property
    def num_pairs(self) -> int:
        """``B``, the number of pairs, repeated pairs counted each time."""
        return len(self.pair_chosen)

    @property
    def num_prompts(self) -> int:
        """``P``, the number of distinct prompts."""
        return int(self.response_prompt[-1]) + 1 if self.num_responses else 0

    @property
    def sequence_tokens(self) -> np.ndarray:
        """``(R,)`` tokens that the model reads per sequence (prompt + response + end marker, after truncation)."""
        return np.diff(self.offsets)

    def input_ids(self, response: int) -> np.ndarray:
        """Token ids of one sequence, int32 (a view, not a copy)."""
        return self.input_ids_flat[self.offsets[response] : self.offsets[response + 1]]

    def group(self, prompt: int) -> PromptGroup:
        """The :class:`PromptGroup` of one prompt, built on demand."""
        first, last = np.searchsorted(self.response_prompt, [prompt, prompt + 1])
        pair_prompt = self.response_prompt[self.pair_chosen]
        low, high = np.searchsorted(pair_prompt, [prompt, prompt + 1])
        responses = [Response(r, int(self.response_tokens[r]), self.input_ids(r)) for r in range(first, last)]
        pairs = np.stack([self.pair_chosen[low:high], self.pair_rejected[low:high]], axis=1) - first
        return PromptGroup(prompt, responses, pairs, np.asarray(self.pair_margin[low:high]))
