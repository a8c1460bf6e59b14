"""From annotation files to one JSON file: win rates, win scores, length-controlled win rates, paired comparisons.

One candidate makes the object that ``docs/win_rate.md`` describes; several make ``systems``, a list of such objects,
``comparisons`` of every two of them, and ``joint_fit``. Nothing is written unless everything went well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError, OutputError
from odin_rm.core.files import atomic_write_json
from odin_rm.core.system import is_there
from odin_rm.evaluation.bootstrap import Statistic
from odin_rm.evaluation.length_control import (
    JointFit,
    difficulty_given,
    fit_joint,
    joint,
    length_only,
    length_tells_all,
    relative_length_term,
)
from odin_rm.evaluation.win_score import (
    Estimate,
    bootstrap_test,
    estimate,
    mean_estimate,
    mean_of,
    order_disagreement,
    permutation_test,
    resample,
    sign_test,
    verdict,
    win_rate_values,
    win_score_values,
)
from odin_rm.results.annotations import (
    SystemAnnotations,
    on_the_same_prompts,
    prompt_digest,
    prompt_set_digest,
    read_annotations,
    read_difficulty,
)
from odin_rm.results.battles import battles_of_annotations
from odin_rm.results.preference_codes import preference_codes
from odin_rm.workflows.win_rate.config import WinRateConfig
from odin_rm.workflows.win_rate.style import battle_content, battle_files, style_content

WORDS = "words"


def run_win_rate(config: WinRateConfig) -> dict[str, Any]:
    """Compute the figures and write them.

    Returns:
        What was written, before numbers became JSON.

    Raises:
        OdinError: bad input, mixed baselines or judges, an output file that exists already.
    """
    output = Path(config.output)
    if is_there(output) and (output.is_dir() or not config.overwrite_output):
        what = "is a folder, not a file" if output.is_dir() else "exists already"
        raise OutputError(what, where=str(output), fix="Choose another file, or pass --overwrite.")
    settings = {"bootstrap_samples": config.bootstrap_samples, "seed": config.seed}
    if files := battle_files(config):
        found = battle_content(config, files) | {"settings": settings}
        atomic_write_json(output, found)
        return found
    annotations = read_annotations(
        config.annotations, on_bad_row=config.on_bad_row, codes=preference_codes(config.preference_codes)
    )
    systems = on_the_same_prompts(annotations.systems, config.prompts)
    difficulty = None if config.difficulty is None else read_difficulty(config.difficulty)
    table = _Table.of(systems, _token_counter(config), difficulty, config)
    content = _content(table, config)
    if config.style_control or config.ratings:
        battles = battles_of_annotations(systems, _token_counter(config))
        content |= style_content(config, battles, systems[0].baseline, judged=False)
    content["left_out"] = annotations.left_out
    content["settings"] = {
        "token_unit": config.tokenizer or WORDS,
        "length_unit": config.length_unit if config.tokenizer or config.length_unit == "characters" else WORDS,
        "bootstrap_samples": config.bootstrap_samples,
        "seed": config.seed,
        "prompts": config.prompts,
    }
    atomic_write_json(output, content)
    return content


def _token_counter(config: WinRateConfig) -> Callable[[str], int]:
    if config.tokenizer is None:
        return lambda text: len(text.split())
    from odin_rm.model.scoring import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer, trust_remote_code=config.trust_remote_code)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@dataclass(frozen=True)
class _Table:
    """The annotations of ``M`` systems on ``P`` prompts as arrays, ``NaN`` where a system lacks a prompt."""

    systems: list[SystemAnnotations]
    preference_MP: np.ndarray
    tokens_MP: np.ndarray
    characters_MP: np.ndarray
    baseline_tokens_P: np.ndarray
    baseline_characters_P: np.ndarray
    length_MP: np.ndarray
    baseline_length_P: np.ndarray
    difficulty_P: np.ndarray | None

    @classmethod
    def of(
        cls,
        systems: list[SystemAnnotations],
        count_tokens: Callable[[str], int],
        difficulty: dict[str, float] | None,
        config: WinRateConfig,
    ) -> _Table:
        # Sorted, so that a system's resamples do not depend on the order of rows and files.
        prompts = sorted(set().union(*(system.prompts for system in systems)))
        place = {prompt: k for k, prompt in enumerate(prompts)}
        preference, tokens, characters = (np.full((len(systems), len(prompts)), np.nan) for _ in range(3))
        baseline_tokens, baseline_characters = np.zeros(len(prompts)), np.zeros(len(prompts))
        for m, system in enumerate(systems):
            at = [place[prompt] for prompt in system.prompts]
            preference[m, at] = system.preference
            tokens[m, at] = [count_tokens(text) for text in system.candidate_outputs]
            characters[m, at] = [len(text) for text in system.candidate_outputs]
            for k, text in zip(at, system.baseline_outputs, strict=True):
                if baseline_characters[k] == 0:  # the baseline's answer is the same for every system
                    baseline_tokens[k], baseline_characters[k] = count_tokens(text), len(text)
        by_characters = config.length_unit == "characters"
        return cls(
            systems=systems,
            preference_MP=preference,
            tokens_MP=tokens,
            characters_MP=characters,
            baseline_tokens_P=baseline_tokens,
            baseline_characters_P=baseline_characters,
            length_MP=characters if by_characters else tokens,
            baseline_length_P=baseline_characters if by_characters else baseline_tokens,
            difficulty_P=None if difficulty is None else _difficulty_of(prompts, difficulty, str(config.difficulty)),
        )


def _difficulty_of(prompts: list[str], difficulty: dict[str, float], file: str) -> np.ndarray:
    lacking = sum(prompt not in difficulty for prompt in prompts)
    if lacking:
        what = f"gives no difficulty for {lacking} of {len(prompts)} prompts"
        raise DataError(what, where=file, fix="Give a number for every judged instruction.")
    return np.array([difficulty[prompt] for prompt in prompts])


def _content(table: _Table, config: WinRateConfig) -> dict[str, Any]:
    """All figures; point values are the statistics at unit weights, so each figure has one definition."""
    pairs = list(combinations(range(len(table.systems)), 2))
    statistics: dict[str, Statistic] = {}
    values: dict[str, np.ndarray] = {}
    why: dict[str, dict[str, str]] = {}
    for m, system in enumerate(table.systems):
        values |= {f"{m}.{name}": column for name, column in _columns(table, m).items()}
        controls, why[system.candidate] = _controls(table, m)
        statistics |= {f"{m}.lc.{name}": statistic for name, statistic in controls.items()}
    for name, per_prompt in (("win_rate", win_rate_values), ("win_score", win_score_values)):
        if pairs:
            values_MP = per_prompt(table.preference_MP)
            values[f"difference.{name}"] = np.stack([values_MP[a] - values_MP[b] for a, b in pairs], axis=1)
    statistics |= {name: mean_of(column) for name, column in values.items()}
    fit = None
    if pairs:
        term_MP = relative_length_term(table.length_MP, table.baseline_length_P)
        fit = fit_joint(table.preference_MP - 1, term_MP, np.ones((1, term_MP.shape[1])))
        statistics["joint"] = joint(table.preference_MP - 1, term_MP, fit)
    prompts = table.preference_MP.shape[1]
    draws = resample(statistics, prompts, config.bootstrap_samples, config.seed)
    points = {name: statistic(np.ones((1, prompts)))[0] for name, statistic in statistics.items()}
    systems = [_system(table, m, values, points, draws, why) for m in range(len(table.systems))]
    if config.per_prompt:
        systems = [system | {"per_prompt": _per_prompt(table, m)} for m, system in enumerate(systems)]
    if not pairs:
        return systems[0]
    assert fit is not None
    return {
        "baseline": table.systems[0].baseline,
        "systems": systems,
        "comparisons": _comparisons(table, pairs, values, draws, config.seed),
        "joint_fit": _joint_summary(fit),
    }


def _columns(table: _Table, m: int) -> dict[str, np.ndarray]:
    """The figures of a system that are means over prompts: ``(P,)`` contributions by name."""
    preference_P = table.preference_MP[m]
    judged = np.where(np.isfinite(preference_P), 1.0, np.nan)
    columns = {
        "win_rate": win_rate_values(preference_P),
        "win_score": win_score_values(preference_P),
        "mean_tokens": table.tokens_MP[m],
        "mean_characters": table.characters_MP[m],
        "baseline_mean_tokens": table.baseline_tokens_P * judged,
        "baseline_mean_characters": table.baseline_characters_P * judged,
    }
    if table.systems[m].by_order:
        columns["order_disagreement"] = np.full(len(judged), np.nan)
        columns["order_disagreement"][np.isfinite(judged)] = order_disagreement(table.systems[m].by_order)
    return columns


def _controls(table: _Table, m: int) -> tuple[dict[str, Statistic], dict[str, str]]:
    """The length-controlled figures that a system has by itself, and why others are lacking."""
    held = np.isfinite(table.preference_MP[m])
    lengths = table.length_MP[m, held], table.baseline_length_P[held]
    label_P = table.preference_MP[m, held] - 1
    why = {}
    if len(table.systems) < 2:
        why["joint"] = "needs annotations of two systems or more"
    if table.difficulty_P is None:
        why["difficulty"] = "needs --difficulty"
    if length_tells_all(label_P, *lengths):
        reason = "length alone tells wins from losses, so no fit exists"
        return {}, why | {"length_only": reason, "difficulty": reason}
    controls = {"length_only": length_only(label_P, *lengths)}
    if table.difficulty_P is not None:
        controls["difficulty"] = difficulty_given(label_P, *lengths, table.difficulty_P[held])
    return {name: _at(held, statistic) for name, statistic in controls.items()}, why


def _at(held: np.ndarray, statistic: Statistic) -> Statistic:
    return lambda weights_SP: statistic(weights_SP[:, held])


def _system(
    table: _Table,
    m: int,
    values: dict[str, np.ndarray],
    points: dict[str, np.ndarray],
    draws: dict[str, np.ndarray],
    why: dict[str, dict[str, str]],
) -> dict[str, Any]:
    """One system's object of the output."""
    system = table.systems[m]
    n = len(system.prompts)
    verdict_P = verdict(system.preference)
    means = {name: mean_estimate(values[f"{m}.{name}"], draws[f"{m}.{name}"]) for name in _columns(table, m)}
    controlled: dict[str, Estimate | None] = {}
    for name in ("length_only", "difficulty"):
        key = f"{m}.lc.{name}"
        controlled[name] = estimate(float(points[key]), draws[key], n=n) if key in points else None
    together = "joint" in points
    controlled["joint"] = estimate(float(points["joint"][m]), draws["joint"][:, m], n=n) if together else None
    head = ("win_rate", "win_score")
    content: dict[str, Any] = {
        "generator": system.candidate,
        "baseline": system.baseline,
        "judge": system.annotator,
        "prompt_set": prompt_set_digest(map(prompt_digest, system.judged)),
        "files": list(system.files),
        "n": n,
        "wins": int((verdict_P > 0).sum()),
        "ties": int((verdict_P == 0).sum()),
        "losses": int((verdict_P < 0).sum()),
        **{name: means[name].to_json() for name in head},
        "lc_win_rate": {name: None if figure is None else figure.to_json() for name, figure in controlled.items()},
        **{name: figure.to_json() for name, figure in means.items() if name not in head},
        "prompts_without_preference": len(system.judged) - n,
        "why": why[system.candidate],
    }
    if system.by_order:
        content["win_rate_by_order"] = {
            order: float(win_rate_values(preference).mean()) for order, preference in system.by_order.items()
        }
    return content


def _per_prompt(table: _Table, m: int) -> dict[str, Any]:
    """Columns over the prompts that a system has a preference for; a prompt is named by its digest."""
    held = np.isfinite(table.preference_MP[m])
    return {
        "prompts": [prompt_digest(prompt) for prompt in sorted(table.systems[m].prompts)],
        "preference": table.preference_MP[m, held].tolist(),
        "tokens": table.tokens_MP[m, held].tolist(),
        "characters": table.characters_MP[m, held].tolist(),
    }


def _comparisons(
    table: _Table,
    pairs: list[tuple[int, int]],
    values: dict[str, np.ndarray],
    draws: dict[str, np.ndarray],
    seed: int,
) -> list[dict[str, Any]]:
    """Every two systems on the prompts that both have: differences (first minus second) and paired tests."""
    out: list[dict[str, Any]] = [
        {
            "first": table.systems[a].candidate,
            "second": table.systems[b].candidate,
            "n": int(np.isfinite(table.preference_MP[[a, b]]).all(axis=0).sum()),
        }
        for a, b in pairs
    ]
    for name in ("win_rate", "win_score"):
        difference_PC, draws_SC = values[f"difference.{name}"], draws[f"difference.{name}"]
        permutation = permutation_test(difference_PC, seed=seed)
        for c, comparison in enumerate(out):
            comparison[name] = {
                "difference": mean_estimate(difference_PC[:, c], draws_SC[:, c]).to_json(),
                "sign_test": sign_test(difference_PC[:, c]),
                "permutation_test": float(permutation[c]),
                "bootstrap_test": bootstrap_test(draws_SC[:, c]),
            }
    return out


def _joint_summary(fit: JointFit) -> dict[str, Any]:
    return {
        "length_slope": float(fit.slope[0]),
        "difficulty_deviation": float(fit.difficulty[0].std()),
        "systems": fit.ability.shape[1],
        "prompts": fit.difficulty.shape[1],
    }
