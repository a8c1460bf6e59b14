"""What can this reward be bought with?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odin_rm.workflows.probe.config import ProbeConfig


def run(config: ProbeConfig) -> None:
    """Probe, print a sentence for each edit."""
    from odin_rm.workflows.probe.run import run_probe

    content = run_probe(config)
    print(f"{content['model']}, {content['responses']:,} responses:")
    for sentence in content["sentences"].values():
        print(f"- {sentence}")
    for edit in content["prompt_edits"].values():
        kept = edit["agreement"]["value"]
        if kept is not None:
            print(f"- keeps {100 * kept:.0f} % of its verdicts when {edit['words']}.")
    print(f"The report: {config.output}/report.html")
