"""Which rows an audit's figures are of: lines for the console and a table for the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odin_rm.data.left_out import NOT_READ_BY_ALL, PAIRS_DIGEST, data_line
from odin_rm.evaluation.audit import AuditResult
from odin_rm.reports.blocks import Table

# Rows of the table: name in an audit's data_report, words for people, whether to show it where it is 0 everywhere.
_ROWS = (
    ("rows", "Rows of the data", False),
    ("skipped_rows", "Unusable rows, skipped", False),
    ("ties", "Ties of equal rank, which make no pair", False),
    ("pairs_stated", "Pairs that the rows state", True),
    ("max_length", "Most tokens of a sequence (max_length)", True),
    ("overlong_chosen", "Left out: only the chosen side too long", True),
    ("overlong_rejected", "Left out: only the rejected side too long", True),
    ("overlong_both", "Left out: both sides too long", True),
    ("identical_pairs", "Left out: the same tokens on both sides", True),
    ("pairs_without_score", "Left out: a side without a score", False),
    ("responses_without_score", "Responses without a score", False),
    (NOT_READ_BY_ALL, "Left out: another model cannot read it", False),
    ("truncated_prompts", "Prompts cut to fit", False),
    ("truncated_responses", "Responses cut to fit", False),
    ("twins", "Verbosity twins", False),
    ("twins_left_out", "Verbosity twins left out", False),
)


def shared_pairs(results: Sequence[AuditResult]) -> dict[str, Any] | None:
    """How many pairs a comparison is of; ``None`` where its audits are not known to be of the same pairs.

    Returns:
        ``pairs`` that all models can read, ``pairs_stated`` by the rows, and their difference ``pairs_left_out``.
    """
    if len({(r.dataset, r.pairs, r.data_report.get(PAIRS_DIGEST)) for r in results}) > 1:
        return None
    pairs = results[0].pairs
    stated = max(int(r.data_report.get("pairs_stated", pairs)) for r in results)
    return {"pairs": pairs, "pairs_stated": stated, "pairs_left_out": stated - pairs}


def shared_line(results: Sequence[AuditResult]) -> str:
    """A sentence on the pairs of a comparison; empty for one audit."""
    if len(results) < 2:
        return ""
    counts = shared_pairs(results)
    if counts is None:
        sizes = ", ".join(f"{r.name}: {r.pairs:,} of {r.dataset}" for r in results)
        return f"The audits are not known to be of the same pairs ({sizes}); differences may be those of the data."
    noun = "pair" if counts["pairs"] == 1 else "pairs"
    same = f"The {len(results)} models are compared on the same {counts['pairs']:,} {noun}"
    if not counts["pairs_left_out"]:
        return f"{same}, all that the data state."
    return f"{same}; {counts['pairs_left_out']:,} of {counts['pairs_stated']:,} are left out."


def row_lines(results: Sequence[AuditResult]) -> list[str]:
    """What each model was given and what was left out, a line each (one for all where they say the same)."""
    known = [result for result in results if "pairs_stated" in result.data_report]
    lines = {result.name: data_line(result.data_report, result.dataset) for result in known}
    if len(lines) == len(results) and len(set(lines.values())) == 1:
        said = [next(iter(lines.values()))]
    else:
        said = [f"{name}: {line}" for name, line in lines.items()]
    for result in known:
        report = result.data_report
        if report.get("twins_left_out"):
            reasons = {
                "overlong": "longer than max_length",
                "identical": "with the same tokens",
                "not_read_by_all": "that another model cannot read",
                "skipped": "unusable",
            }
            parts = [f"{n:,} {words}" for kind, words in reasons.items() if (n := report.get(f"twins_{kind}", 0))]
            why = f": {', '.join(parts)}" if parts else ""
            said.append(f"{result.name}: {report['twins']:,} twins; {report['twins_left_out']:,} left out{why}.")
    shared = shared_line(results)
    return [*said, *([shared] if shared else [])]


def rows_table(results: Sequence[AuditResult]) -> Table | None:
    """How the pairs behind the figures came about, models side by side; ``None`` where no audit says it."""
    if not any("pairs_stated" in result.data_report for result in results):
        return None
    rows: list[list[Any]] = []
    for name, words, always in _ROWS:
        values = [result.data_report.get(name) for result in results]
        if any(values) or (always and any(value is not None for value in values)):
            rows.append([words, *values])
    rows.append(["Pairs behind the figures", *(result.pairs for result in results)])
    caption = "From the rows to the pairs that the figures are of."
    return Table(caption, ["Rows and pairs", *(result.name for result in results)], rows, note=shared_line(results))


def subtitle(results: Sequence[AuditResult]) -> str:
    """The page's line on its data: pairs of how many, and distinct responses."""
    first = results[0]
    counts = shared_pairs(results)
    if counts is None:
        return "; ".join(f"{r.name}: {Path(r.dataset).name}, {r.pairs:,} pairs" for r in results)
    of = f" of {counts['pairs_stated']:,}" if counts["pairs_left_out"] else ""
    by_all = " that all models can read" if len(results) > 1 and counts["pairs_left_out"] else ""
    return f"{first.dataset}: {counts['pairs']:,}{of} pairs{by_all}, {first.responses:,} distinct responses"
