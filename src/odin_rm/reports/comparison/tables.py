"""Tables of the page: how each run ended, with intervals; what differs in the settings; on what machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.records import Figure
from odin_rm.reports.blocks import Percent, Table
from odin_rm.results.records import Described, Judged, Material, Response, Sweep, TrainingRun, WinRates

SAMPLES, SEED = 1000, 0
LONGEST_VALUE = 120
"""Characters of a setting that are shown."""
_NOT_SHOWN = (
    "output",
    "output_dir",
    "overwrite",
    "overwrite_output_dir",
    "overwrite_output",
    "run_name",
    "logging_dir",
)


def mean_figure(values: Sequence[float | None]) -> Figure:
    """The mean of the known values with its interval; one value has none."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return Figure(None)
    if len(known) == 1:
        return Figure(float(known[0]))
    figure = bootstrap_mean(known, samples=SAMPLES, seed=SEED)
    return Figure(figure.value, figure.low, figure.high)


def mean_change(first: Sequence[Response], last: Sequence[Response], name: str) -> Figure:
    """The mean change of a figure from one look to another, prompt by prompt, with its interval."""
    before = {text.prompt: getattr(text, name) for text in first}
    pairs = [(getattr(text, name), before.get(text.prompt)) for text in last]
    return mean_figure([after - earlier for after, earlier in pairs if after is not None and earlier is not None])


def rl_table(runs: Sequence[TrainingRun]) -> Table:
    """Where policies ended: means over the prompts of the last look, or the last logged row without intervals."""
    rows: list[list[Any]] = []
    looked = False
    for run in runs:
        first, last = run.look("first"), run.look("last")
        looked |= bool(last)

        def end(name: str, column: str, last: list[Response] = last, run: TrainingRun = run) -> Figure:
            figure = mean_figure([getattr(text, name) for text in last])
            return figure if figure.value is not None else Figure(run.last(column))

        kl = run.last("watch_kl")
        rows.append(
            [
                run.name,
                str(run.settings.get("algorithm", "")),
                run.steps,
                end("tokens", "mean_response_tokens"),
                mean_change(first, last, "tokens"),
                end("quality", "mean_quality_reward"),
                mean_change(first, last, "quality"),
                end("length_reward", "mean_length_reward"),
                mean_figure([text.held_out for text in last]),
                Figure(kl if kl is not None else run.last("kl_to_reference")),
                run.state,
            ]
        )
    columns = ["Run", "Algorithm", "Steps", "Tokens", "Change", "Quality", "Change of quality", "Length reward",
               "Held-out reward", "KL (nats)", "State"]  # fmt: skip
    kept = [k for k in range(len(columns)) if any(_known(row[k]) for row in rows)]
    note = "Change: from the first look to the last, prompt by prompt. Intervals resample the watch's prompts."
    return Table(
        "Where the policies ended.",
        [columns[k] for k in kept],
        [[row[k] for k in kept] for row in rows],
        note if looked else "Means over the last logged step; without a watch there are no intervals.",
        digits=2,
        file="policies",
    )


def reward_table(runs: Sequence[TrainingRun]) -> Table:
    """Where reward models ended: held-out figures where there are any, else the last training log."""

    def logged(run: TrainingRun, name: str, *columns: str) -> Figure:
        if run.audit is not None and run.audit[name].value is not None:
            return run.audit[name]
        return Figure(next((value for column in columns if (value := run.last(column)) is not None), None))

    rows = [
        [
            run.name,
            str(run.settings.get("objective", "")),
            run.steps,
            Percent(logged(run, "accuracy", "eval_accuracy", "accuracy")),
            Percent(logged(run, "accuracy_length_balanced", "eval_accuracy_length_balanced")),
            logged(run, "pearson", "eval_pearson", "quality_length_correlation"),
            logged(run, "information_beyond_length", "eval_information_beyond_length"),
            "held out" if run.audit or run.last("eval_loss") is not None else "training batches",
            run.state,
        ]
        for run in runs
    ]
    columns = ["Run", "Objective", "Steps", "Accuracy", "Accuracy, balanced", "Pearson with length",
               "Bits beyond length", "Measured on", "State"]  # fmt: skip
    return Table("Where the reward models ended.", columns, rows, file="reward_models")


def policy_table(runs: Sequence[TrainingRun]) -> Table:
    """Where ``sft`` and ``dpo`` ended."""
    rows = [[run.name, run.steps, run.last("loss"), run.last("eval_loss"), run.state] for run in runs]
    return Table("Where fine-tuning ended.", ["Run", "Steps", "Loss", "Held-out loss", "State"], rows, file="training")


def texts_table(material: Material) -> Table:
    """Files of responses: how long, how good by the rewards they carry."""
    rows = []
    for file in material.files:
        shares = [float(text.ended) for text in file.texts if text.ended is not None]
        rows.append(
            [
                file.name,
                len(file.texts),
                mean_figure([text.tokens for text in file.texts]),
                mean_figure([len(text.response) for text in file.texts if text.response]),
                mean_figure([text.quality for text in file.texts]),
                mean_figure([text.length_reward for text in file.texts]),
                Percent(mean_figure(shares)),
            ]
        )
    columns = ["File", "Responses", "Tokens", "Characters", "Quality", "Length reward", "Ended"]
    kept = [k for k in range(len(columns)) if any(_known(row[k]) for row in rows)]
    shown = [[row[k] for k in kept] for row in rows]
    return Table("Files of responses.", [columns[k] for k in kept], shown, digits=2, file="responses")


def judged_table(judged: Sequence[Judged]) -> Table:
    """Judged comparisons: wins and win score with intervals, what swapping the answers shows of the judge."""
    rows = []
    for one in judged:
        known = [pair.preference for pair in one.pairs if pair.preference is not None]
        verdicts = np.sign(np.array(known) - 1.5)
        content = one.content
        counts = [int((verdicts == sign).sum()) for sign in (1, 0, -1)]
        if not known:
            counts = [content.get(name) for name in ("wins", "ties", "losses")]  # type: ignore[misc]
        tokens = [mean_figure([len(getattr(p, side)) for p in one.pairs]) for side in ("candidate", "baseline")]
        shares = [content.get(name) for name in ("disagreement", "first_place_preference")]
        rows.append(
            [one.candidate, one.baseline, one.judge, len(known) or content.get("prompts"), *counts,
             mean_figure([50.0 + 100.0 * v for v in verdicts]), *tokens, *(Percent(share) for share in shares)]
        )  # fmt: skip
    columns = ["Candidate", "Baseline", "Judge", "Prompts", "Wins", "Ties", "Losses", "Win score", "Characters",
               "Characters of the baseline", "Orders differ", "First place preferred"]  # fmt: skip
    note = "The win score is 50 + 100 (wins - losses) / prompts: 50 is as good as the baseline."
    return Table("Judged comparisons.", columns, rows, note, digits=1, file="judgements")


def win_rate_tables(win_rates: Sequence[WinRates]) -> list[Table]:
    """Win rates of systems, plain and length-controlled, and the paired tests between them."""
    rows, tests = [], []
    for one in win_rates:
        for system in one.systems:
            controlled = system.get("lc_win_rate") or {}
            figures = [system.get("win_rate"), system.get("win_score")]
            figures += [controlled.get(name) for name in ("length_only", "difficulty", "joint")]
            figures += [system.get("mean_tokens"), system.get("mean_characters")]
            rows.append([str(system.get("generator", one.name)), system.get("n"), *map(_figure, figures)])
        for pair in one.comparisons:
            score = pair.get("win_score") or {}
            p_values = [score.get(name) for name in ("sign_test", "permutation_test", "bootstrap_test")]
            names = f"{pair.get('first')} against {pair.get('second')}"
            tests.append([names, pair.get("n"), _figure(score.get("difference")), *p_values])
    columns = ["System", "Prompts", "Win rate", "Win score", "LC: length only", "LC: difficulty", "LC: joint",
               "Tokens or words", "Characters"]  # fmt: skip
    kept = [k for k in range(len(columns)) if any(_known(row[k]) for row in rows)]
    shown = [[row[k] for k in kept] for row in rows]
    tables = [
        Table(
            "Win rates in percent, against one baseline.", [columns[k] for k in kept], shown, digits=1, file="win_rates"
        )
    ]
    if tests:
        heads = ["Systems", "Prompts", "Difference of win scores", "Sign test", "Permutation test", "Bootstrap test"]
        note = "The last three columns are two-sided p-values of paired tests over prompts."
        tables.append(Table("Paired comparisons.", heads, tests, note, digits=3, file="paired_tests"))
    return tables


def sweep_table(sweep: Sweep) -> Table:
    """Every run of a sweep: what it varied, how it ended, its last figures, its error."""
    varied = list(dict.fromkeys(name for row in sweep.rows for name in row.get("varied") or {}))
    figures = list(dict.fromkeys(name for row in sweep.rows for name in row.get("figures") or {}))
    rows = []
    for row in sweep.rows:
        settings, last = row.get("varied") or {}, row.get("figures") or {}
        cells = [_shown(settings.get(name)) for name in varied] + [last.get(name) for name in figures]
        rows.append([str(row.get("name", "")), str(row.get("status", "")), *cells, str(row.get("error") or "")])
    columns = ["Run", "Status", *varied, *(name.capitalize() for name in figures), "Error"]
    return Table(f"Runs of {sweep.name} (odin-rm {sweep.command}).", columns, rows, digits=3, folded=len(rows) > 30)


def settings_tables(described: Sequence[Described]) -> list[Table]:
    """What differs between the settings, and what they share; one thing has a single table."""
    held = [one for one in described if one.settings]
    if not held:
        return []
    names = list(dict.fromkeys(name for one in held for name in one.settings if name not in _NOT_SHOWN))
    values = {name: [_shown(one.settings.get(name)) for one in held] for name in names}
    if len(held) == 1:
        rows = [[name, shown[0]] for name, shown in values.items()]
        return [Table(f"Settings of {held[0].name}.", ["Setting", held[0].name], rows, folded=True)]
    differing = [[name, *shown] for name, shown in values.items() if len(set(shown)) > 1]
    shared = [[name, shown[0]] for name, shown in values.items() if len(set(shown)) == 1]
    tables = []
    if differing:
        columns = ["Setting", *(one.name for one in held)]
        tables.append(Table("Settings that differ.", columns, differing, file="settings"))
    if shared:
        caption = "Settings that are the same" + ("." if differing else ": all of them.")
        tables.append(Table(caption, ["Setting", "Value"], shared, folded=True))
    return tables


def environment_table(described: Sequence[Described]) -> Table | None:
    """Versions and machine of each; a single column where all are the same."""
    held = [one for one in described if one.environment]
    if not held:
        return None
    flat = [_flat(one.environment) for one in held]
    names = list(dict.fromkeys(name for one in flat for name in one))
    if all(one == flat[0] for one in flat):
        whom = held[0].name if len(held) == 1 else f"all {len(held)}"
        return Table(f"Environment of {whom}.", ["Item", "Value"], [[name, flat[0][name]] for name in names])
    rows = [[name, *(one.get(name, "") for one in flat)] for name in names]
    return Table("Environments.", ["Item", *(one.name for one in held)], rows)


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in environment.items():
        parts = value.items() if isinstance(value, Mapping) else [(name, value)]
        out |= {str(key).replace("_", " "): str(part) for key, part in parts if part is not None}
    return out


def _shown(value: Any) -> str:
    """A setting as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = (
        f"{value:g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else json.dumps(value, default=str)
    )
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"


def _figure(value: Any) -> Figure | None:
    if isinstance(value, Mapping):
        return Figure(value.get("value"), value.get("low"), value.get("high"))
    return None


def _known(value: Any) -> bool:
    """Whether a cell says something."""
    if isinstance(value, Percent):
        return _known(value.share)
    return value.value is not None if isinstance(value, Figure) else value not in (None, "")


def by_kind(material: Material) -> list[tuple[str, list[Described]]]:
    """Things whose settings compare: training runs of one kind, everything else by what it is."""
    kinds: list[tuple[str, Callable[[Described], bool]]] = [
        ("Reward models", lambda one: isinstance(one, TrainingRun) and one.kind == "reward"),
        ("Policies", lambda one: isinstance(one, TrainingRun) and one.kind == "rl"),
        ("Policy training", lambda one: isinstance(one, TrainingRun) and one.kind == "policy"),
        ("Other", lambda one: not isinstance(one, TrainingRun)),
    ]
    found = [(title, [one for one in material.described if test(one)]) for title, test in kinds]
    return [(title, held) for title, held in found if held]
