"""The critic: where it reads, what it starts from, that it shares nothing, and its folder."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from odin_rm.core.errors import ModelError
from odin_rm.model.critic import Critic
from odin_rm.model.policy import collate_responses, load_policy
from odin_rm.model.reward_model import RewardModel
from tests.families import DECODER, EOS, SPECIAL, VOCABULARY, save_base
from tests.model.policies import policy, prompts, save_policy_folder
from tests.model.words import DECODERS, build_tokenizer

RESPONSES = [[7, 8, 9, EOS], [5], [20, 21, 22, 23, 24, 25], [EOS], [9, 9], [30, EOS]]


def values(critic: Critic, asked, written) -> torch.Tensor:
    batch = collate_responses(asked, written, 0)
    with torch.no_grad():
        return critic.eval()(
            batch.input_ids_BS, batch.attention_mask_BS, batch.position_ids_BS, batch.response_ids_BT.shape[1]
        )


def with_random_head(critic: Critic) -> Critic:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        critic.head.weight.copy_(torch.randn(critic.head.weight.shape, generator=generator))
        critic.head.bias.fill_(0.5)
    return critic


def quality(model, asked, written) -> torch.Tensor:
    """The reward model's own score of each whole text, one by one."""
    out = []
    with torch.no_grad():
        for prompt, response in zip(asked, written, strict=True):
            ids = torch.tensor([prompt + response])
            found = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
            out.append(found.quality[0] if hasattr(found, "quality") else found.logits[0, -1])
    return torch.stack(out)


def last_values(critic: Critic, asked, written) -> torch.Tensor:
    """Values of the state in which the whole response has been read, that is before one more token."""
    longer = [[*response, 3] for response in written]
    table_BT = values(critic, asked, longer)
    return torch.stack([row[len(response)] for row, response in zip(table_BT, written, strict=True)])


# ---- values ----------------------------------------------------------------------------------------------------------


def test_a_critic_from_the_policy_starts_at_zero_and_keeps_its_backbone(tmp_path):
    model, _ = policy("llama", tmp_path)
    critic = Critic.from_policy(tmp_path / "llama")
    assert values(critic, prompts(), RESPONSES).abs().sum() == 0
    for name, parameter in model.model.named_parameters():
        assert critic.backbone.get_parameter(name).equal(parameter)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt"])
def test_values_are_those_of_each_row_alone_at_the_states_before_its_tokens(name, tmp_path):
    policy(name, tmp_path)
    critic = with_random_head(Critic.from_policy(tmp_path / name))
    table_BT = values(critic, prompts(), RESPONSES)
    assert table_BT.dtype == torch.float32
    for row, (asked, written) in enumerate(zip(prompts(), RESPONSES, strict=True)):
        with torch.no_grad():
            hidden_SD = critic.backbone(input_ids=torch.tensor([asked + written])).last_hidden_state[0]
        expected = (hidden_SD @ critic.head.weight[0] + critic.head.bias)[len(asked) - 1 : -1]
        torch.testing.assert_close(table_BT[row, : len(written)], expected.detach(), rtol=0, atol=1e-5)


def test_a_later_token_changes_no_earlier_value(tmp_path):
    policy("llama", tmp_path)
    critic = with_random_head(Critic.from_policy(tmp_path / "llama"))
    first, second = (values(critic, [[5, 6]], [[7, 8, last]]) for last in (9, 30))
    assert first.equal(second)  # the last token is what the last value does not know yet
    assert not torch.allclose(values(critic, [[5, 6]], [[7, 30, 9]])[0, 2], first[0, 2], atol=1e-3)


@pytest.mark.parametrize("name", DECODERS)
def test_from_a_reward_model_the_last_value_is_the_standardised_quality(name, tmp_path):
    save_base(name, tmp_path / "base")
    torch.manual_seed(1)
    model = RewardModel.from_backbone(tmp_path / "base", head_scale=3.0)
    model.save_pretrained(tmp_path / "rm")
    expected = quality(model, prompts(), RESPONSES)
    found = last_values(Critic.from_reward_model(tmp_path / "rm"), prompts(), RESPONSES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found = last_values(Critic.from_reward_model(tmp_path / "rm", mean=0.7, std=0.25), prompts(), RESPONSES)
    torch.testing.assert_close(found, (expected - 0.7) / 0.25, rtol=1e-5, atol=5e-5)
    assert expected.std() > 0.1


def test_the_length_head_is_no_part_of_the_values(tmp_path):
    save_base("llama", tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base")
    model.save_pretrained(tmp_path / "rm")
    with torch.no_grad():
        model.heads.vectors["length"].mul_(-5.0).add_(torch.randn(16))
    model.save_pretrained(tmp_path / "sabotaged")
    tables = [values(Critic.from_reward_model(tmp_path / name), prompts(), RESPONSES) for name in ("rm", "sabotaged")]
    assert tables[0].equal(tables[1])


@torch.no_grad()
def test_a_lora_reward_model_in_a_run_folder_is_merged(tmp_path):
    save_base("llama", tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base")
    model.add_lora(str(tmp_path / "base"), r=2, alpha=4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "run" / "model")
    critic = Critic.from_reward_model(tmp_path / "run")
    found = last_values(critic, prompts(), RESPONSES)
    torch.testing.assert_close(found, quality(model, prompts(), RESPONSES), rtol=1e-5, atol=1e-5)
    assert not any("lora" in name for name, _ in critic.named_parameters())
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_a_stock_classifier_gives_its_column(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, **SPECIAL, **DECODER, num_labels=2, attention_dropout=0.1)
    stock = AutoModelForSequenceClassification.from_config(config)
    stock.save_pretrained(tmp_path)
    critic = Critic.from_reward_model(tmp_path, column=1)
    expected = quality(stock, prompts(), RESPONSES)
    torch.testing.assert_close(last_values(critic, prompts(), RESPONSES), expected, rtol=1e-5, atol=1e-6)
    assert critic.backbone.config.attention_dropout == 0.0


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_an_encoder_has_no_value_per_token(name, tmp_path):
    save_base(name, tmp_path / "base")
    RewardModel.from_backbone(tmp_path / "base").save_pretrained(tmp_path / "rm")
    with pytest.raises(ModelError, match="critic_init"):
        Critic.from_reward_model(tmp_path / "rm")


def test_a_mean_pooled_reward_model_has_no_value_per_token(tmp_path):
    save_base("llama", tmp_path / "base")
    RewardModel.from_backbone(tmp_path / "base", pooling="mean").save_pretrained(tmp_path / "rm")
    with pytest.raises(ModelError, match="critic_init"):
        Critic.from_reward_model(tmp_path / "rm")


# ---- nothing shared --------------------------------------------------------------------------------------------------


def test_it_shares_no_storage_with_policy_or_reward_model(tmp_path):
    save_policy_folder("llama", tmp_path / "policy")
    model = RewardModel.from_backbone(tmp_path / "policy")
    model.save_pretrained(tmp_path / "rm", tokenizer=build_tokenizer("llama"))
    written_policy, _ = load_policy(tmp_path / "policy")
    others = {p.data_ptr() for m in (model, written_policy) for p in m.parameters()}
    for critic in (Critic.from_policy(tmp_path / "policy"), Critic.from_reward_model(tmp_path / "rm")):
        assert not others & {parameter.data_ptr() for parameter in critic.parameters()}
        before = quality(model, prompts(), RESPONSES)
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.zero_()
        assert quality(model, prompts(), RESPONSES).equal(before)


def test_everything_in_it_gets_gradient(tmp_path):
    policy("llama", tmp_path)
    tables = []
    for recompute in (False, True):
        critic = with_random_head(Critic.from_policy(tmp_path / "llama", gradient_checkpointing=recompute)).train()
        batch = collate_responses(prompts(), RESPONSES, 0)
        columns = batch.input_ids_BS, batch.attention_mask_BS, batch.position_ids_BS
        critic(*columns, 6).square().sum().backward()
        assert [name for name, p in critic.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
        tables.append(critic.backbone.embed_tokens.weight.grad)
    torch.testing.assert_close(tables[1], tables[0], rtol=1e-4, atol=1e-5)


# ---- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_saved_and_loaded_it_gives_the_same(name, tmp_path):
    policy(name, tmp_path)
    critic = with_random_head(Critic.from_policy(tmp_path / name))
    critic.save_pretrained(tmp_path / "critic")
    again = Critic.from_pretrained(tmp_path / "critic")
    assert values(again, prompts(), RESPONSES).equal(values(critic, prompts(), RESPONSES))
    state = {key: torch.full_like(value, 0.25) for key, value in critic.state_dict().items()}
    critic.save_pretrained(tmp_path / "gathered", state_dict=state)
    assert all(bool((p == 0.25).all()) for p in Critic.from_pretrained(tmp_path / "gathered").parameters())
    if name == "gpt2":
        assert json.loads((tmp_path / "critic" / "config.json").read_text())["attn_pdrop"] == 0.1
        assert again.backbone.config.attn_pdrop == 0.0


def test_a_folder_without_its_head_is_one_line(tmp_path):
    policy("llama", tmp_path)
    Critic.from_policy(tmp_path / "llama").save_pretrained(tmp_path / "critic")
    (tmp_path / "critic" / "value_head.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load the critic") as raised:
        Critic.from_pretrained(tmp_path / "critic")
    assert "\n" not in str(raised.value)
