"""Which checkpoint a run goes on from: the newest sound one, whatever is wrong with the others."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from odin_rm.core.errors import CheckpointError
from odin_rm.runs.checkpoints import DIGESTS, find_checkpoint, find_damage, write_digests
from odin_rm.runs.run_folder import drop_later_lines


def checkpoint(run: Path, step: int, digests: bool = True) -> Path:
    """A checkpoint with a file of each kind that a Trainer writes."""
    folder = run / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"weight": np.arange(64, dtype=np.float32) + step}, folder / "model.safetensors")
    torch.save({"step": step}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    if digests:
        write_digests(folder)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", DIGESTS])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, name, damage):
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert find_checkpoint("true", tmp_path) == newer
    damage(newer / name)
    if (name, damage) == (DIGESTS, Path.unlink):  # as of an earlier version
        assert find_checkpoint("true", tmp_path) == newer
        return
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint("auto", tmp_path) == older
    assert "going on from checkpoint-9; damaged and left out: checkpoint-10" in caplog.text
    if name != "trainer_state.json" or damage is not Path.unlink:
        with pytest.raises(CheckpointError, match=r"damaged|missing"):
            find_checkpoint(str(newer), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_cut_files_are_seen_without_digests_too(tmp_path, name):
    folder = checkpoint(tmp_path, 3, digests=False)
    assert find_damage(folder) is None
    cut(folder / name)
    assert find_damage(folder) == f"{name} is damaged"


def test_where_there_is_none(tmp_path):
    assert find_checkpoint("auto", tmp_path) is None
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("false", tmp_path) is None
    for wanted, what in {"true": "no checkpoint to go on from", str(tmp_path): "is not a checkpoint"}.items():
        with pytest.raises(CheckpointError, match=what):
            find_checkpoint(wanted, tmp_path)
    cut(checkpoint(tmp_path, 1) / "optimizer.pt")
    assert find_checkpoint("auto", tmp_path) is None
    with pytest.raises(CheckpointError, match=r"checkpoint-1 \(optimizer.pt is damaged\)"):
        find_checkpoint("true", tmp_path)


def test_names_that_are_no_steps_are_passed_over(tmp_path):
    newest = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 20)
    for name in ("checkpoint-best", "checkpoint-1.5", "checkpoint-", ".checkpoint-200.tmp"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert find_checkpoint("true", tmp_path) == newest


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path):
    place = checkpoint(tmp_path, 4)
    place.rename(place.with_name(".checkpoint-4.old"))
    assert find_checkpoint("auto", tmp_path) == place


def test_every_single_byte_counts(tmp_path):
    folder, rng = checkpoint(tmp_path, 2), random.Random(0)
    for _ in range(100):
        path = folder / rng.choice(["model.safetensors", "optimizer.pt", "trainer_state.json"])
        content = path.read_bytes()
        position = rng.randrange(len(content))
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert find_damage(folder) == f"{path.name} is damaged"
        path.write_bytes(content)
    assert find_damage(folder) is None


def test_a_cut_last_line_of_the_log_is_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}, {"step": 2, "train_runtime": 3}, {"step": 3}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo')
    drop_later_lines(path, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:2]
