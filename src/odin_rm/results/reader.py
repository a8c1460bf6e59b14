"""Reading what a report is about: each path is recognised by what it holds, not by its name or by who wrote it.

A run that is still going may have half a last line in its logs; that line is left out and said. Anything else that
cannot be read is an error: a report must not silently show less than it was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError
from odin_rm.core.files import read_rows
from odin_rm.evaluation.audit import AuditResult
from odin_rm.evaluation.records import RunPoint
from odin_rm.model.info import INFO_FILE
from odin_rm.results.annotation_rows import parse_preference
from odin_rm.results.contents import (
    HOLDERS,
    METRICS,
    SAMPLES,
    audit_of,
    kind_of_folder,
    number_of,
    read_content,
    read_environment,
    read_log,
    read_object,
    read_settings,
    read_sweep,
)
from odin_rm.results.points import read_experiment, read_fronts
from odin_rm.results.records import (
    Described,
    Fronts,
    Judged,
    JudgedPair,
    Response,
    Sweep,
    TextFile,
    TrainingRun,
    WinRates,
)
from odin_rm.results.run_records import reward_arm

Item = TrainingRun | AuditResult | TextFile | Judged | WinRates | Sweep | Fronts | Described
Row = Mapping[str, Any]

_REWARD_FIGURES = ("ranking_loss", "quality_length_correlation", "eval_pearson")
_POLICY_FIGURES = ("mean_quality_reward", "watch_quality", "mean_response_tokens")


class Reader:
    """Reads paths; ``notes`` collects what a reader of the page must know of them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def read(self, path: str | Path, name: str) -> list[Item]:
        """Everything that a path holds.

        Args:
            path: a folder or a file.
            name: what to call it.

        Raises:
            DataError: it is no run and no result, or it cannot be read.
        """
        place = Path(path)
        if not place.exists():
            raise DataError("there is no such file or folder", where=str(path), fix="Check the path after --runs.")
        if place.is_file():
            return self._read_file(place, name)
        kind = kind_of_folder(place)
        if kind is None:
            raise _no_run(place)
        return self._read_folder(place, name, kind)

    # ---- folders -----------------------------------------------------------------------------------------------------

    def _read_folder(self, place: Path, name: str, kind: str) -> list[Item]:
        if kind == "training":
            return [self._training_run(place, name)]
        if kind == "sweep":
            return [self._sweep(place, name)]
        if kind == "evaluation":
            return self._evaluation(place, name)
        if kind == "judged":
            return [self._judged(place, name)]
        holder = next(place / file for file in HOLDERS[kind] if (place / file).is_file())
        content = read_object(holder)
        items = self._read_content(holder, name, content)
        if kind == "experiment":
            items += self._runs_of_experiment(place, content)
        return [*items, Described(name, read_settings(place), read_environment(place))]

    def _training_run(self, place: Path, name: str) -> TrainingRun:
        rows = [row for row in self._log(place / METRICS) if isinstance(row.get("step"), (int, float))]
        if not any(isinstance(value, float) for row in rows for value in row.values()):
            fix = "Wait until the run has logged its first step."
            raise DataError("holds no logged step yet", where=str(place / METRICS), fix=fix)
        names = set().union(*rows)
        rl, scores = (any(figure in names for figure in known) for known in (_POLICY_FIGURES, _REWARD_FIGURES))
        texts = []
        if (place / SAMPLES).is_file() and (place / SAMPLES).stat().st_size:
            texts = [_response(row) for row in self._log(place / SAMPLES) if "response" in row]
        run = TrainingRun(
            name,
            read_settings(place),
            read_environment(place),
            kind="rl" if rl else "reward" if scores else "policy",
            metrics=rows,
            texts=texts,
            audit=_audit_of_run(place, name),
            state=_state(rows),
        )
        if run.state != "finished":
            self.notes.append(f"{name}: the run is {run.state} (step {run.steps:,}).")
        return run

    def _log(self, path: Path) -> list[Row]:
        """The rows of a log; a last line that is cut off is left out and noted."""
        rows, cut = read_log(path)
        if cut:
            self.notes.append(f"{path.parent.name}/{path.name}: the last line is cut off and left out.")
        return rows

    def _judged(self, place: Path, name: str) -> Judged:
        content = read_object(place / "judge.json") if (place / "judge.json").is_file() else {}
        rows: list[Row] = []
        files = sorted(path for path in place.iterdir() if path.name.split(".")[0] == "annotations")
        for file in files:
            rows += [row for _, row in read_rows(file)]
        if not files:
            self.notes.append(f"{name}: there is no annotations.json, so no answers are shown.")
        where = str(files[0] if files else place)
        return _judged(name, rows, where, content, read_settings(place), read_environment(place))

    def _evaluation(self, place: Path, name: str) -> list[Item]:
        """The runs of ``odin-rm evaluate``: their judgements, and their win rates where they are made."""
        items: list[Item] = []
        for entry in _list(read_object(place / "evaluation.json"), "runs", place / "evaluation.json"):
            if entry.get("status") == "done":
                items.append(self._judged(place / str(entry.get("judged", "")), str(entry.get("name", name))))
            else:
                self.notes.append(f"{name}: {entry.get('name', 'a run')} is {entry.get('status', 'not done')}.")
        if (place / "win_rates.json").is_file():
            items += self._read_file(place / "win_rates.json", name)
        return [*items, Described(name, read_settings(place), read_environment(place))]

    def _sweep(self, place: Path, name: str) -> Sweep:
        rows, points = [], []
        for one in read_sweep(place):
            row = dict(one.row)
            if one.status == "done" and (one.folder / METRICS).is_file():
                run = self._training_run(one.folder, one.name)
                row["figures"] = _last_figures(run)
                point = _point_of(run, row["figures"], one.varied)
                points += [] if point is None else [point]
            rows.append(row)
        command = str(read_object(place / "sweep.json").get("command", ""))
        return Sweep(name, read_settings(place), read_environment(place), command, rows, points)

    def _runs_of_experiment(self, place: Path, content: Row) -> list[Item]:
        """The reward runs behind a testbed experiment; its policies are points already."""
        models = content.get("reward_models")
        names = list(models) if isinstance(models, Mapping) else []
        return [self._training_run(place / one, str(one)) for one in names if (place / str(one) / METRICS).is_file()]

    # ---- files -------------------------------------------------------------------------------------------------------

    def _read_file(self, path: Path, name: str) -> list[Item]:
        if path.name in (METRICS, SAMPLES, "config.yaml"):
            raise DataError("is one file of a run", where=str(path), fix=f"Give the run folder: {path.parent}.")
        if path.name.lower().removesuffix(".gz").endswith(".json") and not path.name.endswith(".gz"):
            content = read_content(path)
            if isinstance(content, Mapping) and "data" not in content:
                return self._read_content(path, name, content)
        rows = list(self._log(path))
        if "output_1" in rows[0]:
            return [_judged(name, rows, str(path), {}, {}, {})]
        kinds = (("instruction", "output"), ("prompt", "response"), ("response_tokens", "quality"))
        if not any(all(field in rows[0] for field in kind) for kind in kinds):
            fix = "Give a run folder, a file that odin-rm wrote, or rows of instruction and output."
            raise DataError("its rows are neither responses nor judgements", where=str(path), fix=fix)
        note = path.with_name(path.name + ".settings.json")
        content = read_object(note) if note.is_file() else {}
        settings = content.get("settings", {})
        return [TextFile(name, settings, content.get("environment", {}), [_response(row) for row in rows])]

    def _read_content(self, path: Path, name: str, content: Row) -> list[Item]:
        """What a JSON object of ours holds."""
        if isinstance(content.get("audits"), Mapping):
            return [audit_of(path, audit, str(key)) for key, audit in content["audits"].items()]
        if "accuracy_length_balanced" in content:
            return [audit_of(path, content, "")]
        if isinstance(content.get("systems"), list) or "lc_win_rate" in content:
            systems = content.get("systems", [content])
            return [WinRates(name, systems, content.get("comparisons", []))]
        if "reward_models" in content:
            models = _object(content, "reward_models")
            audits = [audit_of(path, audit, str(key)) for key, audit in models.items()]
            return [*audits, *read_experiment(path, name, content)]
        if isinstance(content.get("points"), list):
            return [read_fronts(path, name, content)]
        if "win_score" in content and isinstance(content.get("a"), Mapping):
            raise DataError("is one file of a study", where=str(path), fix=f"Give its folder: {path.parent}.")
        raise DataError(
            "is no result of odin-rm that a report shows",
            where=str(path),
            fix="Give a run folder, an audit, win rates, fronts, judgements or responses.",
        )


# ---- reading and recognising -----------------------------------------------------------------------------------------


def _no_run(place: Path) -> DataError:
    inside = sorted(child.name for child in place.iterdir() if child.is_dir() and kind_of_folder(child))
    fix = f"Give the folders of runs in it: {', '.join(inside[:4])}." if inside else "Give a run folder or a result."
    return DataError("holds no run", where=str(place), fix=fix)


def _list(content: Row, name: str, path: Path) -> list[Row]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise DataError(f"'{name}' is no list of objects", where=str(path), fix="Make it again.")
    return value


def _state(rows: Sequence[Row]) -> str:
    stopped = next((row["stopped_by"] for row in reversed(rows) if row.get("stopped_by")), None)
    if stopped is not None:
        return f"stopped by its watch ({str(stopped).replace('_', ' ')})"
    return "finished" if any(row.get("finished") for row in rows) else "not finished"


def _audit_of_run(place: Path, name: str) -> AuditResult | None:
    if (place / "audit.json").is_file():
        return audit_of(place / "audit.json", read_object(place / "audit.json"), name)
    info = place / "model" / INFO_FILE
    content = read_object(info).get("audit") if info.is_file() else None
    return audit_of(info, content, name) if content else None


def _words(value: Any) -> str:
    """A prompt or response as text: a string, chat messages turn by turn, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) for m in value):
        if len(value) == 1:
            return value[0]["content"]
        return "\n\n".join(f"{m.get('role', '')}: {m['content']}" for m in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _response(row: Row) -> Response:
    tokens = number_of(row.get("response_tokens", row.get("output_tokens")))
    step = number_of(row.get("step"))
    ended = row.get("ended")
    return Response(
        prompt=_words(row.get("prompt", row.get("instruction"))),
        response=_words(row.get("response", row.get("output"))),
        tokens=None if tokens is None else int(tokens),
        **{name: number_of(row.get(name)) for name in ("quality", "length_reward", "held_out")},
        ended=ended if isinstance(ended, bool) else None,
        step=None if step is None else int(step),
        watched="step" in row and "source" not in row,
    )


def _judged(name: str, rows: Sequence[Row], where: str, content: Row, settings: Row, environment: Row) -> Judged:
    pairs = []
    for number, row in enumerate(rows, start=1):
        lacking = [field for field in ("instruction", "output_1", "output_2") if field not in row]
        if lacking:
            fix = "Give annotations as AlpacaEval or odin-rm judge writes them."
            raise DataError(f"field '{lacking[0]}' is missing", where=f"{where}, row {number}", fix=fix)
        prompt, baseline, candidate = (_words(row[field]) for field in ("instruction", "output_1", "output_2"))
        preference = parse_preference(Path(where), number, dict(row)) if "preference" in row else None
        pairs.append(JudgedPair(prompt, baseline, candidate, preference))
    first = rows[0] if rows else {}
    sides = {
        side: str(_object(content, side).get("generator") or first.get(field) or side)
        for side, field in (("candidate", "generator_2"), ("baseline", "generator_1"))
    }
    judge = str(_object(content, "judge").get("name") or first.get("annotator") or "unknown")
    return Judged(name, settings, environment, **sides, judge=judge, content=content, pairs=pairs)


def _object(content: Row, name: str) -> Row:
    value = content.get(name)
    return value if isinstance(value, Mapping) else {}


def _last_figures(run: TrainingRun) -> dict[str, float]:
    """What a run of a sweep ends with: its last look or log, or the audit of its reward model."""
    figures: dict[str, float | None] = {}
    logged: dict[str, tuple[str, ...]]
    if run.kind == "reward":
        if run.audit is not None:
            figures = {name: run.audit[name].value for name in ("accuracy", "pearson")}
        logged = {"accuracy": ("eval_accuracy", "accuracy"), "pearson": ("eval_pearson", "quality_length_correlation")}
    else:
        logged = {"tokens": ("watch_mean_tokens", "mean_response_tokens"), "loss": ("loss",)}
        if run.kind == "rl":
            logged |= {"quality": ("watch_quality", "mean_quality_reward"), "kl": ("watch_kl", "kl_to_reference")}
    for name, columns in logged.items():
        if figures.get(name) is None:
            figures[name] = next((v for column in columns if (v := run.last(column)) is not None), None)
    return {name: value for name, value in figures.items() if value is not None}


def _point_of(run: TrainingRun, figures: Row, varied: Row) -> RunPoint | None:
    if run.kind != "rl" or not {"tokens", "quality"} <= figures.keys():
        return None
    return RunPoint(
        arm=reward_arm(run.settings) or "reward",
        mean_length=figures["tokens"],
        score=figures["quality"],
        name=run.name,
        algorithm=str(run.settings.get("algorithm", "")),
        settings=dict(varied),
    )
