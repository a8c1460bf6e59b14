"""``odin-rm export``: parity on texts, refusals in one line, nothing of the user's replaced."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf

from odin_rm.cli.main import main
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.backbone import ensure_pad_token
from odin_rm.model.heads import RewardHeads
from odin_rm.model.parity_texts import PARITY_TEXTS, parity_sequences
from odin_rm.model.reward_model import RewardModel
from tests.families import save_base
from tests.model.words import TEXTS, build_tokenizer, reward_model


@pytest.fixture(autouse=True)
def quiet():
    tf.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()


@pytest.fixture
def saved(tmp_path):
    """A run folder with a saved reward model of a window of 48 tokens."""
    tokenizer = build_tokenizer("llama")
    model = reward_model("llama", tmp_path / "base", head_scale=2.0)
    ensure_pad_token(tokenizer, model.config)
    audit = {"pairs": 9, "pearson": {"value": 0.021, "low": -0.1, "high": 0.1}}
    model.info = model.info.with_(encoding={"max_length": 48}, audit=audit, reward_mean=0.5, reward_std=1.25)
    model.save_pretrained(tmp_path / "run" / "model", tokenizer=tokenizer)
    return tmp_path / "run"


def export(model, output, *flags) -> int:
    return main(["export", "--model", str(model), "--output", str(output), *flags])


def refused(capsys, *arguments) -> str:
    assert export(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("odin-rm")]
    return line


def test_a_certificate_is_a_section_of_the_card(saved, tmp_path, capsys):
    figure = {"value": 0.021, "low": -0.01, "high": 0.05}
    one = {"words": "response tokens", "verdict": "mitigated", "measured": {"effect": figure}}
    only_audited = {"words": "digits", "verdict": "undecided", "measured": {"within": figure}}
    content = {"model": "odin", "baseline": "plain | model", "overall": "mitigated", "tolerance": 0.1,
               "missing": ["The chosen were not probed."],
               "attributes": {"response_tokens": one, "digits": only_audited}}  # fmt: skip
    (tmp_path / "certificate.json").write_text(json.dumps(content))
    assert export(saved, tmp_path / "a", "--certificate", str(tmp_path / "certificate.json")) == 0
    card = (tmp_path / "a" / "README.md").read_text()
    assert "## Certificate" in card
    assert "Verdict beside plain \\| model: **mitigated**" in card
    assert "| response tokens | mitigated | 0.021 | -0.010 | 0.050 |" in card
    assert "digits" not in card
    assert "The chosen were not probed." in card
    (tmp_path / "other.json").write_text("[]")
    capsys.readouterr()
    line = refused(capsys, saved, tmp_path / "b", "--certificate", str(tmp_path / "other.json"))
    assert "is no certificate" in line
    assert not (tmp_path / "b").exists()


def test_the_run_folder_or_its_model_folder_is_exported_and_the_parity_printed(saved, tmp_path, capsys):
    assert export(saved, tmp_path / "a") == 0
    printed = capsys.readouterr().out
    assert f"{len(PARITY_TEXTS)} sequences score equally" in printed
    assert export(saved / "model", tmp_path / "b") == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| pearson | 0.021 |" in card
    assert "mean\n0.5000 and deviation 1.2500" in card
    assert "stock" in card
    assert "reward_heads" not in card
    assert "Texts longer than 48 tokens" in card


def test_each_way_of_reading_is_printed(saved, tmp_path, capsys):
    assert export(saved, tmp_path / "a") == 0
    printed = capsys.readouterr().out
    ways = [line.strip().rsplit(":", 1) for line in printed.splitlines() if line.startswith("  ")]
    assert [how for how, _ in ways] == [
        "one by one",
        "at the last token",
        "padded on the right",
        "padded on the left",
        "rotary positions in transformers 4",
    ]
    assert all(float(difference.split()[0]) < 1e-5 for _, difference in ways)
    assert "README.md has the call of each tool" in printed


def saved_again(saved, **encoding):
    """The saved model with other text settings."""
    path = saved / "model" / "odin_rm.json"
    content = json.loads(path.read_text())
    content["encoding"] |= encoding
    path.write_text(json.dumps(content))


def test_what_the_template_cannot_say_is_said(saved, tmp_path, capsys):
    """Trained without the start token that the tokenizer adds: a tool that lets it add one has no way to be right."""
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' <eos>' }}{% endfor %}"
    saved_again(saved, chat_template=template)
    assert export(saved, tmp_path / "out") == 0
    assert "refuses query and document of tools that add special tokens (vLLM)" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`/score` and `/rerank` join the texts" in card
    assert "The tokenizer adds special tokens by itself that the training did not have." in card
    assert '"input_ids": [' in card


def test_a_model_that_is_read_before_its_pad_token_is_refused(saved, tmp_path, capsys):
    saved_again(saved, read_at="before_pad")
    assert "read before its pad token" in refused(capsys, saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_end_of_turn_that_no_template_can_say_is_refused(saved, tmp_path, capsys, monkeypatch):
    import odin_rm.model.stock_tokenizer as module

    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<eos> .' }}{% endfor %}"
    saved_again(saved, chat_template=template, read_at="end_of_turn")
    assert export(saved, tmp_path / "right") == 0
    text = tf.AutoTokenizer.from_pretrained(tmp_path / "right").apply_chat_template(
        [{"role": "user", "content": "why"}, {"role": "assistant", "content": "no"}], tokenize=False
    )
    assert text == "user: why<eos> .assistant: no<eos>"
    monkeypatch.setattr(module, "around", lambda template, **options: template)
    assert "cannot be made to end there" in refused(capsys, saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_sequences_from_a_preference_file(saved, tmp_path, capsys):
    data = tmp_path / "val.jsonl"
    rows = [{"prompt": p, "chosen": r, "rejected": "House."} for p, r in TEXTS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert export(saved, tmp_path / "out", "--parity_dataset", str(data), "--parity_rows", "3") == 0
    assert f"{len(PARITY_TEXTS) + 3} sequences" in capsys.readouterr().out


def test_the_built_in_texts_run_from_a_few_tokens_to_the_window():
    tokenizer = build_tokenizer("llama")
    for window in (24, 48, 300):
        lengths = [len(s) for s in parity_sequences(tokenizer, EncodingSettings(max_length=window))]
        assert max(lengths) == window
        assert min(lengths) < 12
        assert len(set(lengths)) >= 3


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_a_model_saved_without_text_settings_is_held_to_its_position_table(name, tmp_path):
    tokenizer = build_tokenizer(name)
    model = reward_model(name, tmp_path / "base")
    ensure_pad_token(tokenizer, model.config)
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    assert export(tmp_path / "model", tmp_path / "out") == 0
    window = {"roberta": 62}.get(name, 64)
    assert tf.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == window


def test_half_precision(saved, tmp_path):
    assert export(saved, tmp_path / "out", "--dtype", "bfloat16") == 0
    stock = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype="auto")
    assert stock.dtype == torch.bfloat16


def test_a_wrong_read_out_is_refused_and_leaves_no_folder(saved, tmp_path, capsys, monkeypatch):
    """The model in memory reads its heads without normalisation, what is written is normalised."""
    monkeypatch.setattr(RewardHeads, "effective", lambda self, name: 5 * self.vectors[name].float())
    before = sorted(path.name for path in tmp_path.iterdir())
    line = refused(capsys, saved, tmp_path / "out")
    assert "the exported model scores differently" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_swapped_heads_are_refused(saved, tmp_path, capsys, monkeypatch):
    honest = RewardModel.quality_state_dict

    def swapped(self, state_dict=None):
        tensors = honest(self, state_dict)
        tensors[self.output_layer + ".weight"] = self.heads.effective("length").detach()[None]
        return tensors

    monkeypatch.setattr(RewardModel, "quality_state_dict", swapped)
    assert "scores differently" in refused(capsys, saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_earlier_export_is_replaced_only_when_asked(saved, tmp_path, capsys):
    assert export(saved, tmp_path / "out") == 0
    assert "--overwrite" in refused(capsys, saved, tmp_path / "out")
    (tmp_path / "out" / "README.md").unlink()
    assert export(saved, tmp_path / "out", "--overwrite") == 0
    assert (tmp_path / "out" / "README.md").is_file()


def test_nothing_but_an_export_is_ever_replaced(saved, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    for folder in (saved, saved / "model", save_base("llama", tmp_path / "policy"), tmp_path / "notes"):
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        said = refused(capsys, saved, folder, "--overwrite")
        assert "holds another run" in said or "odin-rm did not write there" in said
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_is_no_reward_model_of_ours(saved, tmp_path, capsys):
    assert "there is no such model folder" in refused(capsys, tmp_path / "none", tmp_path / "out")
    assert "no odin_rm.json" in refused(capsys, tmp_path / "base", tmp_path / "out")
    export(saved, tmp_path / "exported")
    capsys.readouterr()
    assert "no odin_rm.json" in refused(capsys, tmp_path / "exported", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--tolerance", "0"], "it is 0.0"),
        (["--tolerance", "nan"], "it is nan"),
        (["--parity_rows", "0"], "it is 0"),
        (["--parity_data", "x"], "--parity_dataset"),
    ],
)
def test_flags_that_cannot_work(flags, message, saved, tmp_path, capsys):
    assert message in refused(capsys, saved, tmp_path / "out", *flags)


def test_a_tolerance_below_the_rounding_is_obeyed(saved, tmp_path, capsys):
    flags = ["--dtype", "bfloat16", "--tolerance", "1e-7"]
    assert "1.00e-07 allowed" in refused(capsys, saved, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
