"""Scoring from Python: in every layout, in order, in any memory; a text that does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.types import RewardScores
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.fast.tree_check import TreeSupport
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import Scorer, load_scorer, score_sequences, score_texts
from tests.families import family_configs
from tests.model.words import build_tokenizer, reward_model

CPU = torch.device("cpu")


def many_per_prompt(prompts: int = 6, responses: int = 5) -> list[np.ndarray]:
    """Responses of several prompts in mixed order; one response stands twice."""
    generator = np.random.default_rng(0)
    sequences = []
    for _ in range(prompts):
        prompt = generator.integers(5, 64, generator.integers(9, 20))
        sequences += [
            np.concatenate([prompt, generator.integers(5, 64, generator.integers(1, 25))]) for _ in range(responses)
        ]
    sequences.append(sequences[3])
    return [sequences[i] for i in generator.permutation(len(sequences))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return reward_model("llama", tmp_path_factory.mktemp("model") / "base").eval()


def scores(model: Any, sequences: list[np.ndarray], layout: str, tokens: int = 150, **options: Any) -> np.ndarray:
    quality, length = score_sequences(
        model,
        sequences,
        pad_token_id=0,
        microbatch_tokens=tokens,
        device=CPU,
        layout=TreeSupport(layout, None, "test"),
        **options,
    )
    assert length is not None
    return np.stack([quality, length])


@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
@pytest.mark.parametrize("tokens", [1, 60, 10**6])
def test_every_layout_gives_the_scores_of_each_sequence_alone(model: RewardModel, layout: str, tokens: int) -> None:
    sequences = many_per_prompt()
    alone = []
    for sequence in sequences:
        ids = torch.as_tensor(sequence)[None]
        one = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        alone.append([float(one.quality.detach()), float(one.length.detach())])
    found = scores(model, sequences, layout, tokens)
    assert np.abs(found - np.array(alone).T).max() < 1e-5


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_ranks_score_their_share_and_leave_the_rest(model: RewardModel, layout: str) -> None:
    sequences = many_per_prompt()
    parts = [scores(model, sequences, layout, rank=rank, world_size=2) for rank in range(2)]
    assert not np.any((parts[0] != 0) & (parts[1] != 0))
    assert np.abs(parts[0] + parts[1] - scores(model, sequences, layout)).max() < 1e-5


class Counting:
    """A model that counts tokens and fails above a number of them."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.tokens = most, list[int]()

    def __call__(self, input_ids: torch.Tensor, **others: torch.Tensor) -> RewardScores:
        if input_ids.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.tokens.append(input_ids.numel())
        mask = others.get("attention_mask")
        ends = (
            input_ids[0, others["response_end"]]
            if mask is None
            else input_ids[torch.arange(len(mask)), mask.sum(1) - 1]
        )
        return RewardScores(ends.float(), ends.float())


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_what_does_not_fit_is_scored_in_halves(layout: str) -> None:
    sequences = many_per_prompt()
    counting, done = Counting(most=120), list[int]()
    found = scores(counting, sequences, layout, 10**6, progress=done.append)
    assert found[0].tolist() == [float(s[-1]) for s in sequences]
    assert sum(done) == len(sequences)
    assert len(counting.tokens) > 3
    with pytest.raises(torch.OutOfMemoryError):
        scores(Counting(most=3), sequences, layout)


def test_a_tree_computes_each_prompt_once() -> None:
    prompt = np.arange(5, 45)
    sequences = [np.concatenate([prompt, [50 + k]]) for k in range(8)]
    tree, padded = Counting(), Counting()
    scores(tree, sequences, "tree", 10**6)
    scores(padded, sequences, "padded", 10**6)
    assert (tree.tokens, padded.tokens) == ([48], [8 * 41])


def test_a_scorer_chooses_its_layout_once(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(model, build_tokenizer("llama"), EncodingSettings(max_length=64), "tiny", True)
    texts = (["why", "why", "how"], ["rice", "salt and rice", "rice"])
    first = score_texts(scorer, *texts)[0]
    assert scorer.layout([]) == scorer.layout([np.array([5])]) == TreeSupport("tree", "segments", scorer.layout([]).why)
    padded = Scorer(model, scorer.tokenizer, scorer.settings, "tiny", True, batch_layout="padded")
    assert np.abs(score_texts(padded, *texts)[0] - first).max() < 1e-5
    assert padded.layout([]).layout == "padded"
    refused = Scorer(model, scorer.tokenizer, scorer.settings, "tiny", True, tree_attention="varlen")
    with pytest.raises(ConfigError, match=r"--tree_attention varlen: is not possible.*CUDA"):
        score_texts(refused, *texts)
    model.tree_kernel = "auto"


def test_nothing_to_score(model: RewardModel) -> None:
    quality, length = score_sequences(model, [], pad_token_id=0, microbatch_tokens=10, device=CPU)
    assert len(quality) == 0
    assert length is None


def test_somebodys_model_is_held_to_its_own_window(tmp_path: Path) -> None:
    config = family_configs()["llama"]
    config.num_labels, config.max_position_embeddings = 1, 2048
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    build_tokenizer("llama").save_pretrained(tmp_path)
    scorer = load_scorer(tmp_path)
    assert scorer.settings.max_length == 2048
    quality_R, _, tokens_R = score_texts(scorer, ["Why?", "Why?"], ["rice " * 1500, "no"])
    assert tokens_R.tolist() == [1500, 1]
    ids = scorer.tokenizer("Human: Why?\n\nAssistant: " + "rice " * 1500)["input_ids"]
    with torch.no_grad():
        row = torch.tensor([[*ids, scorer.tokenizer.eos_token_id]])
        alone = scorer.model.classifier(row).logits[0, 0].item()
    assert quality_R[0] == pytest.approx(alone, abs=1e-5)
    assert load_scorer(tmp_path, settings=EncodingSettings(max_length=9)).settings.max_length == 9


def test_an_overlong_text_is_refused_by_number(tmp_path: Path) -> None:
    model = reward_model("llama", tmp_path / "base").eval()
    scorer = Scorer(model, build_tokenizer("llama"), EncodingSettings(max_length=12), "tiny", True)
    quality, length, tokens = score_texts(scorer, ["why"], ["rice"])
    assert quality.shape == (1,)
    assert length is not None
    assert tokens.tolist() == [1]
    with pytest.raises(DataError, match=r"response 1: the text has \d+ tokens, the window is 12"):
        score_texts(scorer, ["why", "why"], ["rice", "rice " * 20])
