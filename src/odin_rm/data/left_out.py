"""What of a data set is used and what is not, counted by reason and said in one line.

Every command that reads a data set says this line, and every JSON file and page that shows its figures holds the
counts: a sample that was chosen by length is no longer the one that was asked for, and an audit of length bias that
leaves out the long answers must say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

OVERLONG_SIDES = {"overlong_chosen": "chosen", "overlong_rejected": "rejected", "overlong_both": "both"}
"""Counts of pairs of which only the chosen, only the rejected, or each of the two does not fit."""
NOT_READ_BY_ALL = "pairs_not_read_by_all"
"""Pairs that a model can read and that are left out of a comparison, because another of its models cannot."""
PAIRS_DIGEST = "pairs_digest"
"""In an audit's ``data_report``: a digest of the texts of its pairs, the same for the same pairs whatever the model."""


def overlong_by_side(chosen_B: np.ndarray, rejected_B: np.ndarray) -> dict[str, int]:
    """Pairs that do not fit, by the side that is too long.

    Args:
        chosen_B, rejected_B: ``(B,)`` bool, whether that side of each pair is too long.

    Returns:
        ``dropped_overlong_pairs`` and its three parts, which add up to it.
    """
    return {
        "dropped_overlong_pairs": int((chosen_B | rejected_B).sum()),
        "overlong_chosen": int((chosen_B & ~rejected_B).sum()),
        "overlong_rejected": int((~chosen_B & rejected_B).sum()),
        "overlong_both": int((chosen_B & rejected_B).sum()),
    }


def data_line(report: Mapping[str, Any], source: str, *, noun: str = "pairs", limit: str = "max_length") -> str:
    """One line on a data set: how much of it is used, and what was left out for which reason.

    Args:
        report: the counts, by the names of :func:`odin_rm.data.load.load_preferences` (``pairs``, ``pairs_stated``,
            ``dropped_overlong_pairs``, ...), with another noun for ``pairs`` where other things are counted.
        source: file, folder or hub id; its last part is shown.
        noun: what is counted.
        limit: the setting, and the name in ``report``, that says what is too long.
    """
    used = report[noun] - report.get(NOT_READ_BY_ALL, 0)
    name = Path(source).name or source
    if reasons := left_out_reasons(report, noun=noun, limit=limit):
        line = f"{name}: {used:,} of {report[f'{noun}_stated']:,} {noun} are used. Left out: {'; '.join(reasons)}."
    else:
        line = f"{name}: {used:,} {noun}, none left out."
    return " ".join([line, *_remarks(report)])


def left_out_reasons(report: Mapping[str, Any], *, noun: str = "pairs", limit: str = "max_length") -> list[str]:
    """Why pairs (or what ``noun`` says) were left out, each with its count; empty where none was."""
    reasons = []
    if overlong := report.get(f"dropped_overlong_{noun}", 0):
        sides = ", ".join(f"{words} {report[name]:,}" for name, words in OVERLONG_SIDES.items() if report.get(name))
        reasons.append(f"{overlong:,} longer than {limit} {report[limit]:,}" + (f" ({sides})" if sides else ""))
    if identical := report.get(f"identical_{noun}", 0):
        reasons.append(f"{identical:,} with the same tokens for chosen and rejected")
    if missing := report.get(f"{noun}_without_score", 0):
        reasons.append(f"{missing:,} of which a side has no score")
    if others := report.get(NOT_READ_BY_ALL, 0):
        reasons.append(f"{others:,} that another model cannot read")
    return reasons


def _remarks(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what made no pair at all, and on what was cut."""
    remarks = []
    if skipped := report.get("skipped_rows", 0):
        remarks.append(f"{skipped:,} unusable {_plural('row', skipped)} skipped.")
    if ties := report.get("ties", 0):
        remarks.append(f"{ties:,} {_plural('tie', ties)} of equal rank made no pair.")
    cut = [
        f"{count:,} {_plural(words, count)}"
        for name, words in (("truncated_prompts", "prompt"), ("truncated_responses", "response"))
        if (count := report.get(name, 0))
    ]
    if cut:
        remarks.append(f"Cut to fit: {' and '.join(cut)}.")
    if rewritten := report.get("rewritten_responses", 0):
        remarks.append(
            f"{rewritten:,} {_plural('response', rewritten)} not read as written: the chat template leaves a part out "
            "or changes it, and the length counts all of it."
        )
    if unrendered := report.get("unrendered"):
        remarks.append(f"The template does not write what rows hold in {', '.join(unrendered)}.")
    if date := report.get("template_date"):
        remarks.append(f"The chat template asks for today's date and gets {date}, on any day.")
    if layouts := report.get("layouts"):
        remarks.append(f"Read as: {', '.join(layouts)}.")
    return remarks


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
