"""The policy: loading, log-probs of given responses, saving, and LoRA as its own reference."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, GPTNeoXConfig, LlamaConfig, LlamaForSequenceClassification

from odin_rm.core.errors import ModelError, ShapeError
from odin_rm.model.policy import (
    adapter_disabled,
    base_policy,
    collate_responses,
    end_token_ids,
    load_policy,
    response_log_probs,
    response_logits,
    save_policy,
)
from odin_rm.model.reward_model import RewardModel
from tests.families import DECODER, ENCODER, EOS, SPECIAL, VOCABULARY, save_base
from tests.model.policies import FAMILIES, policy, prompts, save_policy_folder
from tests.model.words import build_tokenizer

RESPONSES = [[7, 8, 9, EOS], [5], [20, 21, 22, 23, 24, 25], [EOS], [9, 9], [30, EOS]]


def batch_of(rows=range(6), pad=0, asked=None):
    asked = asked or prompts()
    return collate_responses([asked[i] for i in rows], [RESPONSES[i] for i in rows], pad)


def naive_log_probs(model, asked: list[int], written: list[int], temperature: float) -> list[float]:
    """One row alone, no padding, the whole table of logits."""
    logits_SV = model(torch.tensor([asked + written])).logits[0].double() / temperature
    table_SV = logits_SV - logits_SV.exp().sum(-1, keepdim=True).log()
    return [float(table_SV[len(asked) - 1 + i, token]) for i, token in enumerate(written)]


def move_adapter(model) -> None:
    """An adapter's B starts at 0, where it does nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


# ---- log-probs -------------------------------------------------------------------------------------------------------


def test_a_batch_by_hand():
    batch = collate_responses([[5, 6, 7], [8]], [[9], [10, 11]], pad_token_id=0)
    assert batch.input_ids_BS.tolist() == [[5, 6, 7, 9, 0], [0, 0, 8, 10, 11]]
    assert batch.attention_mask_BS.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert batch.position_ids_BS.tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]
    assert batch.response_ids_BT.tolist() == [[9, 0], [10, 11]]
    assert batch.response_mask_BT.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert batch.to("cpu").input_ids_BS.equal(batch.input_ids_BS)


def test_bad_batches_are_refused():
    with pytest.raises(ShapeError):
        collate_responses([[5], []], [[1], [1]], 0)
    with pytest.raises(ShapeError):
        collate_responses([[5]], [[1], [1]], 0)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_log_probs_equal_those_of_each_row_alone(name, temperature, tmp_path):
    model, _ = policy(name, tmp_path)
    found_BT = response_log_probs(model, batch_of(), temperature)
    for row, (asked, written) in enumerate(zip(prompts(), RESPONSES, strict=True)):
        expected = torch.tensor(naive_log_probs(model, asked, written, temperature), dtype=torch.float32)
        torch.testing.assert_close(found_BT[row, : len(written)], expected, rtol=0, atol=1e-5)
        assert found_BT[row, len(written) :].abs().sum() == 0


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_order_company_and_padding_change_nothing(name, tmp_path):
    model, _ = policy(name, tmp_path)
    expected_BT = response_log_probs(model, batch_of(), 1.0)
    for rows in ([5, 3, 0], [2, 1], [4], [0, 1, 2, 3, 4, 5]):
        for pad in (0, EOS):
            found_BT = response_log_probs(model, batch_of(rows, pad), 1.0)
            for i, row in enumerate(rows):
                length = len(RESPONSES[row])
                torch.testing.assert_close(found_BT[i, :length], expected_BT[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_no_logits_are_computed_for_prompts(name, tmp_path):
    model, _ = policy(name, tmp_path)
    rows = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
    batch = batch_of()
    assert response_logits(model, batch).shape == (6, 6, VOCABULARY)
    assert rows == [7]  # T + 1 of the P + T columns
    assert batch.input_ids_BS.shape[1] == 14 + 6


@torch.no_grad()
def test_the_entropy_is_that_of_the_distribution(tmp_path):
    model, _ = policy("llama", tmp_path)
    batch = batch_of()
    log_probs_BT, entropy_BT = response_log_probs(model, batch, 0.7, with_entropy=True)
    table_BTV = (response_logits(model, batch) / 0.7).log_softmax(-1)
    expected_BT = -(table_BTV.exp() * table_BTV).sum(-1) * batch.response_mask_BT
    torch.testing.assert_close(entropy_BT, expected_BT, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_probs_BT, response_log_probs(model, batch, 0.7))


def test_every_response_token_has_gradient_the_end_token_too(tmp_path):
    model, _ = policy("llama", tmp_path)
    batch = collate_responses([prompts()[0]], [[7, EOS]], 0)
    for position in range(2):
        model.zero_grad()
        response_log_probs(model.train(), batch, 1.0)[0, position].backward()
        assert model.lm_head.weight.grad.abs().max() > 1e-4


def test_training_mode_and_recomputation_change_nothing(tmp_path):
    model, _ = policy("gpt2", tmp_path)  # its config asks for dropout
    again, _ = load_policy(tmp_path / "gpt2", gradient_checkpointing=True)
    tables = [response_log_probs(m, batch_of(), 1.0) for m in (model.eval(), model.train(), again.train())]
    torch.testing.assert_close(tables[1], tables[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(tables[2], tables[0], rtol=0, atol=1e-6)
    gradients = []
    for m, table in zip((model, again), tables[1:], strict=True):
        table.sum().backward()
        gradients.append(m.transformer.wte.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_compiled_model_gives_the_same(tmp_path):
    model, tokenizer = policy("llama", tmp_path)
    compiled = torch.compile(model, backend="eager")
    expected = response_log_probs(model, batch_of(), 1.0)
    torch.testing.assert_close(response_log_probs(compiled, batch_of(), 1.0), expected, rtol=0, atol=1e-6)
    assert base_policy(compiled) is model
    save_policy(compiled, tokenizer, tmp_path / "saved")
    again, _ = load_policy(tmp_path / "saved")
    assert response_log_probs(again, batch_of(), 1.0).equal(expected)


# ---- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_saved_and_loaded_it_gives_the_same(name, tmp_path):
    model, tokenizer = policy(name, tmp_path)
    expected = response_log_probs(model, batch_of(), 1.0)
    save_policy(model, tokenizer, tmp_path / "run" / "policy")
    again, again_tokenizer = load_policy(tmp_path / "run")  # a run folder
    assert response_log_probs(again, batch_of(), 1.0).equal(expected)
    assert again_tokenizer.get_vocab() == tokenizer.get_vocab()
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy", dtype=torch.float32)
    assert response_log_probs(stock, batch_of(), 1.0).equal(expected)
    assert not list((tmp_path / "run" / "policy").glob("*.bin"))


def test_gathered_tensors_are_what_is_saved(tmp_path):
    model, tokenizer = policy("llama", tmp_path)
    gathered = {k: torch.full_like(v, 0.25) for k, v in model.state_dict().items()}
    save_policy(model, tokenizer, tmp_path / "saved", state_dict=gathered)
    again, _ = load_policy(tmp_path / "saved")
    assert all(bool((parameter == 0.25).all()) for parameter in again.parameters())


def test_dropout_is_off_in_training_and_back_in_the_saved_config(tmp_path):
    model, tokenizer = policy("gpt2", tmp_path)
    assert model.config.resid_pdrop == 0.0
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0] == []
    save_policy(model, tokenizer, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["resid_pdrop"] == 0.1
    assert model.config.resid_pdrop == 0.0


def test_a_pad_token_is_there_and_end_tokens_are_those_of_both(tmp_path):
    save_policy_folder("llama", tmp_path / "m")
    tokenizer = build_tokenizer("llama", pad=False)
    tokenizer.save_pretrained(tmp_path / "m")
    model, tokenizer = load_policy(tmp_path / "m")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.pad_token_id == EOS
    assert end_token_ids(model, tokenizer) == {EOS}
    model.generation_config.eos_token_id = [EOS, 40]
    assert end_token_ids(model, tokenizer) == {EOS, 40}
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end token"):
        end_token_ids(model, tokenizer)


def test_the_dtype_is_as_asked(tmp_path):
    model, _ = policy("llama", tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert response_log_probs(model, batch_of(), 1.0).dtype == torch.float32


def not_a_policy(kind: str, folder) -> None:
    build_tokenizer("llama").save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "reward model":
        save_base("llama", folder / "base")
        RewardModel.from_backbone(folder / "base").save_pretrained(folder)
    elif kind == "classifier":
        config = LlamaConfig(vocab_size=VOCABULARY, **SPECIAL, **DECODER, num_labels=1)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    elif kind == "encoder":
        save_base("bert", folder)
    elif kind == "encoder with a causal class":
        AutoModelForCausalLM.from_config(BertConfig(vocab_size=VOCABULARY, **ENCODER)).save_pretrained(folder)
    elif kind == "other encoder":
        save_base("modernbert", folder)
    elif kind == "pickle":
        save_policy_folder("llama", folder)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif kind == "no tokenizer":
        save_policy_folder("llama", folder)
        for file in folder.glob("token*"):
            file.unlink()
    elif kind == "broken config":
        (folder / "config.json").write_text("{")
    elif kind == "empty":
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("reward model", "is a reward model, not a policy"),
        ("classifier", "is a classifier"),
        ("encoder", "no weights|encoder"),
        ("encoder with a causal class", "is an encoder"),
        ("other encoder", "no causal language model"),
        ("pickle", "pickle"),
        ("no tokenizer", "tokenizer"),
        ("broken config", "cannot load|no weights|is not valid JSON"),
        ("empty", "no such model folder"),
    ],
)
def test_what_is_no_policy_is_one_line(kind, words, tmp_path):
    not_a_policy(kind, tmp_path / "m")
    with pytest.raises(ModelError, match=words) as raised:
        load_policy(tmp_path / "m")
    assert "\n" not in str(raised.value)
    assert raised.value.where.startswith(str(tmp_path / "m"))


def test_a_causal_model_whose_config_denies_being_a_decoder_is_one(tmp_path):
    config = GPTNeoXConfig(vocab_size=VOCABULARY, **DECODER, bos_token_id=1, eos_token_id=EOS)
    assert config.is_decoder is False
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    build_tokenizer("llama").save_pretrained(tmp_path)
    assert load_policy(tmp_path)[0].config.model_type == "gpt_neox"


# ---- LoRA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_adapter_switched_off_is_the_base_model(name, tmp_path):
    base, _ = policy(name, tmp_path)
    model, _ = load_policy(tmp_path / name, lora_r=2, lora_alpha=8)
    reference_BT = response_log_probs(base, batch_of(), 1.0)
    assert response_log_probs(model, batch_of(), 1.0).equal(reference_BT)  # B is 0 yet
    move_adapter(model)
    moved_BT = response_log_probs(model, batch_of(), 1.0)
    assert (moved_BT - reference_BT).abs().max() > 0.01
    with adapter_disabled(model):
        assert response_log_probs(model, batch_of(), 1.0).equal(reference_BT)
    assert response_log_probs(model, batch_of(), 1.0).equal(moved_BT)


def test_only_the_adapter_is_trained_and_not_the_language_model_head(tmp_path):
    model, _ = policy("llama", tmp_path, lora_r=2)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    response_log_probs(model, batch_of(), 1.0).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    few, _ = load_policy(tmp_path / "llama", lora_r=2, lora_target_modules=["q_proj"])
    assert {n.split(".lora_")[0].split(".")[-1] for n, p in few.named_parameters() if p.requires_grad} == {"q_proj"}
    with pytest.raises(ModelError, match="LoRA"):
        load_policy(tmp_path / "llama", lora_r=2, lora_target_modules=["nothing"])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_an_adapter_saved_and_loaded_gives_the_same(name, tmp_path):
    model, tokenizer = policy(name, tmp_path, lora_r=2, lora_alpha=8)
    move_adapter(model)
    expected = response_log_probs(model, batch_of(), 1.0)
    save_policy(model, tokenizer, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    save_policy(model, tokenizer, tmp_path / "whole", merged=True)
    assert response_log_probs(model, batch_of(), 1.0).equal(expected)  # saving changed nothing
    for folder in ("adapter", "whole"):
        again, _ = load_policy(tmp_path / folder)
        torch.testing.assert_close(response_log_probs(again, batch_of(), 1.0), expected, rtol=0, atol=1e-5)
        assert not hasattr(again, "peft_config")
        assert end_token_ids(again, tokenizer) == {EOS}
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    torch.testing.assert_close(response_log_probs(stock, batch_of(), 1.0), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_training_goes_on_from_an_adapter_whose_policy_is_then_the_reference(tmp_path):
    first, tokenizer = policy("llama", tmp_path, lora_r=2)
    move_adapter(first)
    start_BT = response_log_probs(first, batch_of(), 1.0)
    save_policy(first, tokenizer, tmp_path / "first")
    second, _ = load_policy(tmp_path / "first", lora_r=2)
    move_adapter(second)
    with adapter_disabled(second):
        torch.testing.assert_close(response_log_probs(second, batch_of(), 1.0), start_BT, rtol=0, atol=1e-5)
    moved_BT = response_log_probs(second, batch_of(), 1.0)
    save_policy(second, tokenizer, tmp_path / "second")
    again, _ = load_policy(tmp_path / "second")
    torch.testing.assert_close(response_log_probs(again, batch_of(), 1.0), moved_BT, rtol=0, atol=1e-5)


def test_an_adapter_without_its_base_or_weights_is_one_line(tmp_path):
    model, tokenizer = policy("llama", tmp_path, lora_r=2)
    save_policy(model, tokenizer, tmp_path / "adapter")
    shutil.rmtree(tmp_path / "llama")
    with pytest.raises(ModelError, match="needs its base model"):
        load_policy(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_policy(tmp_path / "adapter")


def test_a_whole_model_cannot_be_its_own_reference(tmp_path):
    model, _ = policy("llama", tmp_path)
    with pytest.raises(ModelError, match="no LoRA adapter"), adapter_disabled(model):
        pass
