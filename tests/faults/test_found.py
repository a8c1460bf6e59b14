"""Faults that an adversary has found, each with the right value; siblings stand beside them."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from odin_rm.cli.main import main
from odin_rm.core.errors import DataError
from odin_rm.core.reading import parse_json
from odin_rm.data.columns import Columns
from odin_rm.serve.reward.dialects.rlhf import read_get_reward
from odin_rm.serve.reward.dialects.vllm import read_classify
from tests.cli.conftest import PAIRS, arguments, lines, refuse, room, shop  # noqa: F401

TWICE = b'{"prompt": "a", "response": "b", "prompt": "c"}\n'


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_that_a_row_gives_twice_is_refused(arguments, refuse, room, name):  # noqa: F811
    (room / name).write_bytes(TWICE if name.endswith("l") else b"[" + TWICE + b"]")
    refuse(arguments("score", input=name), name, "the key 'prompt' is given twice")


def test_keys_that_are_given_once_are_taken():
    assert parse_json('{"a": {"a": 1}, "b": [{"a": 2}]}') == {"a": {"a": 1}, "b": [{"a": 2}]}
    with pytest.raises(DataError, match="the key 'x' is given twice"):
        parse_json('{"a": [{"x": 1, "y": 2, "x": 1}]}')


@pytest.mark.parametrize("target", ["taken.jsonl", "nowhere.jsonl"])
@pytest.mark.parametrize("command", ["score", "pairs", "win-rate", "generate", "report"])
def test_a_link_that_leads_nowhere_is_somebodys(refuse, room, shop, command, target):  # noqa: F811
    rows = [{"prompt": "q", "response": text, "quality": k} for k, text in enumerate("ab")]
    judged = [{"instruction": f"q{k}", "output_1": "a", "output_2": "b c", "preference": 1 + k} for k in (0, 1)]
    (room / "rows.jsonl").write_bytes(lines(rows))
    (room / "judged.json").write_text(json.dumps(judged))
    suffix = {"win-rate": ".json", "generate": ".json", "report": ".html"}.get(command, ".jsonl")
    (room / f"taken{suffix}").symlink_to(Path(target).with_suffix(suffix))
    line = {
        "score": f"--model {shop / 'ours'} --input {shop / 'answers.jsonl'}",
        "pairs": "--input rows.jsonl",
        "win-rate": "--annotations judged.json",
        "generate": f"--model {shop / 'base'} --prompts rows.jsonl",
        "report": "--runs judged.json",
    }[command]
    refuse([command, *line.split(), "--output", f"taken{suffix}"], f"taken{suffix}", "exists")
    assert (room / f"taken{suffix}").is_symlink()


@pytest.mark.parametrize("word", ["--" + "x" * 5000, "--model=" + "y" * 9000])
def test_no_message_is_longer_than_a_message(room, capfd, word):  # noqa: F811
    assert main(["export", "--output", "out", word]) == 2
    told = capfd.readouterr().err
    assert len(told) < 1200
    assert told.count("\n") == 1


def test_prompts_that_a_policy_cannot_take_are_left_out(room, shop, capfd):  # noqa: F811
    """Twice, empty, of half a character, or refused by the template."""
    rows = [{"prompt": "how?"}, {"prompt": " "}, {"prompt": "how?"}, {"prompt": "forbidden"}, {"prompt": "why?"}]
    (room / "p.jsonl").write_bytes(lines(rows) + b'{"prompt": "\\ud800"}\nno row\n')
    shutil.copytree(shop / "base", room / "base")
    template = "{% for m in messages %}{% if 'forbidden' in m.content %}{{ raise_exception('no') }}{% endif %}"
    (room / "base" / "chat_template.jinja").write_text(template + "{{ m.content }}{% endfor %}")
    argv = [
        "generate",
        "--model",
        "base",
        "--prompts",
        "p.jsonl",
        "--output",
        "g.json",
        "--max_new_tokens",
        "3",
        "--device",
        "cpu",
    ]
    assert main(argv) == 2
    assert "p.jsonl, row 2" in capfd.readouterr().err
    assert main([*argv, "--on_bad_row", "skip"]) == 0
    assert [row["instruction"] for row in json.loads((room / "g.json").read_text())] == ["how?", "why?"]
    assert json.loads((room / "g.json.settings.json").read_text())["skipped"] == 5
    assert "5 prompts were left out" in capfd.readouterr().out


def test_rl_leaves_them_out_too(arguments, room, shop, capfd):  # noqa: F811
    (room / "p.jsonl").write_bytes(lines([{"prompt": f"question {k}"} for k in range(4)]) + b'{"prompt": ""}\n')
    argv = arguments("rl", prompts="p.jsonl", max_steps=1)
    assert main(argv) == 2
    assert "p.jsonl, row 5: field 'prompt' is missing or empty" in capfd.readouterr().err
    assert main([*argv, "--on_bad_row", "skip"]) == 0
    record = json.loads((room / "out" / "data_report.json").read_text())["prompts"]
    assert (record["prompts"], record["skipped_rows"]) == (4, 1)


def test_names_of_the_twins_columns(arguments, room, capfd):  # noqa: F811
    twins = [{"question": "q", "terse": "a", "wordy": "a b c d"}, {"question": "r", "terse": "c", "wordy": "c d e"}]
    (room / "t.jsonl").write_bytes(lines(twins))
    pairs = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in PAIRS]
    (room / "pairs.jsonl").write_bytes(lines(pairs))
    argv = [*arguments("audit", twins="t.jsonl", dataset="pairs.jsonl"), "--columns", "prompt=question"]
    assert main(argv) == 2
    assert "t.jsonl, row 1: 'shorter' is missing" in capfd.readouterr().err
    assert main([*argv, "shorter=terse", "longer=wordy"]) == 0
    report = json.loads((room / "out" / "audit.json").read_text())["data_report"]
    assert (report["twins"], report["pairs"]) == (2, 5)


def test_a_file_beside_another_keeps_our_names():
    names = Columns(["prompt=question", "longer=wordy", "chosen=x"])
    fields = ("prompt", "shorter", "longer")
    assert names.beside({"prompt": 1, "wordy": 2}, "f", fields).names == {"longer": "wordy"}
    assert names.beside({"question": 1, "wordy": 2}, "f", fields).names == {"prompt": "question", "longer": "wordy"}
    with pytest.raises(DataError, match="no column 'question'"):
        names.beside({"q": 1, "wordy": 2}, "f", fields)
    assert names.but(("shorter", "longer")) == ["prompt=question", "chosen=x"]


@pytest.mark.parametrize("command", ["score", "reward"])
def test_an_encoder_that_counts_from_its_pad_id_needs_one(arguments, refuse, room, shop, command):  # noqa: F811
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from odin_rm.model.scoring import load_tokenizer

    tokenizer = load_tokenizer(shop / "base")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=1, **sizes)
    RobertaForSequenceClassification(config).save_pretrained(room / "model")
    tokenizer.save_pretrained(room / "model")
    content = json.loads((room / "model" / "config.json").read_text())
    (room / "model" / "config.json").write_text(json.dumps(content | {"pad_token_id": None}))
    refuse(
        arguments(command, model="./model"), "no pad_token_id", "Write the tokenizer's pad_token_id into config.json"
    )


def test_servers_hand_on_all_that_a_message_holds():
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
    said = [
        {"role": "user", "content": "q", "name": "Bob"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    (item,) = read_classify({"messages": said, "tools": tools, "chat_template_kwargs": {"thinking": True}}).items
    assert [*item.prompt, *item.response] == said
    assert item.variables == {"tools": tools, "chat_template_kwargs": {"thinking": True}}
    (item,) = read_get_reward({"prompt": said[:1], "response": said[1:], "tools": tools}).items
    assert (item.response, item.variables) == (said[1:], {"tools": tools})


@pytest.mark.parametrize(
    ("command", "flag", "word"),
    [("dpo", "f_divergence_type", "0"), ("dpo", "loss_type", "sigmoid_"), ("sft", "loss_type", "mse")],
)
def test_words_that_trl_looks_at_in_its_first_step(refuse, shop, command, flag, word):  # noqa: F811
    argv = f"{command} --model {shop / 'base'} --dataset {shop / 'pairs.jsonl'} --output out --{flag} {word}".split()
    refuse(argv, f"--{flag}", word)


def test_a_schedule_that_there_is_not(arguments, refuse):  # noqa: F811
    refuse(arguments("rl", lr_scheduler_type="warmup"), "--lr_scheduler_type", "inverse_sqrt")


@pytest.mark.parametrize("command", ["score", "export", "generate"])
@pytest.mark.parametrize("layers", [0, -1])
def test_weights_of_layers_that_the_config_has_not_are_no_model(arguments, refuse, room, shop, command, layers):  # noqa: F811
    """transformers leaves such layers out without a word, and every score is another."""
    model = "base" if command == "generate" else "ours"
    shutil.copytree(shop / model, room / "cut")
    path = room / "cut" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": layers}))
    if command == "generate":
        argv = f"generate --model ./cut --prompts {shop / 'pairs.jsonl'} --output g.json".split()
    else:
        argv = arguments(command, model="./cut")
    refuse(argv, "asks for 0 of model.layers", "Copy the config.json that belongs to the weights")


def test_an_architecture_that_the_weights_are_not_of(arguments, refuse, room, shop):  # noqa: F811
    shutil.copytree(shop / "base", room / "lie")
    path = room / "lie" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "t5"}))
    refuse(arguments("reward", model="./lie"), "the weights lack", "Copy the config.json")


@pytest.mark.parametrize(("flag", "command"), [("model", "audit"), ("token", "study"), ("eval_dataset", "reward")])
def test_an_unset_variable_of_the_shell_is_no_value(arguments, refuse, shop, flag, command):  # noqa: F811
    argv = ["study", "--output", "out"] if command == "study" else arguments(command)
    refuse([*argv, f"--{flag}", ""], f"--{flag}: is empty")


@pytest.mark.parametrize("command", ["best-of-n", "audit", "calibrate --anchor zero"])
def test_a_whole_number_that_no_float_can_hold_is_refused(refuse, room, command):  # noqa: F811
    (room / "s.jsonl").write_text(f'{{"prompt_id": 1, "response": "a", "score": {"9" * 400}}}\n')
    refuse([*command.split(), "--scores", "s.jsonl", "--output", "out"], "row 1", "a whole number of 400 digits")


def test_whole_numbers_are_read_as_they_are():
    assert parse_json(f"[{2**64 + 1}, -3, {10**307}]") == [2**64 + 1, -3, 10**307]
    with pytest.raises(DataError, match="a whole number of 309 digits"):
        parse_json("[-" + "9" * 309 + "]")


@pytest.mark.parametrize("command", ["best-of-n", "audit", "calibrate --anchor zero"])
def test_resamples_have_an_end(refuse, room, command):  # noqa: F811
    (room / "s.jsonl").write_text('{"prompt_id": 1, "response": "a", "score": 1}\n')
    argv = [*command.split(), "--scores", "s.jsonl", "--output", "out", "--bootstrap_samples", "99999999999"]
    refuse(argv, "--bootstrap_samples", "at most 100000")


def test_a_name_that_no_font_has_says_nothing_to_the_terminal(room, capfd):  # noqa: F811
    rows = [{"prompt_id": k // 2, "response": "a" * (k + 1), "score": k % 3, "label": k % 2} for k in range(8)]
    name = "\x1b]0;x\x07\ud55c"
    (room / "s.jsonl").write_text("".join(json.dumps(row | {"model": name}) + "\n" for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        argv = ["audit", "--scores", "s.jsonl", "--output", "out", "--bootstrap_samples", "5"]
        assert main(argv) == 0
    said = "".join(capfd.readouterr())
    assert "\x1b]" not in said
    assert "\x07" not in said
    assert "\x1b" not in (room / "out" / "report.html").read_text()
