"""``odin-rm judge`` from the command line: what it says, what it refuses, and being stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from odin_rm.cli.main import main
from tests.judging.conftest import write_outputs
from tests.judging.server import KEY, FakeEndpoint, biased, honest
from tests.waiting import PATIENCE


def row(k: int, **fields) -> dict:
    return {"instruction": f"question {k}", "output": f"answer {k}, worth {k}", "generator": "m", **fields}


@pytest.fixture
def sides(room, monkeypatch) -> Path:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    write_outputs(room / "candidate.json", [8, 3, 5], "new")
    write_outputs(room / "baseline.json", [5, 7, 5], "old")
    return room


def command(**changes) -> list[str]:
    flags = {"candidate": "candidate.json", "baseline": "baseline.json", "judge": "openai:m", "output": "out"}
    return ["judge", *(word for name, value in (flags | changes).items() for word in (f"--{name}", str(value)))]


def test_a_comparison_and_the_summary_it_prints(sides, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeEndpoint() as server:
        assert main(command(base_url=server.url, input_price=1000, output_price=1000)) == 0
    said = capsys.readouterr().out
    assert "new against old, judged by m in both orders on 3 prompts:" in said
    assert "1 wins, 1 ties, 1 losses" in said
    assert "the orders differ on 0.0% of the prompts; the first place is preferred 50.0%" in said
    assert "600 prompt and 60 reply tokens, cost 0.66" in said
    assert "annotations.json" in said


def test_what_swapping_the_answers_shows_reaches_the_win_rates(sides, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_outputs(sides / "candidate.json", [5, 9, 6, 5], "new")
    write_outputs(sides / "baseline.json", [5, 2, 5, 4], "old")
    with FakeEndpoint(biased) as server:
        assert main(command(base_url=server.url)) == 0
    report = json.loads(Path("out/judge.json").read_text())
    assert report["disagreement"] == 0.75
    words = ["win-rate", "--annotations", "out", "--output", "rates.json", "--bootstrap_samples", "50"]
    assert main(words) == 0
    rates = json.loads(Path("rates.json").read_text())
    assert rates["order_disagreement"]["value"] == pytest.approx(75)
    assert rates["win_rate_by_order"] == {"candidate_first": 100.0, "candidate_second": 25.0}
    assert (rates["wins"], rates["ties"], rates["losses"]) == (report["wins"], report["ties"], report["losses"])
    assert rates["win_score"]["value"] == pytest.approx(50 + 100 / 4)
    shown = capsys.readouterr().out
    assert "75.0 %" in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"judge": "openai:other"}, "the annotator is 'other', but 'm' in"),
        ({"template": "pairwise"}, "the judge had another template than in"),
        ({"temperature": 0.5}, "the judge had another decoding than in"),
        ({"baseline": "other_baseline.json"}, "the baseline is 'else', but 'old' in"),
        ({"baseline": "changed_baseline.json"}, "'old' answers the instruction 'question 0' in two ways"),
    ],
)
def test_win_rates_of_other_judges_and_baselines_are_not_compared(sides, refuse, monkeypatch, changes, said):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_outputs(sides / "second.json", [1, 2, 9], "second")
    write_outputs(sides / "other_baseline.json", [5, 7, 5], "else")
    write_outputs(sides / "changed_baseline.json", [6, 7, 5], "old")
    reply = (lambda first, second, times: "Verdict: A") if "template" in changes else honest
    with FakeEndpoint() as server:
        assert main(command(base_url=server.url, output="judged/first")) == 0
        same = command(base_url=server.url, candidate="second.json", output="same/second")
        assert main(same) == 0
        server.reply = reply
        second = command(base_url=server.url, candidate="second.json", output="judged/second", **changes)
        assert main(second) == 0
    words = ["win-rate", "--annotations", "judged", "--output", "rates.json", "--bootstrap_samples", "20"]
    refuse(words, said)
    assert main([*words[:2], "judged/first", "same", *words[3:]]) == 0
    assert len(json.loads(Path("rates.json").read_text())["systems"]) == 2


def test_a_dry_run_needs_no_key_and_leaves_nothing(sides, capsys):
    assert main([*command(input_price=1, output_price=1), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "3 prompts: 6 calls to make, 0 judgements in the cache" in said
    assert "at most 3,072 reply tokens" in said
    assert "cost at most about" in said
    assert not Path("out").exists()
    assert main([*command(), "--dry_run"]) == 0
    assert "cost unknown: give --input_price and --output_price" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(7), row(8)], "candidate.json: no instruction is also in baseline.json: these are outputs of different"),
        ([row(0), row(1)], "baseline.json, row 3: the instruction has no answer in candidate.json (1 such in all)"),
        ([row(0), row(1), row(1)], "candidate.json, row 3: the instruction is that of row 2 again"),
        ([row(0), row(1, output=""), row(2)], "candidate.json, row 2: 'output' is empty"),
        ([row(0), {"instruction": "x"}], "candidate.json, row 2: field 'output' is missing"),
        ([], "candidate.json: the file holds no rows"),
        ([row(0, output=None)], "candidate.json, row 1: 'output' is null, not text"),
        ([row(0, generator=["m"])], "candidate.json, row 1: 'generator' is list, not text"),
        ({"question 0": "answer"}, "candidate.json: holds a JSON object, not a list"),
    ],
)
def test_unusable_outputs(sides, refuse, rows, said):
    Path("candidate.json").write_text(json.dumps(rows))
    refuse(command(judge="gold"), said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "there is no API key: the environment variable OPENAI_API_KEY is not set. Set OPENAI_API_KEY"),
        ({"api_key_env": "MY_KEY"}, "the environment variable MY_KEY is not set"),
        ({"template": "mine.yaml"}, "mine.yaml: the template's prompt has no {output_1} and no {output_2}"),
        ({"template": "list.yaml"}, "list.yaml: the template does not say the form of the reply (scores or choice)"),
        ({"template": "none.yaml"}, "none.yaml: no such template"),
        ({"candidate": "run"}, "run: is a folder, not a file"),
        ({"output": ""}, "--output: is empty"),
        ({"candidate": " "}, "--candidate: is empty"),
        ({"temperature": -1}, "--temperature: must be at least 0, it is -1.0"),
        ({"input_price": "nan"}, "--input_price: must be at least 0, it is nan"),
        ({"judge": "openai:"}, "names no model. Write openai:NAME"),
        ({"judge": "gold", "base_url": "http://a/v1"}, "--base_url: --judge gold is no endpoint"),
        ({"base_url": "a/v1"}, "--base_url: is no http(s) address"),
        ({"judge": "none.json"}, "none.json: no such file"),
        ({"judge": "runs/none/model"}, "runs/none/model"),
        ({"baseline": "none.json"}, "none.json: no such file"),
        ({"concurrency": 0}, "--concurrency: must be at least 1, it is 0"),
        ({"timeout": 0}, "--timeout: must be positive, it is 0.0"),
        ({"output": "candidate.json"}, "candidate.json: is a file, not a folder"),
        ({"output": "run"}, "run: the output folder holds metrics.jsonl, which odin-rm did not write there"),
    ],
)
def test_unusable_settings(sides, refuse, changes, said):
    Path("mine.yaml").write_text("reply: scores\nprompt: Rate {instruction}\n")
    Path("list.yaml").write_text("reply: [scores]\nprompt: Rate {instruction} {output_1} {output_2}\n")
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text("{}\n")
    refuse(command(**changes), said)


@pytest.mark.parametrize("key", ["sk-1\nsk-2", "sk-é"])
def test_a_key_that_cannot_be_one_is_not_shown(sides, refuse, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = refuse(command(), "the environment variable OPENAI_API_KEY holds characters that no key has")
    assert "sk-" not in said


def test_without_the_client_the_extra_is_named(sides, refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    refuse(command(), "pip install '.[judge]'")


@pytest.mark.parametrize("sigint", [signal.SIG_DFL, signal.SIG_IGN], ids=["in front", "in the background of a script"])
def test_a_signal_ends_it_with_130_and_it_goes_on_from_there(sides, monkeypatch, sigint):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_outputs(sides / "candidate.json", [8] * 40, "new")
    write_outputs(sides / "baseline.json", [5] * 40, "old")
    with FakeEndpoint() as server:
        server.held_from = 6
        words = command(base_url=server.url, concurrency=2)
        process = subprocess.Popen(
            [sys.executable, "-m", "odin_rm.cli.main", *words],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
        )
        # A worker asks for the next reply when it has saved the one before: six are saved, two are under way.
        server.until(8)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 130, error
        assert "6 of 80 judgements are saved. Run the same command again to go on." in error
        assert error.count("\n") == 1
        server.let_go()
        assert main(words) == 0
        assert len(server.requests) == 8 + 74
    assert len(json.loads(Path("out/annotations.json").read_text())) == 40
