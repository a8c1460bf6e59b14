"""The parts of ``odin-rm win-rate`` on style: controlled win rates and ratings, from battles of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.core.files import first_row
from odin_rm.evaluation.style_control import (
    Battles,
    Ratings,
    fit_ratings,
    plain_win_rates,
    rating,
    win_rate_of,
)
from odin_rm.results.annotations import annotation_files
from odin_rm.results.battles import holds_battles, read_battles
from odin_rm.workflows.win_rate.config import WinRateConfig


def battle_files(config: WinRateConfig) -> list[str]:
    """The files, where they hold battles of LMArena or judgements of Arena-Hard; empty where they hold annotations."""
    files = [str(file) for file in annotation_files(config.annotations)]
    return files if holds_battles(first_row(files[0])) else []


def battle_content(config: WinRateConfig, files: list[str]) -> dict[str, Any]:
    """The whole output for files of battles.

    Raises:
        OdinError: rows that are no battles, a baseline that is in none of them.
    """
    battles = read_battles(files, config.answers, config.battle_baseline)
    baseline = config.battle_baseline or _common_opponent(battles)
    return {
        "battles": len(battles.first),
        "models": list(battles.models),
        "baseline": baseline,
        **style_content(config, battles, baseline, judged=_judgements(battles)),
    }


def style_content(config: WinRateConfig, battles: Battles, baseline: str | None, *, judged: bool) -> dict[str, Any]:
    """``style_control`` and ``ratings``, as far as they are asked for.

    Args:
        config: the settings.
        battles: all comparisons.
        baseline: whom win rates are against; without one there are ratings only.
        judged: whether the battles are Arena-Hard's, whose form of the regression is the default then.
    """
    form = config.style_form or ("arena-hard" if judged else "lmarena")
    options: dict[str, Any] = {"bootstrap_samples": config.bootstrap_samples, "seed": config.seed}
    if baseline is not None and baseline not in battles.models:
        fix = f"Name one of {', '.join(battles.models[:8])}."
        raise ConfigError(f"there is no model '{baseline}' in the battles", where="--battle_baseline", fix=fix)
    if config.style_control and baseline is None and not config.ratings:
        fix = "Name it by --battle_baseline, or ask for --ratings."
        raise ConfigError("needs a model that all are compared with", where="--style_control", fix=fix)
    controlled = (
        fit_ratings(battles, config.style_control, form, baseline=baseline, **options) if config.style_control else None
    )
    content: dict[str, Any] = {}
    if baseline is not None:
        content["style_control"] = _win_rates(config, battles, baseline, controlled, form, options)
    if config.ratings:
        plain = fit_ratings(battles, [], form, baseline=baseline, **options)
        content["ratings"] = _ratings(battles, plain, controlled, form)
    return content


def _win_rates(
    config: WinRateConfig, battles: Battles, baseline: str, controlled: Ratings | None, form: str, options: Any
) -> dict[str, Any]:
    alpha = np.log(10) if form == "lmarena" else 1.0
    plain = plain_win_rates(battles, baseline, **options)
    models = []
    for m, name in enumerate(battles.models):
        one: dict[str, Any] = {"model": name, "win_rate": plain[m].to_json()}
        if controlled is not None:
            one["controlled_win_rate"] = win_rate_of(controlled.ability[m], alpha).to_json()
        models.append(one)
    return {
        "baseline": baseline,
        "form": form,
        "controls": list(config.style_control),
        "battles": len(battles.first) if controlled is None else controlled.battles,
        "coefficients": {} if controlled is None else {n: f.to_json() for n, f in controlled.coefficients.items()},
        "models": models,
    }


def _ratings(battles: Battles, plain: Ratings, controlled: Ratings | None, form: str) -> dict[str, Any]:
    # Other forms have natural log-odds; a rating is 400 for a factor of ten in the odds.
    factor = 1.0 if form == "lmarena" else 1 / np.log(10)
    counts = np.bincount(np.r_[battles.first, battles.second], minlength=len(battles.models))
    models = []
    for m, name in enumerate(battles.models):
        one: dict[str, Any] = {"model": name, "battles": int(counts[m]),
                               "rating": rating(plain.ability[m].times(factor)).to_json()}  # fmt: skip
        if controlled is not None:
            one["controlled_rating"] = rating(controlled.ability[m].times(factor)).to_json()
        models.append(one)
    models.sort(key=lambda one: -(one["rating"]["value"] or 0.0))
    return {"form": form, "models": models}


def _common_opponent(battles: Battles) -> str | None:
    """The model that stands in every battle, if there is one and it has several opponents."""
    both = [set(battles.first.tolist()), set(battles.second.tolist())]
    for m in sorted(both[0] | both[1]):
        if bool(((battles.first == m) | (battles.second == m)).all()) and len(battles.models) > 2:
            return battles.models[m]
    return None


def _judgements(battles: Battles) -> bool:
    """Whether verdicts have two strengths, as Arena-Hard's have."""
    return bool((battles.weight > 1).any())
