"""Score rows of prompt and response, or of rendered text; same rows, same order, scores added."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odin_rm.workflows.score.config import ScoreConfig


def run(config: ScoreConfig) -> None:
    """Score, say what was done."""
    from odin_rm.workflows.score.run import run_score, skipped_file

    report = run_score(config)
    speed = report.rows / max(report.seconds, 1e-9)
    print(f"Scored {report.scored:,} of {report.rows:,} rows ({speed:,.0f} rows/s), written to {config.output}")
    if report.overlong:
        alone = f", {report.overlong_prompts:,} of them by the prompt alone" if report.overlong_prompts else ""
        print(
            f"{report.overlong:,} of {report.rows:,} rows are longer than max_length {report.max_length:,}{alone}, "
            "and have no quality (--overlong, --max_length)"
        )
    if report.truncated:
        print(
            f"{report.truncated:,} rows were cut to max_length {report.max_length:,}; "
            f"{report.truncated_responses:,} of them lost a part of the response"
        )
    if report.completed:
        print(f"{report.completed:,} texts were completed to the template's ending")
    if report.cut:
        print(f"{report.cut:,} texts have no end token and were scored as cut")
    if report.rewritten:
        print(
            f"{report.rewritten:,} responses are not read as written: the chat template leaves a part out or changes "
            "it (response_tokens counts all of it)"
        )
    if report.unrendered:
        print(f"The template does not write what rows hold in {', '.join(sorted(report.unrendered))}")
    if report.template_date:
        print(f"The chat template asks for today's date and gets {report.template_date}, on any day")
    if report.layouts:
        print(f"Read as: {', '.join(report.layouts)}")
    if report.bad_rows:
        print(f"{report.bad_rows:,} unusable rows have no quality; {skipped_file(config.output)} says why")
