"""Figures of the arms of a reward-training benchmark: rates, ratios with intervals, share of the machine's peak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.shared.reward_arms import Arm
from benchmarks.shared.reward_flops import ModelSize, Need

RESAMPLES = 2000


def summary_of(
    arm: Arm, warmup: int, needs: Sequence[Need], size: ModelSize, peak: float, *, scoring: bool = False
) -> dict[str, Any]:
    """Figures of an arm without its warm-up steps; empty where it measured nothing.

    Args:
        arm: with its steps.
        warmup: steps that do not count.
        needs: what each step of the common plan must compute; an arm with its own order of the same pairs is held to
            their sum, so it must have run them all.
        size: of the model.
        peak: FLOP/s of a matrix product.
        scoring: forward passes alone.
    """
    steps = arm.steps[warmup:]
    if not steps:
        return {"error": arm.error.splitlines()[0] if arm.error else "no step"}
    seconds = np.array([step["seconds"] for step in steps])
    total = float(seconds.sum())
    pairs = sum(step["pairs"] for step in steps)
    positions = sum(step["positions"] for step in steps)
    graph = sum(step["differentiated"] for step in steps)
    own = needs[warmup : warmup + len(steps)]
    tokens = sum(need.tokens for need in own)
    useful = sum(need.scoring_flops(size) if scoring else need.training_flops(size) for need in own)
    peaks = [step["peak_mib"] for step in steps if step["peak_mib"] is not None]
    done = 2.0 * size.parameters * (positions + 2 * graph)
    return {
        "steps": len(steps),
        "pairs_per_second": pairs / total,
        "pairs_per_cpu_second": pairs / max(1e-9, sum(step["cpu_seconds"] for step in steps)),
        "seconds_per_step": {"median": float(np.median(seconds)), "low": seconds.min(), "high": seconds.max()},
        "distinct_tokens_per_second": tokens / total,
        "slot_tokens_per_second": sum(need.slot_tokens for need in own) / total,
        "positions_per_distinct_token": positions / tokens,
        "padding_share": sum(step["padding"] for step in steps) / positions,
        "second_passes": (positions - graph) / positions,
        "useful_flops": useful / total,
        "useful_share_of_peak": useful / total / peak,
        "computed_share_of_peak": done / total / peak,
        "peak_mib": max(peaks) if peaks else None,
    }


def ratio_of(fast: Arm, slow: Arm, warmup: int, clock: str = "seconds", seed: int = 0) -> dict[str, float] | None:
    """How many times as many pairs per second the first arm trains on, over steps that both measured.

    The interval is the 95 % bootstrap over pairs of steps of the seconds per computed position (steps grouped by length
    are of very different sizes, which is no noise); with few steps it is little more than their range.

    Args:
        fast, slow: arms of one relay.
        warmup: steps that do not count.
        clock: ``seconds`` or ``cpu_seconds``.
        seed: of the bootstrap.
    """
    own, other = ([step[clock] for step in arm.steps[warmup:]] for arm in (fast, slow))
    count = min(len(own), len(other))
    if not count:
        return None
    times = np.array([own[:count], other[:count]])
    sizes = np.array([[step["positions"] for step in arm.steps[warmup:][:count]] for arm in (fast, slow)])
    draws = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    totals = (times / sizes)[:, draws].mean(-1) * sizes.sum(1, keepdims=True)
    low, high = np.quantile(totals[1] / totals[0], [0.025, 0.975])
    each = times[1] / times[0]
    return {
        "ratio": float(times[1].sum() / times[0].sum()),
        "low": float(low),
        "high": float(high),
        "median": float(np.median(each)),
        "steps": count,
    }


def table(summaries: Mapping[str, Mapping[str, Any]], ratios: Mapping[str, Any] | None = None) -> str:
    """Markdown, one line an arm."""
    lines = [
        "| arm | pairs/s | ratio (95 %) | s a step | distinct tokens/s | positions per distinct token | padding "
        "| of the peak | peak memory, MiB |",
        "|---" * 9 + "|",
    ]
    for name, row in summaries.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error'][:120]} |" + " |" * 7)
            continue
        found = (ratios or {}).get(name)
        ratio = "" if not found else f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
        lines.append(
            f"| {name} | {row['pairs_per_second']:.2f} | {ratio} | {row['seconds_per_step']['median']:.3g} "
            f"| {row['distinct_tokens_per_second']:,.0f} | {row['positions_per_distinct_token']:.2f} "
            f"| {row['padding_share']:.1%} | {row['useful_share_of_peak']:.1%} | {peak} |"
        )
    return "\n".join(lines)
