"""The audit's page: a headline in plain words, the sections, and the function that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.reports.page import Section, write_report


def audit_headline(results: Sequence[AuditResult]) -> str:
    """The finding in a few plain sentences with its numbers."""
    raise NotImplementedError


def audit_sections(
    results: Sequence[AuditResult], scored: Sequence[ScoredPreferences | None] | None = None
) -> list[Section]:
    """The sections of an audit's page, for one model or several side by side.

    Args:
        results: the audits, each with its own ``name``.
        scored: the scored sets behind them for the scatter plots (``None`` where only the figures are at hand; the
            plot then shows the trend alone).
    """
    raise NotImplementedError


def write_audit_report(
    results: Sequence[AuditResult],
    output_dir: str | Path,
    scored: Sequence[ScoredPreferences | None] | None = None,
    *,
    title: str = "Reward model audit",
) -> Path:
    """Write the figures as PNG files and ``report.html``.

    Args:
        results: the audits to show.
        output_dir: where to write.
        scored: as for :func:`audit_sections`.
        title: of the page.

    Returns:
        The path of the page.
    """
    first = results[0]
    subtitle = f"{first.dataset}: {first.pairs:,} pairs, {first.responses:,} distinct responses"
    return write_report(title, audit_headline(results), audit_sections(results, scored), output_dir, subtitle=subtitle)
