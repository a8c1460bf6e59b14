"""What can this reward be bought with?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.probe.config import ProbeConfig


def run(config: ProbeConfig) -> None:
    """Probe, print a sentence for each edit."""
    from odin_rm.workflows.probe.run import run_probe

    content = run_probe(config)
    say(f"{content['model']}, {content['responses']:,} responses:")
    for sentence in content["sentences"].values():
        say(f"- {sentence}")
    for edit in content["prompt_edits"].values():
        kept = edit["agreement"]["value"]
        if kept is not None:
            say(f"- keeps {100 * kept:.0f} % of its verdicts when {edit['words']}.")
    say(f"The report: {config.output}/report.html")
