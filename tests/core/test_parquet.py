"""Parquet output: the columns of all rows, or one line that names the column."""

from __future__ import annotations

import pytest

from odin_rm.core.errors import OutputError
from odin_rm.core.parquet import ROWS_AT_ONCE
from odin_rm.core.rows import RowWriter, read_rows


def written(path, rows):
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("suffix", [".parquet", ".parquet.gz"])
def test_what_only_the_last_row_has_is_kept(tmp_path, suffix):
    first = {"prompt": [{"role": "user", "content": "q"}], "meta": {"a": 1}, "late": None}
    last = {"prompt": [{"role": "user", "content": "q", "name": "Bob"}], "meta": {"a": 1.5, "b": "kept"}, "late": "x"}
    rows = [first] * (2 * ROWS_AT_ONCE) + [{**last, "new": [1]}]
    found = written(tmp_path / f"rows{suffix}", rows)
    assert found[-1] == {**last, "new": [1]}
    assert found[0] == {
        "prompt": [{"role": "user", "content": "q", "name": None}],
        "meta": {"a": 1.0, "b": None},
        "late": None,
        "new": None,
    }
    assert len(found) == len(rows)


@pytest.mark.parametrize(
    "rows, column",
    [
        ([{"id": 2**70}], "id"),
        ([{"a": 1, "id": 2**70}, {"a": 2, "id": 0.5}], "id"),
        ([{"a": 1}] * (ROWS_AT_ONCE + 1) + [{"a": "text"}], "a"),
        ([{"a": 1}, {"a": "text"}], "a"),
        ([{"b": 1, "a": {}}], "a"),
        ([{"a": "half \ud83d"}], "a"),
    ],
    ids=["huge", "huge beside a float", "late text", "text", "empty object", "half a character"],
)
def test_what_fits_no_column_is_one_line_that_names_it(tmp_path, rows, column):
    with pytest.raises(OutputError) as caught:
        written(tmp_path / "rows.parquet", rows)
    assert f"column '{column}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_rows_make_a_file_without_rows(tmp_path):
    with RowWriter(tmp_path / "rows.parquet"):
        pass
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 0
