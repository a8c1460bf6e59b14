"""Judge a candidate's outputs against a baseline's in both orders; cached and resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odin_rm.core.console import say
from odin_rm.workflows.judge.config import JudgeConfig


def run(config: JudgeConfig) -> None:
    """Judge (or estimate), say what came out."""
    from odin_rm.workflows.judge.run import estimate_run, run_judge

    if config.dry_run:
        print_estimate(estimate_run(config))
    else:
        print_report(run_judge(config), Path(config.output))


def print_estimate(estimate: Any) -> None:
    """Calls, tokens and cost of a run that has not been made."""
    say(f"{estimate.prompts:,} prompts: {estimate.calls:,} calls to make, {estimate.cached:,} judgements in the cache")
    if estimate.identical:
        say(f"{estimate.identical:,} prompts have two equal answers, which are ties without a call")
    if estimate.prompt_tokens:
        most = "no limit" if estimate.completion_tokens is None else f"at most {estimate.completion_tokens:,}"
        say(f"about {estimate.prompt_tokens:,} prompt tokens (by 4 characters each), {most} reply tokens")
        cost = (
            "unknown: give --input_price and --output_price"
            if estimate.cost is None
            else f"at most about {estimate.cost:,.2f}"
        )
        say(f"cost {cost}")


def print_report(report: dict[str, Any], folder: Path) -> None:
    """Wins, ties and losses, what could not be read, and what the swapped order showed."""
    sides = f"{report['candidate']['generator']} against {report['baseline']['generator']}"
    say(f"{sides}, judged by {report['judge']['name']} in both orders on {report['prompts']:,} prompts:")
    say(f"  {report['wins']:,} wins, {report['ties']:,} ties, {report['losses']:,} losses")
    say(
        f"  the orders differ on {report['disagreement']:.1%} of the prompts; "
        f"the first place is preferred {report['first_place_preference']:.1%} of the time"
    )
    if report["missing"]:
        counts = report["judgements"]
        say(
            f"  {report['missing']:,} prompts have no preference: {counts['unparsed']:,} replies could not be read, "
            f"{counts['refused']:,} questions were refused"
        )
    if report["cost"] is not None:
        tokens = f"{report['prompt_tokens']:,} prompt and {report['completion_tokens']:,} reply tokens"
        say(f"  {tokens}, cost {report['cost']:,.2f}")
    say(f"Written to {folder / 'annotations.json'}, which odin-rm win-rate reads")
