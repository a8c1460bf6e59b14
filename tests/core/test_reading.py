"""Files that are read whole: limits, and every failure in one line."""

from __future__ import annotations

import gzip
import json

import pytest

from odin_rm.core import reading, rows
from odin_rm.core.errors import DataError, MissingFileError
from odin_rm.core.reading import parse_json, parse_yaml, read_bytes, read_json, read_lines, read_text, read_yaml
from odin_rm.core.rows import read_rows


def refused(call, *arguments) -> str:
    """The one line of an error."""
    with pytest.raises(DataError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


@pytest.mark.parametrize("depth", [101, 900, 5_000, 200_000])
def test_json_that_is_deep(depth):
    assert "nested more than 100 deep" in refused(parse_json, nested(depth))
    assert "nested more than 100 deep" in refused(parse_json, nested(depth, '{"a":', "}"))
    assert "nested more than 100 deep" in refused(parse_yaml, nested(min(depth, 5_000)))


def test_what_is_not_deep_is_taken():
    assert parse_json(nested(100)) is not None
    assert parse_json(json.dumps([[1]] * 1000)) == [[1]] * 1000
    assert parse_yaml(nested(90)) is not None
    assert parse_json("\ufeff1".encode()) == 1


@pytest.mark.parametrize("text", ["", "{", "nope", "1" * 5000, '"\\ud83'])
def test_json_that_is_none(text):
    assert "x: is not valid JSON (" in refused(lambda: parse_json(text, where="x"))


@pytest.mark.parametrize(
    "text", ["a: [", "a: !!python/object:os.system {}", "a: 2023-99-99", "? {a: 1}\n: b", "a: &x [*y]", "\x00", "%YAML"]
)
def test_yaml_that_is_none(text):
    assert "x: is not valid YAML (" in refused(lambda: parse_yaml(text, where="x"))


def test_yaml_that_grows_by_its_references():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    assert "too many values" in refused(parse_yaml, "\n".join(lines))
    assert "nested more than" in refused(parse_yaml, "&a [*a]")


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "latin").write_bytes(b"\xe9t\xe9")
    assert "is not UTF-8 text" in refused(read_text, tmp_path / "latin")
    assert "is not UTF-8 text" in refused(read_json, tmp_path / "latin")
    assert "cannot be read" in refused(read_bytes, tmp_path)
    for path in ("n" * 300, "a/" * 3000, "a\0b"):
        said = refused(read_yaml, path)
        assert "cannot be read" in said
        assert len(said) < 400
    with pytest.raises(MissingFileError, match="no such file"):
        read_bytes(tmp_path / "gone")
    (tmp_path / "big").write_bytes(bytes(11))
    assert "holds more than" in refused(lambda: read_bytes(tmp_path / "big", limit=10))


def test_a_log_with_a_cut_or_damaged_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\xfe\n[1]\n{"a": 2}\n{"a": ')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
def test_a_line_without_end(tmp_path, monkeypatch, name):
    monkeypatch.setattr(rows, "LONGEST_LINE", 1000)
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wb") as file:
        file.write(b'{"a": 1}\n' if "jsonl" in name else b"a\n1\n")
        file.write(b'{"a": "' + b"x" * 5000)
    assert "line" in refused(lambda: list(read_rows(tmp_path / name)))


def test_a_cell_without_end_and_lines_of_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST_LINE", 100)
    (tmp_path / "a.csv").write_text('a\n"' + "x\n" * 200 + '"\n')
    assert "not valid CSV" in refused(lambda: list(read_rows(tmp_path / "a.csv")))
    monkeypatch.setattr(rows, "_MOST_BLANK", 50)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + "\n" * 200)
    assert "blank lines in a row" in refused(lambda: list(read_rows(tmp_path / "a.jsonl")))


def test_a_json_file_larger_than_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGEST_TEXT", 100)
    (tmp_path / "a.json").write_text(json.dumps([{"a": "x" * 200}]))
    assert "Write it as .jsonl" in refused(lambda: list(read_rows(tmp_path / "a.json")))
    assert reading.LONGEST_LINE >= 2**20
