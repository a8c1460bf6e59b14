"""The best and the worst response to each prompt, as preferences."""

from __future__ import annotations

from odin_rm.core.console import say
from odin_rm.workflows.pairs.config import PairsConfig


def run(config: PairsConfig) -> None:
    """Make the pairs, say what was done."""
    from odin_rm.workflows.pairs.run import run_pairs

    report = run_pairs(config)
    say(f"{report.pairs:,} pairs of {report.prompts:,} prompts, written to {config.output}")
    left_out = {
        "prompts have one scored response": report.single,
        f"prompts have scores that differ by no more than {config.min_margin:g}": report.close,
        "responses have no score": report.unscored,
        "unusable rows are left out": report.bad_rows,
    }
    for what, count in left_out.items():
        if count:
            say(f"  {count:,} {what}")
