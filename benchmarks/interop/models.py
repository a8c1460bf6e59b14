"""Reward models for the comparison, through the real commands: trained, scaled, exported, and scored by us."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from odin_rm.cli.main import main as odin_rm
from odin_rm.core.files import read_rows

MAX_LENGTH = 1024


class CommandFailed(Exception):
    """One of our own commands did not end well."""


def run_command(*arguments: str) -> None:
    """Run ``odin-rm`` with these arguments; what it says is shown only where it fails.

    Raises:
        CommandFailed: its exit code is not 0.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = odin_rm(list(arguments))
    if code:
        raise CommandFailed(f"odin-rm {arguments[0]} ended with {code}: {said.getvalue().strip()[-2000:]}")


def make_model(
    folder: Path, training: Path, rows: Path, *, steps: int, seed: int, max_length: int = MAX_LENGTH
) -> dict[str, Any]:
    """Train a reward model of a base, scale its head, export it, and score the rows with ``odin-rm score``.

    Args:
        folder: everything is written here; the base lies in ``base``.
        training: preference file.
        rows: file of the rows to score.
        steps: optimiser steps.
        seed: of training.
        max_length: window of the model, in tokens.

    Returns:
        ``export``: its folder; ``scores`` of the rows; ``deviation`` of them.

    Raises:
        CommandFailed: one of our commands did not end well.
    """
    flags = {
        "model": folder / "base",
        "dataset": training,
        "output_dir": folder / "run",
        "max_steps": steps,
        "batch_pairs": 16,
        "learning_rate": 1e-3,
        "max_length": max_length,
        "seed": seed,
        "cache_dir": folder / "cache",
        "overwrite_output_dir": True,
    }
    run_command("reward", *(part for key, value in flags.items() for part in (f"--{key}", str(value))))
    model = folder / "model"
    rescale(folder / "run" / "model", model, rows, folder / "unscaled.jsonl")
    scores = score(model, rows, folder / "scores.jsonl")
    run_command("export", "--model", str(model), "--output", str(folder / "export"), "--overwrite_output_dir")
    return {
        "export": str((folder / "export").resolve()),
        "scores": scores,
        "deviation": statistics.pstdev(scores),
    }


def rescale(trained: Path, folder: Path, rows: Path, scratch: Path) -> None:
    """Save a trained model again with its head scaled so that the deviation of the rewards is 1.

    Differences are then in deviations of the reward, for every model alike.
    """
    from odin_rm.model.reward_model import RewardModel
    from odin_rm.model.scoring import load_tokenizer

    deviation = statistics.pstdev(score(trained, rows, scratch))
    model = RewardModel.from_pretrained(trained)
    scale = model.info.head_scale / deviation
    model.heads.scale, model.info = scale, replace(model.info, head_scale=scale)
    model.save_pretrained(folder, tokenizer=load_tokenizer(trained))


def score(model: Path, rows: Path, output: Path) -> list[float]:
    """Quality rewards of the rows by ``odin-rm score``.

    Raises:
        CommandFailed: it failed, or left a row without a score.
    """
    run_command("score", "--model", str(model), "--input", str(rows), "--output", str(output), "--overwrite_output")
    found = [row["quality"] for _, row in read_rows(output)]
    if None in found:
        raise CommandFailed(f"odin-rm score gave {found.count(None)} of {len(found)} rows no score")
    return [float(value) for value in found]


def rendered_lengths(folder: Path, pairs: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Tokens of each pair's two sequences as a model of this base reads them."""
    from odin_rm.data.tokenise import EncodingSettings, encode_responses
    from odin_rm.model.scoring import load_tokenizer

    tokenizer = load_tokenizer(folder)
    settings = EncodingSettings(max_length=10**6)
    prompts = [pair["prompt"] for pair in pairs]
    sides = [
        encode_responses(tokenizer, prompts, [pair[side] for pair in pairs], settings)
        for side in ("chosen", "rejected")
    ]
    return [(a.sequence_tokens, b.sequence_tokens) for a, b in zip(*sides, strict=True)]
