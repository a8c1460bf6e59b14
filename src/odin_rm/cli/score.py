"""Score rows of prompt and response, or of rendered text; same rows, same order, scores added."""

from __future__ import annotations

from collections.abc import Sequence

from odin_rm.cli.config import parse_config


def run(argv: Sequence[str]) -> int:
    """Parse, score, say what was done."""
    from odin_rm.workflows.score import ScoreConfig, run_score, skipped_file

    config = parse_config(ScoreConfig, list(argv), "score")
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
    if report.bad_rows:
        print(f"{report.bad_rows:,} unusable rows have no quality; {skipped_file(config.output)} says why")
    return 0
