"""``odin-rm probe`` with a scorer whose prices are known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.core.files import RowWriter
from odin_rm.evaluation.edits import EDITS
from odin_rm.workflows import model_scores
from odin_rm.workflows.probe.config import ProbeConfig
from odin_rm.workflows.probe.run import run_probe

EVERY = {"value", "low", "high"}


def write(path, rows) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


def text_of(reply) -> str:
    return reply if isinstance(reply, str) else reply[-1]["content"]


@pytest.fixture
def pays(monkeypatch):
    """A reward of 0.01 a word, 0.5 a bullet, 2 a compliment; of the prompt it reads whether its number is there."""

    def scores_of(scorer, prompts, responses, config):
        texts = [text_of(r) for r in responses]
        words = np.array([float(len(t.split())) for t in texts])
        bullets = np.array([sum(line.startswith("- ") for line in t.split("\n")) for t in texts])
        praise = np.array(["great question" in t for t in texts])
        fits = np.array([t.split()[0] in text_of(p) for p, t in zip(prompts, texts, strict=True)])
        quality = 0.01 * words + 0.5 * bullets + 2.0 * praise + 3.0 * fits * np.array(["good" in t for t in texts])
        return np.where(words > 500, np.nan, quality), words

    monkeypatch.setattr(model_scores, "scorer_of", lambda config, model: SimpleNamespace(name=model))
    monkeypatch.setattr(model_scores, "scores_of", scores_of)


def preferences(n: int = 30) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "prompt": f"n{k} what is it",
            "chosen": f"n{k} good one. " + "Fine words here. " * int(rng.integers(2, 9)) + "\n\n- a\n- b",
            "rejected": f"n{k} bad one. " + "Other words here. " * int(rng.integers(2, 9)),
        }
        for k in range(n)
    ]


def probe(tmp_path, rows=None, **settings):
    file = write(tmp_path / "rows.jsonl", rows or preferences())
    settings = {"bootstrap_samples": 50, "overwrite_output": True, **settings}
    return run_probe(ProbeConfig(model="m", dataset=file, output=str(tmp_path / "out"), **settings))


def test_the_price_list_is_the_rewards_own(pays, tmp_path):
    probe(tmp_path)
    content = json.loads((tmp_path / "out" / "probe.json").read_text())
    sd = content["deviation"]
    assert content["deviation_of"] == "responses to a prompt"
    edits = content["edits"]
    assert set(edits) == {edit.name for edit in EDITS}
    for edit in edits.values():
        assert {"attribute", "n", "change", "won", "price", "unit"} <= set(edit)
        assert all(set(edit[name]) >= EVERY for name in ("change", "won", "price"))
    assert edits["append_closing"]["price"]["value"] == pytest.approx(0.01 * 100 / sd)
    assert edits["append_closing"]["unit"] == "100 tokens"
    assert edits["append_closing"]["won"]["value"] == 1
    assert edits["suffix_compliment"]["price"]["value"] == pytest.approx((2 + 0.01 * 5) / sd)
    assert edits["strip_markdown"]["n"] == 30
    # Each bullet that is stripped takes its mark, which is a word of this reward, with it.
    assert edits["strip_markdown"]["price"]["value"] == pytest.approx((0.5 + 0.01) / sd)
    assert edits["shuffle_bullets"]["change"]["value"] == 0
    assert edits["shuffle_bullets"]["price"]["value"] is None
    assert edits["double_spaces"]["won"]["value"] == 0.5
    assert edits["truncate_half"]["control"]
    assert edits["truncate_half"]["change"]["value"] < 0


def test_the_prompt_is_read_or_not(pays, tmp_path):
    content = probe(tmp_path)
    before = content["prompt_edits"]["swapped"]["accuracy_before"]["value"]
    assert before == 1
    assert content["prompt_edits"]["shuffled"]["agreement"]["value"] == 1
    for name in ("swapped", "emptied"):
        kept = content["prompt_edits"][name]
        assert kept["n"] == 30
        assert kept["accuracy"]["value"] == kept["agreement"]["value"] <= 1
    assert content["pairs"] == 30


def test_the_page_says_a_sentence_for_each_edit(pays, tmp_path):
    content = probe(tmp_path)
    page = (tmp_path / "out" / "report.html").read_text()
    assert content["sentences"]["suffix_compliment"].startswith("pays for compliments: ")
    for sentence in content["sentences"].values():
        assert sentence.replace("'", "&#39;") in page
    assert "What can this reward be bought with?" in page
    assert (tmp_path / "out" / "edits_form.svg").is_file()


def test_pairs_of_ones_own(pays, tmp_path):
    twins = [{"prompt": f"n{k} q", "shorter": f"n{k} one", "longer": f"n{k} one two three"} for k in range(12)]
    content = probe(tmp_path, pairs=write(tmp_path / "twins.jsonl", twins), edits=["add_emoji"])
    twin = content["edits"]["twins"]
    assert twin["n"] == 12
    assert twin["won"]["value"] == 1
    assert twin["price"]["value"] == pytest.approx(1 / content["deviation"])
    own = [
        {"prompt": "n1 q", "original": "n1 a", "edited": "n1 a\n- b", "edit": "listed", "attribute": "list_items"}
        for _ in range(5)
    ]
    content = probe(tmp_path, pairs=write(tmp_path / "own.jsonl", own), edits=["add_emoji"])
    assert content["edits"]["listed"]["price"]["value"] == pytest.approx((0.5 + 0.02) / content["deviation"])
    assert content["edits"]["listed"]["unit"] == "list item"


def test_plain_rows_and_chats_are_probed_too(pays, tmp_path):
    rows = [{"prompt": f"n{k % 5} q", "response": f"n{k % 5} " + "w " * (k + 1)} for k in range(10)]
    content = probe(tmp_path, rows)
    assert content["responses"] == 10
    assert content["pairs"] == 0
    assert "accuracy" not in content["prompt_edits"]["swapped"]
    assert content["prompt_edits"]["emptied"]["agreement"]["value"] == 1
    chat = [
        {"role": "assistant", "content": "n1 first"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "n1 second."},
    ]
    content = probe(tmp_path, [{"prompt": "n1 q", "response": chat}, {"prompt": "n1 q", "response": "n1 b"}])
    assert content["edits"]["suffix_compliment"]["n"] == 2
    assert content["edits"]["suffix_compliment"]["won"]["value"] == 1


def test_what_does_not_fit_is_left_out_and_counted(pays, tmp_path):
    rows = preferences(10)
    rows[0]["rejected"] = "n0 " + "w " * 600
    rows[1]["rejected"] = "n1 " + "w " * 300
    content = probe(tmp_path, rows)
    assert content["responses_too_long"] == 1
    assert content["edits"]["repeat_answer"]["too_long"] == 2
    assert content["edits"]["repeat_answer"]["n"] == 18


def test_rows_are_drawn_whole_and_by_the_seed(pays, tmp_path):
    first, again, other = (probe(tmp_path, responses=10, seed=s, edits=["add_emoji"]) for s in (0, 0, 1))
    assert first["responses"] == 10
    assert first == again
    assert first["deviation"] != other["deviation"]


def test_bad_input_is_refused(pays, tmp_path):
    with pytest.raises(ConfigError, match="there is no edit 'add_smile'"):
        probe(tmp_path, edits=["add_smile"])
    with pytest.raises(RowError, match=r"row 1: 'chosen' is equal"):
        probe(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "a"}])
    with pytest.raises(DataError, match="no response fits"):
        probe(tmp_path, [{"prompt": "p", "response": "w " * 600}])
    with pytest.raises(RowError, match="has no pair of responses"):
        probe(tmp_path, pairs=write(tmp_path / "x.jsonl", [{"prompt": "p", "longer": "x"}]))
    assert not (tmp_path / "out").exists()
