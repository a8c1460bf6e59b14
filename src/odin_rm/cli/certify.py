"""The verdict on a reward model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.workflows.certify.config import CertifyConfig


def run(config: CertifyConfig) -> None:
    """Certify, print the verdict on each attribute."""
    from odin_rm.workflows.certify.run import run_certify

    print_verdicts(run_certify(config))
    say(f"The report: {config.output}/report.html")


def print_verdicts(content: dict[str, Any]) -> None:
    """A line for each attribute that was decided, then what is missing."""
    say(f"{content['model']}: {content['overall']}")
    left = []
    for one in content["attributes"].values():
        if one["verdict"] == "undecided" and "effect" not in one["measured"]:
            left.append(one["words"])
            continue
        say(f"- {one['words']}: {one['verdict']}. {one['why']}")
    if left:
        say(f"- not decided, for no edit changes them: {', '.join(left)}")
    for sentence in content["missing"]:
        say(sentence)
