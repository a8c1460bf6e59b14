"""``odin-rm study`` from the command line: what it says, what it refuses, and its end by a signal."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from odin_rm.cli.main import main
from odin_rm.serve.study import run as study_run
from odin_rm.serve.study.config import StudyConfig
from tests.serve.conftest import write_policies
from tests.serve.test_study_server import post
from tests.waiting import wait_until


@pytest.fixture
def sides(room) -> Path:
    write_policies(room, 6)
    return room


def command(**changes) -> list[str]:
    flags = {"a": "a.json", "b": "b.json", "output": "out", "port": 0, "match_mean_length": "false"} | changes
    given = {name: value for name, value in flags.items() if value is not None}
    return ["study", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def row(k: int, **fields) -> dict:
    return {"instruction": f"question {k}", "output": f"answer {k}", "generator": "m", **fields}


def test_a_study_from_the_first_line_to_the_last(sides, capsys, monkeypatch):
    """Rated by a thread while the command serves, then stopped as Ctrl-C stops it."""
    import uvicorn

    servers = []

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(uvicorn, "Server", Server)

    def rate() -> None:
        wait_until(lambda: servers and servers[-1].started)
        address = f"http://127.0.0.1:{servers[-1].servers[0].sockets[0].getsockname()[1]}"
        try:
            state = post(address, "start", rater="Ann")
            for _ in range(4):
                state = post(address, "rate", rater="Ann", item=state["pair"]["item"], side="tie")
        finally:
            servers[-1].should_exit = True

    thread = threading.Thread(target=rate)
    thread.start()
    assert main(command()) == 0
    thread.join()
    said = capsys.readouterr().out
    assert "policy-odin against policy-vanilla: 6 of 6 prompts" in said
    assert "Rate at http://127.0.0.1:" in said
    assert "4 ratings of 4 prompts by 1 rater\n" in said
    assert "win score 50.0 (50.0 to 50.0)" in said
    assert sorted(path.name for path in Path("out").iterdir()) == [
        ".odin-rm.json", "annotations.json", "config.yaml", "environment.json", "study.json", "study.sqlite"
    ]  # fmt: skip
    Path("out/study.json").unlink()
    assert main(["study", "--results", "out"]) == 0
    assert json.loads(Path("out/study.json").read_text())["ratings"] == 4


def test_the_token_is_in_no_file_and_not_in_what_is_said(sides, capsys, monkeypatch):
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    assert main(command(token="very-secret")) == 0
    said = capsys.readouterr().out
    assert "/#token=..." in said
    assert "No rating yet" in said
    texts = [path.read_bytes() for path in Path("out").iterdir()]
    assert not [text for text in [*texts, said.encode()] if b"very-secret" in text]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(7), row(8)], "a.json: no instruction is also in b.json: these are outputs of different prompts"),
        ([row(0), row(1)], "b.json, row 3: the instruction has no answer in a.json (4 such in all)"),
        ([row(0), row(1), row(1)], "a.json, row 3: the instruction is that of row 2 again"),
        ([row(0), row(1, output=""), row(2)], "a.json, row 2: 'output' is empty"),
        ([], "a.json: the file holds no rows"),
    ],
)
def test_unusable_outputs(sides, refuse, rows, said):
    Path("a.json").write_text(json.dumps(rows))
    refuse(command(), said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"a": None}, "--a: is required. Pass --a, --b and --output, or --results DIR alone."),
        ({"b": "none.json"}, "none.json: no such file"),
        ({"b": "a.json"}, "a.json: gives the same answers as a.json"),
        ({"host": "0.0.0.0"}, "--host: 0.0.0.0 can be reached by others. Pass --token SECRET"),
        ({"host": "0.0.0.0", "token": "short"}, "--token: is too short, or not of plain characters"),
        ({"host": "no.such.host.invalid", "token": "long-enough"}, "cannot listen at no.such.host.invalid port 0"),
        ({"port": 70000}, "--port: must be at least 0 and at most 65535, it is 70000"),
        ({"sample_size": 0}, "--sample_size: must be at least 1, it is 0"),
        ({"sample_size": 7}, "--sample_size: is 7, but lengths can be matched on 6 of 6 prompts only"),
        ({"max_length_ratio": 0.5}, "--max_length_ratio: must be at least 1, it is 0.5"),
        ({"max_length_ratio": 1.0001}, "--max_length_ratio: none of 6 prompts has answers of so similar length"),
        ({"question": " "}, "--question: is empty"),
        ({"results": "out"}, "--a: has no effect with --results"),
        ({"output": "a.json"}, "a.json: is a file, not a folder"),
        ({"output": "run"}, "run: the output folder holds metrics.jsonl, which odin-rm did not write there"),
        ({"output": "damaged"}, "study.sqlite: cannot be used as a study (file is not a database)"),
    ],
)
def test_unusable_settings(sides, refuse, changes, said):
    for folder, file in (("run", "metrics.jsonl"), ("damaged", "study.sqlite")):
        Path(folder).mkdir()
        Path(folder, file).write_text("this is no database, and longer than its header\n" * 20)
    refuse(command(**changes), said)


def test_results_need_a_study_and_ratings(sides, refuse):
    refuse(["study", "--results", "none"], "none: holds no study (no study.sqlite)")
    study_run.open_study(StudyConfig(a="a.json", b="b.json", output="out", match_mean_length=False))
    refuse(["study", "--results", "out"], "the study has no rating yet")


def test_a_port_in_use(sides, refuse):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refuse(command(port=taken.getsockname()[1]), "--port: cannot listen at 127.0.0.1 port", "Pass another --port")


def test_without_the_server_the_extra_is_named(sides, refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refuse(command(), "pip install '.[study]'")
