"""Responses, judgements and win rates of every policy of a sweep, against one baseline, in one command.

The output folder holds ``runs/NAME/outputs.json`` and ``runs/NAME/judged/`` of each policy, as ``odin-rm generate`` and
``odin-rm judge`` write them, ``win_rates.json`` of all together, and ``evaluation.json``, from which ``odin-rm pareto``
goes on. The same command goes on where an earlier one stopped, and does nothing again that is there: responses hold as
long as policy, prompts and decoding are the same, judgements as long as judge and texts are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.console import remark
from odin_rm.core.errors import DataError, ModelError, OutputError, RolloutError
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record, json_safe
from odin_rm.core.reading import read_json, read_yaml
from odin_rm.core.shared_options import EndpointOptions
from odin_rm.judging.scored import RewardModelJudge, folder_state
from odin_rm.results.outputs import ModelOutputs, read_outputs
from odin_rm.results.run_records import reward_arm
from odin_rm.runs.output_folder import OutputFolder, check_output_folder
from odin_rm.workflows.evaluate.config import EvaluateConfig
from odin_rm.workflows.evaluate.find import Candidate, find_candidates
from odin_rm.workflows.generate.config import GenerateConfig
from odin_rm.workflows.generate.run import run_generate
from odin_rm.workflows.judge.config import JudgeConfig
from odin_rm.workflows.judge.run import make_judge, run_judge
from odin_rm.workflows.win_rate.config import WinRateConfig
from odin_rm.workflows.win_rate.run import run_win_rate

EVALUATION, WIN_RATES = "evaluation.json", "win_rates.json"
FIGURES = ("win_score", "win_rate", "mean_tokens", "mean_characters")
_DECIDES = ("max_new_tokens", "temperature", "top_p", "seed", "chat_template", "dtype")
_ENDPOINT = [item.name for item in fields(EndpointOptions)]
# How fast, where to and which runs; everything else makes another evaluation.
_ASIDE = (*_ENDPOINT, "runs", "output", "overwrite", "device", "rollout_tokens", "microbatch_tokens")
_FOREIGN = ("metrics.jsonl", "summary.json", "sweep.json", "audit.json", "annotations.json", "policy", "model")


def run_evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate every run.

    Args:
        config: the settings.

    Returns:
        The content of ``evaluation.json``: ``baseline``, ``judge``, ``prompts``; ``left_out``, counts by reason;
        ``runs``, each with ``name``, ``place``, ``status`` (``done`` or ``failed``), ``error`` (one line, where it
        failed), ``settings``, ``arm``, ``judged`` (its folder) and the figures of ``win_rates.json``.

    Raises:
        OdinError: bad input, a judge that cannot judge, a folder with another evaluation, or no run that went well.
            What belongs to one run only (its policy, an empty response) is noted and the others go on.
        RunInterrupted: stopped by a signal; what was written and judged is kept.
    """
    candidates, left_out = find_candidates(config.runs)
    baseline = read_outputs(config.baseline)
    folder = _check_folder(config)
    judge = make_judge(_judge_config(config, folder, Path(config.baseline), config.baseline))
    if isinstance(judge, RewardModelJudge):
        judge.prepare([])  # a model that cannot be loaded is no fault of the runs, and must not cost their responses
    if config.tokenizer is not None:
        from odin_rm.model.scoring import load_tokenizer

        load_tokenizer(config.tokenizer, trust_remote_code=config.trust_remote_code)  # it is needed last
    with OutputFolder(folder, "evaluate") as output:
        output.claim(resume=True)
        return _evaluate_into(config, folder, candidates, left_out, baseline)


def _evaluate_into(
    config: EvaluateConfig,
    folder: Path,
    candidates: Sequence[Candidate],
    left_out: Counter[str],
    baseline: ModelOutputs,
) -> dict[str, Any]:
    settings = json_safe(asdict(config))
    atomic_write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    atomic_write_json(folder / "environment.json", environment_record())
    rows = []
    for number, candidate in enumerate(candidates, start=1):
        remark(f"{number}/{len(candidates)} {candidate.name}")
        rows.append(_evaluate_one(config, folder, candidate, baseline))
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise DataError(f"no run could be evaluated ({rows[0]['error']})", where=rows[0]["name"], fix="Mend the runs.")
    _add_win_rates(config, folder, done)
    content = {
        "baseline": baseline.generator,
        "judge": done[0]["judge"],
        "prompts": len(baseline.answers),
        "left_out": dict(left_out + Counter({"runs that failed": len(rows) - len(done)})),
        "runs": [{name: value for name, value in row.items() if name != "judge"} for row in rows],
    }
    atomic_write_json(folder / EVALUATION, content)
    return content


def _evaluate_one(config: EvaluateConfig, folder: Path, candidate: Candidate, baseline: ModelOutputs) -> dict[str, Any]:
    """Responses and judgements of a run, or why there are none."""
    place = folder / "runs" / re.sub(r"[^\w.=+-]", "-", candidate.name)
    row: dict[str, Any] = {
        "name": candidate.name,
        "place": str(candidate.place),
        "status": "done",
        "error": None,
        "arm": reward_arm(candidate.settings),
        "settings": json_safe(candidate.settings),
        "judged": str((place / "judged").relative_to(folder)),
    }
    try:
        outputs = _renamed(place, candidate) if candidate.has_outputs else _respond(config, place, candidate, baseline)
        report = run_judge(_judge_config(config, place, outputs, config.baseline))
    except (DataError, ModelError, RolloutError) as error:
        remark(f"  left out: {error}")
        return row | {"status": "failed", "error": str(error)}
    return row | {"judge": report["judge"]["name"]}


def _respond(config: EvaluateConfig, place: Path, candidate: Candidate, baseline: ModelOutputs) -> Path:
    """The file of a policy's responses, written unless it is there already."""
    output, note = place / "outputs.json", place / "asked.json"
    asked = json_safe({name: getattr(config, name) for name in _DECIDES})
    asked |= {"policy": folder_state(str(candidate.policy)), "prompts": list(baseline.answers)}
    if output.is_file() and _json(note) == asked:
        return output
    if _json(note) not in (None, asked):  # half of another file is of no use
        output.with_name(output.name + ".partial.jsonl").unlink(missing_ok=True)
    output.unlink(missing_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    atomic_write_json(note, asked)
    decided = {name: getattr(config, name) for name in _DECIDES}
    run_generate(
        GenerateConfig(
            model=str(candidate.policy),
            prompts=config.baseline,
            output=str(output),
            generator=candidate.name,
            rollout_tokens=config.rollout_tokens,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            **decided,
        )
    )
    return output


def _renamed(place: Path, candidate: Candidate) -> Path:
    """A file of outputs under the name that no other one has."""
    given = read_outputs(candidate.place, empty=True)
    rows = [
        {"instruction": instruction, "output": answer, "generator": candidate.name}
        | ({"dataset": given.datasets[instruction]} if instruction in given.datasets else {})
        for instruction, answer in given.answers.items()
    ]
    atomic_write_json(place / "outputs.json", rows)
    return place / "outputs.json"


def _judge_config(config: EvaluateConfig, place: Path, outputs: Path, baseline: str) -> JudgeConfig:
    same = ("template", "tie_margin", "microbatch_tokens", "max_tokens", "dtype", "device", "trust_remote_code")
    return JudgeConfig(
        candidate=str(outputs),
        baseline=baseline,
        judge=config.judge,
        output=str(place / "judged"),
        overwrite_output_dir=True,
        empty_outputs="lose",
        **{name: getattr(config, name) for name in (*same, *_ENDPOINT)},
    )


def _add_win_rates(config: EvaluateConfig, folder: Path, done: Sequence[dict[str, Any]]) -> None:
    """Write ``win_rates.json`` and put the main figures into the rows."""
    content = run_win_rate(
        WinRateConfig(
            annotations=[str(folder / row["judged"] / "annotations.json") for row in done],
            output=str(folder / WIN_RATES),
            tokenizer=config.tokenizer,
            on_bad_row="skip",
            per_prompt=True,
            bootstrap_samples=config.bootstrap_samples,
            seed=config.seed,
            trust_remote_code=config.trust_remote_code,
            overwrite_output=True,
        )
    )
    systems = {system["generator"]: system for system in content.get("systems", [content])}
    for row in done:
        system = systems[row["name"]]
        row |= {figure: system[figure] for figure in ("n", *FIGURES, "lc_win_rate")}


def _check_folder(config: EvaluateConfig) -> Path:
    folder = check_output_folder(config.output, "evaluate", resume=True)
    foreign = [name for name in _FOREIGN if (folder / name).exists()]
    if foreign:
        what = f"the output folder holds something else ({', '.join(foreign)})"
        raise OutputError(what, where=str(folder), fix="Choose another folder.")
    there = folder / "config.yaml"
    if there.is_file() and not config.overwrite:
        try:
            before = read_yaml(there)
        except DataError:
            before = None
        now = json_safe(asdict(config))
        if not isinstance(before, dict) or not {"baseline", "judge"} <= before.keys():
            raise OutputError("the output folder holds another run", where=str(folder), fix="Choose another folder.")
        changed = [name for name in now if name not in _ASIDE and before.get(name) != now[name]]
        if changed:
            name = changed[0]
            what = f"the output folder holds an evaluation with {name} {before.get(name)!r}, not {now[name]!r}"
            raise OutputError(what, where=str(folder), fix="Choose another folder, or pass --overwrite.")
    return folder


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError:
        return None
