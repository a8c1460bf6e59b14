"""``odin-rm score``: same rows, same order, scores added; every container; bad input; interruption."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading

import numpy as np
import pytest
import transformers as tf

from odin_rm.cli.main import main
from odin_rm.core.files import RowWriter, read_rows
from odin_rm.model import scoring
from odin_rm.model.backbone import ensure_pad_token
from odin_rm.workflows.score.config import ScoreConfig
from odin_rm.workflows.score.run import count_rows, run_score
from tests.families import family_configs
from tests.model.words import WORDS, build_tokenizer, reward_model, saved_reward_model

ADDED = ["quality", "length_reward", "response_tokens"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_reward_model(tmp_path_factory.mktemp("model") / "model", 40)


def make_rows(count: int, seed: int = 0) -> list[dict]:
    generator = np.random.default_rng(seed)

    def words(most: int) -> str:
        return " ".join(generator.choice(WORDS, generator.integers(1, most)))

    return [{"id": i, "prompt": words(8), "response": words(20)} for i in range(count)]


def write(path, rows):
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return path


def read(path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def score(model, source, target, *flags) -> int:
    return main(["score", "--model", str(model), "--input", str(source), "--output", str(target), *flags])


def refused(capsys, *arguments) -> str:
    assert score(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("odin-rm")]
    return line


def test_same_rows_same_order_scores_added(model, tmp_path, capsys):
    rows = make_rows(50)
    source = write(tmp_path / "in.jsonl", rows)
    assert score(model, source, tmp_path / "out.jsonl", "--chunk_rows", "7", "--microbatch_tokens", "64") == 0
    found = read(tmp_path / "out.jsonl")
    assert [{k: row[k] for k in ("id", "prompt", "response")} for row in found] == rows
    assert [list(row)[-3:] for row in found] == [ADDED] * 50
    scorer = scoring.load_scorer(model)
    quality, length, tokens = scoring.score_texts(scorer, [r["prompt"] for r in rows], [r["response"] for r in rows])
    assert [row["quality"] for row in found] == pytest.approx(quality.tolist(), abs=1e-5)
    assert [row["length_reward"] for row in found] == pytest.approx(length.tolist(), abs=1e-5)
    assert [row["response_tokens"] for row in found] == tokens.tolist() == [len(r["response"].split()) for r in rows]
    assert np.std(quality) > 0.01
    assert "Scored 50 of 50 rows" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("chunk, tokens", [(1, 1), (3, 50), (8192, 16384)])
def test_chunks_and_batches_change_nothing(chunk, tokens, model, tmp_path):
    source = write(tmp_path / "in.jsonl", make_rows(17))
    flags = ["--chunk_rows", str(chunk), "--microbatch_tokens", str(tokens)]
    assert score(model, source, tmp_path / "a.jsonl", *flags) == 0
    assert score(model, source, tmp_path / "b.jsonl") == 0
    a, b = ([row["quality"] for row in read(tmp_path / name)] for name in ("a.jsonl", "b.jsonl"))
    assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz", ".parquet.gz"])
def test_every_container_in_and_out(suffix, model, tmp_path):
    rows = make_rows(12)
    source = write(tmp_path / f"in{suffix}", rows)
    assert score(model, source, tmp_path / f"out{suffix}") == 0
    assert score(model, source, tmp_path / "plain.jsonl") == 0
    found, plain = read(tmp_path / f"out{suffix}"), read(tmp_path / "plain.jsonl")
    assert [str(row["id"]) for row in found] == [str(i) for i in range(12)]
    for name in ADDED:
        assert [float(row[name]) for row in found] == pytest.approx([float(row[name]) for row in plain], abs=1e-6)


def test_chat_messages_and_whole_conversations_score_like_their_texts(model, tmp_path):
    user, assistant = {"role": "user", "content": "why not?"}, {"role": "assistant", "content": "cats sleep."}
    rows = [
        {"prompt": "why not?", "response": "cats sleep."},
        {"prompt": [user], "response": [assistant]},
        {"prompt": "why not?", "response": [assistant]},
        {"response": [user, assistant]},
    ]
    source = write(tmp_path / "in.jsonl", rows)
    assert score(model, source, tmp_path / "out.jsonl") == 0
    found = read(tmp_path / "out.jsonl")
    assert len({row["quality"] for row in found}) == 1
    assert [row["response_tokens"] for row in found] == [3] * 4


def test_other_field_names(model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", [{"instruction": "why", "output": "no"}])
    line = refused(capsys, model, source, tmp_path / "out.jsonl")
    assert "row 1: field 'response' is missing" in line
    assert "--prompt_field and --response_field" in line
    flags = ["--prompt_field", "instruction", "--response_field", "output"]
    assert score(model, source, tmp_path / "out.jsonl", *flags) == 0
    columns = ["--columns", "prompt=instruction", "response=output"]
    assert score(model, source, tmp_path / "c.jsonl", *columns) == 0
    assert read(tmp_path / "c.jsonl") == read(tmp_path / "out.jsonl")  # the same rows, under their own names
    line = refused(capsys, model, source, tmp_path / "d.jsonl", "--columns", "prompt=instruktion")
    assert "has no column 'instruktion' (it has instruction, output)" in line
    write(tmp_path / "plain.jsonl", [{"prompt": "why", "response": "no"}])
    assert score(model, tmp_path / "plain.jsonl", tmp_path / "b.jsonl") == 0
    assert read(tmp_path / "out.jsonl")[0]["quality"] == read(tmp_path / "b.jsonl")[0]["quality"]


def test_a_model_without_length_head_gives_null(tmp_path):
    tokenizer = build_tokenizer("bert")
    made = reward_model("bert", tmp_path / "base", heads=["quality"])
    ensure_pad_token(tokenizer, made.config)
    made.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    source = write(tmp_path / "in.jsonl", make_rows(3))
    assert score(tmp_path / "model", source, tmp_path / "out.jsonl") == 0
    assert [row["length_reward"] for row in read(tmp_path / "out.jsonl")] == [None] * 3
    assert all(isinstance(row["quality"], float) for row in read(tmp_path / "out.jsonl"))


def test_somebodys_classifier_by_column_and_within_its_window(tmp_path, capsys):
    config = family_configs()["bert"]
    config.id2label = {0: "toxic", 1: "helpful"}
    tf.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    build_tokenizer("bert").save_pretrained(tmp_path / "model")
    source = write(tmp_path / "in.jsonl", [*make_rows(3), {"id": 3, "prompt": "why", "response": "no " * 80}])
    assert "0: toxic, 1: helpful" in refused(capsys, tmp_path / "model", source, tmp_path / "out.jsonl")
    for column, other in (("helpful", "1"), ("toxic", "0")):
        for name in (column, other):
            target = tmp_path / f"{name}.jsonl"
            assert score(tmp_path / "model", source, target, "--column", name) == 0
        assert read(tmp_path / f"{column}.jsonl") == read(tmp_path / f"{other}.jsonl")
    assert read(tmp_path / "helpful.jsonl") != read(tmp_path / "toxic.jsonl")
    assert read(tmp_path / "helpful.jsonl")[3]["quality"] is None  # 64 positions hold no 80 words
    flags = ["--column", "helpful", "--max_length", "65"]
    assert "the model has 64 positions" in refused(capsys, tmp_path / "model", source, tmp_path / "x.jsonl", *flags)


# ---- rows that are too long ------------------------------------------------------------------------------------------


def long_rows() -> list[dict]:
    return [
        {"prompt": "why", "response": "no"},
        {"prompt": "why", "response": "no " * 60},
        {"prompt": "why " * 60, "response": "no"},
    ]


def test_a_long_row_is_kept_with_null_and_counted(model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", long_rows())
    assert score(model, source, tmp_path / "out.jsonl") == 0
    found = read(tmp_path / "out.jsonl")
    assert [row["quality"] is None for row in found] == [False, True, True]
    assert [row["response_tokens"] for row in found] == [1, 60, 1]  # counted before any cut
    printed = capsys.readouterr().out
    assert "Scored 1 of 3 rows" in printed
    assert "2 of 3 rows are longer than max_length 40, 1 of them by the prompt alone, and have no quality" in printed


@pytest.mark.parametrize(
    "flags, scored, truncated, responses",
    [
        (["--overlong", "truncate_prompt_left"], [True, False, True], 1, 0),
        (["--overlong", "truncate_response"], [True, True, True], 2, 1),
        (["--max_length", "200"], [True, True, True], 0, 0),
        (["--max_length", "5"], [False, False, False], 0, 0),
    ],
)
def test_flags_override_the_models_own_policy(flags, scored, truncated, responses, model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", long_rows())
    assert score(model, source, tmp_path / "out.jsonl", *flags) == 0
    assert [row["quality"] is not None for row in read(tmp_path / "out.jsonl")] == scored
    said = f"{truncated} rows were cut to max_length 40; {responses} of them lost a part of the response"
    assert (said in capsys.readouterr().out) == bool(truncated)


@pytest.mark.parametrize("flags", [[], ["--on_bad_row", "skip"]])
def test_the_policy_error_stops_at_a_long_row(flags, model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", long_rows())
    line = refused(capsys, model, source, tmp_path / "out.jsonl", "--overlong", "error", *flags)
    assert "in.jsonl, row 2" in line
    assert "more than max_length (40)" in line
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


# ---- bad rows --------------------------------------------------------------------------------------------------------

BAD = [
    ('{"prompt": "why"}', "field 'response' is missing"),
    ('{"response": "no"}', "no 'prompt'"),
    ('{"prompt": "why", "response": ""}', "'response'"),
    ('{"prompt": "why", "response": 3}', "'response' is int, not text"),
    ('{"prompt": ["why"], "response": "no"}', "'prompt'"),
    ('{"prompt": [{"role": "assistant", "content": "a"}], "response": "no"}', "prompt"),
    ("[1, 2]", "is a JSON list"),
    ("not json", "is not valid JSON"),
]


@pytest.mark.parametrize("line, message", BAD)
def test_a_bad_row_stops_with_file_row_and_reason(line, message, model, tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "why", "response": "no"}\n' + line + "\n")
    shown = refused(capsys, model, source, tmp_path / "out.jsonl")
    assert "in.jsonl, row 2" in shown
    assert message in shown
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_skipped_rows_keep_their_place_and_are_listed(model, tmp_path, capsys):
    good = '{"prompt": "why", "response": "no", "id": 7}'
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(["not json", good, *(line for line, _ in BAD), good]) + "\n")
    flags = ["--on_bad_row", "skip", "--chunk_rows", "3"]
    assert score(model, source, tmp_path / "out.jsonl", *flags) == 0
    found = read(tmp_path / "out.jsonl")
    assert len(found) == 3 + len(BAD)
    assert [k for k, row in enumerate(found) if row["quality"] is not None] == [1, 2 + len(BAD)]
    assert found[0] == {"prompt": None, "response": None, "id": None, **dict.fromkeys(ADDED)}
    assert found[2] == {"prompt": "why", **dict.fromkeys(ADDED)}  # what could be read is there
    listed = read(tmp_path / "out.jsonl.skipped.jsonl")
    assert [row["row"] for row in listed] == [1, *range(3, 3 + len(BAD))]
    for row, (_, message) in zip(listed[1:], BAD, strict=True):
        assert message in row["reason"]
    assert f"{1 + len(BAD)} unusable rows" in capsys.readouterr().out
    # A later pass without bad rows takes the old list away.
    write(tmp_path / "good.jsonl", make_rows(2))
    assert score(model, tmp_path / "good.jsonl", tmp_path / "out.jsonl", "--overwrite") == 0
    assert not (tmp_path / "out.jsonl.skipped.jsonl").exists()


def test_a_conversation_that_the_template_refuses_is_one_bad_row(model, tmp_path):
    tokenizer = tf.AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['role'] + ' : ' + m['content'] + ' ' }}{% endfor %}"
    )
    scorer = scoring.load_scorer(model)
    scorer.model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    chat = [{"role": "system", "content": "cook"}, {"role": "user", "content": "why"}]
    source = write(tmp_path / "in.jsonl", [*make_rows(2), {"id": 2, "prompt": chat, "response": "no"}, *make_rows(2)])
    config = ScoreConfig(
        model=str(tmp_path / "model"), input=str(source), output=str(tmp_path / "out.jsonl"), on_bad_row="skip"
    )
    report = run_score(config)
    assert (report.rows, report.scored, report.bad_rows) == (5, 4, 1)
    assert [row["quality"] is None for row in read(tmp_path / "out.jsonl")] == [False, False, True, False, False]
    assert "no system role" in read(tmp_path / "out.jsonl.skipped.jsonl")[0]["reason"]


def test_scores_that_are_there_already_are_not_lost(model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", [{"prompt": "why", "response": "no", "quality": 5, "last": 1}])
    for flags in ([], ["--on_bad_row", "skip"]):
        line = refused(capsys, model, source, tmp_path / "out.jsonl", *flags)
        assert "row 1: the row already has the field 'quality'" in line
        assert "--overwrite_scores" in line
    assert score(model, source, tmp_path / "out.jsonl", "--overwrite_scores") == 0
    (row,) = read(tmp_path / "out.jsonl")
    assert row["quality"] != 5
    assert list(row) == ["prompt", "response", "quality", "last", "length_reward", "response_tokens"]
    assert row["response_tokens"] == 1


# ---- files -----------------------------------------------------------------------------------------------------------


def test_an_existing_output_is_kept_unless_told(model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", make_rows(2))
    (tmp_path / "out.jsonl").write_text("mine")
    assert "--overwrite" in refused(capsys, model, source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert score(model, source, tmp_path / "out.jsonl", "--overwrite") == 0
    assert len(read(tmp_path / "out.jsonl")) == 2
    # Onto itself: the input is read to its end before the output takes its place.
    assert score(model, source, source, "--overwrite") == 0
    assert [row["id"] for row in read(source)] == [0, 1]
    assert all("quality" in row for row in read(source))


def test_unusable_files_are_one_line_and_leave_nothing(model, tmp_path, capsys):
    good = write(tmp_path / "in.jsonl", make_rows(2))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(good.read_bytes() * 50)[:-20])
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, message in [
        ("none.jsonl", "no such file"),
        ("empty.jsonl", "empty"),
        ("binary.jsonl", "binary"),
        ("cut.jsonl.gz", "truncated gzip"),
    ]:
        assert message in refused(capsys, model, tmp_path / name, tmp_path / "out.jsonl")
    assert "unknown file type" in refused(capsys, model, good, tmp_path / "out.txt")
    assert "no such model folder" in refused(capsys, tmp_path / "none", good, tmp_path / "out.jsonl")
    (tmp_path / "a.jsonl").mkdir()
    assert "is a folder" in refused(capsys, model, good, tmp_path / "a.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == before


@pytest.mark.parametrize("flag", ["--chunk_rows", "--microbatch_tokens", "--max_length"])
def test_flags_that_cannot_work(flag, model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", make_rows(1))
    assert f"{flag}" in refused(capsys, model, source, tmp_path / "out.jsonl", flag, "0")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_score_that_is_not_finite_names_its_row(model, tmp_path, capsys, monkeypatch):
    source = write(tmp_path / "in.jsonl", make_rows(9))
    honest = scoring.score_sequences

    def broken(*args, **kwargs):
        quality, length = honest(*args, **kwargs)
        quality[1] = np.nan
        return quality, length

    monkeypatch.setattr(scoring, "score_sequences", broken)
    assert "row 2: the model's score is not finite" in refused(capsys, model, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_same_command_goes_on_after_an_interrupt(number, model, tmp_path, monkeypatch):
    assert threading.current_thread() is threading.main_thread()
    source = write(tmp_path / "in.jsonl", make_rows(9))
    honest, calls = scoring.score_sequences, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return honest(*args, **kwargs)

    monkeypatch.setattr(scoring, "score_sequences", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert score(model, source, tmp_path / "out.jsonl", "--chunk_rows", "3") == 130
    assert len(calls) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.partial.jsonl"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert score(model, source, tmp_path / "out.jsonl", "--chunk_rows", "3") == 0
    assert len(calls) == 4  # the first of three chunks is not scored again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    assert score(model, source, tmp_path / "whole.jsonl", "--chunk_rows", "3") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_a_stopped_run_left_counts_for_the_same_work_only(model, tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "in.jsonl", make_rows(9))
    honest, calls = scoring.score_sequences, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(*args, **kwargs)

    monkeypatch.setattr(scoring, "score_sequences", interrupted)
    assert score(model, source, tmp_path / "out.jsonl", "--chunk_rows", "3") == 130
    write(source, make_rows(8))
    capsys.readouterr()
    said = refused(capsys, model, source, tmp_path / "out.jsonl", "--chunk_rows", "3")
    assert "was left by a stopped run with another input_sha256. Delete it to start anew" in said
    assert score(model, source, tmp_path / "out.jsonl", "--chunk_rows", "3", "--overwrite") == 0
    assert len(calls) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_rows_are_counted_where_that_is_cheap(tmp_path):
    rows = make_rows(5)
    assert count_rows(write(tmp_path / "a.jsonl", rows)) == 5
    assert count_rows(write(tmp_path / "a.parquet", rows)) == 5
    assert count_rows(write(tmp_path / "a.jsonl.gz", rows)) is None
    assert count_rows(write(tmp_path / "a.csv", rows)) is None


def test_only_one_chunk_is_in_memory(model, tmp_path, monkeypatch):
    """Rows written before the next chunk is read: at most one chunk lies between reader and writer."""
    from odin_rm.workflows.score import run as workflow

    source = write(tmp_path / "in.jsonl", make_rows(40))
    ahead, most = 0, 0

    def counted(*args):
        nonlocal ahead, most
        for item in read_rows(*args):
            ahead += 1
            most = max(most, ahead)
            yield item

    class Counting(RowWriter):
        def write(self, row):
            nonlocal ahead
            ahead -= 1
            super().write(row)

    monkeypatch.setattr(workflow, "read_rows", counted)
    monkeypatch.setattr(workflow, "RowWriter", Counting)
    assert score(model, source, tmp_path / "out.jsonl", "--chunk_rows", "6") == 0
    assert ahead == 0
    assert most == 6
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[-1])["id"] == 39


# ---- rendered text ---------------------------------------------------------------------------------------------------

CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
ASKED = "user : why not? <eos> . assistant : "


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = CHAT
    made = reward_model("llama", folder / "base", head_scale=2.0)
    made.info = made.info.with_(encoding={"max_length": 40, "read_at": "end"})
    made.save_pretrained(folder / "model", tokenizer=tokenizer)
    return folder / "model"


def test_rendered_texts_score_like_their_conversations(chat_model, tmp_path, capsys):
    rows = [
        {"prompt": "why not?", "response": "cats sleep."},
        {"text": f"<bos>{ASKED}cats sleep. <eos> . "},
        {"text": f"{ASKED}cats sleep. <eos>"},
        {"text": f"{ASKED}cats sleep.<eos>", "prompt": "why not?"},
        {"text": f"{ASKED}cats sleep. <eos>", "prompt": ASKED, "response": None},
        {"prompt": f"<bos>{ASKED}", "response": "cats sleep."},
        {"prompt": "why not?", "response": "cats sleep. <eos>"},
        {"prompt": "why not?", "response": "cats sleep.", "text": "something else"},
        {"text": f"{ASKED}cats sleep."},
    ]
    source = write(tmp_path / "in.jsonl", rows)
    assert score(chat_model, source, tmp_path / "out.jsonl", "--batch_layout", "single") == 0
    found = read(tmp_path / "out.jsonl")
    assert [{name: row[name] for name in own} for row, own in zip(found, rows, strict=True)] == rows
    quality = [row["quality"] for row in found]
    assert quality[:8] == pytest.approx([quality[0]] * 8, abs=1e-6)
    assert abs(quality[8] - quality[0]) > 1e-3
    assert [row["response_tokens"] for row in found] == [3] * 9
    assert [row.get("cut", "none") for row in found] == ["none", False, False, False, False, *["none"] * 3, True]
    said = capsys.readouterr().out
    assert "3 texts were completed to the template's ending" in said
    assert "1 texts have no end token and were scored as cut" in said


def test_rendered_texts_in_a_table_by_another_name(chat_model, tmp_path):
    rows = [{"full": f"{ASKED}cats sleep. <eos>"}, {"full": f"{ASKED}cats sleep."}]
    source = write(tmp_path / "in.csv", rows)
    assert score(chat_model, source, tmp_path / "out.parquet", "--text_field", "full") == 0
    assert [row["cut"] for row in read(tmp_path / "out.parquet")] == [False, True]


def test_texts_that_the_template_has_not_written_are_unusable(chat_model, tmp_path, capsys):
    rows = [
        {"text": f"{ASKED}no <eos>"},
        {"text": "why not? no"},
        {"text": ASKED},
        {"text": f"{ASKED}no <eos>", "prompt": "who?"},
        {"text": ["no"]},
    ]
    source = write(tmp_path / "in.jsonl", rows)
    line = refused(capsys, chat_model, source, tmp_path / "out.jsonl")
    assert "in.jsonl, row 2: the text is not in the form of the model's chat template" in line
    assert score(chat_model, source, tmp_path / "out.jsonl", "--on_bad_row", "skip") == 0
    found = read(tmp_path / "out.jsonl")
    assert [row["quality"] is None for row in found] == [False, True, True, True, True]
    assert [row["cut"] for row in found] == [False, None, None, None, None]
    reasons = [row["reason"] for row in read(tmp_path / "out.jsonl.skipped.jsonl")]
    assert [part in reason for part, reason in zip(("form", "no response", "begin", "list"), reasons, strict=True)] == [
        True
    ] * 4
    again = tmp_path / "again.jsonl"
    assert "the row already has the field 'quality'" in refused(capsys, chat_model, tmp_path / "out.jsonl", again)


def test_a_prompt_that_begins_as_rendered_and_is_not_is_refused(tmp_path, capsys):
    tokenizer = build_tokenizer("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": ["cats"]})
    tokenizer.chat_template = (
        "{% for m in messages %}cats {{ m['role'] }} {{ m['content'] }} {{ eos_token }}{% endfor %}"
    )
    made = reward_model("llama", tmp_path / "base")
    made.info = made.info.with_(encoding={"max_length": 40, "read_at": "end"})
    made.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    source = write(tmp_path / "in.jsonl", [{"question": "cats user why", "response": "no"}])
    flags = ["--prompt_field", "question"]
    line = refused(capsys, tmp_path / "model", source, tmp_path / "out.jsonl", *flags)
    assert "row 1: 'question' begins as the chat template begins, but does not end with ' <eos>'" in line
