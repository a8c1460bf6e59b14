"""Model outputs in AlpacaEval's format, and two such files brought together prompt by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.files import PathLike, bad_row, json_name, read_rows


@dataclass(frozen=True)
class ModelOutputs:
    """One model's answers.

    Attributes:
        path: the file they come from.
        generator: the model's name.
        answers: instruction to answer, in the file's order.
        datasets: instruction to AlpacaEval's ``dataset`` field, where the file has it.
        rows: instruction to row number in the file.
    """

    path: str
    generator: str
    answers: Mapping[str, str]
    datasets: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of instructions and answers, whatever their order: the same outputs have the same digest."""
        digest = hashlib.sha256()
        for item in sorted(self.answers.items()):
            for text in item:
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()


@dataclass(frozen=True)
class OutputPair:
    """Both models' answers to one instruction."""

    instruction: str
    baseline: str
    candidate: str
    dataset: Any = None


def read_outputs(path: PathLike, *, empty: bool = False) -> ModelOutputs:
    """Read a file of ``instruction``, ``output`` and ``generator``; the file's name stands in for a missing generator.

    Args:
        path: the file.
        empty: whether an output may be empty, or blank, which is empty then.

    Raises:
        DataError: an unreadable file, an instruction given twice, more than one generator.
        RowError: a field is missing, not text, or empty.
    """
    answers: dict[str, str] = {}
    datasets: dict[str, Any] = {}
    rows: dict[str, int] = {}
    generator: str | None = None
    for number, row in read_rows(path):
        instruction, output = _text(path, number, row, "instruction"), _text(path, number, row, "output", empty)
        if instruction in answers:
            what = f"the instruction is that of row {rows[instruction]} again"
            raise bad_row(path, number, what, "Keep one answer per instruction.")
        name = row.get("generator")
        if isinstance(name, (list, dict)):
            raise bad_row(path, number, f"'generator' is {json_name(name)}, not text", "Give the model's name.")
        if generator is not None and name is not None and str(name) != generator:
            what = f"the generator is '{name}', but '{generator}' in the rows before"
            raise bad_row(path, number, what, "Give each model a file of its own.")
        generator = generator if name is None else str(name)
        answers[instruction], rows[instruction] = output, number
        if row.get("dataset") is not None:
            datasets[instruction] = row["dataset"]
    return ModelOutputs(str(path), generator or Path(path).name.split(".")[0], answers, datasets, rows)


def _text(path: PathLike, number: int, row: Mapping[str, Any], name: str, empty: bool = False) -> str:
    fix = "Write rows of instruction, output and generator, as AlpacaEval does."
    if name not in row:
        raise bad_row(path, number, f"field '{name}' is missing", fix)
    value = row[name]
    if not isinstance(value, str):
        raise bad_row(path, number, f"'{name}' is {json_name(value)}, not text", fix)
    if not value.strip() and not empty:
        fix = "Fill it in, or remove the row from both files."
        if name == "output":
            fix += " To let it lose in odin-rm judge: --empty_outputs lose"
        raise bad_row(path, number, f"'{name}' is empty", fix)
    return value if value.strip() else ""


def pair_outputs(candidate: ModelOutputs, baseline: ModelOutputs) -> list[OutputPair]:
    """Both models' answers side by side, in the candidate's order.

    Raises:
        DataError: the files do not answer the same instructions.
    """
    if not candidate.answers.keys() & baseline.answers.keys():
        what = f"no instruction is also in {baseline.path}: these are outputs of different prompts"
        raise DataError(what, where=candidate.path, fix="Give two models' outputs of the same prompts.")
    for here, there in ((candidate, baseline), (baseline, candidate)):
        missing = [instruction for instruction in here.answers if instruction not in there.answers]
        if missing:
            what = f"the instruction has no answer in {there.path} ({len(missing)} such in all)"
            fix = "Remove it, or answer it with both models."
            raise RowError(what, where=f"{here.path}, row {here.rows[missing[0]]}", fix=fix)
    return [
        OutputPair(instruction, baseline.answers[instruction], answer, candidate.datasets.get(instruction))
        for instruction, answer in candidate.answers.items()
    ]
