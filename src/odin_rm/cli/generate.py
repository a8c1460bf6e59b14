"""Write a model's responses to a prompt file, in AlpacaEval's output format; resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odin_rm.core.console import say
from odin_rm.core.hub import quiet_transformers

if TYPE_CHECKING:
    from odin_rm.workflows.generate.config import GenerateConfig


def run(config: GenerateConfig) -> None:
    """Write, say what came out."""
    quiet_transformers()
    from odin_rm.workflows.generate.run import run_generate

    print_note(run_generate(config), config.output)


def print_note(note: dict[str, Any], output: str) -> None:
    """How many responses of what length, and a warning where some have no text."""
    resumed = f" ({note['resumed']:,} of an earlier run)" if note["resumed"] else ""
    tokens = "" if note["mean_tokens"] is None else f", {note['mean_tokens']:,.1f} tokens on average"
    say(f"{note['generator']}: {note['prompts']:,} responses{resumed}{tokens}, {note['ended_share']:.1%} ended")
    if note["skipped"]:
        say(f"{note['skipped']:,} prompts were left out (unusable, or there already)")
    say(f"Written to {output}, which odin-rm judge reads")
    if note["empty"]:
        refused = f" ({note['refused']:,} that the endpoint refused to write)" if note["refused"] else ""
        what = f"{note['empty']:,} responses are empty{refused}; odin-rm judge refuses them, or lets them lose"
        say(f"odin-rm generate: warning: {what}", error=True)
