"""What the testbed's pages say of other worlds than their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import Figure
from odin_rm.reports import Section, Table, Text
from odin_rm.testbed.linear_worlds import ARMS, DIALLED
from odin_rm.testbed.worlds import WORLDS

LONGER_IS_BETTER = "good_writers_write_more"
"""The world of the quickstart's page."""
FIGURES = {"true_quality_agreement": "Agreement with the truth", "pearson": "Pearson with length"}
WorldFigures = Mapping[str, Mapping[str, Figure]]
"""Of each reward, the truth itself among them."""
_TRUTH = "the truth"
_NAMES = {
    "vanilla": "plain",
    DIALLED: "plain with the dial",
    "odin": "ODIN",
    "matched": "matched",
}

_MODELS = """
The reward models of this section are linear on the words and pairs of words of a response, so that each trains in
seconds; they are not the models above. The dial takes off the share of the plain model's own curve of length that makes
two fillers more worth nothing. Matched trains on pairs of like length.
"""
_LONGER = f"""
In the world above, quality and length are unrelated, so a reward without any correlation with length is right. Here
good writers write more: the truth itself goes with length, and the annotator likes length as before. Then a correlation
of zero is the wrong target, for it takes off a part of quality.

{_MODELS}
"""
_ALL = f"""
A method has to be right in worlds of other kinds too: where the bias has another shape, where half of the prompts have
it or none, where good writers write more, where lists and flattery are paid for.

{_MODELS}
"""


def figures_of(audits: Mapping[str, AuditResult]) -> WorldFigures:
    """What the pages show of a world's audits: by reward, then by name."""
    return {arm: {figure: audit[figure] for figure in FIGURES} for arm, audit in audits.items()}


def as_json(found: WorldFigures) -> dict[str, Any]:
    """For ``summary.json``, and for going on."""
    return {arm: {name: figure.to_json() for name, figure in figures.items()} for arm, figures in found.items()}


def from_json(content: Mapping[str, Mapping[str, Any]]) -> WorldFigures:
    """What :func:`as_json` made."""
    return {arm: {n: Figure.from_json(one) for n, one in figures.items()} for arm, figures in content.items()}


def longer_is_better_section(found: WorldFigures) -> Section:
    """The quickstart's section: the truth and each method where good answers are longer."""
    columns = ["Reward", *FIGURES.values()]
    rows = [[arm, *(found[arm][figure] for figure in FIGURES)] for arm in (_TRUTH, *ARMS)]
    caption = "Held-out pairs of a world where good answers are longer."
    return Section("Where good answers are longer", [Text(_LONGER), Table(caption, columns, rows, digits=3)])


def longer_is_better_words(found: WorldFigures) -> str:
    """The shares of pairs in a sentence, for the terminal and the page's head."""
    shares = [f"{_NAMES[arm]} {100 * (found[arm]['true_quality_agreement'].value or 0):.1f} %" for arm in ARMS]
    said = ", ".join(shares)
    return f"Where good answers are longer, linear reward models order pairs as the truth does: {said}."


def worlds_section(found: Mapping[str, WorldFigures]) -> Section:
    """The study's section: a row for each world, a table for each figure."""
    tables = [
        Table(
            f"{title}, by world.",
            ["World", *(_TRUTH, *ARMS)],
            [[world.replace("_", " "), *(of[arm][figure] for arm in (_TRUTH, *ARMS))] for world, of in found.items()],
            digits=3,
        )
        for figure, title in FIGURES.items()
    ]
    told = "\n\n".join(f"{world.replace('_', ' ')}: {WORLDS[world].words}" for world in found)
    return Section("Other worlds", [Text(_ALL), Text(told), *tables])
