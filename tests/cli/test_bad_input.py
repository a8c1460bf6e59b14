"""Bad input through the real commands: exit code 2, one line that says what, where and how to mend, nothing written."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from odin_rm.cli.main import main
from tests.cli.conftest import ANSWERS, PAIRS, lines, with_bad_row

ON_DATA = ("reward", "audit")
COMMANDS = ("reward", "score", "audit", "export", "quickstart")


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chat(**fields: Any) -> bytes:
    return with_bad_row(PAIRS, **({"chosen": [assistant("a")], "rejected": [assistant("b")]} | fields))


ZIPPED = gzip.compress(lines(PAIRS * 200))
NOISE = bytes(range(256)) * 16


# ---- data: (name, content, what the line must hold; FILE stands for the file's name) ---------------------------------

UNREADABLE = [
    ("a.jsonl", b"", ["FILE: the file is empty.", "Give a file"]),
    ("blank.jsonl", b"\n\n", ["FILE: the file holds no rows.", "Give a file"]),
    ("a.jsonl", NOISE, ["FILE: is binary", "Save it as UTF-8 text."]),
    ("a.csv", NOISE, ["FILE: is binary", "Save it as UTF-8 text."]),
    ("a.json", NOISE, ["FILE: is binary", "Save it as UTF-8 text."]),
    ("a.parquet", NOISE, ["FILE: is not a readable Parquet file", "Write it again."]),
    ("zipped.jsonl", ZIPPED, ["FILE: is binary; it looks like gzip (.gz)", "Rename it"]),
    ("a.jsonl.gz", NOISE, ["FILE: broken gzip", "Fetch it again"]),
    ("a.jsonl.gz", ZIPPED[: len(ZIPPED) // 2], ["FILE: truncated gzip", "Fetch it again."]),
    ("a.jsonl.gz", ZIPPED[:-4], ["FILE: truncated gzip", "Fetch it again."]),
    ("a.txt", b"hello", ["FILE: unknown file type '.txt'", "Use one of .jsonl, .json, .parquet, .csv"]),
]
BAD_PAIRS = [
    (with_bad_row(PAIRS, chosen=None), "field 'chosen' is missing", "Give every row"),
    (with_bad_row(PAIRS, chosen="same", rejected="same"), "'chosen' is equal to 'rejected'", "Remove the row"),
    (with_bad_row(PAIRS, rejected=" \n"), "'rejected' is empty", "Remove the row"),
    (with_bad_row(PAIRS, chosen=5), "'chosen' is int, not text", "Write a string"),
    (
        with_bad_row(PAIRS, prompt=["a", "b"]),
        "'prompt' is a list, but its entry 1 is no chat message",
        "Write messages",
    ),
    (with_bad_row(PAIRS, margin="wide"), "'margin' is 'wide', not a number", "Give a number"),
    (chat(prompt=[user("a"), user("b")]), "'prompt' has roles out of order: message 2 is 'user'", "in turn"),
    (chat(prompt=[user("a"), assistant("b")]), "'prompt' does not end with a user message", "End it"),
    (chat(prompt=[user(3)]), "'prompt' message 1 has a non-string 'content'", "Write messages"),
    (
        with_bad_row(PAIRS, chosen=None, responses=["a", "b", "c"], ranks=[1, 2]),
        "3 entries and 'ranks' has 2",
        "Give one",
    ),
    (with_bad_row(PAIRS, chosen=None, responses=["a", "b"], ranks=[1, 1]), "'ranks' are all tied", "Remove the row"),
    (lines(PAIRS[:3]) + b'{"prompt": oops}\n', "is not valid JSON", "Write one object per line."),
]
BAD_ANSWERS = [
    (with_bad_row(ANSWERS, response=None), "field 'response' is missing", "--response_field"),
    (with_bad_row(ANSWERS, prompt=None), "there is no 'prompt'", "--prompt_field"),
    (with_bad_row(ANSWERS, response=" "), "'response' is empty", "Remove the row"),
    (with_bad_row(ANSWERS, response=5), "'response' is int, not text", "Write a string"),
    (with_bad_row(ANSWERS, prompt=[user("a"), user("b")]), "'prompt' has roles out of order", "in turn"),
    (with_bad_row(ANSWERS, quality=1.0), "already has the field 'quality'", "--overwrite_scores"),
]
ROW_TESTS = [("reward", *case) for case in BAD_PAIRS] + [("audit", *case) for case in BAD_PAIRS]
ROW_TESTS += [("score", *case) for case in BAD_ANSWERS]


@pytest.mark.parametrize("command", ["reward", "audit", "score"])
@pytest.mark.parametrize(("name", "content", "said"), UNREADABLE)
def test_an_unreadable_file(command, name, content, said, arguments, refuse, room):
    (room / name).write_bytes(content)
    flag = "input" if command == "score" else "dataset"
    refuse(arguments(command, **{flag: name}), *(part.replace("FILE", name) for part in said))


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("reward", "dataset"),
        ("reward", "eval_dataset"),
        ("score", "input"),
        ("audit", "dataset"),
        ("audit", "twins"),
        ("export", "parity_dataset"),
    ],
)
def test_a_missing_file(command, flag, arguments, refuse):
    refuse(arguments(command, **{flag: "none.jsonl"}), "none.jsonl: no such file. Check the path")


@pytest.mark.parametrize(("command", "content", "what", "fix"), ROW_TESTS)
def test_an_unusable_row_names_file_row_field_and_cure(command, content, what, fix, arguments, refuse, room):
    (room / "rows.jsonl").write_bytes(content)
    line = refuse(
        arguments(command, **{"input" if command == "score" else "dataset": "rows.jsonl"}),
        f"odin-rm {command}: error: rows.jsonl, row 4: ",
        what,
        fix,
    )
    if command != "score":
        assert "--on_bad_row skip" in line


@pytest.mark.parametrize("command", ON_DATA)
def test_no_usable_pair_even_when_bad_rows_are_skipped(command, arguments, refuse, room):
    (room / "rows.jsonl").write_bytes(lines([{"prompt": "p", "chosen": "a", "rejected": "a"}] * 3))
    argv = arguments(command, dataset="rows.jsonl", on_bad_row="skip")
    refuse(argv, "no usable pair in 3 rows", "row 1: 'chosen' is equal to 'rejected'", "Mend the rows")


@pytest.mark.parametrize("command", ON_DATA)
@pytest.mark.parametrize(
    ("overlong", "said"),
    [
        ("drop", "no usable pair: in all 1 pairs the prompt alone is longer than max_length (16 tokens)"),
        ("error", "row 1: the prompt alone has 44 tokens, more than max_length (16)"),
        ("truncate_prompt_left", None),
        ("truncate_response", None),
    ],
)
def test_a_prompt_alone_longer_than_the_window(command, overlong, said, arguments, refuse, room):
    (room / "long.jsonl").write_bytes(lines([{"prompt": "word " * 40, "chosen": "a b", "rejected": "c"}]))
    argv = arguments(command, dataset="long.jsonl", max_length=16, overlong=overlong)
    if said is None:
        assert main(argv) == 0
    else:
        refuse(argv, f"long.jsonl{', ' if overlong == 'error' else ': '}{said}", "Raise --max_length")


def test_score_of_a_prompt_longer_than_the_window(arguments, refuse, room):
    (room / "long.jsonl").write_bytes(lines([{"prompt": "word " * 40, "response": "a b"}]))
    refuse(arguments("score", input="long.jsonl", max_length=16, overlong="error"), "row 1: the prompt alone has 44")
    for overlong, scored in {"drop": False, "truncate_prompt_left": True, "truncate_response": True}.items():
        out = f"{overlong}.jsonl"
        assert main(arguments("score", input="long.jsonl", max_length=16, overlong=overlong, output=out)) == 0
        row = json.loads((room / out).read_text())
        assert (row["quality"] is not None) == scored
        assert row["response_tokens"] == 2


# ---- flags and config files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_and_keys_that_do_not_exist(command, arguments, refuse, room):
    refuse([*arguments(command), "--no_such_flag", "1"], "unknown flag --no_such_flag", "--help")
    (room / "c.yaml").write_text("no_such_key: 1\n")
    refuse([*arguments(command), "--config", "c.yaml"], "c.yaml: unknown key 'no_such_key'", "--help")
    refuse([*arguments(command), "--config", "none.yaml"], "none.yaml: no such config file", "Check the path")
    refuse([*arguments(command), "stray"], "unexpected value 'stray'", "Give values after")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": "nan"}, "--learning_rate: must be at least 0, it is nan"),
        ({"num_train_epochs": "inf", "max_steps": -1}, "--num_train_epochs: must be positive, it is inf"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"report_to": "wandb"}, "wandb"),
        ({"eval_strategy": "steps"}, "--eval_strategy: needs held-out data"),
        ({"attn_implementation": "nonsense"}, "nonsense"),
        ({"gradient_accumulation_steps": 4}, "Use --batch_pairs"),
        ({"use_liger_kernel": True}, "--use_liger_kernel: has no effect"),
        ({"resume_from_checkpoint": True}, "there is no checkpoint to go on from"),
    ],
)
def test_settings_that_cannot_work_leave_no_run_folder(changes, said, arguments, refuse):
    refuse(arguments("reward", **changes), said)


def test_a_best_model_by_a_figure_that_does_not_exist(arguments, refuse, shop):
    strategy = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    argv = arguments("reward", eval_dataset=shop / "pairs.jsonl", metric_for_best_model="acuracy", **strategy)
    refuse(argv, "--metric_for_best_model: there is no figure 'acuracy'", "accuracy_length_balanced")


@pytest.mark.parametrize("command", ["score", "audit", "export"])
def test_a_device_that_is_not_there(command, arguments, refuse):
    refuse(arguments(command, device="tpu9"), "--device: 'tpu9' cannot be used", "Use cpu")
    refuse(arguments(command, device="meta"), "--device: 'meta' cannot be used", "Use cpu")


@pytest.mark.parametrize("name", ["epochs", "learning_rate"])
def test_quickstart_wants_finite_numbers(name, arguments, refuse):
    refuse(arguments("quickstart", **{name: math.inf}), f"--{name}: must be positive, it is inf")


# ---- output ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["reward", "audit", "export", "quickstart"])
@pytest.mark.parametrize("marker", ["config.yaml", "metrics.jsonl", "model/config.json", "audit.json", "summary.json"])
def test_an_output_folder_that_holds_another_run(command, marker, arguments, refuse, room):
    (room / "out" / marker).parent.mkdir(parents=True)
    (room / "out" / marker).write_text("{}")
    refuse(arguments(command), "out: the output folder", "holds", "Choose another folder")


@pytest.mark.parametrize("command", ["reward", "audit", "export", "quickstart"])
def test_an_output_folder_that_cannot_be(command, arguments, refuse, room):
    (room / "file").write_text("here first")
    flag = "output"
    refuse(arguments(command, **{flag: "file"}), "file: is a file, not a folder", "Choose another")
    refuse(arguments(command, **{flag: "file/below"}), "file/below: cannot be written", "Choose another")


def test_an_output_file_that_exists(arguments, refuse, room):
    (room / "scored.jsonl").write_text("keep\n")
    refuse(arguments("score", output="scored.jsonl"), "scored.jsonl: the output file exists", "--overwrite")
    (room / "rows.jsonl").write_bytes(with_bad_row(ANSWERS, response=None))
    refuse(arguments("score", output="scored.jsonl", overwrite=True, input="rows.jsonl"), "row 4")
    refuse(arguments("score", output="scored.txt"), "scored.txt: unknown file type", "Use one of")


def test_overwriting_loses_nothing_before_everything_is_checked(arguments, refuse, room):
    assert main(arguments("reward")) == 0
    (room / "rows.jsonl").write_bytes(with_bad_row(PAIRS, chosen=None))
    refuse(arguments("reward", overwrite=True, dataset="rows.jsonl"), "row 4")
    refuse(arguments("reward", overwrite=True, optim="adamw_bnb_8bit"), "bitsandbytes")


# ---- the installed command, as a user runs it ------------------------------------------------------------------------


def test_in_a_process_of_its_own(arguments, room):
    argv = arguments("score", input="none.jsonl")
    done = subprocess.run([sys.executable, "-m", "odin_rm.cli.main", *argv], capture_output=True, text=True, cwd=room)
    assert done.returncode == 2
    assert done.stderr == "odin-rm score: error: none.jsonl: no such file. Check the path.\n"
    assert done.stdout == ""
    assert list(room.iterdir()) == []
