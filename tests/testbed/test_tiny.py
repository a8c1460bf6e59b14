"""The word-level tokenizer and the tiny model: nothing unknown, one way to count, a folder like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from odin_rm.core.errors import OutputError
from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.testbed import phrases
from odin_rm.testbed.annotator import make_sft
from odin_rm.testbed.tiny import build_model, build_tokenizer, save_tiny_model, vocabulary
from odin_rm.testbed.world import World, WorldSettings, count_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", seed=0)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_sft(World(WorldSettings(list_rate=0.3, flattery_rate=0.3)), 300, seed=0)


def test_vocabulary_is_fixed_and_small() -> None:
    words = vocabulary()
    assert words[:4] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert len(words) == len(set(words)) < 500
    assert words == vocabulary()


def test_no_text_of_the_world_has_an_unknown_word(folder: Path, rows: list[dict]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = World().prompts("train") + World().prompts("held_out")
    texts += [row["response"] for row in rows] + [
        *phrases.HELPFUL,
        *phrases.HARMFUL,
        *phrases.FILLERS,
        *phrases.OPENERS,
    ]
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts).input_ids)
    assert tokenizer.unk_token_id in tokenizer("quaternion").input_ids


def test_the_plain_template_is_known_and_lengths_agree(folder: Path, rows: list[dict]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template is None
    prompts, responses = [row["prompt"] for row in rows], [row["response"] for row in rows]
    for encoded, response in zip(
        encode_responses(tokenizer, prompts, responses, EncodingSettings()), responses, strict=True
    ):
        assert encoded.response_tokens == count_tokens(response) == len(tokenizer(response).input_ids)
        assert tokenizer.unk_token_id not in encoded.input_ids
        assert encoded.input_ids[-1] == tokenizer.eos_token_id


def test_decoded_text_has_the_same_true_quality_and_length(folder: Path, rows: list[dict]) -> None:
    tokenizer, world = AutoTokenizer.from_pretrained(folder), World()
    for row in rows:
        ids = tokenizer(row["response"]).input_ids
        text = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
        assert world.true_quality(row["prompt"], text) == row["true_quality"]
        assert tokenizer(text).input_ids == ids


def test_folder_loads_as_a_causal_model_of_a_quarter_million_parameters(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert 0.15e6 < model.num_parameters() < 0.35e6
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token} == {"<bos>", "<eos>", "<unk>"}


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone(folder: Path) -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, other = build_model(tokenizer, 0).state_dict(), build_model(tokenizer, 1).state_dict()
    assert torch.equal(torch.rand(1), expected)
    saved = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(first[name], saved[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_an_existing_folder_is_not_overwritten_unasked(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(OutputError):
        save_tiny_model(folder, seed=1)
    assert (folder / "model.safetensors").read_bytes() == before
