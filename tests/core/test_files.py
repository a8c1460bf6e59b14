"""Atomic writes, run folders and the environment record."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from odin_rm.core.errors import OutputError
from odin_rm.core.files import (
    append_jsonl,
    atomic_file,
    atomic_folder,
    atomic_write_json,
    atomic_write_text,
    dump_json,
    environment_record,
    json_safe,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@dataclasses.dataclass
class Point:
    x: float
    y: np.ndarray


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (-math.inf, None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({1: {"a": np.float64("nan")}}, {"1": {"a": None}}),
        ((1, "two", None, True), [1, "two", None, True]),
        ({3, 1, 2}, [1, 2, 3]),
        (Path("a/b"), os.path.join("a", "b")),
        (Point(1.5, np.array([2])), {"x": 1.5, "y": [2]}),
    ],
)
def test_json_safe_gives_plain_values(value, expected):
    safe = json_safe(value)
    assert safe == expected
    assert json.loads(dump_json(value)) == expected


def test_dump_json_keeps_text_readable_and_survives_half_characters():
    assert dump_json({"t": "déjà 漢字"}) == '{"t": "déjà 漢字"}'
    assert json.loads(dump_json("\ud83d")) == "\ud83d"


def test_atomic_write_replaces_whole_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "deep" / "a.json"
    atomic_write_json(path, {"v": float("nan")})
    atomic_write_json(path, {"v": 2})
    assert json.loads(path.read_text()) == {"v": 2}
    assert names(path.parent) == ["a.json"]


def test_failed_atomic_file_keeps_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def fail():
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_killed_writer_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, sys\nfrom odin_rm.core.files import atomic_file\n"
        "with atomic_file(sys.argv[1]) as f:\n    f.write(b'new'); f.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert path.read_text() == "old"


def test_atomic_file_refuses_impossible_places_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(OutputError) as caught:
            atomic_write_text(path, "text")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_atomic_folder_appears_only_when_complete(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
        assert folder.parent == path.parent
    assert (path / "a").read_text() == "1"
    assert names(tmp_path) == ["model"]


def test_atomic_folder_failure_leaves_nothing_or_the_old_one(tmp_path):
    path = tmp_path / "model"

    def fail():
        with atomic_folder(path, overwrite=True) as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(RuntimeError):
        fail()
    assert names(path) == ["old"]
    with atomic_folder(path, overwrite=True) as folder:
        (folder / "new").write_text("1")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_atomic_folder_refuses_what_is_there_unless_told(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    with atomic_folder(path) as folder:  # an empty folder counts as absent
        (folder / "a").write_text("1")
    with pytest.raises(OutputError, match="not empty"), atomic_folder(path):
        pytest.fail("the block must not run")
    with pytest.raises(OutputError, match="is a file"), atomic_folder(path / "a"):
        pytest.fail("the block must not run")


def test_append_jsonl_adds_one_line_each(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"step": 1, "loss": np.float32(0.5)})
    append_jsonl(path, {"step": 2, "loss": float("nan")})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_environment_record_has_versions_and_nothing_personal():
    record = environment_record()
    assert record["python"].startswith("3.")
    assert record["cpu_cores"] >= 1
    assert {"torch", "transformers", "numpy"} <= set(record["packages"])
    text = json.dumps(record)
    assert os.path.expanduser("~") not in text
    assert os.sep + "home" not in text
    assert os.uname().nodename not in text


def test_the_core_imports_nothing_heavy():
    code = (
        "import sys, odin_rm, odin_rm.core.files, odin_rm.core.types\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
