"""What to do after a command that went well: the next command line, with the paths of this one.

Words in capitals are for the user to replace; everything else can be pasted as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Words = list[str]
NOTHING: Words = []
HELD_OUT = "HELD_OUT.jsonl"
"""What to audit on where the command had no other rows than those that it fitted to, which flatter the model."""


def _reward(c: Any) -> Words:
    if c.dry_run:
        return NOTHING
    run = Path(c.output_dir)
    # What --eval_fraction held out stands in no file.
    return _line("audit", model=run / "model", dataset=c.eval_dataset or HELD_OUT, output=run / "audit")


def _pairs(c: Any) -> Words:
    return _line("dpo", model="POLICY", dataset=c.output, output="runs/dpo")


def _audit(c: Any) -> Words:
    if c.scores:
        return _page(Path(c.output) / "report.html")
    from odin_rm.model.info import is_reward_model_folder

    models = [place for place in (*reversed(c.compare), c.model) if place]
    ours = [place for place in models if is_reward_model_folder(place) or is_reward_model_folder(Path(place) / "model")]
    if ours:
        return _line("export", model=ours[0], output="exported")
    return _line("reward", model="BACKBONE", dataset="TRAIN.jsonl", output="runs/odin")


def _probe(c: Any) -> Words:
    return _line("audit", model=c.model, dataset=c.dataset, output="audit")


def _best_of_n(c: Any) -> Words:
    return _line("sft", model="POLICY", dataset=Path(c.output) / "chosen.jsonl", output="runs/sft")


def _calibrate(c: Any) -> Words:
    if c.scores:
        return _line("audit", scores=Path(c.output) / "scores.jsonl", output=Path(c.output) / "audit")
    model = c.output if c.fold else c.model
    flags = {"calibration": Path(c.output) / "calibration.json"} if c.output and not c.fold else {}
    return _line("audit", model=model, dataset=HELD_OUT, **flags, output="audit")


def _certify(c: Any) -> Words:
    return _line("export", model="MODEL", certificate=Path(c.output) / "certificate.json", output="exported")


def _export(c: Any) -> Words:
    return _line("score", model=c.output, input="ANSWERS.jsonl", output="scored.jsonl")


def _score(c: Any) -> Words:
    return _line("audit", model=c.model, dataset="PAIRS.jsonl", output="audit")


def _sft(c: Any) -> Words:
    run = Path(c.output_dir)
    return _line("rl", model=run / "policy", reward="REWARD_MODEL", prompts=c.dataset, output="runs/rl")


def _dpo(c: Any) -> Words:
    return _line(
        "generate", model=Path(c.output_dir), prompts="PROMPTS.jsonl", output=Path(c.output_dir) / "outputs.json"
    )


def _rl(c: Any) -> Words:
    run = Path(c.output_dir)
    return _line("generate", model=run, prompts=c.prompts, output=run / "outputs.json")


def _generate(c: Any) -> Words:
    return _line("judge", candidate=c.output, baseline="BASELINE.json", judge="JUDGE", output="judged")


def _judge(c: Any) -> Words:
    if c.dry_run:
        return NOTHING
    return _line("win-rate", annotations=c.output, output=Path(c.output) / "win_rate.json")


def _win_rate(c: Any) -> Words:
    return _line("report", runs=c.output, output="report.html")


def _evaluate(c: Any) -> Words:
    return _line("pareto", runs=c.output, output=Path(c.output) / "fronts")


def _sweep(c: Any) -> Words:
    if c.command in ("rl", "sft", "dpo"):
        return _line("evaluate", runs=c.output, baseline="BASELINE.json", judge="JUDGE", output="evaluation")
    return _line("report", runs=c.output, output="report.html")


def _pareto(c: Any) -> Words:
    return _line("report", runs=c.output, output="report.html") if c.runs else NOTHING


def _study(c: Any) -> Words:
    folder = c.results or c.output
    rated = (Path(folder) / "annotations.json").is_file()
    return _line("win-rate", annotations=folder, output=Path(folder) / "win_rate.json") if rated else NOTHING


def _quickstart(c: Any) -> Words:
    folder = Path(c.output)
    return _line("export", model=folder / "odin" / "model", output=folder / "exported")


def _reproduce(c: Any) -> Words:
    return NOTHING if c.preset == "paper" else _page(Path(c.output) / "report.html")


def _report(c: Any) -> Words:
    return _page(Path(c.output))


def _doctor(c: Any) -> Words:
    return NOTHING if c.json else _line("quickstart", output="quickstart")


def _rivals(c: Any) -> Words:
    return _page(Path(c.output) / "report.html")


def _nothing(c: Any) -> Words:
    return NOTHING


AFTER: dict[str, Callable[[Any], Words]] = {
    "quickstart": _quickstart,
    "reward": _reward,
    "pairs": _pairs,
    "score": _score,
    "audit": _audit,
    "probe": _probe,
    "best-of-n": _best_of_n,
    "certify": _certify,
    "benchmark": _nothing,
    "calibrate": _calibrate,
    "export": _export,
    "sft": _sft,
    "dpo": _dpo,
    "rl": _rl,
    "generate": _generate,
    "judge": _judge,
    "win-rate": _win_rate,
    "evaluate": _evaluate,
    "retention": _nothing,
    "rivals": _rivals,
    "sweep": _sweep,
    "pareto": _pareto,
    "reproduce": _reproduce,
    "report": _report,
    "study": _study,
    "serve": _nothing,
    "doctor": _doctor,
    "cache": _nothing,
    "completion": _nothing,
}
"""The config of each command to the words of the next line; none where nothing follows from it alone."""


def _line(command: str, **flags: object) -> Words:
    return ["odin-rm", command, *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]


def _page(page: Path) -> Words:
    """Opens a page in a browser, on any system."""
    return ["python", "-m", "webbrowser", str(page)]
