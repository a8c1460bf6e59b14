"""Export the quality head as a stock one-label classifier, after a proof of equal scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from odin_rm.core.console import say

if TYPE_CHECKING:
    from odin_rm.model.export import ParityReport
    from odin_rm.workflows.export.config import ExportConfig


def run(config: ExportConfig) -> None:
    """Export, print the parity."""
    from odin_rm.workflows.export.run import run_export

    parity = run_export(config)
    say(
        f"Exported to {config.output}: {parity.sequences} sequences score equally "
        f"(largest difference {parity.max_difference:.1e}, {parity.tolerance:.1e} allowed)"
    )
    for how, difference in parity.differences.items():
        say(f"  {how}: {difference:.1e}")
    if parity.rotary is not None:
        say(f"  rotary positions in transformers 4: {parity.rotary:.1e} (relative)")
    for sentence in (*parity.left_out, *_template_limits(parity)):
        say(sentence)
    say(f"{config.output}/README.md has the call of each tool")


def _template_limits(parity: ParityReport) -> list[str]:
    """What the exported chat template cannot say, a sentence each."""
    if not parity.chat_template:
        return ["The tokenizer cannot express how the model was trained to read texts; README.md there says what to do"]
    if parity.pairs == "both":
        return []
    where = "of tools that add special tokens (vLLM)" if parity.pairs == "rendered" else "of any tool"
    return [f"The chat template refuses query and document {where}: the score would be another one"]
