"""Rows in and out of files: each format there and back, and each kind of broken file."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_rm.core.errors import DataError, OutputError, RowError
from odin_rm.core.files import RowWriter, first_row, read_rows

ROWS = [{"prompt": "a", "n": 1}, {"prompt": 'b, "quoted"\nand broken', "n": 2}, {"prompt": "漢字 é", "n": 3}]
SUFFIXES = [suffix + gz for suffix in (".jsonl", ".json", ".parquet", ".csv") for gz in ("", ".gz")]


def write(path, rows):
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back_in_order_with_their_numbers(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    write(path, ROWS)
    expected = [{**row, "n": str(row["n"])} for row in ROWS] if ".csv" in suffix else ROWS
    assert list(read_rows(path)) == list(enumerate(expected, start=1))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_rows_give_the_same_bytes(tmp_path, suffix):
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    write(one, ROWS)
    write(two, ROWS)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failing_writer_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text("old")

    def fail():
        with RowWriter(path) as writer:
            writer.write(ROWS[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".parquet", ".parquet.gz", ".jsonl.gz", ".csv"])
def test_many_rows_cross_the_batch_border(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    write(path, ({"i": i} for i in range(2500)))
    assert [int(row["i"]) for _, row in read_rows(path)] == list(range(2500))


def test_json_may_wrap_its_list_in_data(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": ROWS}))
    assert [row for _, row in read_rows(path)] == ROWS


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('\ufeff [ {"a": [1]}, broken', {"a": [1]}),
        ('{"data": [{"b": 2}]}', {"b": 2}),
        ('[{"a": 1}, {"c": 2}]', {"a": 1}),
    ],
)
def test_the_first_row_is_seen_without_the_rest(tmp_path, text, row):
    file = tmp_path / "rows.json"
    file.write_text(text, encoding="utf-8")
    assert first_row(file) == row
    file.write_text("[3, broken", encoding="utf-8")
    with pytest.raises(DataError, match="is not valid JSON"):
        first_row(file)
    with pytest.raises(DataError, match="no such file"):
        first_row(tmp_path / "none.json")


def test_byte_order_mark_and_blank_lines_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}')
    assert list(read_rows(path)) == [(1, {"a": 1}), (3, {"a": 2})]  # numbers are line numbers
    table = tmp_path / "a.csv"
    table.write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n")
    assert list(read_rows(table)) == [(1, {"a": "1", "b": "2"}), (2, {"a": "3", "b": "4"})]


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    return line


def test_missing_file_and_folder_are_refused_at_the_call(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "folder.json")


def test_unknown_suffix_names_the_known_ones(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    line = refusal(tmp_path / "a.txt")
    assert all(suffix in line for suffix in (".jsonl", ".json", ".parquet", ".csv", ".gz"))
    with pytest.raises(DataError):
        RowWriter(tmp_path / "b.xlsx")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert "empty" in refusal(path)


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.csv", "prompt,chosen\n")])
def test_file_without_rows(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert "holds no rows" in refusal(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("junk", [bytes(range(256)) * 40, b"\x89PNG\r\n\x1a\n\x00\x00", b"\xff\xfe{\x00}\x00"])
def test_binary_junk(tmp_path, suffix, junk):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(junk)
    assert ("binary" if suffix != ".parquet" else "not a readable Parquet") in refusal(path)
    if suffix == ".jsonl":  # skipping bad rows does not make a picture a data set
        with pytest.raises(DataError, match="binary"):
            list(read_rows(path, on_bad_row=lambda error: None))


def test_gzip_without_its_suffix_is_recognised(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert "gzip" in refusal(path)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s.endswith(".gz")])
def test_truncated_gzip(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, ({"text": f"{i * 7919 % 1009} some text {i}"} for i in range(3000)))
    whole = path.read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "truncated gzip" in refusal(path)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s.endswith(".gz")])
def test_text_named_gz(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text('{"a": 1}\n' * 9)
    assert "broken gzip" in refusal(path)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    data = bytearray(gzip.compress(b'{"a": 1}\n' * 5000))
    data[-20:-8] = b"\x00" * 12
    path.write_bytes(bytes(data))
    assert "gzip" in refusal(path)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ('{"a": ', "not valid JSON"),
        ("[1, 2]", "a JSON list"),
        ('"text"', "a JSON string"),
        ("null", "a JSON null"),
        (r'{"a": "\ud83d"}', "half a character"),
        ("[" * 100000, "nested more than 100 deep"),
    ],
)
def test_bad_line_has_its_number_and_can_be_left_out(tmp_path, bad, word):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + bad + '\n{"a": 3}\n')
    with pytest.raises(RowError, match=word) as caught:
        list(read_rows(path))
    assert f"{path}, row 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    met: list[RowError] = []
    assert list(read_rows(path, on_bad_row=met.append)) == [(1, {"a": 1}), (3, {"a": 3})]
    assert [error.where for error in met] == [f"{path}, row 2"]


def test_a_line_in_another_encoding_is_one_bad_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"a": "plain text, long enough to be text"}\n{"a": "caf\xe9 au lait, s\'il vous plait"}\n{"a": 3}\n'
    )
    met: list[RowError] = []
    assert [number for number, _ in read_rows(path, on_bad_row=met.append)] == [1, 3]
    assert "not UTF-8" in str(met[0])


def test_a_whole_list_in_jsonl_and_lines_in_json_get_a_hint(tmp_path):
    (tmp_path / "a.jsonl").write_text('[\n{"a": 1}\n]')
    assert "Name the file .json." in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert "name it .jsonl" in refusal(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["3", '{"rows": []}', '"x"'])
def test_json_that_is_no_list(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert "not a list" in refusal(tmp_path / "a.json")


def test_json_items_that_are_no_objects(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}, 5]')
    assert "row 2" in refusal(tmp_path / "a.json")


def test_csv_rows_of_another_width_and_duplicate_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n1,2,3\n4,5\n")
    assert "row 2" in refusal(path)
    assert [number for number, _ in read_rows(path, on_bad_row=lambda error: None)] == [1, 3]
    path.write_text("a,b,a\n1,2,3\n")
    assert "duplicate columns: a" in refusal(path)
    path.write_text('a,b\n1,"open\n')
    assert "not valid CSV" in refusal(path)


def test_csv_takes_long_cells(tmp_path):
    path = tmp_path / "a.csv"
    write(path, [{"a": "x" * 300_000}])
    assert len(next(read_rows(path))[1]["a"]) == 300_000


def test_csv_writes_lists_as_json_and_none_as_nothing(tmp_path):
    path = tmp_path / "a.csv"
    write(path, [{"a": [1, {"b": "é"}], "c": None}])
    assert list(read_rows(path)) == [(1, {"a": '[1, {"b": "é"}]', "c": ""})]


def test_new_columns_of_csv_are_refused_rather_than_lost(tmp_path):
    with pytest.raises(OutputError, match="column 'b'"):
        write(tmp_path / "a.csv", [{"a": 1}, {"a": 1, "b": 2}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("escape", [r"\ud83d", r"\uD83D x"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_half_a_character_is_one_bad_row_in_every_text_file(tmp_path, suffix, escape):
    rows = [r'{"a": "sound \ud83d\ude00"}', f'{{"a": [{{"b": "{escape}"}}]}}', '{"a": "sound"}']
    text = "[" + ",".join(rows) + "]" if suffix == ".json" else "\n".join(rows)
    (tmp_path / f"a{suffix}").write_text(text, encoding="utf-8")
    bad = []
    assert [number for number, _ in read_rows(tmp_path / f"a{suffix}", bad.append)] == [1, 3]
    assert "row 2: holds half a character" in str(bad[0])


def test_parquet_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = pa.array([b"sound", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"a": broken}), tmp_path / "a.parquet")
    bad = []
    assert [row for _, row in read_rows(tmp_path / "a.parquet", bad.append)] == [{"a": "sound"}]
    assert "row 2: is not UTF-8 text" in str(bad[0])


def test_parquet_rows_of_another_type_are_refused(tmp_path):
    with pytest.raises(OutputError, match="do not fit"):
        write(tmp_path / "a.parquet", [{"a": 1}] * 2000 + [{"a": "text"}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_reading_and_writing_stream(tmp_path, suffix):
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}{suffix}"
        tracemalloc.start()
        write(path, ({"text": f"{i} " * 100} for i in range(rows)))
        for _ in read_rows(path):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(50)  # imports
    assert peak(8000) < 2 * peak(2000)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=4))
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
def test_any_rows_survive_the_round_trip(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("rows") / f"a{suffix}"
    write(path, rows)
    assert [row for _, row in read_rows(path)] == rows


plain_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\r\t"))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(plain_text, plain_text), min_size=1, max_size=4))
def test_any_text_survives_csv(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    write(path, [{"a": a, "b": b} for a, b in rows])
    assert [row for _, row in read_rows(path)] == [{"a": a, "b": b} for a, b in rows]
