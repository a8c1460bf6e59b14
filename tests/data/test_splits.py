"""Which files of a folder are read, and when it must be said which split is meant."""

from __future__ import annotations

import json

import datasets
import pytest

from odin_rm.core.errors import DataError
from odin_rm.data.load import load_preferences
from odin_rm.data.sources import iter_preference_rows, open_source

ULTRAFEEDBACK = [f"data/{part}_{kind}-00000-of-00001.jsonl" for part in ("train", "test") for kind in ("prefs", "sft")]
HH = [f"{part}/{split}.jsonl.gz" for part in ("harmless-base", "helpful-base") for split in ("train", "test")]


def make(folder, files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompt": "p", "chosen": name, "rejected": "a b"}) + "\n")
    return folder


def read(source):
    """Which files the rows come from."""
    return {placed.row["chosen"] for placed in iter_preference_rows(source)}


@pytest.mark.parametrize(
    "files, split, expected",
    [
        (ULTRAFEEDBACK, "train_prefs", ULTRAFEEDBACK[:1]),
        (ULTRAFEEDBACK, "test_sft", ULTRAFEEDBACK[3:]),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl"], None,
         ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]),
        (["train-00000-of-00001-0123456789abcdef.jsonl", "validation.jsonl"], None,
         ["train-00000-of-00001-0123456789abcdef.jsonl"]),
        (["train_part1.jsonl", "train.part2.jsonl", "test_1.jsonl"], None, ["train_part1.jsonl", "train.part2.jsonl"]),
        (["train.jsonl", "train_sft.jsonl"], None, ["train.jsonl"]),
        (["train_data.jsonl", "test_data.jsonl"], None, ["train_data.jsonl"]),
        (["mine_train.jsonl", "mine_test.jsonl"], None, ["mine_train.jsonl"]),
        (["mine_train.jsonl", "mine_test.jsonl"], "test", ["mine_test.jsonl"]),
        (["mine_train.jsonl", "mine_test.jsonl"], "mine_test", ["mine_test.jsonl"]),
        (["train/0000.jsonl", "train/0001.jsonl", "test/0000.jsonl"], None, ["train/0000.jsonl", "train/0001.jsonl"]),
        (["train/0000.jsonl", "test/0000.jsonl"], "test", ["test/0000.jsonl"]),
        (["test.jsonl"], None, ["test.jsonl"]),
        (["dev-00000-of-00002.jsonl", "dev-00001-of-00002.jsonl"], None,
         ["dev-00000-of-00002.jsonl", "dev-00001-of-00002.jsonl"]),
        (["0000.jsonl", "0001.jsonl"], None, ["0000.jsonl", "0001.jsonl"]),
        (["helpful.jsonl", "harmless.jsonl"], None, ["helpful.jsonl", "harmless.jsonl"]),
        (["helpful.jsonl", "harmless.jsonl"], "helpful", ["helpful.jsonl"]),
        (["contest.jsonl", "latest.jsonl", "trainer.jsonl"], None, ["contest.jsonl", "latest.jsonl", "trainer.jsonl"]),
    ],
)  # fmt: skip
def test_only_the_split_that_is_meant_is_read(files, split, expected, tmp_path):
    folder = make(tmp_path / "set", files)
    assert read(folder if split is None else f"{folder}:{split}") == set(expected)


def test_a_folder_of_sets_with_splits_of_their_own(tmp_path):
    import gzip

    folder = tmp_path / "hh"
    for name in HH:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / name, "wt") as file:
            file.write(json.dumps({"prompt": "p", "chosen": name, "rejected": "r"}) + "\n")
    assert read(folder) == {HH[0], HH[2]}
    assert read(f"{folder}:test") == {HH[1], HH[3]}
    assert read(f"{folder}:helpful-base") == {HH[2]}


@pytest.mark.parametrize(
    "files, split, wanted, known, example",
    [
        (ULTRAFEEDBACK, None, "train", "test_prefs, test_sft, train_prefs, train_sft", "train_prefs"),
        (ULTRAFEEDBACK, "train", "train", "test_prefs, test_sft, train_prefs, train_sft", "train_prefs"),
        (ULTRAFEEDBACK, "train_", "train_", "test_prefs, test_sft, train_prefs, train_sft", "train_prefs"),
        (["train.jsonl", "test.jsonl"], "dev", "dev", "test, train", "test"),
        (["training.jsonl", "test.jsonl"], None, "train", "test, training", "training"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_splits(files, split, wanted, known, example, tmp_path):
    folder = make(tmp_path / "set", files)
    with pytest.raises(DataError) as caught:
        open_source(folder if split is None else f"{folder}:{split}")
    assert str(caught.value) == (
        f"{folder}: has no split '{wanted}' (it has {known}). Name one of them: '{folder}:{example}'."
    )


def test_files_without_a_split_beside_one_with_one_are_not_mixed_up(tmp_path):
    folder = make(tmp_path / "set", ["data.jsonl", "test.jsonl"])
    with pytest.raises(DataError, match=r"it has data, test\).*read all files together, take the split's name out"):
        open_source(folder)
    assert read(f"{folder}:data") == {"data.jsonl"}


def test_many_names_are_cut_short(tmp_path):
    folder = make(tmp_path / "set", [f"{chr(97 + k)}.jsonl" for k in range(12)])
    with pytest.raises(DataError, match=r"\(it has a, b, c, d, e, f, g, h, \.\.\.\)"):
        open_source(f"{folder}:test")


def test_the_split_is_part_of_the_name(plain_tokenizer, tmp_path):
    folder = make(tmp_path / "set", ULTRAFEEDBACK)
    data = load_preferences(f"{folder}:test_prefs", plain_tokenizer, cache_dir=tmp_path / "cache")
    assert (data.source, data.num_pairs) == (f"{folder}:test_prefs", 1)
    rows = datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}])
    datasets.DatasetDict({"train_prefs": rows, "train_sft": rows}).save_to_disk(tmp_path / "dict")
    with pytest.raises(DataError, match=r"\(it has train_prefs, train_sft\). Name one of them: '.*dict:train_prefs'"):
        open_source(tmp_path / "dict")
    assert open_source(f"{tmp_path / 'dict'}:train_sft").name == f"{tmp_path / 'dict'}:train_sft"


def test_one_saved_data_set_has_no_other_split(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}])
    rows.save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match=r"is one data set, without the split 'test'\. Leave the split out"):
        open_source(f"{tmp_path / 'one'}:test")
    named = datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}], split="test")
    named.save_to_disk(tmp_path / "named")
    assert len(list(iter_preference_rows(f"{tmp_path / 'named'}:test"))) == 1
