"""Features of several layers of a frozen encoder: more than its last mean tells a linear head.

One pass over a sequence gives the mean of the response's tokens after the last layer and after two in the middle, the
first token and the mean of all tokens after the last layer, and the mean of the prompt's tokens. A ``D``-wide encoder
has ``6 D`` numbers a response. They are computed once and kept in one file, by token ids and where the response begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from benchmarks.shared.sequence_features import StoredFeatures, deviations, sequences_of
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.model.scoring import load_tokenizer

TOKENS_AT_ONCE, SAVED_EVERY = 8192, 600.0
PARTS = 6


def response_starts(data: TokenisedPreferences, end_tokens: int = 1) -> np.ndarray:
    """``(R,)`` position of the first token of each response.

    A sequence is a prompt, a response and ``end_tokens``. One that was not cut says where its response begins, and
    prompts do not differ between responses. Where all responses of a prompt were cut, their common start is the prompt.
    """
    width_R = np.asarray(data.sequence_tokens, np.int64)
    start_R = width_R - np.asarray(data.response_tokens, np.int64) - end_tokens
    prompt_R = np.asarray(data.response_prompt)
    found = np.empty(data.num_responses, np.int64)
    for prompt in range(data.num_prompts):
        own = np.flatnonzero(prompt_R == prompt)
        # A tokenizer joins text at the border now and then, so the count may be off by a token or two.
        likely = start_R[own][start_R[own] > 0]
        found[own] = np.median(likely) if len(likely) else _common([data.input_ids(int(r)) for r in own])
    return np.clip(found, 1, width_R - 2)


def _common(sequences: Sequence[np.ndarray]) -> int:
    """How many ids all sequences begin with."""
    least = min(len(one) for one in sequences)
    table = np.stack([one[:least] for one in sequences])
    differ = np.flatnonzero((table != table[0]).any(axis=0))
    return int(differ[0]) if len(differ) else least // 2


class LayerFeatures(StoredFeatures):
    """Features by token ids.

    Args:
        folder: of the encoder.
        path: the file, made where it is not there.
    """

    def __init__(self, folder: str, path: Path) -> None:
        super().__init__(path)
        self.tokenizer: Any = load_tokenizer(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        layers = int(self.model.config.num_hidden_layers)
        self.layers = (layers, round(layers * 2 / 3), round(layers / 2))

    def of(self, data: TokenisedPreferences, what: str = "") -> np.ndarray:
        """``(R, 6 D)`` float32 features of a set; those that are not known are computed, and the file is written."""
        starts = response_starts(data)
        keyed = [np.append(one, np.int32(start)) for one, start in zip(sequences_of(data), starts, strict=True)]
        new = self.missing(keyed)
        started = saved = time.perf_counter()
        first = 0
        while first < len(new):
            # Sorted by length, so the last of a batch is its longest.
            count = next(
                (n for n in range(1, len(new) - first) if (n + 1) * len(new[first + n]) > TOKENS_AT_ONCE),
                len(new) - first,
            )
            self._compute(new[first : first + count])
            first += count
            if time.perf_counter() - saved > SAVED_EVERY:
                self.save()
                saved = time.perf_counter()
                print(f"{what}: {first:,} of {len(new):,} texts, {saved - started:.0f} s", flush=True)
        if new:
            self.save()
            print(f"{what}: {len(new):,} texts, {time.perf_counter() - started:.0f} s", flush=True)
        return self.stacked(keyed)

    def _compute(self, keyed: Sequence[np.ndarray]) -> None:
        """Features of one batch."""
        width = max(len(one) for one in keyed) - 1
        ids = torch.full((len(keyed), width), int(self.tokenizer.pad_token_id))
        there, response, prompt = (torch.zeros(len(keyed), width) for _ in range(3))
        for row, one in enumerate(keyed):
            end, start = len(one) - 1, int(one[-1])
            ids[row, :end] = torch.as_tensor(one[:-1].astype(np.int64))
            there[row, :end] = 1
            response[row, start : end - 1] = 1
            prompt[row, :start] = 1

        def mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

        with torch.no_grad():
            states = self.model(input_ids=ids, attention_mask=there.long(), output_hidden_states=True).hidden_states
            last = states[-1]
            columns = [mean(states[layer], response) for layer in self.layers]
            rows = torch.cat([*columns, last[:, 0], mean(last, there), mean(last, prompt)], dim=1).numpy()
        for one, row in zip(keyed, rows, strict=True):
            self.rows[one.tobytes()] = row.astype(np.float32)


class Components:
    """Leading principal components: of the response's five parts, and of the prompt's.

    Columns are divided by their deviations first. Components keep their own deviations, relative to the first one's, so
    that a head with one learning rate hears the large ones first. No label is read.

    Args:
        feature_RD: ``(R, 6 D)`` that they are fitted on.
        response, prompt: how many of each.
    """

    def __init__(self, feature_RD: np.ndarray, response: int = 192, prompt: int = 24) -> None:
        width = feature_RD.shape[1] // PARTS
        self.mean, self.deviation = feature_RD.mean(0), deviations(feature_RD)
        scaled = self._scaled(feature_RD)
        self.parts = (slice(None, -width), slice(-width, None))
        self.bases = [
            _leading(scaled[:, part], count) for part, count in zip(self.parts, (response, prompt), strict=True)
        ]

    @classmethod
    def scaling(cls, feature_RD: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """What :meth:`of` gives, fitted on these features."""
        return cls(feature_RD).of

    def _scaled(self, feature_RD: np.ndarray) -> np.ndarray:
        return ((feature_RD - self.mean) / self.deviation).astype(np.float64)

    def of(self, feature_RD: np.ndarray) -> np.ndarray:
        """``(R, response + prompt)`` float32."""
        scaled = self._scaled(feature_RD)
        found = [scaled[:, part] @ basis for part, basis in zip(self.parts, self.bases, strict=True)]
        return np.concatenate(found, axis=1).astype(np.float32)


def _leading(scaled_RD: np.ndarray, count: int) -> np.ndarray:
    """``(D, count)`` leading eigenvectors of the covariance, divided by the first component's deviation."""
    values, vectors = np.linalg.eigh(scaled_RD.T @ scaled_RD / len(scaled_RD))
    return np.asarray(vectors[:, ::-1][:, :count] / values[-1] ** 0.5)
