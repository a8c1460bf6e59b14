"""CONTRIBUTING's recipes for a new objective and a new attribute, carried out on a copy of the package.

Each test counts the files that it had to touch, and then uses what it added from the command line: training with
held-out figures, going on from a checkpoint, an audit, scores, the report.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odin_rm.testbed.annotator import Annotator, make_preferences
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, WorldSettings

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "odin_rm"

TOY_OBJECTIVE = '''
"""``--objective toy``: the ranking loss, and the mean reward held at 0 by a multiplier."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.registry import ToySettings


class Toy(Objective):
    """``L_R + m * mean(r_Q)``; after each step ``m`` grows by ``rate * mean(r_Q)``."""

    settings: ToySettings

    def __init__(self, settings: ToySettings) -> None:
        super().__init__(settings)
        self.multiplier = torch.zeros((), dtype=torch.float64)

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The ranking loss and the multiplied mean."""
        mean = scores.quality.mean()
        return ranked(scores, batch).plus(self.multiplier * mean, toy_mean=mean, toy_multiplier=self.multiplier)

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """Let the multiplier grow."""
        self.multiplier = self.multiplier + self.settings.toy_rate * scores.quality.mean()

    def state_dict(self) -> dict[str, Tensor]:
        """The multiplier."""
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take it over."""
        self.multiplier = state["multiplier"]
'''
TOY_SETTINGS = '''
@dataclass(frozen=True)
class ToySettings:
    """Options of ``--objective toy``."""

    toy_rate: float = option(0.1, "How fast the multiplier grows.", at_least=0)


RANKING_LOSS = '''
TOY_ENTRY = """OBJECTIVES: dict[str, ObjectiveSpec] = {
    "toy": ObjectiveSpec(
        place="odin_rm.objectives.toy:Toy",
        summary="a mean of 0",
        card="One head, whose mean was held at 0.",
        export_card="Its mean was held at 0.",
        settings=ToySettings,
        metrics=(*WATCHED, Metric("toy_mean", "Mean that is held at 0", "reward units", held_out="eval_toy_mean")),
    ),
"""
TOY_ATTRIBUTE = """Attribute(TOKENS, "response tokens", "100 tokens", 100, None),
        Attribute("letters_e", "letters e", "letter e", 1, lambda view: view.text.count("e")),
"""


class Copy:
    """A copy of the package in a folder with a tiny model and data; commands run with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / "src" / "odin_rm", ignore=shutil.ignore_patterns("__pycache__"))
        self.package = folder / "src" / "odin_rm"
        world = World(WorldSettings())
        save_tiny_model(folder / "model", 0, hidden=32, layers=1, heads=2)
        for name, pairs, seed, split in (("train", 48, 0, "train"), ("eval", 40, 1, "test")):
            rows = make_preferences(world, Annotator(world), pairs, seed, split=split)
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a passage of a file that holds it once."""
        path = self.package / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")

    def touched(self) -> set[str]:
        """Files that are new or differ from the package's."""
        files = {str(path.relative_to(self.package)) for path in self.package.rglob("*") if path.is_file()}
        files = {file for file in files if "__pycache__" not in file}
        return {
            file
            for file in files
            if not (PACKAGE / file).is_file() or (PACKAGE / file).read_bytes() != (self.package / file).read_bytes()
        }

    def commands(self, *lines: str) -> None:
        """Run several commands in one process."""
        code = (
            "import sys\nfrom odin_rm.cli.main import main\n"
            "for line in sys.argv[1:]:\n"
            "    if line.startswith('cp '):\n"
            "        import shutil; shutil.copytree(*line.split()[1:])\n"
            "    elif main(line.split()):\n"
            "        sys.exit(line)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src"), "ODIN_RM_CACHE": str(self.folder / "c")}
        done = subprocess.run(
            [sys.executable, "-c", code, *lines], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def json(self, file: str) -> Any:
        """The content of a JSON file."""
        return json.loads((self.folder / file).read_text(encoding="utf-8"))

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The rows of a JSON lines file."""
        return [json.loads(line) for line in (self.folder / file).read_text(encoding="utf-8").splitlines()]


TRAIN = (
    "reward --model model --dataset train.jsonl --eval_dataset eval.jsonl --batch_pairs 16 --learning_rate 1e-3 "
    "--use_cpu --disable_tqdm true --eval_strategy steps --eval_steps 3 --save_strategy steps --save_steps 3 "
    "--max_steps 6 --batch_layout padded --microbatch_tokens 4096 --cpu_products torch "
)
AUDIT = "audit --model run --dataset eval.jsonl --bootstrap_samples 20 --output audit"


def test_an_objective_is_two_files_and_a_line_of_the_guide(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    (copy.package / "objectives" / "toy.py").write_text(TOY_OBJECTIVE.lstrip(), encoding="utf-8")
    copy.edit("objectives/registry.py", "\nRANKING_LOSS = ", TOY_SETTINGS)
    copy.edit("objectives/registry.py", "OBJECTIVES: dict[str, ObjectiveSpec] = {\n", TOY_ENTRY)
    assert copy.touched() == {"objectives/toy.py", "objectives/registry.py"}

    options = f"{TRAIN} --objective toy --toy_rate 0.5 "
    copy.commands(
        f"{options} --output run",
        "cp run again",
        f"{options} --output again --resume_from_checkpoint again/checkpoints/checkpoint-3",
        AUDIT,
        "report --runs run audit --output page.html",
    )
    steps = [row for row in copy.rows("run/metrics.jsonl") if "ranking_loss" in row]
    multiplier = 0.0
    for row in steps:  # trained: the loss is what the file says, step by step, state included
        assert row["toy_multiplier"] == pytest.approx(multiplier, abs=1e-9)
        assert row["loss"] == pytest.approx(row["ranking_loss"] + multiplier * row["toy_mean"], abs=1e-5)
        multiplier += 0.5 * row["toy_mean"]
    assert abs(multiplier) > 1e-3
    held_out = [row for row in copy.rows("run/metrics.jsonl") if "eval_loss" in row]  # evaluated with the same loss
    assert len(held_out) == 2
    for row in held_out:
        expected = row["eval_ranking_loss"] + row["eval_toy_multiplier"] * row["eval_toy_mean"]
        assert row["eval_loss"] == pytest.approx(expected, abs=1e-9)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]  # resumed: with its state
    again = [row for row in copy.rows("again/metrics.jsonl") if "ranking_loss" in row]
    assert [row["toy_multiplier"] for row in again] == [row["toy_multiplier"] for row in steps]
    assert "One head, whose mean was held at 0." in (tmp_path / "run" / "model" / "README.md").read_text()
    assert copy.json("run/model/odin_rm.json")["training"]["toy_rate"] == 0.5
    assert copy.json("audit/audit.json")["accuracy"]["value"] > 0
    assert "Mean that is held at 0" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_attribute_is_one_file(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.edit("data/attributes.py", TOY_ATTRIBUTE.splitlines()[0] + "\n", TOY_ATTRIBUTE)
    copy.edit("data/attributes.py", "CARRIED = [TOKENS]", 'CARRIED = [TOKENS, "letters_e"]')
    assert copy.touched() == {"data/attributes.py"}

    pairs = copy.rows("eval.jsonl")
    texts = {(row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")}
    responses = [{"prompt": prompt, "response": response} for prompt, response in sorted(texts)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in responses), encoding="utf-8")
    copy.commands(
        f"{TRAIN} --output run",
        AUDIT,
        "score --model run --input texts.jsonl --output scored.jsonl",
        "report --runs run audit --output page.html",
    )
    scored = copy.rows("scored.jsonl")
    assert [row["letters_e"] for row in scored] == [row["response"].count("e") for row in responses]
    expected = np.corrcoef([row["quality"] for row in scored], [row["letters_e"] for row in scored])[0, 1]
    audited = copy.json("audit/audit.json")["attributes"]
    assert {"response_tokens", "letters_e"} <= set(audited)
    assert audited["letters_e"]["pooled"]["pearson"]["value"] == pytest.approx(expected, abs=1e-6)
    assert audited["letters_e"]["unit"] == "letter e"
    assert (
        audited["letters_e"]["pooled"]["pearson"]["low"] < expected < audited["letters_e"]["pooled"]["pearson"]["high"]
    )
    steps = [row for row in copy.rows("run/metrics.jsonl") if "ranking_loss" in row]
    assert all(-1 <= row["quality_letters_e_correlation"] <= 1 for row in steps)
    assert len({row["quality_letters_e_correlation"] for row in steps}) > 1
    held_out = [row for row in copy.rows("run/metrics.jsonl") if "eval_loss" in row]
    assert held_out[-1]["eval_letters_e_pearson"] == pytest.approx(expected, abs=1e-6)
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    assert "letters e" in page
    assert "Quality head and letters e" in (tmp_path / "page.html").read_text(encoding="utf-8")
