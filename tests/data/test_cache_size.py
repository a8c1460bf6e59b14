"""The cache's size and its bound: what was used longest ago goes first, and nothing of anybody else's."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError
from odin_rm.data.cache_size import (
    GIB,
    cache_entries,
    cache_leftovers,
    cache_limit,
    clear_cache,
    keep_within,
    mark_used,
)

NOW = 1_000_000.0
DAY = 86_400.0
NAMES = ["a" * 32, "b" * 32, "c" * 32]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three data sets of 100, 200 and 300 bytes, used in this order, and what is none of ours."""
    for number, name in enumerate(NAMES, start=1):
        make(tmp_path / name, 100 * number, NOW - 1000 + number)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    (tmp_path / "readme.txt").write_text("keep")
    return tmp_path


def make(folder: Path, size: int, used: float) -> Path:
    folder.mkdir()
    (folder / "ids.npy").write_bytes(b"x" * (size - 2))
    (folder / "record.json").write_text("{}")
    for path in folder.iterdir():
        os.utime(path, (used, used))
    return folder


def test_entries_by_their_last_use(root: Path) -> None:
    assert [(entry.folder.name, entry.size) for entry in cache_entries(root)] == [
        (NAMES[0], 100),
        (NAMES[1], 200),
        (NAMES[2], 300),
    ]
    mark_used(root / NAMES[0])
    assert [entry.folder.name for entry in cache_entries(root)] == [*NAMES[1:], NAMES[0]]
    assert cache_entries(root / "nothing") == []
    mark_used(root / "nothing")  # which is no error: it may have been deleted meanwhile


@pytest.mark.parametrize(
    ("limit", "gone"), [(600, []), (599, NAMES[:1]), (500, NAMES[:1]), (300, NAMES[:2]), (299, NAMES), (0, NAMES)]
)
def test_what_was_used_longest_ago_goes_first(root: Path, limit: float, gone: list[str]) -> None:
    assert [entry.folder.name for entry in keep_within(root, limit, now=NOW)] == gone
    assert {path.name for path in root.iterdir()} == {*NAMES, "notes", "readme.txt"} - set(gone)


def test_the_data_set_in_use_stays(root: Path) -> None:
    assert [e.folder.name for e in keep_within(root, 100, spared=(root / NAMES[0],), now=NOW)] == NAMES[1:]


def test_leftovers_go_after_a_day(root: Path) -> None:
    old = [make(root / name, 50, NOW - 2 * DAY) for name in (".scratch-abc", f".{'d' * 32}.12-aa.part", ".gone-1")]
    make(root / ".scratch-new", 50, NOW - 60)
    make(root / ".mine", 50, NOW - 2 * DAY)
    assert {entry.folder for entry in keep_within(root, 10_000, now=NOW)} == set(old)
    assert [entry.folder.name for entry in cache_leftovers(root)] == [".scratch-new"]


def test_clearing_takes_ours_and_nothing_else(root: Path) -> None:
    make(root / ".scratch-abc", 50, NOW)
    assert sum(entry.size for entry in clear_cache(root)) == 650
    assert {path.name for path in root.iterdir()} == {"notes", "readme.txt"}


@pytest.mark.parametrize(("text", "limit"), [("", 20 * GIB), ("0.5", GIB / 2), ("0", 0.0), ("inf", math.inf)])
def test_the_bound_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch, text: str, limit: float) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE_GIB", text)
    assert cache_limit() == limit


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_bound_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE_GIB", text)
    with pytest.raises(ConfigError, match=rf"ODIN_RM_CACHE_GIB: is '{text}', not a size"):
        cache_limit()


def test_the_cache_of_a_command_is_kept_below_its_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plain_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Two data sets and a bound of nothing: the one in use stays, the one before goes."""
    from odin_rm.data.load import load_preferences

    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ODIN_RM_CACHE_GIB", "0")
    for name in ("first", "second"):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"prompt": name, "chosen": "good", "rejected": "bad"}) + "\n"
        )
    kept = []
    for name in ("first", "second"):
        data = load_preferences(str(tmp_path / f"{name}.jsonl"), plain_tokenizer)
        assert data.num_pairs == 1
        kept.append([entry.folder.name for entry in cache_entries(tmp_path / "cache")])
    assert [len(names) for names in kept] == [1, 1]
    assert kept[0] != kept[1]
    # A folder that the user has named is left alone.
    for name in ("first", "second"):
        load_preferences(str(tmp_path / f"{name}.jsonl"), plain_tokenizer, cache_dir=tmp_path / "own")
    assert len(cache_entries(tmp_path / "own")) == 2


def test_the_command(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE", str(root))
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(root), "data_sets": 3, "bytes": 600, "leftover_bytes": 0, "deleted": 0, "deleted_bytes": 0,
        "limit_gib": 20.0,
    }  # fmt: skip
    assert main(["cache", "--clear"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Deleted 3 data sets, 600 bytes"
    assert lines[1] == f"{root}: 0 tokenised data sets, 0 bytes"
    assert (root / "notes" / "mine.txt").is_file()
    assert main(["cache", "--cache_dir", str(root / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
