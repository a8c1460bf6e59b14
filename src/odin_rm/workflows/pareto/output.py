"""The output folder of ``odin-rm pareto``: what may be there before, the figures and the tables in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.core.files import atomic_write_bytes, atomic_write_json, bad_row, read_rows
from odin_rm.evaluation.records import RunPoint
from odin_rm.reports.blocks import Table
from odin_rm.reports.chart_still import draw_panels, still_files
from odin_rm.reports.dominance import dominance_figure
from odin_rm.reports.front_tables import arms_table, comparisons_table, runs_table
from odin_rm.reports.latex import latex_table
from odin_rm.reports.markdown import markdown_table
from odin_rm.reports.recipes import Band, HeadScores, Panels, main_fronts, recipe_figure, reward_against_length
from odin_rm.results.contents import read_audit
from odin_rm.runs.output_folder import check_output_folder, replaced_folder, writer_of

RESULT = "pareto.json"
MAIN = "pareto"


class Asked(Protocol):
    """What the figures need to know of the settings."""

    recipe: list[str]
    panel: str | None
    scored: list[str]
    bootstrap_samples: int
    seed: int


@dataclass(frozen=True)
class FrontFigures:
    """What figures and tables show.

    Attributes:
        arms: runs by arm.
        marks: single policies.
        summary: of ``summarise_fronts``.
        matched: lengths at which scores are compared.
        length_label, score_label: of the axes.
        unit: of length.
        score: the score's name.
        lengths: vertical lines by name.
        settings: those that differ between runs.
    """

    arms: Mapping[str, list[RunPoint]]
    marks: Sequence[RunPoint]
    summary: Mapping[str, Any]
    matched: Sequence[float]
    length_label: str
    score_label: str
    unit: str
    score: str
    lengths: Mapping[str, float] = field(default_factory=dict)
    settings: Sequence[str] = ()

    @property
    def points(self) -> list[RunPoint]:
        """All runs."""
        return [point for runs in self.arms.values() for point in runs]

    @property
    def digits(self) -> int:
        """Decimal places of scores: one in percent, three else."""
        return 1 if self.score in ("win_score", "win_rate") else 3

    def tables(self) -> list[Table]:
        """The arms, their comparisons where there are several, the runs."""
        words = self.score.replace("_", " ")
        tables = [arms_table(self.summary, self.matched, score=words, unit=self.unit, digits=self.digits)]
        if self.summary["comparisons"]:
            tables.append(comparisons_table(self.summary, self.matched, unit=self.unit, digits=self.digits))
        return [*tables, runs_table(self.points, self.settings, score=words, unit=self.unit, digits=self.digits)]


def check_output(output: str, *, overwrite: bool) -> Path:
    """Refuse a folder that holds other fronts (unless they may be replaced) or another kind of run.

    Raises:
        OutputError: so it does.
    """
    return check_output_folder(output, "pareto", overwrite=overwrite)


def make_figures(config: Asked, shown: FrontFigures | None) -> dict[str, Panels]:
    """The figures that are asked for, by file name.

    Raises:
        OdinError: a recipe that these runs cannot fill, unusable scores.
    """
    figures: dict[str, Panels] = {}
    for name in dict.fromkeys(config.recipe):
        if name == "heads":
            heads = [head for place in config.scored for head in read_heads(Path(place))]
            figures[name] = reward_against_length(heads, seed=config.seed)
        elif shown is not None and name == "main":
            figures[MAIN] = _main(shown)
        elif shown is not None:
            figures[name] = recipe_figure(
                name, shown.points, length_label=shown.length_label, score_label=shown.score_label,
                panel=config.panel, marks=shown.marks, lengths=shown.lengths,
            )  # fmt: skip
    if shown is not None:
        comparisons = shown.summary["comparisons"]
        dominance = dominance_figure(shown.summary["grid"], comparisons, length_label=shown.length_label)
        if dominance is not None:
            figures["dominance"] = dominance
    return figures


def _main(shown: FrontFigures) -> Panels:
    grid = np.array(shown.summary["grid"])
    bands = {name: Band(grid, arm["band"]) for name, arm in shown.summary["arms"].items()}
    known = {name: band for name, band in bands.items() if any(f.low is not None for f in band.figures)}
    return main_fronts(
        shown.points, length_label=shown.length_label, score_label=shown.score_label, bands=known,
        marks=shown.marks, lengths=shown.lengths,
    )  # fmt: skip


def write_output(
    folder: Path, content: Mapping[str, Any], figures: Mapping[str, Panels], shown: FrontFigures | None
) -> None:
    """Write figures, tables and, last, ``pareto.json``. Everything has been computed before the first file is made.

    Args:
        folder: where; made if it is missing.
        content: of ``pareto.json``; nothing is written of an empty one.
        figures: figures by file name.
        shown: what the tables show.
    """
    files: dict[str, bytes] = {}
    for name, figure in figures.items():
        files[f"{name}.png"], files[f"{name}.svg"] = still_files(draw_panels(figure.charts))
    tables = shown.tables() if shown is not None else []
    if tables:
        files["pareto.tex"] = "\n".join(map(latex_table, tables)).encode("utf-8")
        files["pareto.md"] = "\n".join(map(markdown_table, tables)).encode("utf-8")
    with writer_of(folder), replaced_folder(folder, "pareto") as stage:
        for name, data in files.items():
            atomic_write_bytes(stage / name, data)
        for name, figure in figures.items():
            if name not in (MAIN, "dominance"):
                atomic_write_json(stage / f"{name}.json", {**figure.data, "alt": figure.alt})
        if content:
            alts = {name: figure.alt for name, figure in figures.items()}
            atomic_write_json(stage / RESULT, {**content, "figures": alts})


# ---- scored responses ------------------------------------------------------------------------------------------------


def read_heads(place: Path) -> list[HeadScores]:
    """What each head says of the responses of a scored file, or the trends of an audit.

    Raises:
        DataError: the place holds neither.
        RowError: a row without a number where one is needed.
    """
    audit = place / "audit.json" if place.is_dir() else place
    if audit.name == "audit.json":
        return _audited_heads(audit)
    rows = list(read_rows(place))
    scored = [(number, row) for number, row in rows if row.get("quality") not in (None, "")]
    if not scored:
        fix = "Give what odin-rm score wrote, or the folder of an audit."
        raise DataError("no row has a 'quality'", where=str(place), fix=fix)
    length_R = _column(place, scored, "response_tokens")
    prompts = [json.dumps(row.get("prompt"), sort_keys=True) for _, row in scored]
    prompt_R = np.array(prompts) if all("prompt" in row for _, row in scored) else None
    name = place.name.split(".")[0]
    heads = [HeadScores(name, "quality", length_R, _column(place, scored, "quality"), prompt_R)]
    if all(row.get("length_reward") not in (None, "") for _, row in scored):
        heads.append(HeadScores(name, "length", length_R, _column(place, scored, "length_reward"), prompt_R))
    return heads


def _audited_heads(path: Path) -> list[HeadScores]:
    audit = read_audit(path)
    none = np.zeros(0)
    heads = [HeadScores(audit.name, "quality", none, none, trend=audit.trend["quality"], pearson=audit["pearson"])]
    if audit.length_head is not None and audit.trend.get("length"):
        pearson = audit.length_head.get("pearson")
        heads.append(HeadScores(audit.name, "length", none, none, trend=audit.trend["length"], pearson=pearson))
    return heads


def _column(path: Path, rows: Sequence[tuple[int, Mapping[str, Any]]], name: str) -> np.ndarray:
    values = []
    for number, row in rows:
        try:
            value = float(row.get(name))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise bad_row(path, number, f"'{name}' is no number", "Score the file again.") from None
        values.append(value)
    return np.array(values, dtype=np.float64)
