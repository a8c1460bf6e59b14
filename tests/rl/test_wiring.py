"""What a run hands to its formulas, by value: whole runs of PPO and ReMax against a naive one, setting by setting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from odin_rm.core.errors import NumericalError
from odin_rm.model.reward_model import RewardModel
from odin_rm.rl.experience import CollectedRewards, Minibatch
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.trainer import RLTrainer, prompt_positions
from odin_rm.workflows.rl import own as rl
from odin_rm.workflows.rl import parts as rl_parts
from tests.rl.conftest import MakeConfig
from tests.rl.naive import FixedEngine, FixedSource, NaiveRun

# Float32 sums in another order, after four steps of AdamW. A setting that is lost moves some weight by far more.
TOLERANCE = 5e-6


@pytest.fixture
def prepare(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trainer of a config with fixed responses and rewards, and its naive twin.

    Policy, reference and critic differ from the start, so that no KL, ratio or value is trivial.
    """

    def make(name: str = "run", bad: tuple[int, ...] = (), **changes: Any) -> tuple[RLTrainer, NaiveRun]:
        monkeypatch.setattr(rl_parts, "load_reward_source", lambda *args, **kwargs: FixedSource(bad))
        config = make_config(name, **BASE | changes)
        accelerator = rl._accelerator(config)
        parts = rl_parts.load_parts(config, accelerator.device)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for model in (parts.policy, parts.critic):
                for parameter in () if model is None else model.parameters():
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        naive = NaiveRun(config, parts, FixedSource(bad))
        run = Path(str(config.output_dir))
        (run / "checkpoints").mkdir(parents=True)
        trainer = rl.build_trainer(config, parts, accelerator, run)
        trainer.collector.engine = FixedEngine()
        return trainer, naive

    return make


BASE: dict[str, Any] = {
    "max_steps": 4,
    "minibatch_size": 4,
    "learning_rate": 1e-3,
    "max_grad_norm": 100.0,
    "adam_epsilon": 1e-4,
    "kl_coef": 0.1,
    "standardise": "model",
    "sample_steps": 0,
    "microbatch_tokens": 60,
}
# Several settings at a time where each of them moves the weights in the company of the others.
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "the sequence reward": {
        "standardise": "none", "reward_clip": 1.0, "length_penalty": 0.3, "missing_end_penalty": 2.0,
    },
    "the reference's rewards": {"standardise": "reference", "standardise_responses": 8, "seed": 1},
    "KL in the reward": {"kl_coef": 1.0, "kl_estimator": "k3", "kl_target": 0.001, "kl_horizon": 4},
    "KL in the loss": {
        "kl_place": "loss", "kl_estimator": "k2", "kl_coef": 0.5, "kl_target": 9.0, "kl_horizon": 20,
    },
    "another KL in the loss": {"kl_place": "loss", "kl_estimator": "k3", "temperature": 0.5},
    "advantages": {"gamma": 0.5, "gae_lambda": 0.1, "whiten_advantages": False},
    "stale updates": {"clip_epsilon": 1e-4, "ppo_epochs": 2, "experience_size": 4},
    "no stale updates": {"experience_size": 4},
    "the critic": {"value_clip": 1e-3, "critic_learning_rate": 1e-4, "critic_warmup_steps": 2},
    "the critic unclipped": {
        "value_clip": 0.0, "value_coef": 0.01, "max_grad_norm": 1.0, "critic_learning_rate": 3e-2,
    },
    "AdamW": {"adam_beta1": 0.5, "adam_beta2": 0.5, "weight_decay": 0.5, "warmup_steps": 3},
    "small gradients": {"max_grad_norm": 1e-3, "lr_scheduler_type": "cosine"},
    "ReMax": {"algorithm": "remax", "gamma": 0.5},
    "ReMax, shaped": {"algorithm": "remax", "length_penalty": 0.3, "missing_end_penalty": 2.0, "reward_clip": 1.0},
    "ReMax, KL in the loss": {"algorithm": "remax", "kl_place": "loss", "kl_estimator": "k3"},
    "several responses to a prompt": {"num_generations": 4, "group_length_rescaling": 0.5},
    "ReMax, several responses to a prompt": {
        "algorithm": "remax", "num_generations": 2, "group_length_rescaling": 0.5,
    },
}  # fmt: skip
EACH = [(name, setting) for name, changes in SETTINGS.items() for setting in changes if setting != "algorithm"]


def steps_of(trainer: RLTrainer) -> list[dict[str, float]]:
    lines = (trainer.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def assert_same(trainer: RLTrainer, naive: NaiveRun) -> None:
    """Weights after the last step, and what each step has logged."""
    models = {"policy": naive.policy} | ({} if naive.critic is None else {"critic": naive.critic})
    for part, model in models.items():
        found = dict(getattr(trainer.learner.plain_model, part).named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                found[name], parameter, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
            )
    rows = steps_of(trainer)
    assert len(rows) == len(naive.rows)
    for found, expected in zip(rows, naive.rows, strict=True):
        assert {name: found.get(name) for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_ends_in_the_weights_of_a_naive_one(prepare: Any, name: str) -> None:
    trainer, naive = prepare(**SETTINGS[name])
    start = {n: p.detach().clone() for n, p in naive.policy.named_parameters()}
    trainer.train()
    naive.run()
    assert_same(trainer, naive)
    assert max(float((p - start[n]).detach().abs().max()) for n, p in naive.policy.named_parameters()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "setting"), EACH)
def test_each_setting_moves_the_weights_beyond_the_tolerance(prepare: Any, name: str, setting: str) -> None:
    """Were a setting without effect in this company, the test above could not see it lost."""
    changes = SETTINGS[name]
    less = {key: value for key, value in changes.items() if key != setting}
    if setting == "kl_estimator" and less.get("kl_place") == "loss":
        less["kl_estimator"] = "k3" if changes[setting] == "k2" else "k2"
    if setting == "kl_place":
        less["kl_place"] = "reward"
    if setting == "num_generations":
        less.pop("group_length_rescaling")  # which compares the responses to a prompt
    ends = []
    for kind, settings in (("all", changes), ("less", less)):
        _, naive = prepare(kind, **settings)
        naive.run()
        models = [naive.policy] + ([] if naive.critic is None else [naive.critic])
        ends.append(torch.cat([p.detach().flatten() for model in models for p in model.parameters()]))
    assert float((ends[0] - ends[1]).abs().max()) > 20 * TOLERANCE


def test_responses_are_sampled_as_asked(prepare: Any) -> None:
    trainer, _ = prepare(max_new_tokens=5, temperature=0.5, max_steps=1)
    trainer.train()
    assert trainer.collector.engine.asked == [SamplingSettings(5, 0.5)]


@pytest.mark.parametrize("place", ["reward", "loss"])
def test_the_kl_is_paid_once(prepare: Any, place: str) -> None:
    """In the reward, and the loss has no such term, or in the loss, and no token's reward is less."""
    trainer, _ = prepare(kl_place=place, kl_estimator="k2", max_steps=1)
    trainer.train()
    (row,) = steps_of(trainer)
    assert (row["kl_cost"] > 0, "kl_loss" in row) == (place == "reward", place == "loss")
    assert row.get("kl_loss", 1.0) > 0


def test_beta_follows_the_kl_of_all_responses_of_a_collection(prepare: Any) -> None:
    """Far from the target it moves by a fifth over a horizon: a factor of 1 + 0.2 * 8 / 32 after 8 responses, or less.

    The KL of these responses is a difference of log-probs, which may be below 0: then it is far below the target.
    """
    trainer, _ = prepare(kl_target=1e-6, kl_horizon=32, max_steps=4)
    trainer.train()
    betas = [0.1, *(row["kl_coef"] for row in steps_of(trainer))]
    factors = [after / before for before, after in pairwise(betas)]
    assert [abs(factor - 1) for factor in factors] == pytest.approx([0.05, 0.0, 0.05, 0.0])


# ReMax's requests hold the sampled responses, then the greedy ones: number 5 is the greedy one to the second prompt.


@pytest.mark.parametrize("bad", [1, 5], ids=["sampled", "greedy"])
def test_a_reward_of_remax_that_is_no_number_ends_the_run(prepare: Any, bad: int) -> None:
    trainer, _ = prepare(bad=(bad,), algorithm="remax")
    with pytest.raises(NumericalError, match="1 of 4 rewards are not finite"):
        trainer.train()


@pytest.mark.parametrize("bad", [1, 5], ids=["sampled", "greedy"])
def test_a_reward_of_remax_that_is_no_number_leaves_its_prompt_out(prepare: Any, bad: int) -> None:
    trainer, naive = prepare(bad=(bad,), algorithm="remax", on_bad_reward="skip", max_steps=1)
    trainer.train()
    assert [experience.usable for experience in trainer.buffer] == [True, False, True, True]
    naive.run()
    assert_same(trainer, naive)


@pytest.mark.parametrize(("standardise", "mean", "std"), [("model", 0.1, 0.5), ("none", 0.0, 1.0)])
def test_a_critic_begins_as_the_standardised_reward_that_is_asked_for(
    make_config: MakeConfig, bench: Path, standardise: str, mean: float, std: float
) -> None:
    config = make_config(critic_init="reward", standardise=standardise)
    critic = rl_parts.load_parts(config, torch.device("cpu")).critic
    assert critic is not None
    quality = RewardModel.from_pretrained(bench / "odin").heads.effective("quality").detach()
    torch.testing.assert_close(critic.head.weight.detach()[0], quality / std)
    assert critic.head.bias.item() == pytest.approx(-mean / std)


@dataclass(frozen=True)
class LeaveOneOut:
    """A group algorithm of one's own: each response against the mean of the others to its prompt."""

    whiten_advantages = False
    needs_critic = False
    needs_greedy = False

    def advantages(self, collected: CollectedRewards) -> tuple[Tensor, Tensor]:
        total_B = (collected.token_rewards_BT * collected.mask_BT).sum(1)
        same_BB = (collected.prompt_B[:, None] == collected.prompt_B).float().fill_diagonal_(0)
        advantage_B = total_B - same_BB @ total_B / same_BB.sum(1)
        advantages_BT = advantage_B[:, None] * collected.mask_BT
        return advantages_BT, advantages_BT

    def loss(self, policy_log_probs_BT: Tensor, values_BT: Tensor | None, rows: Minibatch) -> tuple[Tensor, Any]:
        return -(policy_log_probs_BT * rows.advantages_BT * rows.weights_BT).sum(), {}


def test_an_algorithm_of_ones_own_compares_the_responses_to_a_prompt(prepare: Any) -> None:
    """Eight responses, four to each of two prompts: every advantage by hand, from the text and the KL of its tokens."""
    trainer, naive = prepare(num_generations=4, minibatch_size=8, experience_size=8, max_steps=1, standardise="none")
    trainer.collector.algorithm = trainer.learner.algorithm = LeaveOneOut()
    trainer.train()
    buffer = trainer.buffer
    first, second = prompt_positions(len(naive.prompt_ids), 0, 0, 2)
    assert [experience.prompt for experience in buffer] == [first] * 4 + [second] * 4
    assert trainer.state.prompts_used == 2
    paid = [
        naive.source.quality(e.rollout.text) - 0.1 * float((e.old_log_probs - e.reference_log_probs).sum())
        for e in buffer
    ]
    for place, experience in enumerate(buffer):
        others = [paid[k] for k in range(8) if k // 4 == place // 4 and k != place]
        expected = [paid[place] - sum(others) / 3] * len(experience.rollout.response_ids)
        assert experience.advantages.tolist() == pytest.approx(expected, abs=1e-5)


def test_remax_writes_one_greedy_response_for_all_sampled_ones_to_a_prompt(prepare: Any) -> None:
    trainer, naive = prepare(algorithm="remax", num_generations=2, max_steps=1)
    written: list[tuple[list[int], list[bool]]] = []
    generate = trainer.collector.engine.generate

    def note(prompt_ids: Any, sampling: Any, *, greedy: Any = None) -> Any:
        written.append((prompt_ids, greedy))
        return generate(prompt_ids, sampling, greedy=greedy)

    trainer.collector.engine.generate = note
    trainer.train()
    first, second = (naive.prompt_ids[p] for p in prompt_positions(len(naive.prompt_ids), 0, 0, 2))
    assert written == [([first, first, second, second, first, second], [False] * 4 + [True] * 2)]
