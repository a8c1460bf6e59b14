"""``odin-rm win-rate``: the object that others rely on, several systems, both orders, tokens, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.evaluation.length_control import length_only
from odin_rm.evaluation.win_score import interval_levels, mean_of, resample
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.workflows.win_rate.run import WinRateConfig, run_win_rate
from tests.evaluation.made import ALPACA_EVAL, MADE, PROMPTS
from tests.imports import loaded_by

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_eval_annotations"


def judged(name: str, n: int = 40, seed: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """Judgements in which longer answers win more often."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        words = int(rng.integers(1, 30))
        preference = float(np.clip(1 + words / 30 + 0.3 * rng.normal(), 1, 2))
        texts = {"output_1": "word " * (10 + k % 7) + "end", "output_2": "other " * words + "end"}
        row = {"instruction": f"question {k}", "generator_1": "base", "generator_2": name, "preference": preference}
        rows.append(row | texts | fields)
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def test_one_file_imports_nothing_heavy(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.json", judged("a"))
    argv = ["win-rate", "--annotations", file, "--output", str(tmp_path / "out.json")]
    code = f"from odin_rm.cli.main import main\nassert main({argv!r}) == 0"
    assert loaded_by(code, ("torch", "transformers", "datasets", "pandas", "scipy.stats")) == set()


def measure(folder: Path, files: list[str], **settings: Any) -> dict[str, Any]:
    output = folder / "out.json"
    run_win_rate(WinRateConfig(files, str(output), overwrite_output=True, **({"bootstrap_samples": 200} | settings)))
    return json.loads(output.read_text())


def is_figure(value: dict[str, Any]) -> bool:
    return value["low"] <= value["value"] <= value["high"] and value["standard_error"] > 0


def test_one_file_makes_the_object_that_others_rely_on(tmp_path):
    rows = judged("new")
    content = measure(tmp_path, [write(tmp_path / "a.json", rows)])
    preference = np.array([row["preference"] for row in rows])
    assert content["n"] == 40
    assert content["win_rate"]["value"] == pytest.approx(100 * (preference - 1).mean())
    assert content["win_rate"]["standard_error"] == pytest.approx(100 * stats.sem(preference))
    # Resamples are drawn over sorted prompts, so they are the same in every process and in any company.
    in_order = np.array([row["preference"] for row in sorted(rows, key=lambda row: row["instruction"])])
    draws = resample({"x": mean_of(100 * (in_order - 1))}, 40, 200, 0)["x"]
    assert [content["win_rate"]["low"], content["win_rate"]["high"]] == list(np.quantile(draws, interval_levels(40)))
    wins, losses = (preference > 1.5).sum(), (preference < 1.5).sum()
    assert (content["wins"], content["losses"]) == (wins, losses)
    assert content["win_score"]["value"] == pytest.approx(50 + 100 * (wins - losses) / 40)
    assert content["mean_characters"]["value"] == np.mean([len(row["output_2"]) for row in rows])
    assert content["mean_tokens"]["value"] == np.mean([len(row["output_2"].split()) for row in rows])
    assert content["baseline_mean_tokens"]["value"] == np.mean([len(row["output_1"].split()) for row in rows])
    names = ("win_rate", "win_score", "mean_tokens", "mean_characters", "baseline_mean_characters")
    assert all(is_figure(content[name]) for name in names)
    assert is_figure(content["lc_win_rate"]["length_only"])
    assert content["lc_win_rate"]["difficulty"] is content["lc_win_rate"]["joint"] is None
    assert set(content["why"]) == {"difficulty", "joint"}
    assert content["settings"]["token_unit"] == "words"


def test_several_systems_with_comparisons_and_the_joint_fit(tmp_path):
    files = [write(tmp_path / f"{name}.json", judged(name, seed=k)) for k, name in enumerate("abc")]
    content = measure(tmp_path, files)
    assert [system["generator"] for system in content["systems"]] == ["a", "b", "c"]
    assert all(is_figure(system["lc_win_rate"]["joint"]) for system in content["systems"])
    assert content["joint_fit"]["length_slope"] > 0.5
    assert [(c["first"], c["second"], c["n"]) for c in content["comparisons"]] == [
        ("a", "b", 40),
        ("a", "c", 40),
        ("b", "c", 40),
    ]
    first = content["comparisons"][0]["win_rate"]
    values = [system["win_rate"]["value"] for system in content["systems"]]
    assert first["difference"]["value"] == pytest.approx(values[0] - values[1])
    paired = [a["preference"] - b["preference"] for a, b in zip(judged("a"), judged("b", seed=1), strict=True)]
    assert first["difference"]["standard_error"] == pytest.approx(100 * stats.sem(paired))
    assert first["permutation_test"] == pytest.approx(stats.ttest_1samp(paired, 0).pvalue, abs=0.05)
    positive = sum(d > 0 for d in paired)
    assert first["sign_test"] == pytest.approx(stats.binomtest(positive, 40).pvalue)


def test_a_systems_own_figures_depend_neither_on_its_company_nor_on_the_order_of_rows(tmp_path):
    a, b = (write(tmp_path / f"{name}.json", judged(name, seed=k)) for k, name in enumerate("ab"))
    alone = measure(tmp_path, [a])
    beside = measure(tmp_path, [b, a])["systems"][1]
    turned = measure(tmp_path, [write(tmp_path / "turned.json", judged("a")[::-1])])
    for name in ("win_rate", "win_score", "mean_tokens"):
        assert beside[name] == alone[name] == turned[name]
    assert beside["lc_win_rate"]["length_only"] == alone["lc_win_rate"]["length_only"]
    again = measure(tmp_path, [a])
    assert again == alone
    assert measure(tmp_path, [a], seed=1)["win_rate"]["low"] != alone["win_rate"]["low"]


def test_both_orders_of_a_judge_that_likes_the_first_place(tmp_path):
    first = judged("new", order="candidate_first")
    second = [row | {"order": "baseline_first", "preference": max(1, row["preference"] - 0.6)} for row in first]
    content = measure(tmp_path, [write(tmp_path / "a.json", first + second)])
    by_order = content["win_rate_by_order"]
    assert content["n"] == 40
    assert content["win_rate"]["value"] == pytest.approx(sum(by_order.values()) / 2)
    assert by_order["candidate_first"] > by_order["baseline_first"] + 20
    verdicts = [
        np.sign(a["preference"] - 1.5) != np.sign(b["preference"] - 1.5) for a, b in zip(first, second, strict=True)
    ]
    assert content["order_disagreement"]["value"] == pytest.approx(100 * np.mean(verdicts))


def test_difficulty_is_used_where_it_is_given(tmp_path):
    rows = judged("new")
    file = write(tmp_path / "a.json", rows)
    given = [{"instruction": row["instruction"], "difficulty": k % 5} for k, row in enumerate(rows)]
    content = measure(tmp_path, [file], difficulty=write(tmp_path / "d.json", given))
    assert is_figure(content["lc_win_rate"]["difficulty"])
    assert content["lc_win_rate"]["difficulty"]["value"] != content["lc_win_rate"]["length_only"]["value"]
    with pytest.raises(DataError, match="gives no difficulty for 1 of 40 prompts"):
        measure(tmp_path, [file], difficulty=write(tmp_path / "e.json", given[1:]))


def test_tokens_of_a_tokenizer_and_length_control_by_tokens(tmp_path):
    save_tiny_model(tmp_path / "tiny", 0, hidden=16, layers=1, heads=2)
    rows = [row | {"output_2": row["output_2"] + ", and so on"} for row in judged("new")]
    file = write(tmp_path / "a.json", rows)
    words = measure(tmp_path, [file], length_unit="tokens")
    tokens = measure(tmp_path, [file], length_unit="tokens", tokenizer=str(tmp_path / "tiny"))
    characters = measure(tmp_path, [file])
    assert words["settings"]["length_unit"] == "words"
    counts = [[len(row[name].split()) for row in rows] for name in ("output_2", "output_1")]
    by_hand = length_only(np.array([row["preference"] - 1 for row in rows]), *map(np.array, counts))
    assert words["lc_win_rate"]["length_only"]["value"] == pytest.approx(by_hand(np.ones((1, 40)))[0], abs=1e-6)
    assert tokens["settings"]["token_unit"] == str(tmp_path / "tiny")
    assert tokens["mean_tokens"]["value"] != words["mean_tokens"]["value"]
    found = {c["lc_win_rate"]["length_only"]["value"] for c in (words, characters)}
    assert len(found) == 2


def test_missing_preferences_are_refused_or_counted(tmp_path):
    rows = judged("a") + judged("b", seed=1)
    rows[3]["preference"] = None
    file = write(tmp_path / "a.json", rows)
    with pytest.raises(DataError, match="row 4: has no preference"):
        measure(tmp_path, [file])
    content = measure(tmp_path, [file], on_bad_row="skip")
    assert content["left_out"] == {"has no preference": 1}
    assert [system["n"] for system in content["systems"]] == [39, 40]
    assert content["systems"][0]["prompts_without_preference"] == 1
    assert content["comparisons"][0]["n"] == 39
    shared = measure(tmp_path, [file], on_bad_row="skip", prompts="shared")
    assert [system["n"] for system in shared["systems"]] == [39, 39]


def test_wins_that_length_alone_explains_leave_length_control_open(tmp_path):
    rows = judged("new")
    for row in rows:
        row["preference"] = 2 if len(row["output_2"]) > len(row["output_1"]) else 1
    content = measure(tmp_path, [write(tmp_path / "a.json", rows)])
    assert content["lc_win_rate"]["length_only"] is None
    assert "length alone tells" in content["why"]["length_only"]


def test_one_row_has_figures_without_intervals(tmp_path):
    content = measure(tmp_path, [write(tmp_path / "a.json", judged("new", n=1))])
    assert content["n"] == 1
    assert content["win_rate"]["standard_error"] is content["win_rate"]["low"] is None
    assert content["win_rate"]["why"]


def test_settings_that_cannot_work_are_refused(tmp_path):
    for wrong in ({"bootstrap_samples": 1}, {"seed": -1}):
        with pytest.raises(ConfigError):
            WinRateConfig(["a.json"], "b.json", **wrong)
    with pytest.raises(ConfigError, match="names no file"):
        WinRateConfig([], "b.json")
    file = write(tmp_path / "a.json", judged("new"))
    with pytest.raises(OutputError, match="exists already"):
        run_win_rate(WinRateConfig([file], file))


def test_the_command_prints_a_table_and_writes_the_file(tmp_path, capsys):
    files = [write(tmp_path / f"{name}.json", judged(name, seed=k)) for k, name in enumerate("ab")]
    arguments = ["win-rate", "--annotations", *files, "--output", str(tmp_path / "out" / "win.json")]
    assert main([*arguments, "--bootstrap_samples", "50"]) == 0
    shown = capsys.readouterr().out
    assert "Against base" in shown
    assert (tmp_path / "out" / "win.json").is_file()


REFUSED = [
    ({"b": judged("b", n=5)}, "judged on different prompts than"),
    ({"b": [row | {"generator_1": "another"} for row in judged("b")]}, "mixed baselines"),
    ({"b": judged("a")}, "again"),
    ({"b": []}, "the file holds no rows"),
    ({"b": [row | {"output_2": ""} for row in judged("b")]}, "'output_2' is empty (40 unusable rows in all)"),
]


@pytest.mark.parametrize(("files", "said"), REFUSED, ids=[said[:20] for _, said in REFUSED])
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, files, said):
    names = [write(tmp_path / f"{name}.json", rows) for name, rows in {"a": judged("a"), **files}.items()]
    assert main(["win-rate", "--annotations", *names, "--output", str(tmp_path / "out.json")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("odin-rm win-rate: error: ")
    assert said in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_annotations_of_our_own_through_the_command(tmp_path):
    content = measure(tmp_path, [str(MADE)])
    assert [system["generator"] for system in content["systems"]] == list(ALPACA_EVAL)
    for system in content["systems"]:
        win_rate, controlled, wins, losses = ALPACA_EVAL[system["generator"]]
        assert system["win_rate"]["value"] == pytest.approx(win_rate, abs=1e-3)
        assert system["lc_win_rate"]["length_only"]["value"] == pytest.approx(controlled, abs=1e-3)
        assert (system["wins"], system["losses"], system["n"]) == (wins, losses, PROMPTS)
    # The judge pays for length: the raw order of the first and the last is not the joint fit's distance.
    joint = [system["lc_win_rate"]["joint"]["value"] for system in content["systems"]]
    raw = [system["win_rate"]["value"] for system in content["systems"]]
    assert abs(joint[2] - joint[0]) < 0.6 * abs(raw[2] - raw[0])


def test_the_public_files_through_the_command(tmp_path):
    if not REAL.is_dir():
        pytest.skip("the AlpacaEval annotation files are not there")
    content = measure(tmp_path, [str(REAL / "gpt4_gamed.json.gz"), str(REAL / "claude-2.json.gz")])
    gamed, claude = content["systems"]
    assert gamed["win_rate"]["value"] == pytest.approx(3.7382, abs=0.01)
    assert gamed["lc_win_rate"]["length_only"]["value"] == pytest.approx(40.23, abs=0.1)
    assert gamed["lc_win_rate"]["joint"]["value"] < claude["lc_win_rate"]["joint"]["value"] < 36.79
    assert int(gamed["mean_characters"]["value"]) == 68
