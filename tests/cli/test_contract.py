"""What others rely on: commands by flags and by config file, from any folder; files, figures and containers by name."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import pipeline

from odin_rm.cli.main import main
from odin_rm.core.options import flag_of

CONFIGS = {
    "quickstart": ("odin_rm.testbed.experiment", "QuickstartConfig"),
    "reward": ("odin_rm.reward.config", "RewardConfig"),
    "score": ("odin_rm.workflows.score.run", "ScoreConfig"),
    "audit": ("odin_rm.workflows.audit.run", "AuditConfig"),
    "export": ("odin_rm.workflows.export.run", "ExportConfig"),
    "generate": ("odin_rm.workflows.generate.run", "GenerateConfig"),
    "sweep": ("odin_rm.workflows.sweep.run", "SweepConfig"),
    "win-rate": ("odin_rm.workflows.win_rate.run", "WinRateConfig"),
}
FIGURES = {
    *("accuracy", "accuracy_chosen_longer", "accuracy_chosen_shorter", "accuracy_length_matched"),
    *("accuracy_length_balanced", "pearson", "spearman", "kendall", "pearson_within_prompt"),
    *("longer_response_baseline_accuracy", "information_beyond_length"),
}
METRICS = {
    *("step", "loss", "ranking_loss", "length_loss", "orthogonality_loss", "accuracy", "quality_length_correlation"),
    *("length_length_correlation", "pairs", "pairs_per_second", "tokens_per_second", "learning_rate"),
}


@pytest.fixture
def journey(room: Path, shop: Path, arguments: Callable[..., list[str]]) -> Callable[..., Path]:
    """Run a command by a config file alone, from a folder below, all paths relative; gives the room."""

    def run(command: str, **changes: Any) -> None:
        (room / "pairs.jsonl").write_bytes((shop / "pairs.jsonl").read_bytes())
        (room / "answers.jsonl").write_bytes((shop / "answers.jsonl").read_bytes())
        flags = arguments(command, **changes)[1:]
        values = dict(zip((flag.removeprefix("--") for flag in flags[::2]), flags[1::2], strict=True))
        (room / f"{command}.yaml").write_text(yaml.safe_dump(values))
        assert main([command, "--config", f"../{command}.yaml"]) == 0

    return run


def is_figure(value: Any) -> bool:
    if value["value"] is None:
        return bool(value["why"]) and value["low"] is None and value["high"] is None
    return value["low"] <= value["value"] <= value["high"]


@pytest.mark.parametrize("command", CONFIGS)
def test_help_lists_every_field(command, capsys):
    module, name = CONFIGS[command]
    with pytest.raises(SystemExit) as stop:
        main([command, "--help", "all"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    config = getattr(importlib.import_module(module), name)
    refused = getattr(config, "refused", {})
    fields = [item for item in dataclasses.fields(config) if item.init and "instead" not in item.metadata]
    missing = [item.name for item in fields if f"\n  --{flag_of(item)}" not in shown]
    assert missing == [item.name for item in fields if item.name in refused]
    assert "\n  --config FILE.yaml" in shown


def test_reward_score_audit_and_export_by_config_files_from_another_folder(
    room, shop, journey, monkeypatch, capfd
) -> None:
    below = room / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    base = {"model": str(shop / "base"), "dataset": "../pairs.jsonl", "output": "../run"}
    journey("reward", **base, eval_dataset="../pairs.jsonl", eval_strategy="epoch", max_steps=3)
    run = room / "run"
    assert {path.name for path in run.iterdir()} == {
        *("model", "checkpoints", "metrics.jsonl", "config.yaml", "environment.json", "data_report.json"),
        ".odin-rm.json",
    }
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(set(row) >= METRICS for row in steps if "loss" in row)
    assert [row["step"] for row in steps if "loss" in row] == [1, 2, 3]
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["batch_pairs"] == 8
    assert resolved["length_weight"] == 1.0

    journey("score", model="../run", input="../answers.jsonl", output="../scored.jsonl")
    answers = [json.loads(line) for line in (room / "answers.jsonl").read_text().splitlines()]
    scored = [json.loads(line) for line in (room / "scored.jsonl").read_text().splitlines()]
    added = ("quality", "length_reward", "response_tokens")
    assert [{k: v for k, v in row.items() if k not in added} for row in scored] == answers
    assert all(isinstance(row["quality"], float) and isinstance(row["length_reward"], float) for row in scored)
    assert [row["response_tokens"] for row in scored] == [3] * 5  # "good words 0"

    journey("audit", model="../run", dataset="../pairs.jsonl", output="../audit")
    audit = json.loads((room / "audit" / "audit.json").read_text())
    assert audit["pairs"] == 24
    assert {"responses", "length_unit"} <= set(audit)
    assert all(is_figure(audit[name]) for name in FIGURES)
    assert list((room / "audit").glob("*.png"))

    journey("export", model="../run", output="../exported")
    # Neither command says anything on stderr where nobody looks at bars.
    assert capfd.readouterr().err == ""
    classify = pipeline("text-classification", str(room / "exported"), device="cpu")
    for row in scored:
        chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        (found,) = classify(classify.tokenizer.apply_chat_template(chat, tokenize=False))
        assert found["score"] == pytest.approx(row["quality"], abs=1e-5)


def test_quickstart_by_config_file_from_another_folder(room, journey, monkeypatch, capfd) -> None:
    (room / "below").mkdir()
    monkeypatch.chdir(room / "below")
    sizes = {"hidden": 16, "layers": 1, "epochs": 1, "bootstrap_samples": 10, "batch_pairs": 8}
    sizes |= {"policy_responses": 128, "sft_steps": 20}
    journey("quickstart", output="../quick", seed=3, **sizes)
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "vanilla" in shown.out
    summary = json.loads((room / "quick" / "summary.json").read_text())
    assert set(summary) >= {"reward_models", "runs", "seed", "seconds"}
    assert summary["seed"] == 3
    for name in ("vanilla", "odin"):
        audit = summary["reward_models"][name]
        assert all(is_figure(audit[figure]) for figure in (*FIGURES, "true_quality_agreement"))
    assert (room / "quick" / "report.html").is_file()
    assert not (room / "below" / "quick").exists()


# ---- containers and kinds of rows ------------------------------------------------------------------------------------


def chats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [{name: [{"role": role, "content": row[name]}] for name, role in kinds.items()} for row in rows]


def implicit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in chats(rows)]


def dialogues(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {side: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[side]}" for side in ("chosen", "rejected")}
        for row in rows
    ]


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"prompt": r["prompt"], "responses": [r["rejected"], r["chosen"]], "ranks": [2, 1]} for r in rows]


def write(place: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows by libraries that are not ours."""
    plain = place.with_suffix("") if place.suffix == ".gz" else place
    if plain.suffix == ".jsonl":
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif plain.suffix == ".json":
        plain.write_text(json.dumps(rows))
    elif plain.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), plain)
    elif plain.suffix == ".csv":
        with plain.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(plain))
    if place != plain:
        place.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()


def test_every_container_and_kind_of_row_gives_the_same_audit(room, shop, arguments) -> None:
    pairs = [json.loads(line) for line in (shop / "pairs.jsonl").read_text().splitlines()]
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
    sources = {
        "rows.jsonl": rows,
        "rows.json.gz": rows,
        "rows.parquet.gz": rows,
        "saved": rows,
        "chat.csv": chats(rows),
    }
    sources |= {"implicit.parquet": implicit(rows), "dialogues.csv.gz": dialogues(rows), "ranked.csv": ranked(rows)}
    audits = {}
    for name, content in sources.items():
        write(room / name, content)
        assert main(arguments("audit", dataset=name, output=f"audit of {name}")) == 0
        audits[name] = json.loads((room / f"audit of {name}" / "audit.json").read_text())
    first = audits["rows.jsonl"]
    assert first["pairs"] == 24
    for name, audit in audits.items():
        assert {k: audit[k] for k in FIGURES} == {k: first[k] for k in FIGURES}, name
