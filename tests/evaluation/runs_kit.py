"""Runs as other commands leave them: judgements, training runs, sweeps, tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml


def judged_rows(
    name: str, seed: int, *, words: float = 20, gain: float = 0.0, n: int = 24, **fields: Any
) -> list[dict]:
    """Judgements of one system: its answers have about so many words, ``gain`` makes wins more frequent."""
    rows = []
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        length = max(1, int(rng.normal(words, 5)))
        value = rng.normal(gain, 1) + np.random.default_rng(k).normal(0, 0.5)
        preference = 2.0 if value > 0.4 else 1.0 if value < -0.4 else 1.5
        texts = {"output_1": "base " * (15 + k % 5), "output_2": "word " * length}
        row = {"instruction": f"question {k}", "generator_1": "sft", "generator_2": name, "annotator": "judge"}
        rows.append(row | texts | {"preference": preference} | fields)
    return rows


def judge_folder(folder: Path, name: str, seed: int = 0, judge: dict[str, Any] | None = None, **how: Any) -> Path:
    """A folder as ``odin-rm judge`` leaves it."""
    folder.mkdir(parents=True)
    (folder / "annotations.json").write_text(json.dumps(judged_rows(name, seed, **how)))
    if judge is not None:
        (folder / "judge.json").write_text(json.dumps({"judge": judge}))
    return folder


def training_run(folder: Path, tokens: list[float], quality: list[float], **settings: Any) -> Path:
    """A folder as ``odin-rm rl`` leaves it; a row of metrics per number."""
    folder.mkdir(parents=True)
    given = {"algorithm": "ppo", "reward": "runs/odin/model", "seed": 0, "reward_clip": math.inf} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    rows = [
        {"step": k, "mean_response_tokens": t, "mean_quality_reward": q}
        for k, (t, q) in enumerate(zip(tokens, quality, strict=True))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sweep_folder(folder: Path, runs: dict[str, dict[str, Any]]) -> Path:
    """A sweep whose runs have ended; one more has failed."""
    folder.mkdir()
    rows = []
    for name, varied in runs.items():
        values = dict(varied)
        training_run(folder / "runs" / name, values.pop("tokens"), values.pop("quality"), **values)
        rows.append({"name": name, "status": "done", "varied": values, "folder": f"runs/{name}"})
    rows.append({"name": "broken", "status": "failed", "varied": {}, "folder": "runs/broken"})
    (folder / "sweep.json").write_text(json.dumps({"command": "rl", "runs": rows}))
    return folder


def write_csv(path: Path, header: str, *rows: str) -> Path:
    """A table."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
