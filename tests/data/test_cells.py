"""Container or text: only a CSV cell that is a list of messages is one."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from odin_rm.core.errors import RowError
from odin_rm.data.cells import chat_of_cell, without_fillers
from odin_rm.data.load import load_preferences
from odin_rm.data.rows import parse_preference_row
from odin_rm.data.sources import open_source

CHAT = [{"role": "user", "content": 'it\'s "q"\nand'}, {"role": "assistant", "content": "good"}]


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps(CHAT),
        str(CHAT),
        str(tuple(CHAT)),
        str(np.array(CHAT, dtype=object)),
        repr(np.array(CHAT, dtype=object)),
    ],
    ids=["json", "python", "tuple", "numpy", "numpy repr"],
)
def test_a_cell_of_messages_is_read_however_it_was_printed(cell):
    assert chat_of_cell(cell, "chosen") == CHAT


@pytest.mark.parametrize(
    "cell",
    ["[1, 2]", '{"name": "Alice", "age": 3}', "[{'city': 'Paris'}]", "[x", "Good. [{'role': 'user'}]", "{}", "[]", ""],
)
def test_other_cells_are_text(cell):
    assert chat_of_cell(cell, "chosen") == cell


@pytest.mark.parametrize(
    "cell",
    [
        str(CHAT)[:-3],
        "[{'role': 'user', 'content': 'q'}, ..., {'role': 'user', 'content': 'q'}]",
        json.dumps(CHAT)[:-5],
    ],
)
def test_a_cut_list_of_messages_is_refused(cell):
    with pytest.raises(RowError, match="begins as a printed list of messages"):
        chat_of_cell(cell, "chosen")


def test_the_same_chat_in_csv_and_jsonl_is_one_thing_and_the_same_string_is_not(tmp_path, chat_tokenizer):
    printed = {"prompt": "a", "chosen": str([{"role": "assistant", "content": "b"}]), "rejected": "c"}
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(printed))
        writer.writeheader()
        writer.writerow(printed)
    (tmp_path / "rows.jsonl").write_text(json.dumps(printed) + "\n", encoding="utf-8")
    cells = load_preferences(str(tmp_path / "rows.csv"), chat_tokenizer, cache_dir=tmp_path)
    text = load_preferences(str(tmp_path / "rows.jsonl"), chat_tokenizer, cache_dir=tmp_path)
    assert cells.response_tokens.tolist() == [1, 1]
    assert text.response_tokens.tolist() == [4, 1]  # four words of text


def test_nulls_that_arrow_puts_into_records_are_no_fields(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Paris"}}}
    rows = [
        {"prompt": "p", "chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}], "rejected": None},
        {"prompt": "q", "chosen": [{"role": "assistant", "content": "x", "name": "Bob"}], "rejected": None},
    ]
    for row in rows:
        row["rejected"] = [{"role": "assistant", "content": "no"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = [
        parse_preference_row(one.row) for one in open_source(tmp_path / "rows.parquet", want="preferences").rows(None)
    ]
    assert read[0].responses[0] == [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert read[1].responses[0] == [{"role": "assistant", "content": "x", "name": "Bob"}]
    assert without_fillers({"a": None, "b": [{"c": None, "d": 0}]}) == {"b": [{"d": 0}]}
