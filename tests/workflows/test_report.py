"""What a report reads: everything is recognised by what it holds, and what cannot be shown is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from odin_rm.cli.main import main
from odin_rm.core.errors import OdinError, RowError
from odin_rm.reports.comparison.points import dominance_chart, front_chart, front_tables
from odin_rm.reports.comparison.story import all_audits
from odin_rm.reports.comparison.tables import mean_change, rl_table, settings_tables
from odin_rm.reports.comparison.texts import sample_block
from odin_rm.results.records import Response
from odin_rm.workflows.report.run import ReportConfig, own_names, read_material, run_report
from tests.reports import run_folders as made
from tests.reports.test_page import Page


def test_each_thing_is_recognised_by_what_it_holds(tmp_path):
    paths = [
        made.rl_run(tmp_path / "ppo"),
        made.reward_run(tmp_path / "rm"),
        made.write_run(tmp_path / "sft", [{"step": 1, "loss": 2.5}], {"model": "m"}),
        made.audit_file(tmp_path / "audited").parent,
        made.outputs_file(tmp_path / "answers.json", {"q": "a"}),
        made.judged_folder(tmp_path / "judged"),
        made.win_rates_file(tmp_path / "rates.json"),
        made.sweep_folder(tmp_path / "swept"),
        made.pareto_file(tmp_path / "pareto.json"),
    ]
    found = read_material([str(path) for path in paths])
    assert [(run.name, run.kind) for run in found.runs] == [("ppo", "rl"), ("rm", "reward"), ("sft", "policy")]
    assert [audit.name for audit in found.audits] == ["odin"]
    assert [(file.name, file.texts[0].tokens) for file in found.files] == [("answers", 7)]
    assert [(one.candidate, one.baseline, one.judge) for one in found.judged] == [("ppo", "sft", "fake-judge")]
    assert [system["generator"] for system in found.win_rates[0].systems] == ["ppo", "remax"]
    assert [(p.arm, p.mean_length, p.score) for p in found.sweeps[0].points] == [("odin", 14.0, 2.0)]
    assert [len(fronts.points) for fronts in found.fronts] == [6]
    assert found.fronts[0].marks == {"start": (22.0, 50.0)}
    assert list(found.notes) == []


def test_a_testbed_experiment_gives_its_audits_points_and_reward_runs(tmp_path):
    audits = {name: json.loads(made.audit_file(tmp_path / name, name).read_text()) for name in ("vanilla", "odin")}
    made.reward_run(tmp_path / "odin")
    runs = [{"reward_model": "odin", "arm": "odin", "algorithm": "ppo", "settings": {}, "mean_tokens": 20.0,
             "true_quality": 0.5, "win_score": {"value": 80.0, "low": 70.0, "high": 90.0}}]  # fmt: skip
    start = {"mean_tokens": 12.0, "true_quality": 0.25, "win_score": 50.0}
    made.write_json(tmp_path / "summary.json", {"reward_models": audits, "runs": runs, "start": start})
    found = read_material([str(tmp_path)])
    assert [audit.name for audit in all_audits(found)] == ["vanilla", "odin"]  # the run's own is one of them
    assert [(f.score, f.points[0].score, f.marks) for f in found.fronts] == [
        ("win score", 80.0, {"start (SFT)": (12.0, 50.0)}),
        ("true quality", 0.5, {"start (SFT)": (12.0, 0.25)}),
    ]
    assert [run.name for run in found.runs] == ["odin"]


def test_fronts_come_with_their_bands_and_tables(tmp_path):
    (fronts,) = read_material([str(made.pareto_file(tmp_path / "pareto.json").parent)]).fronts
    chart = front_chart(fronts, "f")
    assert [(mark.at, mark.label) for mark in chart.marks] == [(33.0, "baseline sft (33)")]
    series = {one.name: one for one in chart.series}
    assert list(series["odin"].y) == [55.0, 60.0, 65.0]
    front = series["odin: front"]
    # The runs lie at 30, 40 and 50 tokens; the grid adds 45. The shortest point is 22, the longest 57, with 6 % beside.
    assert list(front.x) == pytest.approx([30.0, 40.0, 45.0, 50.0, 59.1])
    assert list(front.y) == [55.0, 60.0, 60.0, 65.0, 65.0]
    assert list(front.low) == [None, None, 59.0, 59.0, 59.0]
    assert list(series["start"].x) == [22.0]
    (line,) = dominance_chart(fronts, "d").series
    assert (line.name, list(line.y)) == ("odin above vanilla", [None, 0.75])
    arms, pairs = front_tables(fronts, 1)
    assert [row[:2] for row in arms.rows] == [["odin", 3], ["vanilla", 3]]
    assert arms.rows[0][-1].value == 60.0
    assert pairs.rows[0][:2] == ["odin", "vanilla"]


def test_scored_rows_and_annotations_are_read_from_files(tmp_path):
    made.write_lines(
        tmp_path / "scored.jsonl",
        [{"prompt": [{"role": "user", "content": "Q"}], "response": "R", "quality": 1.5, "length_reward": None,
          "response_tokens": 3}],
    )  # fmt: skip
    # 0 is AlpacaEval's older sign of a tie, and numbers may be text.
    folder = made.judged_folder(tmp_path / "judged", (2.0, None, 0, "1.75"))
    found = read_material([str(tmp_path / "scored.jsonl"), str(folder / "annotations.json")])
    assert found.files[0].texts[0] == Response("Q", "R", 3, 1.5)
    assert [pair.preference for pair in found.judged[0].pairs] == [2.0, None, 1.5, 1.75]
    made.judged_folder(folder, (2.0, 3.0))
    with pytest.raises(RowError, match=r"row 2: the preference is 3\.0, not between 1 and 2"):
        read_material([str(folder)])


def test_means_and_changes_by_hand(tmp_path):
    (run,) = read_material([str(made.rl_run(tmp_path / "ppo", drift=2.0))]).runs
    first, last = run.look("first"), run.look("last")
    assert ([t.tokens for t in first], [t.tokens for t in last]) == ([10, 11], [18, 19])
    change = mean_change(first, last, "tokens")
    assert (change.value, change.low, change.high) == (8.0, 8.0, 8.0)  # the same for each prompt: no spread
    table = rl_table([run])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["Tokens"].value == 18.5
    assert row["Change of quality"].value == 2.0
    assert row["Quality"].value == pytest.approx(2.5)
    assert row["KL (nats)"].value == 0.8
    assert "Held-out reward" not in row


def test_without_a_watch_the_last_log_stands_without_interval(tmp_path):
    folder = made.rl_run(tmp_path / "ppo")
    (folder / "samples.jsonl").unlink()
    (run,) = read_material([str(folder)]).runs
    row = dict(zip(*((table := rl_table([run])).columns, table.rows[0]), strict=True))
    assert (row["Tokens"].value, row["Tokens"].low) == (14.0, None)
    assert "no intervals" in table.note


def test_settings_are_told_apart(tmp_path):
    runs = [
        made.rl_run(tmp_path / name, kl_coef=value, seed=0, output_dir=name)
        for name, value in (("a", 0.1), ("b", 0.25))
    ]
    differing, shared = settings_tables(read_material([str(run) for run in runs]).runs)
    assert list(differing.columns) == ["Setting", "a", "b"]
    assert differing.rows == [["kl_coef", "0.1", "0.25"]]
    assert ["seed", "0"] in shared.rows
    assert not any(row[0] == "output_dir" for row in [*differing.rows, *shared.rows])


def test_texts_stand_side_by_side_by_their_prompt(tmp_path):
    one = made.rl_run(tmp_path / "one")
    alone = sample_block(read_material([str(one)]), 8)
    assert [answer.name for answer in alone.samples[0].answers] == ["one, step 0", "one, step 4"]
    assert dict(alone.samples[0].answers[1].facts) == {"tokens": "14", "quality": "2.00", "length reward": "0.00"}
    two = made.rl_run(tmp_path / "two")
    both = sample_block(read_material([str(one), str(two)]), 1)
    assert [answer.name for answer in both.samples[0].answers] == ["one, step 4", "two, step 4"]
    files = [made.outputs_file(tmp_path / f"{n}.json", texts) for n, texts in
             (("x", {"shared": "1", "only x": "2"}), ("y", {"shared": "3"}))]  # fmt: skip
    (sample,) = sample_block(read_material([str(f) for f in files]), 8).samples
    assert [(a.name, a.text.text) for a in sample.answers] == [("x", "1"), ("y", "3")]


def test_a_cut_last_line_is_left_out_and_said(tmp_path):
    folder = made.rl_run(tmp_path / "ppo")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "mean_resp')
    found = read_material([str(folder)])
    assert list(found.notes) == ["ppo/metrics.jsonl: the last line is cut off and left out."]
    assert found.runs[0].steps == 4


def test_unfinished_and_stopped_runs_are_said(tmp_path):
    rows = [{"step": 1, "loss": 0.5, "ranking_loss": 0.5}]
    going = made.write_run(tmp_path / "going", rows, {}, finished=False)
    stopped = made.write_run(tmp_path / "stopped", [*rows, {"step": 1, "stopped_by": "kl_runaway"}], {}, finished=False)
    found = read_material([str(going), str(stopped)])
    assert list(found.notes) == [
        "going: the run is not finished (step 1).",
        "stopped: the run is stopped by its watch (kl runaway) (step 1).",
    ]


def test_names_are_told_apart_by_their_folders(tmp_path):
    assert own_names(["x/a/run", "y/b/run", "c/audit.json", "d.jsonl.gz"]) == ["a/run", "b/run", "c", "d"]
    one = made.rl_run(tmp_path / "run")
    assert [run.name for run in read_material([str(one), str(one)]).runs] == ["run", "run (2)"]


def test_the_page_has_its_files_beside_it(tmp_path, capsys):
    run = made.rl_run(tmp_path / "ppo")
    page = tmp_path / "out" / "page.html"
    assert main(["report", "--runs", str(run), "--output", str(page), "--names", "my run", "--title", "T <1>"]) == 0
    assert f"{page}: 8 figures, 1 tables" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out" / "page").iterdir()}
    assert {"rl_quality.svg", "rl_quality.png", "policies.tex", "rl_path.svg"} <= files
    text = page.read_text(encoding="utf-8")
    assert "<title>T &lt;1&gt;</title>" in text
    assert "my run, step 4" in text
    assert (tmp_path / "out/page/policies.tex").read_text().count("my run") == 1
    assert main(["report", "--runs", str(run), "--output", str(page)]) == 2
    assert main(["report", "--runs", str(run), "--output", str(page), "--overwrite", "true"]) == 0
    (tmp_path / "out" / "page" / "thesis.docx").write_text("mine")
    assert main(["report", "--runs", str(run), "--output", str(page), "--overwrite", "true"]) == 2
    assert "thesis.docx" in capsys.readouterr().err
    assert (tmp_path / "out" / "page" / "thesis.docx").is_file()


def test_everything_together_makes_one_page(tmp_path):
    paths = [made.rl_run(tmp_path / "ppo"), made.reward_run(tmp_path / "rm"), made.audit_file(tmp_path / "au").parent,
             made.judged_folder(tmp_path / "judged"), made.win_rates_file(tmp_path / "rates.json"),
             made.sweep_folder(tmp_path / "swept"), made.pareto_file(tmp_path / "pareto.json"),
             made.outputs_file(tmp_path / "answers.json", {"q": "a"})]  # fmt: skip
    written = run_report(ReportConfig([str(path) for path in paths], str(tmp_path / "all.html")))
    text = written.page.read_text(encoding="utf-8")
    shown = Page(text[: text.index('<script type="application/json"')] + "</body></html>").text
    for words in ("ppo writes 14.5 tokens", "is too large", "Paired comparisons", "Win score", "fake-judge",
                  "Policies: settings of ppo.", "torch", "62.5 %"):  # fmt: skip
        assert words in shown, words
    assert {name.removesuffix(".tex") for name in written.files if name.endswith(".tex")} >= {
        "policies", "reward_models", "responses", "judgements", "win_rates", "paired_tests", "audits"
    }  # fmt: skip


BAD = {
    "missing": (lambda place: place / "nothing", "no such file or folder"),
    "no run": (lambda place: made.write_json(place / "x" / "notes.json", {}).parent, "holds no run"),
    "runs inside": (lambda place: made.rl_run(place / "runs" / "ppo").parent, "in it: ppo"),
    "one file of a run": (lambda place: made.rl_run(place / "ppo") / "metrics.jsonl", "Give the run folder"),
    "foreign JSON": (lambda place: made.write_json(place / "x.json", {"a": 1}), "is no result of odin-rm"),
    "foreign rows": (lambda place: made.write_json(place / "x.json", [{"a": 1}]), "neither responses nor judgements"),
    "no step": (
        lambda place: made.write_run(place / "run", [{"step": 0}], {}, finished=False), "holds no logged step yet"
    ),
    "no point": (lambda place: made.write_json(place / "pareto.json", {"points": []}), "holds no point"),
    "point without score": (
        lambda place: made.write_json(place / "pareto.json", {"points": [{"arm": "a", "length": {"value": 1}}]}),
        "point 1: 'score' is missing",
    ),
    "fronts without bands": (
        lambda place: made.write_json(
            made.points_file(place / "pareto.json"),
            {**json.loads((place / "pareto.json").read_text()), "arms": {"a": {}}},
        ),
        "is no output of odin-rm pareto (KeyError: 'hypervolume')",
    ),
    "broken audit": (
        lambda place: made.write_json(place / "audit.json", {"accuracy_length_balanced": 1}), "is no audit"
    ),
    "annotation without output": (
        lambda place: made.write_json(place / "a.json", [{"instruction": "q", "output_1": "x"}]),
        "row 1: field 'output_2' is missing",
    ),
}  # fmt: skip


def empty_metrics(place: Path) -> Path:
    folder = made.rl_run(place / "ppo")
    (folder / "metrics.jsonl").write_text("")
    return folder


def broken_middle(place: Path) -> Path:
    folder = made.rl_run(place / "ppo")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], "{cut", *lines[1:]]))
    return folder


def broken_settings(place: Path) -> Path:
    folder = made.rl_run(place / "ppo")
    (folder / "config.yaml").write_text("a: [")
    return folder


BAD |= {
    "empty metrics": (empty_metrics, "metrics.jsonl: the file is empty"),
    "broken in the middle": (broken_middle, "row 2: is not valid JSON"),
    "broken settings": (broken_settings, "config.yaml: is not valid YAML"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, case):
    make, words = BAD[case]
    page = tmp_path / "page.html"
    assert main(["report", "--runs", str(make(tmp_path)), "--output", str(page)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not page.exists()
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": []}, "names nothing"),
        ({"names": ["a", "b"]}, "2 names for 1 paths"),
        ({"samples": -1}, "is -1"),
        ({"output": "page.pdf"}, "ends in .html"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(OdinError, match=words):
        ReportConfig(**({"runs": ["x"], "output": "p.html"} | changes))
