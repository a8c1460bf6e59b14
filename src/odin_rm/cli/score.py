"""Score rows of prompt and response, or of rendered text; same rows, same order, scores added."""

from __future__ import annotations

from odin_rm.core.console import say
from odin_rm.workflows.score.config import ScoreConfig


def run(config: ScoreConfig) -> None:
    """Score, say what was done."""
    from odin_rm.workflows.score.run import run_score, skipped_file

    report = run_score(config)
    speed = report.rows / max(report.seconds, 1e-9)
    say(f"Scored {report.scored:,} of {report.rows:,} rows ({speed:,.0f} rows/s), written to {config.output}")
    if report.overlong:
        alone = f", {report.overlong_prompts:,} of them by the prompt alone" if report.overlong_prompts else ""
        say(
            f"{report.overlong:,} of {report.rows:,} rows are longer than max_length {report.max_length:,}{alone}, "
            "and have no quality (--overlong, --max_length)"
        )
    if report.truncated:
        say(
            f"{report.truncated:,} rows were cut to max_length {report.max_length:,}; "
            f"{report.truncated_responses:,} of them lost a part of the response"
        )
    if report.completed:
        say(f"{report.completed:,} texts were completed to the template's ending")
    if report.cut:
        say(f"{report.cut:,} texts have no end token and were scored as cut")
    if report.rewritten:
        say(
            f"{report.rewritten:,} responses are not read as written: the chat template leaves a part out or changes "
            "it (response_tokens counts all of it)"
        )
    if report.unrendered:
        say(f"The template does not write what rows hold in {', '.join(sorted(report.unrendered))}")
    if report.template_date:
        say(f"The chat template asks for today's date and gets {report.template_date}, on any day")
    if report.layouts:
        say(f"Read as: {', '.join(report.layouts)}")
    if report.bad_rows:
        say(f"{report.bad_rows:,} unusable rows have no quality; {skipped_file(config.output)} says why")
