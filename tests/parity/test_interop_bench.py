"""The comparison with real peers says what it found: verdicts, tables, and the way to a peer and back."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.interop import tools
from benchmarks.interop.__main__ import Comparison
from benchmarks.interop.models import make_model
from benchmarks.interop.serving import client_calls
from benchmarks.interop.table import BEGIN, END, Outcome, between_marks, judge, markdown, reasons, record, summary
from benchmarks.interop.texts import as_rows, choose_pairs

from odin_rm.core.files import RowWriter
from odin_rm.testbed.tiny import build_tokenizer, save_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "interop" / "peers"
ROWS = [{"prompt": "p", "response": "a"}, {"prompt": "p", "response": "b"}]


def verdict(found: list[float] | None, expected: list[float] | None = None, **given: Any) -> Outcome:
    given = {"tolerance": 0.125, **given}
    return judge("tool", "way", "model", expected=expected or [1.0, 2.0, 3.0], found=found, **given)


def test_a_difference_up_to_the_tolerance_passes_and_a_larger_one_fails() -> None:
    assert verdict([1.0, 2.125, 3.0]) == Outcome("tool", "way", "model", 0.125, "passed", 0.125, 1.0)
    failed = verdict([1.0, 2.0, 3.25])
    assert (failed.verdict, failed.difference) == ("failed", 0.25)


def test_equal_ranks_do_not_save_a_difference_and_ranks_are_told() -> None:
    # Ranks 1 2 3 against 3 1 2: 1 - 6 (4 + 1 + 1) / (3 * 8) = -0.5.
    found = verdict([9.0, 1.0, 2.0])
    assert (found.verdict, found.difference) == ("failed", 8.0)
    assert found.spearman == pytest.approx(-0.5, abs=1e-12)
    assert verdict([10.0, 20.0, 30.0]).verdict == "failed"
    assert verdict([1.0, 1.0, 1.0]).spearman is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_fail(value: float) -> None:
    found = verdict([1.0, value, 3.0])
    assert (found.verdict, found.difference) == ("failed", math.inf)
    (row,) = record([found])
    assert (row["difference"], row["why"]) == (None, "a score is not a finite number")
    assert "**no number**" in markdown([found], ["model"])


def test_missing_scores_and_errors_fail_with_their_reason() -> None:
    assert verdict([1.0, 2.0]).why == "2 scores for 3 texts"
    assert verdict(None, error="ValueError: no").why == "ValueError: no"
    assert [verdict(None).verdict, verdict(None).why] == ["failed", "no answer"]


def test_what_is_wrong_by_design_is_measured_and_does_not_fail() -> None:
    wrong = verdict([9.0, 1.0, 2.0], by_design="no template")
    assert (wrong.verdict, wrong.difference, wrong.why) == ("by design", 8.0, "no template")
    assert verdict([1.0, 2.0, 3.0], by_design="no template").verdict == "passed"
    assert verdict(None, error="E", by_design="no template").why == "E; no template"


def test_the_table_has_ways_by_models_and_every_reason_once() -> None:
    outcomes = [
        verdict([1.0, 2.0, 3.0625]),
        judge("tool", "way", "other", expected=[1.0, 2.0], found=[2.0, 1.0], tolerance=0.125),
        judge("tool", "other way", "model", expected=[1.0], found=None, error="E", tolerance=0.5),
        judge("tool", "other way", "other", expected=[1.0], found=[3.0], tolerance=0.5, by_design="why"),
        Outcome("absent", "way", "model", 0.125, "skipped", why="not installed"),
        Outcome("absent", "way", "other", 0.125, "skipped", why="not installed"),
    ]
    assert markdown(outcomes, ["model", "other"]).splitlines() == [
        "| tool | way of calling | tolerance | model | other |",
        "| --- | --- | --- | --- | --- |",
        "| tool | `way` | 0.125 | 6.2e-02 | **1.0e+00 (-1.000)** |",
        "| tool | `other way` | 0.5 | **error** | 2.0e+00 d |",
        "| absent | `way` | 0.125 | - | - |",
    ]
    assert reasons(outcomes) == [
        "failed: tool: E (other way [model])",
        "by design: tool: why (other way [other])",
        "skipped: absent: not installed",
    ]
    assert summary(outcomes) == {"passed": 1, "failed": 2, "by design": 1, "skipped": 2}


def test_a_page_gets_the_new_table_and_keeps_the_rest() -> None:
    page = f"text\n{BEGIN}\nold\n{END}\nmore\n"
    assert between_marks(page, "new\n") == f"text\n{BEGIN}\n\nnew\n\n{END}\nmore\n"
    assert between_marks(between_marks(page, "one"), "two") == between_marks(page, "two")
    for wrong in ("no marks", f"{END} {BEGIN}", page + page):
        with pytest.raises(ValueError, match="needs the marks"):
            between_marks(wrong, "new")


def test_pairs_are_chosen_that_fit_all_windows_and_prompts_are_not_repeated_before_need() -> None:
    pairs = [{"prompt": p, "chosen": p + "+", "rejected": p + "-"} for p in ("a", "a", "b", "c")]
    tokens = [[5, 5], [5, 5], [5, 9], [5, 6]]
    assert choose_pairs(pairs, tokens, 2, 6) == [0, 3]
    assert choose_pairs(pairs, tokens, 3, 6) == [0, 1, 3]
    with pytest.raises(ValueError, match="3 of 4 pairs have at most 6 tokens, 4 are wanted"):
        choose_pairs(pairs, tokens, 4, 6)
    assert as_rows(pairs[3:]) == [{"prompt": "c", "response": "c+"}, {"prompt": "c", "response": "c-"}]


def comparison(tmp_path: Path, models: list[str]) -> Comparison:
    found = Comparison(Namespace(output=tmp_path, models=models))
    found.rows = ROWS
    return found


def test_a_way_that_was_not_answered_and_a_model_that_could_not_be_made_fail(tmp_path: Path) -> None:
    found = comparison(tmp_path, ["qwen", "bert", "gpt2"])
    found.models = {name: {"scores": [1.0, 2.0]} for name in ("qwen", "bert")}
    found.broken = {"gpt2": "odin-rm export ended with 2"}
    ways = (tools.Way("asked"), tools.Way("decoders", decoders_only=True))
    tool = tools.Tool("tool", "none", "package", "script.py", ways)
    found.note(tool, [{"model": "qwen", "way": "asked", "scores": [1.0, 2.0]}], ["qwen", "bert", "gpt2"], "it crashed")
    assert [(o.way, o.model, o.verdict, o.why) for o in found.outcomes] == [
        ("asked", "qwen", "passed", ""),
        ("asked", "bert", "failed", "it crashed"),
        ("asked", "gpt2", "failed", "odin-rm export ended with 2"),
        ("decoders", "qwen", "failed", "it crashed"),
        ("decoders", "gpt2", "failed", "odin-rm export ended with 2"),
    ]


def test_a_peer_that_is_not_installed_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = comparison(tmp_path, ["qwen"])
    found.run_tool(tools.Tool("tool", "nowhere", "package", "script.py", (tools.Way("asked"),)))
    assert [o.verdict for o in found.outcomes] == ["skipped"]
    assert "tool: skipped: .venv-interop-nowhere is not installed" in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, str]]]:
    """A model of the comparison on the testbed's base, and the rows it was scored on."""
    from odin_rm.testbed.annotator import Annotator, make_preferences
    from odin_rm.testbed.world import World

    folder = tmp_path_factory.mktemp("interop")
    save_tiny_model(folder / "models" / "qwen" / "base", 0)
    build_tokenizer().save_pretrained(folder / "models" / "qwen" / "base")
    pairs = make_preferences(World(), Annotator(World()), 24, 0)
    rows = as_rows(pairs[:5])
    for name, content in (("train", pairs[5:]), ("rows", rows)):
        with RowWriter(folder / f"{name}.jsonl") as writer:
            for row in content:
                writer.write(row)
    model = make_model(
        folder / "models" / "qwen", folder / "train.jsonl", folder / "rows.jsonl", steps=1, seed=0, max_length=256
    )
    return folder, {**model, "encoder": False}, rows


@pytest.mark.slow
def test_every_model_is_scaled_to_a_deviation_of_one(tiny: Any) -> None:
    _, model, rows = tiny
    assert len(model["scores"]) == len(rows)
    assert model["deviation"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_a_real_script_scores_the_export_and_a_changed_score_fails(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model, rows = tiny
    monkeypatch.setattr(tools.Tool, "python", property(lambda self: Path(sys.executable)))
    found = comparison(folder, ["qwen"])
    found.rows, found.models = rows, {"qwen": model}
    tool = tools.TOOLS["transformers5"]
    answers, problem = found.run_script(tool, found.models)
    assert problem == ""
    assert {answer["way"] for answer in answers} == {way.name for way in tool.ways}
    found.note(tool, answers, ["qwen"])
    verdicts = {outcome.way: outcome.verdict for outcome in found.outcomes}
    assert verdicts["pipeline(text, add_special_tokens=False)"] == verdicts["last attended token"] == "passed"
    assert verdicts["pipeline({text, text_pair})"] == "by design"
    found.outcomes.clear()
    found.models["qwen"] = {**model, "scores": [*model["scores"][:-1], model["scores"][-1] + 2e-5]}
    found.note(tool, answers, ["qwen"])
    assert "passed" not in {o.verdict for o in found.outcomes if o.tolerance == tools.EXACT}


class Replies(BaseHTTPRequestHandler):
    """Answers as vLLM does; the reward is a number that tells who was asked."""

    asked: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        worth = {"a": 1.0, "b": 2.0}
        reply: dict[str, Any]
        if self.path == "/rerank":
            hits = [{"index": i, "relevance_score": worth[text]} for i, text in enumerate(body["documents"])]
            reply = {"results": sorted(hits, key=lambda hit: -hit["relevance_score"])}
        elif self.path == "/score":
            reply = {"data": [{"score": worth[body["text_2"]]}]}
        else:
            value = worth[body["messages"][1]["content"] if "messages" in body else body["input"][-1]]
            reply = {"data": [{"probs": [value]} if self.path == "/classify" else {"data": [value]}]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    asked: list[Any] = []
    handler = type("Noted", (Replies,), {"asked": asked})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield SimpleNamespace(address=f"127.0.0.1:{running.server_port}", asked=asked)
    running.shutdown()
    running.server_close()


def test_each_way_of_asking_vllm_gives_the_scores_in_the_order_of_the_rows(server: Any) -> None:
    calls = client_calls(server.address, "rm", ROWS, ["text a", "text b"])
    assert list(calls) == [way.name for way in tools.VLLM.ways]
    assert {way: call() for way, call in calls.items()} == {way: [1.0, 2.0] for way in calls}
    assert all(body["model"] == "rm" for _, body in server.asked)
    texts = [body for path, body in server.asked if path == "/classify" and "input" in body]
    assert [body.get("add_special_tokens") for body in texts] == [False, False, None, None]


def test_scripts_of_peers_use_nothing_of_ours() -> None:
    found = set()
    for path in PEERS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.split(".")[0] for name in names}
    assert {"answer", "trl", "verl", "openrlhf"} <= found
    assert found.isdisjoint({"odin_rm", "benchmarks", "tests"})


def test_every_peer_has_its_script_and_a_pinned_package_in_an_environment_that_make_knows() -> None:
    known = re.search(r"^PEERS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert known is not None
    assert set(known.group(1).split()) == {tool.environment for tool in tools.TOOLS.values()}
    for tool in tools.TOOLS.values():
        assert not tool.script or (PEERS / tool.script).is_file()
        files = (ROOT / "benchmarks" / "interop" / "requirements").glob(f"{tool.environment}.*")
        pins = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        assert [line for line in pins if line.startswith(f"{tool.package}==")], tool.package
