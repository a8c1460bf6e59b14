"""Export the quality head as a stock one-label classifier, after a proof of equal scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odin_rm.workflows.export import ExportConfig


def run(config: ExportConfig) -> None:
    """Export, print the parity."""
    from odin_rm.workflows.export import run_export

    parity = run_export(config)
    print(
        f"Exported to {config.output}: {parity.sequences} sequences score equally "
        f"(largest difference {parity.max_difference:.1e}, {parity.tolerance:.1e} allowed)"
    )
    if not parity.chat_template:
        print("The tokenizer cannot express how the model was trained to read texts; README.md there says what to do")
