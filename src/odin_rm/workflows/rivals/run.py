"""Objectives x seeds x data sets on the same frozen features: the body of ``odin-rm rivals``.

The folder holds ``cells/`` (one small file for each trained head, never redone), ``rivals.json``, ``rivals.md`` and
``.tex``, the figures, ``report.html``, ``config.yaml`` and ``environment.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from odin_rm.core.errors import OutputError
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.core.progress import Progress
from odin_rm.data.attributes import attributes_of_text, describe
from odin_rm.evaluation.bootstrap import PromptBootstrap, ratio_statistic
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.evaluation.rivals import (
    Part,
    Parts,
    chosen_gold,
    compare_arms,
    edit_parts,
    mean_part,
    pair_parts,
    reward_deviation,
    standardised,
)
from odin_rm.reports.page import render_report, write_page
from odin_rm.reports.rivals_page import rivals_latex, rivals_markdown, rivals_report
from odin_rm.reward.scoring import as_scored
from odin_rm.runs.output_folder import OutputFolder, check_output_folder, kind_of
from odin_rm.workflows.rivals.arms import Arm, read_arms
from odin_rm.workflows.rivals.cells import Cell, Cells
from odin_rm.workflows.rivals.config import RivalsConfig
from odin_rm.workflows.rivals.features import Backbone, Compared, named_sources, read_compared

RESULT = "rivals.json"
RESULTS = (RESULT, "rivals.md", "rivals.tex", "report.html")
"""Made anew by every call; an old page must not stand beside other settings."""


def run_rivals(config: RivalsConfig, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Train what is not trained yet, measure, write.

    Args:
        config: the settings.
        tell: is told what is going to be done.

    Returns:
        The content of ``rivals.json``: ``arms`` with their settings; ``datasets``, each with ``figures`` and
        ``differences`` by arm and name, each V = value/low/high; ``settings`` and ``environment``.

    Raises:
        OdinError: bad input, a loss that is not finite. Cells that are done stay.
    """
    arms = read_arms(config.arms)
    sources = named_sources(config.datasets)
    folder = _check_folder(config)
    measured = attributes_of_text(list(dict.fromkeys(one for arm in arms for one in arm.attributes)), "--arms")
    backbone = Backbone(config)
    with OutputFolder(folder, "rivals") as output:
        output.claim(resume=True, results=RESULTS)
        atomic_write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
        atomic_write_json(folder / "environment.json", environment_record())
        found = {}
        for name, source in sources.items():
            compared = read_compared(config, backbone, name, source, measured)
            tell(f"{name}: {compared.data.num_pairs:,} pairs of {compared.data.num_prompts:,} prompts")
            cells = _trained(config, compared, arms, folder / "cells")
            found[name] = _measured(config, compared, arms, cells, source)
        content = _content(config, arms, found, backbone.seconds)
        html, files = render_report(rivals_report(content))
        write_page(folder, html, files)
        atomic_write_text(folder / "rivals.md", rivals_markdown(content))
        atomic_write_text(folder / "rivals.tex", rivals_latex(content))
        atomic_write_json(folder / RESULT, content)
        output.complete()
    return content


def _check_folder(config: RivalsConfig) -> Path:
    folder = check_output_folder(config.output, "rivals", resume=True, others=("cells",))
    if folder.is_dir() and any(folder.iterdir()) and kind_of(folder) is None and not (folder / "cells").is_dir():
        what = "holds something else than a comparison of objectives"
        raise OutputError(what, where=str(folder), fix="Choose another folder.")
    return folder


def _trained(config: RivalsConfig, compared: Compared, arms: list[Arm], folder: Path) -> dict[str, list[list[Cell]]]:
    """By arm, for each seed, the cells of all folds."""
    cells = Cells(config, compared, folder)
    found: dict[str, list[list[Cell]]] = {arm.name: [] for arm in arms}
    with Progress(compared.name, len(arms) * len(config.seeds) * config.folds, unit="heads") as bar:
        for seed in config.seeds:
            for arm in arms:
                found[arm.name].append([cells.get(arm, seed, fold)[0] for fold in range(config.folds)])
                bar.advance(config.folds)
    return found


def _measured(
    config: RivalsConfig, compared: Compared, arms: list[Arm], cells: Mapping[str, list[list[Cell]]], source: str
) -> dict[str, Any]:
    """Everything that ``rivals.json`` says of one data set."""
    by_seed = {arm.name: [_one_seed(config, compared, arm, own) for own in cells[arm.name]] for arm in arms}
    prompt = np.asarray(compared.data.response_prompt)
    main = compare_arms(
        {arm: _over_seeds([parts for parts, _ in seeds]) for arm, seeds in by_seed.items()},
        PromptBootstrap(prompt, config.bootstrap_samples, config.seed),
    )
    figures, differences = main.figures, main.differences
    for name, number in compared.pair_prompts.items():
        twins = compare_arms(
            {arm: _over_seeds([pairs[name] for _, pairs in seeds]) for arm, seeds in by_seed.items()},
            PromptBootstrap(number, config.bootstrap_samples, config.seed),
        )
        for arm in figures:
            figures[arm] |= twins.figures[arm]
            differences[arm] |= twins.differences[arm]
    return {
        "source": source,
        "pairs": compared.data.num_pairs,
        "prompts": compared.data.num_prompts,
        "responses": compared.data.num_responses,
        "edits": {name: {"n": len(one.places), "unit": one.unit} for name, one in compared.edits.items()},
        "pair_rows": {name: len(places) for name, places in compared.pairs.items()},
        "attributes": {name: describe(name) for name in compared.data.attributes},
        "figures": {arm: _json(own) for arm, own in figures.items()},
        "differences": {arm: _json(own) for arm, own in differences.items()},
        "seconds": {arm: sum(cell.seconds for own in seeds for cell in own) for arm, seeds in cells.items()},
        "data_report": dict(compared.data.report),
    }


def _one_seed(config: RivalsConfig, compared: Compared, arm: Arm, cells: list[Cell]) -> tuple[Parts, dict[str, Parts]]:
    """The figures of one arm with one seed: those that resample the set's prompts, and those of the user's pairs."""
    scored, further_F = _cross_fitted(compared, arm, cells)
    prompt, prompts = np.asarray(scored.prompt), compared.data.num_prompts
    parts = pair_parts(scored, config.seed)
    deviation = reward_deviation(scored)
    for name, edit in compared.edits.items():
        fold = compared.fold_R[edit.originals]
        edited = further_F[fold, edit.places]
        found = edit_parts(
            scored.quality[edit.originals], edited, edit.units, prompt[edit.originals], prompts, deviation
        )
        parts |= {f"{kind}.{name}": part for kind, part in found.items()}
    if config.gold is not None:
        gold = np.asarray(compared.data.extra[config.gold], np.float64)
        parts["best_of_n_gold"] = chosen_gold(scored.quality, gold, prompt, config.n)
    own: dict[str, Parts] = {}
    for name, places in compared.pairs.items():
        # Every head scores all of them: none of these texts was trained on.
        won = np.mean([half_ties(one[places[:, 1]] - one[places[:, 0]]) for one in further_F], axis=0)
        number = compared.pair_prompts[name]
        own[name] = {f"pairs.{name}": _mean_of(won, number)}
    return parts, own


def _mean_of(values: np.ndarray, number: np.ndarray) -> Part:
    statistic = ratio_statistic(values, np.ones(len(values)), number, int(number.max()) + 1)
    return Figure(float(values.mean())), statistic


def _cross_fitted(compared: Compared, arm: Arm, cells: list[Cell]) -> tuple[ScoredPreferences, np.ndarray]:
    """Held-out rewards of all responses in one scale, and ``(F, n)`` of the further texts by the head of each part."""
    fold_R = compared.fold_R
    quality_R = np.empty(compared.data.num_responses)
    for fold, cell in enumerate(cells):
        quality_R[fold_R == fold] = cell.held
    quality_R, mean_F, deviation_F = standardised(quality_R, fold_R)
    further = np.stack([(c.further - mean_F[f]) / deviation_F[f] for f, c in enumerate(cells)])
    return as_scored(compared.data, {"quality": quality_R}, arm.name), further


def _over_seeds(seeds: list[Parts]) -> Parts:
    return {name: mean_part([parts[name] for parts in seeds]) for name in seeds[0]}


def _json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.to_json() for name, figure in figures.items()}


def _content(config: RivalsConfig, arms: list[Arm], found: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "model": config.model,
        "arms": {arm.name: arm.to_json() for arm in arms},
        "reference": arms[0].name,
        "datasets": found,
        "feature_seconds": seconds,
        "settings": {name: value for name, value in asdict(config).items() if name not in ("output", "arms")},
        "environment": environment_record(),
    }
