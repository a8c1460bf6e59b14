"""From rows to columns: what is distinct, what is repeated, what is left out, and what the cache may and may not do."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import odin_rm.data.cache as cache_module
import odin_rm.data.encode as encode_module
import odin_rm.data.load as load_module
from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.core.files import read_rows
from odin_rm.data.encode import processes_for
from odin_rm.data.load import load_preferences
from odin_rm.data.tokenise import EncodingSettings, encode_response
from tests.data.conftest import word_level

REAL = Path("../shared/data")
ROWS = [
    {"prompt": "a", "chosen": "b", "rejected": "c d"},
    {"prompt": "e", "chosen": "f", "rejected": "g"},
    {"prompt": "a", "chosen": "b", "rejected": "e", "margin": 2},
    {"prompt": "a", "chosen": "b", "rejected": "c d"},
    {"prompt": "e", "chosen": "b", "rejected": "f"},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_by_hand(plain_tokenizer):
    data = load_preferences(ROWS, plain_tokenizer)
    # Prompt a: b, "c d", e. Prompt e: f, g, b (another response than b to prompt a).
    words = [" ".join(plain_tokenizer.convert_ids_to_tokens(data.input_ids(r)[3:-1])) for r in range(6)]
    assert words == ["b", "c d", "e", "f", "g", "b"]
    assert data.response_tokens.tolist() == [1, 2, 1, 1, 1, 1]
    assert data.response_prompt.tolist() == [0, 0, 0, 1, 1, 1]
    pairs = zip(data.pair_chosen.tolist(), data.pair_rejected.tolist(), data.pair_row.tolist(), strict=True)
    assert list(pairs) == [(0, 1, 1), (0, 2, 3), (0, 1, 4), (3, 4, 2), (5, 3, 5)]
    assert data.pair_margin.tolist() == [0, 2, 0, 0, 0]
    assert data.sequence_tokens.tolist() == [5, 6, 5, 5, 5, 5]
    expected = {"rows": 5, "pairs": 5, "prompts": 2, "responses": 6, "duplicate_pairs": 1, "skipped_rows": 0, "ties": 0}
    assert {name: data.report[name] for name in expected} == expected
    assert data.report["longer_chosen_share"] == 0.0  # two pairs of unequal length, in both the shorter one won
    group = data.group(1)
    assert group.pairs.tolist() == [[0, 1], [2, 0]]
    dtypes = {name: getattr(data, name).dtype.name for name in ("input_ids_flat", "offsets", "pair_chosen", "pair_row")}
    assert dtypes == {"input_ids_flat": "int32", "offsets": "int64", "pair_chosen": "int32", "pair_row": "int64"}


def test_ranked_list_by_hand(plain_tokenizer):
    rows = [{"prompt": "a", "responses": ["b", "c", "d"], "ranks": [1, 2, 2]}]
    data = load_preferences(rows, plain_tokenizer)
    assert sorted(zip(data.pair_chosen.tolist(), data.pair_rejected.tolist(), strict=True)) == [(0, 1), (0, 2)]
    assert (data.report["ties"], data.report["pairs"], data.report["responses"]) == (1, 2, 3)


def test_extra_columns_follow_their_responses(plain_tokenizer):
    rows = [row | {"chosen_q": 10 * i, "rejected_q": 10 * i + 1} for i, row in enumerate(ROWS)]
    data = load_preferences(rows, plain_tokenizer, extra_columns=["q"])
    assert data.extra["q"].tolist() == [0, 1, 21, 10, 11, 40]
    with pytest.raises(RowError, match="row 1: field 'chosen_q' is missing"):
        load_preferences(ROWS, plain_tokenizer, extra_columns=["q"])


def test_an_overlong_response_takes_its_pairs_with_it(plain_tokenizer):
    # "c d" is one token too long; prompt a keeps the pair (b, e); nothing refers to "c d" any more.
    data = load_preferences(ROWS, plain_tokenizer, EncodingSettings(5))
    assert data.report["dropped_overlong_pairs"] == 2
    assert data.report["dropped_overlong_responses"] == 1
    assert (data.num_pairs, data.num_responses, data.num_prompts) == (3, 5, 2)
    assert data.pair_row.tolist() == [3, 2, 5]
    # A prompt whose pairs all go leaves no gap in the numbers.
    gone = [{"prompt": "a b c d", "chosen": "b", "rejected": "c"}, *ROWS]
    assert load_preferences(gone, plain_tokenizer, EncodingSettings(6)).response_prompt.tolist() == [0, 0, 0, 1, 1, 1]
    # The partner of a dropped response goes too when no other pair needs it.
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c d"}, {"prompt": "a", "chosen": "e", "rejected": "f"}]
    assert load_preferences(rows, plain_tokenizer, EncodingSettings(5)).num_responses == 2


def test_truncation_is_counted(bert_tokenizer):
    rows = [{"prompt": "a b c d", "chosen": "b", "rejected": "c d " * 5}]
    data = load_preferences(rows, bert_tokenizer, EncodingSettings(12, "truncate_response"))
    assert (data.report["truncated_prompts"], data.report["truncated_responses"]) == (1, 1)
    assert data.response_tokens.tolist() == [1, 10]  # before truncation
    assert data.sequence_tokens.tolist() == [9, 12]


def test_overlong_error_names_row_tokens_and_cure(plain_tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "a", "chosen": "b", "rejected": "c " * 9}])
    with pytest.raises(RowError) as caught:
        load_preferences(path, plain_tokenizer, EncodingSettings(8, "error"), cache_dir=tmp_path)
    assert str(caught.value) == (
        f"{path}, row 6: the sequence has 13 tokens, more than max_length (8). "
        "Raise --max_length, or choose --overlong drop, truncate_prompt_left or truncate_response."
    )


def test_nothing_fits(plain_tokenizer):
    rows = [{"prompt": "a " * 20, "chosen": "b", "rejected": "c"}]
    with pytest.raises(DataError, match=r"in all 1 pairs the prompt alone is longer than max_length \(10 tokens\)"):
        load_preferences(rows, plain_tokenizer, EncodingSettings(10))
    rows = [{"prompt": "a", "chosen": "b " * 20, "rejected": "c"}]
    with pytest.raises(DataError, match="in all 1 pairs a sequence is longer"):
        load_preferences(rows, plain_tokenizer, EncodingSettings(10))


BAD = [
    ROWS[0],
    {"prompt": "a", "rejected": "c"},
    {"prompt": "a", "chosen": "b", "rejected": "b"},
    ROWS[1],
    {"prompt": "a", "chosen": "\ud800", "rejected": "b"},
]


def test_a_bad_row_is_one_clear_line(plain_tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", BAD)
    with pytest.raises(RowError) as caught:
        load_preferences(path, plain_tokenizer, cache_dir=tmp_path / "cache")
    assert str(caught.value) == (
        f"{path}, row 2: field 'chosen' is missing. Give every row a 'chosen' and a 'rejected', or name "
        "them: --columns chosen=theirs. To leave such rows out: --on_bad_row skip"
    )
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(RowError, match="in-memory rows, row 1: holds half a character"):
        load_preferences(BAD[4:], plain_tokenizer)


def test_skipped_rows_are_counted_and_written(plain_tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", BAD)
    with path.open("a") as file:
        file.write("{not json\n[1]\n")
    for _ in range(2):  # built, then from the cache
        skipped = tmp_path / "skipped.jsonl"
        data = load_preferences(
            path, plain_tokenizer, on_bad_row="skip", skipped_rows_file=skipped, cache_dir=tmp_path / "cache"
        )
        assert (data.report["rows"], data.report["skipped_rows"], data.num_pairs) == (7, 5, 2)
        assert data.pair_row.tolist() == [1, 4]
        written = [row for _, row in read_rows(skipped)]
        assert [row["row"] for row in written] == [2, 3, 5, 6, 7]
        assert f"{path}, row 3: 'chosen' is equal to 'rejected'" in written[1]["reason"]
        assert written[0]["data"] == BAD[1]
        skipped.unlink()
    with pytest.raises(ConfigError, match="on_bad_row is 'ignore'"):
        load_preferences(path, plain_tokenizer, on_bad_row="ignore")  # type: ignore[arg-type]


def test_no_usable_pair(plain_tokenizer):
    with pytest.raises(
        DataError, match=r"no usable pair in 2 rows \(first problem: in-memory rows, row 1: field 'chosen'"
    ):
        load_preferences(BAD[1:3], plain_tokenizer, on_bad_row="skip")


def test_a_row_that_the_chat_template_refuses(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + chat_tokenizer.chat_template
    )
    bad = {
        "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "a"}],
        "chosen": "b",
        "rejected": "c",
    }
    with pytest.raises(RowError, match="row 6: the chat template refuses the conversation"):
        load_preferences([*ROWS, bad], chat_tokenizer)
    assert load_preferences([*ROWS, bad], chat_tokenizer, on_bad_row="skip").report["skipped_rows"] == 1


@pytest.fixture
def no_second_pass(monkeypatch):
    """Any attempt to read or tokenise fails from now on."""

    def start():
        def fail(*args, **kwargs):
            raise AssertionError("this should have come from the cache")

        monkeypatch.setattr(load_module, "collect", fail)
        monkeypatch.setattr(load_module, "encode_texts", fail)

    return start


def columns(data):
    names = ("input_ids_flat", "offsets", "response_tokens", "response_prompt", "pair_chosen", "pair_rejected")
    return [getattr(data, name).tolist() for name in names] + [data.pair_margin.tolist(), data.pair_row.tolist()]


def test_second_load_comes_from_the_cache(no_second_pass, tmp_path):
    path = write(tmp_path / "rows.jsonl", [row | {"chosen_q": 1, "rejected_q": 2} for row in ROWS])
    options = {"cache_dir": tmp_path / "cache", "extra_columns": ["q"]}
    first = load_preferences(path, word_level(eos_token="</s>"), **options)
    no_second_pass()
    tokenizer = word_level(eos_token="</s>")
    tokenizer("a", truncation=True, max_length=3, padding="max_length")  # leaves traces that are no settings
    second = load_preferences(path, tokenizer, **options)
    assert columns(first) == columns(second)
    assert first.report == second.report
    assert first.pair_key.tolist() == second.pair_key.tolist()
    assert len(set(second.pair_key.tolist())) == 4  # five pairs, one of them twice
    assert second.extra["q"].tolist() == first.extra["q"].tolist() == [1, 2, 2, 1, 2, 1]
    assert second.source == str(path)


def test_what_the_key_depends_on(no_second_pass, plain_tokenizer, tmp_path, monkeypatch):
    path = write(tmp_path / "rows.jsonl", ROWS)
    cache = tmp_path / "cache"
    load_preferences(path, plain_tokenizer, EncodingSettings(50), cache_dir=cache)
    no_second_pass()
    load_preferences(path, plain_tokenizer, EncodingSettings(50), cache_dir=cache)
    templated = word_level(eos_token="</s>")
    templated.chat_template = "{{ messages }}"
    changes = [
        (plain_tokenizer, EncodingSettings(51), {}),
        (plain_tokenizer, EncodingSettings(50, "truncate_response"), {}),
        (plain_tokenizer, EncodingSettings(50, chat_template="plain"), {}),
        (plain_tokenizer, EncodingSettings(50), {"on_bad_row": "skip"}),
        (plain_tokenizer, EncodingSettings(50), {"extra_columns": ["q"]}),
        (word_level(), EncodingSettings(50), {}),
        (templated, EncodingSettings(50), {}),
    ]
    for tokenizer, settings, options in changes:
        with pytest.raises(AssertionError, match="should have come from the cache"):
            load_preferences(path, tokenizer, settings, cache_dir=cache, **options)
    with monkeypatch.context() as other_version:
        other_version.setattr(cache_module, "_code_fingerprint", lambda: "of an earlier version")
        with pytest.raises(AssertionError, match="should have come from the cache"):
            load_preferences(path, plain_tokenizer, EncodingSettings(50), cache_dir=cache)
    write(path, [*ROWS[1:], ROWS[0]])  # same name, same size
    with pytest.raises(AssertionError, match="should have come from the cache"):
        load_preferences(path, plain_tokenizer, EncodingSettings(50), cache_dir=cache)


def damage_missing(folder):
    (folder / "pair_chosen.npy").unlink()


def damage_cut(folder):
    os.truncate(folder / "input_ids_flat.npy", 140)


def damage_bytes(folder):
    path = folder / "offsets.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def damage_record(folder):
    (folder / "record.json").write_text("{")


@pytest.mark.parametrize("damage", [damage_missing, damage_cut, damage_bytes, damage_record])
def test_a_damaged_cache_is_built_again(damage, plain_tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    good = columns(load_preferences(path, plain_tokenizer, cache_dir=tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    damage(folder)
    assert columns(load_preferences(path, plain_tokenizer, cache_dir=tmp_path / "cache")) == good
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_slower_process_takes_the_result_of_the_faster(monkeypatch, plain_tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    original, calls, inside = load_module.encode_texts, [], []

    def overtaken(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            inside.append(load_preferences(path, plain_tokenizer, cache_dir=tmp_path / "cache"))
            inside.append([p.stat().st_ino for p in (tmp_path / "cache").glob("[!.]*")])
        return original(*args, **kwargs)

    monkeypatch.setattr(load_module, "encode_texts", overtaken)
    data = load_preferences(path, plain_tokenizer, cache_dir=tmp_path / "cache")
    assert columns(data) == columns(inside[0])
    assert [p.stat().st_ino for p in (tmp_path / "cache").iterdir()] == inside[1]


def test_rows_in_memory_leave_no_trace(plain_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path / "cache"))
    load_preferences(ROWS, plain_tokenizer)
    assert not (tmp_path / "cache").exists()
    load_preferences(write(tmp_path / "rows.jsonl", ROWS), plain_tokenizer)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_unwritable_cache_is_no_obstacle(plain_tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    data = load_preferences(path, plain_tokenizer, cache_dir=path / "below_a_file")
    assert data.num_pairs == 5


def test_several_processes_give_the_same(plain_tokenizer):
    rows = [{"prompt": f"a {i}", "chosen": "b " * (i % 5 + 1), "rejected": "c " * (i % 7 + 2)} for i in range(1500)]
    alone = load_preferences(rows, plain_tokenizer)
    shared = load_preferences(rows, plain_tokenizer, num_proc=2)
    assert columns(alone) == columns(shared)


def test_many_texts_are_shared_between_the_cores(plain_tokenizer, monkeypatch):
    monkeypatch.setattr(encode_module, "MANY", 100)
    monkeypatch.setattr(encode_module, "_copying", lambda: ("fork", None))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    assert [processes_for(n) for n in (100, 101)] == [1, 3]
    assert [processes_for(10**6, asked) for asked in (0, 1, 2, 20)] == [1, 1, 2, 20]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert processes_for(101) == 8
    # Where processes begin with the caller's script, it is not run again unasked.
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    assert processes_for(101) == 1
    monkeypatch.undo()

    started = []
    pool = encode_module.ProcessPoolExecutor
    monkeypatch.setattr(encode_module, "processes_for", lambda texts, num_proc: 2)

    def noted(*args, **kwargs):
        started.append((args[0], os.environ.get("TOKENIZERS_PARALLELISM")))
        return pool(*args, **kwargs)

    monkeypatch.setattr(encode_module, "ProcessPoolExecutor", noted)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    rows = [{"prompt": "a", "chosen": f"b {i}", "rejected": f"c {i}"} for i in range(20)]
    load_preferences(rows, plain_tokenizer)
    assert started == [(2, "false")]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    load_preferences(rows, plain_tokenizer)
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_against_a_plain_loop(chat_tokenizer):
    """An independent twin with dictionaries, on random rows with many repetitions."""
    generator = random.Random(0)
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    rows = []
    for _ in range(400):
        chosen, rejected = generator.sample(words, 2)
        rows.append({"prompt": generator.choice("ijk"), "chosen": chosen * 1, "rejected": rejected})
    numbers: dict[tuple[str, str], int] = {}
    prompts: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            key = (row["prompt"], row[side])
            if key not in numbers:
                numbers[key] = len(numbers)
                prompts.setdefault(row["prompt"], []).append(key)
    in_order = [key for keys in prompts.values() for key in keys]
    data = load_preferences(rows, chat_tokenizer, EncodingSettings(40))
    for r, key in enumerate(in_order):
        assert data.input_ids(r).tolist() == encode_response(chat_tokenizer, *key, EncodingSettings(40)).input_ids
    for chosen, rejected, number in zip(data.pair_chosen, data.pair_rejected, data.pair_row, strict=True):
        row = rows[number - 1]
        assert (in_order[chosen], in_order[rejected]) == tuple((row["prompt"], row[s]) for s in ("chosen", "rejected"))
    assert sorted(data.pair_row.tolist()) == list(range(1, 401))


@pytest.mark.skipif(not REAL.exists(), reason="the real data sets are not on this machine")
def test_real_files(plain_tokenizer, tmp_path):
    wide = EncodingSettings(100_000)
    path = REAL / "oasst_en_val.jsonl.gz"
    # 1,022 pairs of 1,126 distinct responses to 416 prompts, one of which compares a response with itself. Two more do
    # so for this tokenizer, to which nearly all words are the same unknown one.
    with pytest.raises(RowError, match="row 49: 'chosen' is equal to 'rejected'"):
        load_preferences(path, plain_tokenizer, wide, cache_dir=tmp_path)
    data = load_preferences(path, plain_tokenizer, wide, cache_dir=tmp_path, on_bad_row="skip")
    assert (data.report["rows"], data.report["skipped_rows"]) == (1022, 1)
    assert (data.report["pairs_stated"], data.report["identical_pairs"]) == (1021, 2)
    assert (data.num_pairs, data.num_prompts, data.num_responses) == (1019, 415, 1124)
    val = load_preferences(REAL / "alpaca_eval_preferences_val.jsonl.gz", plain_tokenizer, wide, cache_dir=tmp_path)
    assert (val.report["pairs_stated"], val.report["identical_pairs"]) == (1200, 10)
    assert (val.num_pairs, val.num_prompts) == (1190, 100)
    assert val.report["longer_chosen_share"] > 0.8


MEMORY = """
import json, resource, sys
from tests.data.conftest import word_level
from odin_rm.data.load import load_preferences
from odin_rm.data.tokenise import EncodingSettings
path, cache = sys.argv[1:]
data = load_preferences(path, word_level(eos_token="</s>"), EncodingSettings(64), cache_dir=cache)
print(json.dumps([data.num_pairs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_objects(tmp_path):
    peaks = []
    for pairs in (2_000, 200_000):
        path = tmp_path / f"{pairs}.jsonl"
        with path.open("w") as file:
            for i in range(pairs):
                file.write(
                    json.dumps({"prompt": f"a {i // 2}", "chosen": f"b c {i}", "rejected": f"d {i} " * 9}) + "\n"
                )
        command = [sys.executable, "-c", MEMORY, str(path), str(tmp_path / "cache")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "src:."}
        )
        found, peak = json.loads(done.stdout.splitlines()[-1])
        assert found == pairs
        peaks.append(peak)
    # A Python object per text would take over a kilobyte per pair. The arrays and mapped files take some 400 bytes.
    assert (peaks[1] - peaks[0]) / 198_000 < 700
    assert np.isfinite(peaks).all()
