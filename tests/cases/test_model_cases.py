"""The public cases about models, judges and runs, each with the value that its ``expected.md`` gives."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from odin_rm.cli.main import main
from odin_rm.core.errors import ModelError
from tests.cases.test_row_cases import reference, score  # noqa: F401

pytestmark = pytest.mark.slow


def qualities(score, model, file, **settings):  # noqa: F811
    return [row["quality"] for row in score(model, file, **settings)[1]]


@pytest.mark.parametrize(
    ("case", "model"),
    [
        ("01_config_pad_tokenizer_none", "cfgpad_notokpad"),
        ("03_tokenizer_pad_other_config_eos", "tokpad_other_cfg_eos"),
        ("05_config_pad_minus_one", "pad_minus1"),
        ("51_right_double_bos", "dbos"),
        # siblings: what no folder holds
        ("01_config_pad_tokenizer_none", "nopad"),
        ("01_config_pad_tokenizer_none", "tokpad_eos_cfg_other"),
        ("01_config_pad_tokenizer_none", "trim"),
        ("01_config_pad_tokenizer_none", "baked_truncation_left"),
    ],
)
def test_a_reward_is_read_where_the_model_itself_reads_it(cases, score, case, model):  # noqa: F811
    found = qualities(score, model, f"{case}/rows.jsonl")
    assert found == pytest.approx(reference(cases, model, f"{case}/rows.jsonl"), abs=1e-3)


@pytest.mark.parametrize("model", ["rope_dynamic", "rope_longrope"])
@pytest.mark.parametrize("tokens", [64, 16384])
def test_06_a_row_has_one_score_whatever_is_in_its_batch(cases, score, tmp_path, model, tokens):  # noqa: F811
    file = "06_dynamic_rope_batch_mates/rows.jsonl"
    expected = reference(cases, model, file)
    settings = {"microbatch_tokens": tokens, "max_length": 400}
    assert qualities(score, model, file, **settings) == pytest.approx(expected, abs=1e-3)
    rows = (cases / file).read_text(encoding="utf-8").splitlines()
    order = random.Random(6).sample(range(len(rows)), len(rows))
    (cases / "06_turned.jsonl").write_text("\n".join(rows[i] for i in order), encoding="utf-8")
    again = qualities(score, model, "06_turned.jsonl", overwrite_output=True, **settings)
    assert again == pytest.approx([expected[i] for i in order], abs=1e-3)


@pytest.mark.parametrize("codes", [(), ("--preference_codes", "0", "1")])
def test_16_preference_coded_0_1(cases, tmp_path, capfd, codes):
    annotations = str(cases / "16_preference_coded_0_1" / "ann.json")
    out = tmp_path / "out.json"
    code = main(["win-rate", "--annotations", annotations, "--output", str(out), "--bootstrap_samples", "50", *codes])
    if not codes:
        assert code == 2
        assert "--preference_codes" in capfd.readouterr().err
        assert not out.exists()
    else:
        assert code == 0
        assert json.loads(out.read_text())["win_rate"]["value"] == pytest.approx(80)


def test_33_judge_finish_reason(cases):
    """``case.py`` beside the case judges two answers under each of the four reasons."""
    command = [sys.executable, "case.py"]
    run = subprocess.run(command, cwd=cases / "33_judge_finish_reason", capture_output=True, text=True)
    found = re.findall(r"FINISH (\S+) rc (\d) (\[.*\])", run.stdout)
    assert found == [(reason, "0", "[2.0, 2.0]") for reason in ("stop", "eos_token", "None", "end_turn")], run.stdout


def test_35_openrlhf_config_without_num_labels(cases, score):  # noqa: F811
    found = qualities(score, "openrlhf", "35_openrlhf_config_without_num_labels/rows.jsonl")
    assert len(found) == 1 or len({round(one, 3) for one in found}) > 1
    assert all(one is not None for one in found)


def test_36_lora_adapter_as_reward_model(score):  # noqa: F811
    with pytest.raises(ModelError, match=r"LoRA adapter without its base model.*Merge it .*merge_and_unload"):
        score("lora_adapter", "36_lora_adapter_as_reward_model/rows.jsonl")


def test_48_default_window_of_a_foreign_model(cases, score, tmp_path):  # noqa: F811
    case = cases / "48_default_window_of_a_foreign_model"
    assert None not in qualities(score, "long_window", "48_default_window_of_a_foreign_model/rows.jsonl")
    out = tmp_path / "audit"
    argv = ["--model", str(cases / "_models" / "long_window"), "--dataset", str(case / "pairs.jsonl")]
    assert main(["audit", *argv, "--output", str(out), "--bootstrap_samples", "20"]) == 0
    report = json.loads((out / "audit.json").read_text())["data_report"]
    assert (report["pairs"], report["dropped_overlong_pairs"]) == (4, 0)


@pytest.mark.parametrize("layout", ["auto", "tree", "packed", "padded"])
def test_53_right_sliding_window(cases, score, layout):  # noqa: F811
    file = "53_right_sliding_window/rows.jsonl"
    found = qualities(score, "sliding", file, batch_layout=layout)
    assert found == pytest.approx(reference(cases, "sliding", file), abs=1e-3)


def test_55_right_value_head_refused(score):  # noqa: F811
    with pytest.raises(ModelError, match="value_head"):
        score("value_head", "55_right_value_head_refused/rows.jsonl")


def test_57_right_outputs_in_another_order(cases, tmp_path):
    case, out = cases / "57_right_outputs_in_another_order", tmp_path / "judged"
    argv = ["--candidate", str(case / "c.json"), "--baseline", str(case / "b.json")]
    assert main(["judge", *argv, "--judge", str(cases / "_models" / "chatml"), "--output", str(out)]) == 0
    rows = json.loads((out / "annotations.json").read_text())
    theirs = {row["instruction"]: row["output"] for row in json.loads((case / "b.json").read_text())}
    ours = {row["instruction"]: row["output"] for row in json.loads((case / "c.json").read_text())}
    assert {row["instruction"]: row["output_1"] for row in rows} == theirs
    assert {row["instruction"]: row["output_2"] for row in rows} == ours


def test_62_right_resume_with_other_data(cases, tmp_path, capfd):
    case, run, data = cases / "62_right_resume_with_other_data", tmp_path / "run", tmp_path / "t.jsonl"

    def make(seed: str) -> None:
        done = subprocess.run([sys.executable, "make.py", seed], cwd=case, capture_output=True, text=True, check=True)
        data.write_text(done.stdout, encoding="utf-8")

    line = f"--model {cases / '_models' / 'chatml'} --dataset {data} --output {run} --batch_pairs 8 --save_steps 3"
    argv = ["reward", *line.split(), "--save_strategy", "steps", "--max_steps", "6", "--use_cpu", "true"]
    make("1")
    assert main(argv) == 0
    make("2")
    for path in (run / "model", run / "checkpoints" / "checkpoint-6"):
        shutil.rmtree(path)
    capfd.readouterr()
    for how in ("true", "auto"):
        assert main([*argv, "--resume_from_checkpoint", how]) == 2
        assert "the checkpoint comes from other data" in capfd.readouterr().err


def test_every_case_is_tested(cases):
    folders = sorted(path.name for path in cases.iterdir() if path.name[:2].isdigit())
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    missing = [name for name in folders if name not in text and f"test_{name[:2]}_" not in text]
    assert folders
    assert missing == []
