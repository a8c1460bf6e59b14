"""Reward-model benchmarks from their published files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.benchmark.config import BenchmarkConfig


def run(config: BenchmarkConfig) -> None:
    """Compute, print the figures."""
    from odin_rm.workflows.benchmark.run import run_benchmark

    content = run_benchmark(config)
    for model, one in content.get("models", {content["model"]: content}).items():
        say(f"{model} on {content['benchmark']}:")
        for group, figures in one["figures"].items():
            say(f"  {group}: {_line(figures)}")
        if one["items_without_score"]:
            say(f"  {one['items_without_score']:,} of {one['items']:,} items lack a score and are left out")
    say(f"Written to {config.output}")


def _line(figures: dict[str, Any]) -> str:
    parts = [f"{name} {value:.2f}" for name, value in figures.items() if isinstance(value, float)]
    count = f" ({figures['n']:,})" if "n" in figures else ""
    return ", ".join(parts) + count
