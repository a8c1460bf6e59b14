"""Figures that are functions of sums over prompts: one pass for the values, one matrix product for all intervals.

Each prompt gives a row of contributions. The sums of the rows are the whole sample; the sums under a resample's
weights are that resample. A figure computed from sums therefore costs the same once and a thousand times. Contributions
are made in chunks of prompts, so memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from odin_rm.evaluation.bootstrap import PromptBootstrap, percentile_interval
from odin_rm.evaluation.records import Figure

# The contributions (p, m) of a chunk of consecutive prompts.
Chunks = Iterable[np.ndarray]
# Sums (S, m) to named values (S,), NaN where undefined.
Evaluate = Callable[[np.ndarray], dict[str, np.ndarray]]


def places_of_prompts(prompt: np.ndarray) -> list[np.ndarray]:
    """For each prompt ``0 .. P-1`` the positions of its rows, ascending.

    Args:
        prompt: ``(R,)`` prompt numbers without a gap.
    """
    return np.split(np.argsort(prompt, kind="stable"), np.cumsum(np.bincount(prompt))[:-1])


def weights_of(bootstrap: PromptBootstrap) -> np.ndarray:
    """``(S, P)`` how often each resample drew each prompt, as small whole numbers."""
    weights_SP, first = np.zeros((bootstrap.samples, bootstrap.prompts), dtype=np.uint8), 0
    for block in bootstrap.blocks():
        if block.max(initial=0) > np.iinfo(weights_SP.dtype).max:  # so few prompts that memory is no question
            weights_SP = weights_SP.astype(np.uint32)
        weights_SP[first : first + len(block)] = block
        first += len(block)
    return weights_SP


def summed(chunks: Chunks, weights_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The contributions summed over all prompts ``(1, m)``, and in each resample ``(S, m)``.

    Args:
        chunks: contributions of the prompts in their order.
        weights_SP: how often each resample drew each prompt.
    """
    total, drawn, first = np.zeros((1, 0)), np.zeros((len(weights_SP), 0)), 0
    for chunk in chunks:
        if first == 0:
            total, drawn = np.zeros((1, chunk.shape[1])), np.zeros((len(weights_SP), chunk.shape[1]))
        total += chunk.sum(axis=0)
        drawn += weights_SP[:, first : first + len(chunk)].astype(np.float64) @ chunk
        first += len(chunk)
    assert first == weights_SP.shape[1]
    return total, drawn


def figures_of(
    total: np.ndarray, drawn: np.ndarray, evaluate: Evaluate, why: Callable[[str], str], centred: Iterable[str] = ()
) -> dict[str, Figure]:
    """Values from the sums, intervals from the resamples' sums.

    Args:
        total, drawn: from :func:`summed`.
        evaluate: the figures.
        why: the reason to give where a figure is undefined, by its name.
        centred: figures that resampling shifts (a squared correlation grows with every repeated prompt); their
            resamples are moved back so that their mean is the value.
    """
    values, draws = evaluate(total), evaluate(drawn) if len(drawn) > 1 else {}
    shifted = set(centred)
    found: dict[str, Figure] = {}
    for name, value in values.items():
        if not np.isfinite(value[0]):
            found[name] = Figure(None, why=why(name))
            continue
        figure = Figure(float(value[0]))
        if name in draws:
            one = draws[name]
            if name in shifted and np.isfinite(one).any():
                one = one + (float(value[0]) - np.nanmean(one))
            figure = percentile_interval(figure, one)
        found[name] = figure
    return found
