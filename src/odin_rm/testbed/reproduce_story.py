"""What a study on the testbed found: ``summary.json``, the figures of the paper in kind, and a page around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.files import atomic_write_bytes, atomic_write_json, read_rows
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.reports import Charts, Percent, Section, Table, Text, write_report
from odin_rm.reports.chart_still import draw_panels, still_files
from odin_rm.reports.recipes import HeadScores, Panels, main_fronts, reward_against_length, setting_effect
from odin_rm.testbed.reproduce_conclusions import (
    NAMES,
    Conclusion,
    Fronts,
    front_conclusions,
    knob_conclusions,
    knob_levels,
    length_conclusions,
    reward_conclusions,
    tuning_conclusions,
)
from odin_rm.testbed.reproduce_plan import ALGORITHMS, ARMS, KNOBS, Knob, Plan
from odin_rm.testbed.reproduce_points import BIASED, SCORES, Point
from odin_rm.testbed.world_story import WorldFigures, as_json, worlds_section

LENGTH_LABEL = "mean response tokens"
SCORE_LABELS = {
    "win_score": "win score against the SFT policy, by the truth",
    "true_quality": "true quality (1 is the best possible)",
    BIASED: "win score by the annotator who likes length",
}
VERDICTS = ("holds", "draw", "fails")

_RULE = """
Each conclusion of the paper is a difference with a 95 % interval. It holds where the whole interval lies above the
bound (0 unless the measure names another), fails where the whole interval lies below it, and is a draw where the bound
lies inside or there is no interval. The rule was fixed before the runs.

Fronts are compared by their area above the starting policy's score, from the length that the true optimum needs to
twice that; the intervals resample runs. Both sides have equally many runs of the same settings, unless the conclusion
says otherwise. The best of several values is chosen after the fact, in favour of the plain reward. One seed of data,
reward models and starting policy stands behind all of it.
"""
_BIASED = """
The same policies, judged by the annotator whose preferences trained the reward models: it pays for length. What this
figure shows above the one by the truth is what an evaluation by win score alone would take for progress.
"""


@dataclass(frozen=True)
class Study:
    """All that was measured.

    Attributes:
        start: the SFT policy.
        points: the trained policies.
        left_out: what went wrong, by the name of the run.
        audits: the reward models' ``audit.json``.
        scored: files of their held-out scores.
        facts: of the preference data.
        plan: what was run.
        seed: of the study.
        optimum_tokens: what a response of true quality 1 needs.
        samples: resamples behind each interval.
        settings: of the experiment.
        worlds: figures of linear reward models by world.
    """

    start: Point
    points: list[Point]
    left_out: dict[str, str]
    audits: dict[str, Any]
    scored: dict[str, Path]
    facts: dict[str, Any]
    plan: Plan
    seed: int
    optimum_tokens: float
    samples: int
    settings: dict[str, Any]
    worlds: dict[str, WorldFigures] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, Point]:
        """The policies by the name of their run folder."""
        return {point.name: point for point in self.points}

    @cached_property
    def arms(self) -> dict[str, list[Point]]:
        """The main figure's runs of each arm."""
        runs = [run for run in self.plan.main_runs(self.seed) if run.name in self.by_name]
        return {arm: [self.by_name[run.name] for run in runs if run.arm == arm] for arm in ARMS}

    @cached_property
    def beside(self) -> list[Point]:
        """DPO: policies beside the fronts."""
        return [point for point in self.points if point.algorithm == "dpo"]

    @cached_property
    def fronts(self) -> Fronts:
        """How fronts are compared."""
        return Fronts(self.start, self.optimum_tokens, self.samples, self.seed)

    @cached_property
    def conclusions(self) -> list[Conclusion]:
        """Every claim with its verdict."""
        return [
            *reward_conclusions(self.audits),
            *length_conclusions(self.arms, self.fronts),
            *front_conclusions(self.arms, self.fronts),
            *tuning_conclusions(self.points, self.arms, self.fronts),
            *knob_conclusions(self.by_name, self.plan, self.seed, self.fronts),
        ]

    def areas(self) -> Iterator[tuple[str, str, dict[str, Figure]]]:
        """Arm, algorithm and the area under the front for each score."""
        for algorithm in ALGORITHMS:
            for arm, points in self.arms.items():
                held = [point for point in points if point.algorithm == algorithm]
                if held:
                    yield arm, algorithm, {score: self.fronts.area_figure(held, score) for score in SCORES}


def write_study(study: Study, folder: Path, preset: str, seconds: float) -> dict[str, Any]:
    """Writes ``report.html``, its figures as PNG, the data behind each as ``figures/NAME.json``, and ``summary.json``.

    Returns:
        The content of ``summary.json``.
    """
    figures = make_figures(study)
    for name, figure in figures.items():
        atomic_write_json(_made(folder / "figures") / f"{name}.json", figure.data)
        if [chart.file for chart in figure.charts] != [name]:  # the page writes each panel by itself
            atomic_write_bytes(folder / f"{name}.png", still_files(draw_panels(figure.charts))[0])
    content = summary(study, preset, seconds, sorted(figures))
    write_report(
        "The paper's figures on the testbed",
        headline(study),
        sections(study, figures),
        folder,
        subtitle=f"{len(study.points)} policies, preset {preset}, seed {study.seed}.",
    )
    atomic_write_json(folder / "summary.json", content)  # last: it says that all is there
    return content


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def summary(study: Study, preset: str, seconds: float, figures: Sequence[str]) -> dict[str, Any]:
    """The content of ``summary.json``."""
    verdicts: list[str] = [conclusion.verdict for conclusion in study.conclusions]
    return {
        "preset": preset,
        "seed": study.seed,
        "seconds": round(seconds, 2),
        "reward_models": study.audits,
        "start": study.start.to_json(),
        "runs": [point.to_json() for point in study.points],
        "left_out": study.left_out,
        "worlds": {world: as_json(found) for world, found in study.worlds.items()},
        "optimum_tokens": study.optimum_tokens,
        "area_bounds": study.fronts.bounds,
        "fronts": [{"arm": arm, "algorithm": name, "area": areas} for arm, name, areas in study.areas()],
        "effects": {knob.name: _effect_rows(study, knob) for knob in KNOBS},
        "conclusions": {conclusion.name: conclusion.to_json() for conclusion in study.conclusions},
        "verdicts": {verdict: verdicts.count(verdict) for verdict in VERDICTS},
        "rule": " ".join(_RULE.split()),
        "figures": list(figures),
        "data": study.facts,
        "settings": {name: value for name, value in study.settings.items() if name != "output"},
    }


def _effect_rows(study: Study, knob: Knob) -> list[dict[str, Any]]:
    """Each value of a knob: how many runs, their mean length and scores, the area under their front."""
    rows = []
    for reward_model in knob.reward_models:
        levels = knob_levels(study.by_name, study.plan, study.seed, knob, reward_model)
        for value, points in levels.items():
            means = {name: _mean(points, name) for name in ("mean_tokens", "true_quality", "win_score", BIASED)}
            area = study.fronts.area_figure(points, "win_score")
            runs = [point.name for point in points]
            rows.append({"reward_model": reward_model, "value": _shown(value), "runs": runs, **means, "area": area})
    return rows


def _shown(value: float) -> float | str:
    return "none" if value == float("inf") else value


def _mean(points: Sequence[Point], name: str) -> float:
    return float(np.mean([point.value(name) for point in points]))


def as_run_point(point: Point, score: str, name: str = "") -> RunPoint:
    """A policy as the reports draw it."""
    figure, run = getattr(point, score), point.run
    settings = {} if run is None else run.settings | {"reward_model": run.reward_model}
    return RunPoint(
        point.arm, point.value("mean_tokens"), point.value(score), name or point.name, point.algorithm, settings,
        run.seed if run else None, point.orders["prompts"], figure.low, figure.high,
    )  # fmt: skip


def make_figures(study: Study) -> dict[str, Panels]:
    """Every figure by its file's name."""
    lengths = {"optimum": study.optimum_tokens}
    figures: dict[str, Panels] = {}

    def marks(score: str) -> list[RunPoint]:
        dpo = [as_run_point(point, score, f"DPO, beta {point.run.kl_coef:g}") for point in study.beside if point.run]
        return [as_run_point(study.start, score, "SFT"), *dpo]

    for score in (*SCORES, BIASED):
        for algorithm in ALGORITHMS:
            points = [point for held in study.arms.values() for point in held if point.algorithm == algorithm]
            name = f"{score}_against_length_{algorithm}"
            title = f"{NAMES[algorithm]}: {SCORE_LABELS[score]} against length"
            figures[name] = main_fronts(
                [_without_interval(as_run_point(point, score)) for point in points],
                length_label=LENGTH_LABEL, score_label=SCORE_LABELS[score], marks=marks(score), lengths=lengths,
                file=name, title=title, caption="Points: runs. Lines: what an arm attains with responses no longer.",
            )  # fmt: skip
    for knob in KNOBS:
        shown = [
            as_run_point(point, "win_score")
            for reward_model in knob.reward_models
            for level in knob_levels(study.by_name, study.plan, study.seed, knob, reward_model).values()
            for point in level
        ]
        if len({point.settings[knob.setting] for point in shown}) > 1:
            figures[f"effect_of_{knob.name}"] = setting_effect(
                [_without_interval(point) for point in shown], knob.setting, setting_label=knob.name,
                panel="reward_model", length_label=LENGTH_LABEL, score_label=SCORE_LABELS["win_score"],
                lengths=lengths, file=f"effect_of_{knob.name}", caption=f"The effect of the {knob.title}.",
            )  # fmt: skip
    heads = [head for name, file in study.scored.items() for head in read_heads(name, file)]
    figures["reward_against_length"] = reward_against_length(
        heads, seed=study.seed, file="reward_against_length",
        caption="An even part of the held-out responses, and their mean over bins of length with 95 % intervals.",
    )  # fmt: skip
    return figures


def _without_interval(point: RunPoint) -> RunPoint:
    """A figure of many runs is legible without them; they are in ``summary.json``."""
    return RunPoint(
        point.arm, point.mean_length, point.score, point.name, point.algorithm, point.settings, point.seed, point.n
    )


def read_heads(name: str, file: Path) -> list[HeadScores]:
    """The heads of a reward model with their scores of the held-out responses."""
    rows = [row for _, row in read_rows(file)]
    length_R = np.array([row["response_tokens"] for row in rows], dtype=float)
    prompt_R = np.array([row["prompt"] for row in rows])
    heads = []
    for head, column in (("quality", "quality"), ("length", "length_reward")):
        if all(row[column] is not None for row in rows):
            value_R = np.array([row[column] for row in rows], dtype=float)
            heads.append(HeadScores(name, head, length_R, value_R, prompt_R))
    return heads


def headline(study: Study) -> str:
    """How many conclusions hold, and the main one with its numbers."""
    counts = {verdict: sum(c.verdict == verdict for c in study.conclusions) for verdict in VERDICTS}
    found = {conclusion.name: conclusion for conclusion in study.conclusions}
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    sentences = [f"Of {len(study.conclusions)} conclusions of the paper: {words}."]
    for algorithm in ALGORITHMS:
        main = found.get(f"odin_above_vanilla_{algorithm}")
        if main is not None and main.figure.value is not None:
            sentences.append(
                f"Under {NAMES[algorithm]} the area under ODIN's front is {abs(main.figure.value):.0f} tokens times "
                f"win score {'larger' if main.figure.value > 0 else 'smaller'} than under the plain reward's."
            )
    return " ".join(sentences)


def sections(study: Study, figures: Mapping[str, Panels]) -> list[Section]:
    """The page's sections."""

    def charts(*names: str) -> list[Charts]:
        found = [chart for name in names if name in figures for chart in figures[name].charts]
        return [Charts(found)] if found else []

    def fronts(score: str) -> list[Charts]:
        return charts(*(f"{score}_against_length_{algorithm}" for algorithm in ALGORITHMS))

    effects: list[Charts | Table] = []
    for knob in KNOBS:
        effects += [*charts(f"effect_of_{knob.name}"), _effect_table(study, knob)]
    return [
        Section("Do the conclusions hold?", [Text(_RULE), _conclusions_table(study)]),
        Section("Win score against length", [*fronts("win_score"), _areas_table(study)]),
        Section("True quality against length", fronts("true_quality")),
        Section("What a judge who likes length would see", [Text(_BIASED), *fronts(BIASED)]),
        Section("Reward against length", charts("reward_against_length")),
        Section("The effect of each setting", effects),
        *([worlds_section(study.worlds)] if study.worlds else []),
        Section("Every run", [_runs_table(study), _samples_table(study)]),
    ]


def _conclusions_table(study: Study) -> Table:
    rows = [[c.claim, c.verdict, c.figure, c.on_true_quality, c.measure] for c in study.conclusions]
    return Table(
        "The paper's conclusions on the testbed.",
        ["Conclusion", "Verdict", "Measured", "On true quality", "Measure"],
        rows,
        "On true quality: the same difference between fronts of true quality instead of win scores.",
        digits=2,
    )


def _areas_table(study: Study) -> Table:
    low, high = study.fronts.bounds
    rows = [[f"{arm}, {NAMES[a]}", areas["win_score"], areas["true_quality"]] for arm, a, areas in study.areas()]
    note = f"Above the starting policy's score, from {low:.0f} to {high:.0f} tokens, in tokens times score."
    return Table("Areas under the fronts.", ["Reward", "Of win score", "Of true quality"], rows, note, digits=2)


def _effect_table(study: Study, knob: Knob) -> Table:
    rows = [
        [f"{row['reward_model']}, {knob.name} = {row['value']}", len(row["runs"]), row["mean_tokens"],
         row["win_score"], row["true_quality"], row["area"]]
        for row in _effect_rows(study, knob)
    ]  # fmt: skip
    columns = ["Value", "Runs", "Mean tokens", "Win score", "True quality", "Area"]
    return Table(f"Means over the runs at each value of {knob.name}.", columns, rows, digits=2)


def _runs_table(study: Study) -> Table:
    columns = ["Run", "Mean tokens", "Win score", "By the annotator", "True quality", "Ended"]
    rows = [
        [point.name, point.mean_tokens, point.win_score, point.biased_win_score, point.true_quality,
         Percent(point.ended_share)]
        for point in [study.start, *study.points]
    ]  # fmt: skip
    note = "; ".join(f"{name} was left out: {why}" for name, why in study.left_out.items())
    return Table("Every policy; the intervals resample prompts.", columns, rows, note, digits=2, folded=True)


def _samples_table(study: Study) -> Table:
    held = {"start (SFT)": [study.start], **study.arms, **({"dpo": study.beside} if study.beside else {})}
    rows = []
    for arm, points in held.items():
        if points:
            best = max(points, key=lambda point: point.value("true_quality"))
            texts = [" ".join(text.split()) or "(nothing)" for text in best.samples]
            rows.append([f"{arm}: {best.name}", *texts])
    width = max(len(row) for row in rows)
    columns = ["Best policy of", *(f"Answer {k}" for k in range(1, width))]
    return Table("What the best policy of each arm writes to the same prompts.", columns, rows, folded=True)
