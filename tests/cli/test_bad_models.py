"""Models and checkpoints that cannot be used, and numbers that are none: one line, code 2, nothing half-written."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from odin_rm.cli.main import main
from tests.cli.conftest import PAIRS, lines

ON_MODELS = ("reward", "score", "audit", "export")


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoints_of_other_runs_and_damaged_ones(arguments, refuse, room, shop):
    saving = {"save_strategy": "steps", "save_steps": 1}
    assert main(arguments("reward", **saving)) == 0
    checkpoint = room / "out" / "checkpoints" / "checkpoint-1"
    resume = saving | {"resume_from_checkpoint": checkpoint}
    refuse(arguments("reward", **resume, learning_rate=0.5), "other settings: learning_rate (1e-05 there, 0.5 here)")
    (room / "rows.jsonl").write_bytes(lines(PAIRS))
    refuse(arguments("reward", **resume, dataset="rows.jsonl"), "other data (24 pairs there, 5 here)", "--dataset")
    refuse(arguments("reward", resume_from_checkpoint=shop / "base"), "is not a checkpoint", "Give checkpoints/")
    for name, damage in {
        "optimizer.pt": b"",
        "scheduler.pt": None,
        "reward_heads.safetensors": None,
        "model.safetensors": None,
        "odin_rm_run.json": b"{}",
    }.items():
        whole = (checkpoint / name).read_bytes()
        if damage is None:
            (checkpoint / name).unlink()
        else:
            (checkpoint / name).write_bytes(damage)
        refuse(arguments("reward", **resume), str(checkpoint))
        (checkpoint / name).write_bytes(whole)
    assert main(arguments("reward", **resume)) == 0


# ---- models ----------------------------------------------------------------------------------------------------------


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def broken_description(folder: Path) -> None:
    (folder / "odin_rm.json").write_text("[1]")


def pad_beyond(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 10**6}))


MODELS: list[tuple[Callable[[Path], None], str, str]] = [
    (lambda folder: (folder / "model.safetensors").unlink(), "the folder has no weights", "Copy the weights"),
    (pickled, "weights as a pickle only", "Convert it to safetensors"),
    (cut, "cannot load the model", "Give a model folder"),
    (pad_beyond, "its pad_token_id is beyond the embedding", "Correct pad_token_id"),
    (lambda folder: (folder / "config.json").unlink(), "the folder has no config.json", "Give the folder"),
    (without_tokenizer, "cannot load the tokenizer", "Save the tokenizer"),
    (lambda folder: (folder / "reward_heads.safetensors").unlink(), "the heads are missing", "Copy the whole"),
    (broken_description, "cannot read the reward model's description", "Copy the whole"),
]


@pytest.mark.parametrize("command", ON_MODELS)
@pytest.mark.parametrize(("damage", "what", "fix"), MODELS)
def test_a_damaged_reward_model(command, damage, what, fix, arguments, refuse, room, shop):
    damage(Path(shutil.copytree(shop / "ours", room / "damaged")))
    refuse(arguments(command, model="damaged"), "damaged", what, fix)


@pytest.mark.parametrize("damage_what_fix", MODELS[:5])
def test_a_damaged_backbone(damage_what_fix, arguments, refuse, room, shop):
    damage, what, fix = damage_what_fix
    damage(Path(shutil.copytree(shop / "base", room / "damaged")))
    refuse(arguments("reward", model="damaged"), "damaged", what, fix)


@pytest.mark.parametrize("command", ON_MODELS)
def test_no_model_at_all(command, arguments, refuse):
    refuse(arguments(command, model="./nothing"), "./nothing: there is no such model folder", "Give a model folder")


@pytest.mark.parametrize("command", ["score", "audit", "export"])
def test_a_backbone_is_no_reward_model(command, arguments, refuse, shop):
    said = "not a reward model" if command == "export" else "not a trained sequence classifier"
    refuse(arguments(command, model=shop / "base"), str(shop / "base"), said)


def without_pad_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None


@pytest.mark.parametrize("command", ["reward", "score", "audit"])
def test_a_token_that_the_model_has_no_embedding_for(command, arguments, refuse, room, shop):
    shutil.copytree(shop / ("base" if command == "reward" else "ours"), room / "model")
    tokenizer = AutoTokenizer.from_pretrained(room / "model")
    rows = len(tokenizer)
    row = json.loads((shop / ("answers.jsonl" if command == "score" else "pairs.jsonl")).read_text().splitlines()[0])
    tokenizer.add_tokens([row["response" if command == "score" else "chosen"].split()[0]])
    tokenizer.save_pretrained(room / "model")
    refuse(arguments(command, model="model"), f"the token {rows}", f"embedding has {rows} rows", "its own tokenizer")


def test_a_tokenizer_without_pad_token_is_handled(arguments, room, shop):
    without_pad_token(Path(shutil.copytree(shop / "base", room / "base")))
    assert main(arguments("reward", model="base", output="run")) == 0
    without_pad_token(room / "run" / "model")
    for command in ("score", "audit", "export"):
        output = "scored.jsonl" if command == "score" else command
        assert main(arguments(command, model="run", output=output)) == 0


def test_lora_says_nothing_on_stderr(arguments, room, capfd, recwarn):
    """The adapter library calls old names of transformers, which warn; no user could mend that."""
    assert main(arguments("reward", lora_r=2, output="run")) == 0
    assert main(arguments("score", model="run", output="scored.jsonl")) == 0
    assert capfd.readouterr().err == ""
    assert [str(found.message) for found in recwarn if issubclass(found.category, FutureWarning)] == []


# ---- numbers that are none -------------------------------------------------------------------------------------------


def with_nan(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_is_not_finite_stops_with_step_rows_and_saved_batch(arguments, room, shop, capfd):
    with_nan(Path(shutil.copytree(shop / "base", room / "base")))
    assert main(arguments("reward", model="base")) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "step 1: the loss is not finite (rows " in line
    assert "out/bad_batch_step_1.json" in line
    saved = json.loads((room / "out" / "bad_batch_step_1.json").read_text())
    assert saved["step"] == 1
    assert len(saved["rows"]) == 8
    assert len(saved["input_ids"]) == len(saved["quality"])
    assert not (room / "out" / "model").exists()
    # The next run in that folder leaves the old batch behind.
    assert main(arguments("reward", overwrite=True)) == 0
    assert not (room / "out" / "bad_batch_step_1.json").exists()


@pytest.mark.parametrize("command", ["score", "audit", "export"])
def test_scores_that_are_not_finite_are_refused(command, arguments, refuse, room, shop):
    with_nan(Path(shutil.copytree(shop / "ours", room / "ours")))
    refuse(arguments(command, model="ours"), "finite")
