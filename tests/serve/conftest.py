"""Outputs of two policies, studies of them, and the page under a real server."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from odin_rm.serve.study.config import StudyConfig
from odin_rm.serve.study.run import open_study
from odin_rm.serve.study.store import StudyStore
from tests.waiting import wait_until

# Names that would give the policies away; no reply of the server may hold them.
NAMES = {"a": "policy-odin", "b": "policy-vanilla"}


def write_policies(folder: Path, prompts: int) -> None:
    """``a.json`` and ``b.json``: answers of varied length, those of ``b`` longer on the whole."""
    rng = random.Random(0)
    for side, longest in (("a", 60), ("b", 90)):
        rows = [
            {
                "instruction": f"question {k}",
                "output": f"answer {k} from {side.upper()} " + "word " * rng.randint(10, longest),
                "generator": NAMES[side],
            }
            for k in range(prompts)
        ]
        (folder / f"{side}.json").write_text(json.dumps(rows))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the outputs of two policies on 12 prompts."""
    monkeypatch.chdir(tmp_path)
    write_policies(tmp_path, 12)
    return tmp_path


@pytest.fixture
def make_store(room: Path) -> Callable[..., StudyStore]:
    """A study in ``out``, of all prompts if nothing else is said."""

    def make(**changes: Any) -> StudyStore:
        settings = {"a": "a.json", "b": "b.json", "output": "out", "match_mean_length": False} | changes
        return open_study(StudyConfig(**settings))

    return make


@contextmanager
def serving(store: StudyStore, **settings: Any) -> Iterator[str]:
    """The page of a study on a free port of this machine, in a thread; its address."""
    import uvicorn

    from odin_rm.serve.http import listen
    from odin_rm.serve.study.app import make_app
    from odin_rm.serve.study.server import server_settings

    app = make_app(store, question="Which answer is better?", **settings)
    server = uvicorn.Server(server_settings(app))
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = listener.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
