"""Scores of a real (tiny) model for the commands that edit, choose and compare: the same as of ``score_texts``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from odin_rm.cli.main import main
from odin_rm.core.files import RowWriter
from odin_rm.model.scoring import load_scorer, score_texts
from odin_rm.workflows.model_scores import scorer_of, scores_of
from odin_rm.workflows.probe.config import ProbeConfig
from tests.model.words import WORDS, saved_reward_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(saved_reward_model(tmp_path_factory.mktemp("model") / "model", 40))


def words(generator: np.random.Generator, most: int) -> str:
    return " ".join(generator.choice(WORDS, generator.integers(1, most)))


def test_scores_are_those_of_score_texts_and_what_does_not_fit_is_nan(model):
    generator = np.random.default_rng(0)
    prompts, responses = ([words(generator, most) for _ in range(9)] for most in (8, 20))
    responses[4] = " ".join(WORDS[:1] * 60)
    config = ProbeConfig(model=model, dataset="d", output="o")
    quality, tokens = scores_of(scorer_of(config, model), prompts, responses, config)
    fits = np.arange(9) != 4
    expected, _, counted = score_texts(
        load_scorer(model), np.array(prompts)[fits].tolist(), np.array(responses)[fits].tolist()
    )
    assert np.isnan(quality[4])
    assert quality[fits] == pytest.approx(expected, abs=1e-5)
    assert tokens[fits].tolist() == counted.tolist()
    assert tokens[4] == 60


def test_the_commands_run_on_a_real_model(model, tmp_path):
    generator = np.random.default_rng(1)
    rows = [{"prompt": words(generator, 6), "responses": [words(generator, 9) for _ in range(4)]} for _ in range(5)]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["responses"][0] + " a", "rejected": row["responses"][1]} for row in rows
    ]
    for name, content in (("samples", rows), ("pairs", pairs)):
        with RowWriter(tmp_path / f"{name}.jsonl") as writer:
            for row in content:
                writer.write(row)
    out = tmp_path / "bon"
    flags = ["--model", model, "--bootstrap_samples", "9"]
    assert main(["best-of-n", *flags, "--input", str(tmp_path / "samples.jsonl"), "--output", str(out)]) == 0
    assert json.loads((out / "best_of_n.json").read_text())["n"] == [1, 2, 4]
    out = tmp_path / "probe"
    edits = ["--edits", "suffix_compliment", "double_spaces"]
    assert main(["probe", *flags, *edits, "--dataset", str(tmp_path / "pairs.jsonl"), "--output", str(out)]) == 0
    content = json.loads((out / "probe.json").read_text())
    assert content["edits"]["suffix_compliment"]["n"] == 10
    assert content["prompt_edits"]["swapped"]["n"] == 5
