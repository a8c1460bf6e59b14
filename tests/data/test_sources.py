"""Every container gives the same data; what is not there says so in one line."""

from __future__ import annotations

import gzip
import json

import datasets
import pytest

from odin_rm.core.errors import DataError, RowError
from odin_rm.core.files import RowWriter
from odin_rm.data.load import load_preferences
from odin_rm.data.sources import iter_preference_rows, open_source
from odin_rm.data.tokenise import EncodingSettings

STRINGS = [
    {"prompt": "what is up", "chosen": "not much", "rejected": 'fine, "you"\nhello', "margin": 0.5},
    {"prompt": "hello", "chosen": "a b c", "rejected": "d", "margin": 0.0},
]
CHAT = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
        "margin": row["margin"],
    }
    for row in STRINGS
]
RANKED = [{"prompt": "a", "responses": ["b", "c d", "e"], "ranks": [2.0, 1.0, 2.0]}]
SUFFIXES = [".jsonl", ".json", ".parquet", ".csv"]


def load(source, tokenizer, tmp_path, **more):
    return load_preferences(source, tokenizer, EncodingSettings(64), cache_dir=tmp_path / "cache", **more)


def content(data):
    """Everything but the source's name."""
    columns = ["offsets", "response_tokens", "response_prompt", "pair_chosen", "pair_rejected", "pair_margin"]
    return [data.input_ids_flat.tolist(), *(getattr(data, name).tolist() for name in columns), data.report]


@pytest.mark.parametrize("suffix", [s + gz for s in SUFFIXES for gz in ("", ".gz")])
@pytest.mark.parametrize("rows", [STRINGS, CHAT, RANKED], ids=["strings", "chat", "ranked"])
def test_containers_round_trip(suffix, rows, plain_tokenizer, tmp_path):
    path = tmp_path / f"rows{suffix}"
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    assert content(load(path, plain_tokenizer, tmp_path)) == content(load(rows, plain_tokenizer, tmp_path))


def test_chat_and_strings_are_the_same_data(chat_tokenizer, plain_tokenizer, tmp_path):
    for tokenizer in (chat_tokenizer, plain_tokenizer):
        assert content(load(CHAT, tokenizer, tmp_path)) == content(load(STRINGS, tokenizer, tmp_path))


def test_saved_datasets_and_splits(plain_tokenizer, tmp_path):
    expected = content(load(STRINGS, plain_tokenizer, tmp_path))
    train, test = datasets.Dataset.from_list(STRINGS), datasets.Dataset.from_list(STRINGS[:1])
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": test, "train": train}).save_to_disk(tmp_path / "dict")
    datasets.DatasetDict({"validation": train}).save_to_disk(tmp_path / "single")
    for folder in ("one", "dict", "single"):
        assert content(load(tmp_path / folder, plain_tokenizer, tmp_path)) == expected
    assert content(load(train, plain_tokenizer, tmp_path)) == expected
    assert load(f"{tmp_path / 'dict'}:test", plain_tokenizer, tmp_path).num_pairs == 1
    with pytest.raises(DataError, match=r"has no split 'dev' \(it has test, train\)"):
        open_source(f"{tmp_path / 'dict'}:dev")


def test_folder_of_files_prefers_the_training_split(plain_tokenizer, tmp_path):
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    for name, rows in [("train-00000.jsonl", STRINGS[:1]), ("train-00001.jsonl", STRINGS[1:]), ("test.jsonl", STRINGS)]:
        (folder / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "README.md").write_text("about")
    placed = list(iter_preference_rows(folder))
    assert [(p.number, p.place.rsplit("/", 1)[1]) for p in placed] == [
        (1, "train-00000.jsonl, row 1"),
        (2, "train-00001.jsonl, row 1"),
    ]
    assert len(list(iter_preference_rows(f"{folder}:test"))) == 2
    with pytest.raises(DataError, match=r"has no split 'dev' \(it has test, train\)"):
        open_source(f"{folder}:dev")


def test_hub_id_goes_through_datasets(monkeypatch, plain_tokenizer, tmp_path):
    asked = []

    def fake(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list(STRINGS)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert content(load("owner/name", plain_tokenizer, tmp_path)) == content(load(STRINGS, plain_tokenizer, tmp_path))
    assert load("owner/name:test", plain_tokenizer, tmp_path).source == "owner/name:test"
    assert asked == [("owner/name", "train"), ("owner/name", "test")]


def test_neither_file_nor_hub_id(monkeypatch):
    def unreachable(name, split):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        open_source("owner/name")
    assert str(caught.value) == (
        "owner/name: is neither a local file or folder nor a dataset that can be fetched (no network). "
        "Check the path, the id ('id' or 'id:split') and the network."
    )


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", b"", "the file is empty"),
        ("blank.jsonl", b"\n\n", "the file holds no rows"),
        ("binary.jsonl", bytes(range(256)) * 4, "is binary"),
        ("list.json", b"{", "is not valid JSON"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(STRINGS[0]).encode() * 50)[:-9], "truncated gzip"),
        ("rows.txt", b"x", "unknown file type '.txt'"),
        ("rows.parquet", b"PAR1nothing", "is not a readable Parquet file"),
    ],
)
def test_unusable_files(name, text, message, plain_tokenizer, tmp_path):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        load(path, plain_tokenizer, tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert not [p for p in (tmp_path / "cache").glob("*") if p.is_dir()]


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="the folder holds no data file"):
        open_source(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="is not a readable dataset folder"):
        open_source(tmp_path)


def test_rows_in_memory_are_checked_too(plain_tokenizer):
    with pytest.raises(RowError, match="in-memory rows, row 2: is str, not a dictionary"):
        load_preferences([STRINGS[0], "x"], plain_tokenizer)  # type: ignore[list-item]
    with pytest.raises(DataError, match="the data are generator, not a list of rows"):
        load_preferences((row for row in STRINGS), plain_tokenizer)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no usable pair in 0 rows"):
        load_preferences([], plain_tokenizer)
