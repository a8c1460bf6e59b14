"""Token rewards, returns, GAE and baselines: by hand, against numpy loops, identities, padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.policy import reinforce_loss
from odin_rm.objectives.returns import (
    discounted_returns,
    gae,
    greedy_baseline_advantages,
    leave_one_out_baseline,
    masked_moments,
    mean_and_std,
    token_rewards,
    whiten,
)

NAN = math.nan
# Responses of three tokens, of one, and of none.
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_tables(seed: int, rows: int = 6, columns: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards and values, NaN on padding, and the mask; the first response has no token, the last one all."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[0], rng.integers(1, columns + 1, rows - 2), [columns]])
    mask = torch.tensor(np.arange(columns) < lengths[:, None])
    tables = [torch.where(mask, torch.tensor(rng.normal(size=(rows, columns))), NAN) for _ in range(2)]
    return tables[0], tables[1], mask


def test_token_rewards_by_hand() -> None:
    kl = double([0.5, -1.0, 2.0], [4.0, NAN, NAN], [NAN, NAN, NAN])
    found = token_rewards(vector(3, -1, NAN), kl, MASK, 0.1)
    # -0.1 kl everywhere; the sequence reward on the last token: 3 - 0.2 and -1 - 0.4.
    assert found.flatten().tolist() == pytest.approx([-0.05, 0.1, 2.8, -1.4, 0, 0, 0, 0, 0], abs=1e-15)


def test_sequence_reward_stands_on_the_end_token_of_every_mask() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = token_rewards(vector(1, 2, 3), torch.zeros(3, 4, dtype=torch.float64), mask, 0.1)
    assert found.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2], [0, 0, 0, 0]]
    for dtype in (torch.bool, torch.float32, torch.long):
        assert torch.equal(token_rewards(vector(1, 2, 3), torch.zeros(3, 4).double(), mask.to(dtype), 0.1), found)


def test_discounted_returns_by_hand() -> None:
    found = discounted_returns(double([1.0, 2.0, 4.0], [8.0, NAN, NAN], [NAN, NAN, NAN]), MASK, 0.5)
    # 4; 2 + 2; 1 + 2.
    assert found.flatten().tolist() == [3, 4, 4, 8, 0, 0, 0, 0, 0]


def test_gae_by_hand() -> None:
    rewards = double([0.0, 1.0, 2.0], [3.0, NAN, NAN], [NAN, NAN, NAN])
    values = double([1.0, 2.0, 4.0], [1.0, NAN, NAN], [NAN, NAN, NAN])
    advantages, returns = gae(rewards, values, MASK, 0.5, 0.5)
    # deltas: 0 + 1 - 1 = 0; 1 + 2 - 2 = 1; 2 + 0 - 4 = -2. Discount 1/4: -2; 1 - 1/2; 0 + 1/8. Second row: 3 - 1.
    assert advantages.flatten().tolist() == [0.125, 0.5, -2, 2, 0, 0, 0, 0, 0]
    assert returns.flatten().tolist() == [1.125, 2.5, 2, 3, 0, 0, 0, 0, 0]


def test_greedy_baseline_by_hand() -> None:
    rewards = double([-0.5, 0.25, 4.0], [1.0, NAN, NAN], [NAN, NAN, NAN])
    found = greedy_baseline_advantages(rewards, vector(1, 3, NAN), MASK, 1.0)
    # Returns to go 3.75, 4.25, 4 less 1; 1 - 3.
    assert found.flatten().tolist() == [2.75, 3.25, 3, -2, 0, 0, 0, 0, 0]
    discounted = greedy_baseline_advantages(rewards, vector(1, 3, NAN), MASK, 0.5)
    assert discounted[0].tolist() == [0.625 - 1, 2.25 - 1, 3]


def test_leave_one_out_by_hand() -> None:
    found = leave_one_out_baseline(double([1.0, 2.0, 6.0], [0.0, 0.0, 3.0]))
    assert found.tolist() == [[4, 3.5, 1.5], [1.5, 1.5, 0]]


def test_leave_one_out_does_not_depend_on_the_response_itself() -> None:
    group = double([1.0, 2.0, 6.0])
    other = group.clone()
    other[0, 0] = 100
    assert float(leave_one_out_baseline(group)[0, 0]) == float(leave_one_out_baseline(other)[0, 0])
    # Equal rewards leave no advantage.
    assert torch.equal(leave_one_out_baseline(double([5.0] * 4)), double([5.0] * 4))


def test_whitening_by_hand() -> None:
    values = double([1.0, 2.0, NAN], [6.0, NAN, NAN], [NAN, NAN, NAN])
    mask = ~values.isnan()
    moments = masked_moments(values, mask)
    assert moments.tolist() == [9, 41, 3]
    mean, std = mean_and_std(moments)
    assert (mean, std) == (3, pytest.approx(7**0.5, abs=1e-15))  # squares 4 + 1 + 9 over 3 - 1
    found = whiten(values, mask, mean, std)
    assert found[mask].tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5], abs=1e-8)
    assert torch.equal(found[~mask], torch.zeros(6, dtype=torch.float64))


def test_whitening_where_there_is_nothing_to_whiten() -> None:
    constant, mask = double([2.0, 2.0, 2.0]), torch.ones(1, 3)
    assert whiten(constant, mask, *mean_and_std(masked_moments(constant, mask))).tolist() == [[0, 0, 0]]
    single = double([2.0, NAN, NAN])
    assert whiten(single, MASK[1:2], *mean_and_std(masked_moments(single, MASK[1:2]))).tolist() == [[0, 0, 0]]
    assert mean_and_std(masked_moments(single, torch.zeros(1, 3))) == (0, 0)


def test_moments_of_parts_add_up() -> None:
    values, _, mask = random_tables(0, rows=9)
    parts = sum(masked_moments(values[rows], mask[rows]) for rows in torch.arange(9).tensor_split(4))
    assert isinstance(parts, Tensor)
    mean, std = mean_and_std(parts)
    assert mean == pytest.approx(float(values[mask].mean()), abs=1e-14)
    assert std == pytest.approx(float(values[mask].std()), abs=1e-14)
    # Large means do not eat the deviation up, in float32 either.
    shifted = (values + 1000).float()
    assert mean_and_std(masked_moments(shifted, mask))[1] == pytest.approx(std, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_numpy_twin(seed: int, gamma: float, lam: float) -> None:
    """GAE as the weighted sum of one-step errors, returns as sums of powers, response by response."""
    rewards, values, mask = random_tables(seed)
    advantages, targets = gae(rewards, values, mask, gamma, lam)
    returns = discounted_returns(rewards, mask, gamma)
    for row in range(len(mask)):
        n = int(mask[row].sum())
        r, v = rewards[row, :n].numpy(), np.append(values[row, :n].numpy(), 0.0)
        for t in range(n):
            powers = gamma ** np.arange(n - t)
            assert float(returns[row, t]) == pytest.approx(float((powers * r[t:]).sum()), abs=1e-12)
            deltas = r[t:] + gamma * v[t + 1 :] - v[t:-1]
            expected = float(((gamma * lam) ** np.arange(n - t) * deltas).sum())
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-12)
            assert float(targets[row, t]) == pytest.approx(expected + v[t], abs=1e-12)
    for table in (advantages, targets, returns):
        assert float(table[~mask].abs().sum()) == 0


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_lambda_one_gives_monte_carlo_returns_and_lambda_zero_one_step_errors(gamma: float) -> None:
    rewards, values, mask = random_tables(1)
    advantages, targets = gae(rewards, values, mask, gamma, 1.0)
    returns = discounted_returns(rewards, mask, gamma)
    assert torch.allclose(targets, returns, atol=1e-13)
    assert torch.allclose(advantages[mask], (returns - values)[mask], atol=1e-13)
    one_step, _ = gae(rewards, values, mask, gamma, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros(len(values), 1).double()], 1).nan_to_num()
    assert torch.allclose(one_step[mask], (rewards + gamma * following - values)[mask], atol=1e-13)


def test_with_gamma_one_every_token_has_the_whole_shaped_reward_before_it() -> None:
    """The first return to go is the sequence reward less beta times the KL of the whole response."""
    kl, _, mask = random_tables(2)
    quality = torch.arange(6, dtype=torch.float64)
    returns = discounted_returns(token_rewards(quality, kl, mask, 0.3), mask, 1.0)
    expected = quality - 0.3 * torch.where(mask, kl, 0).sum(1)
    assert torch.allclose(returns[1:, 0], expected[1:], atol=1e-13)
    assert float(returns[0].abs().sum()) == 0


def test_a_perfect_critic_leaves_no_advantage() -> None:
    rewards, _, mask = random_tables(3)
    values = discounted_returns(rewards, mask, 0.9)
    advantages, targets = gae(rewards, values, mask, 0.9, 0.7)
    assert float(advantages.abs().max()) < 1e-13
    assert torch.allclose(targets, values, atol=1e-13)


def test_remax_with_reward_equal_to_the_baseline_has_no_gradient() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    quality = vector(2.5, -1.0)
    rewards = token_rewards(quality, torch.zeros(2, 4, dtype=torch.float64), mask, 0.1)
    policy = torch.full((2, 4), -1.0, dtype=torch.float64, requires_grad=True)
    weights = mask.double() / 4
    reinforce_loss(policy, greedy_baseline_advantages(rewards, quality, mask, 1.0), weights).backward()
    assert policy.grad is not None
    assert torch.equal(policy.grad, torch.zeros_like(policy))
    reinforce_loss(policy, greedy_baseline_advantages(rewards, quality - 1, mask, 1.0), weights).backward()
    assert torch.equal(policy.grad, -weights)  # an advantage of 1 on every token, the end token among them


def test_the_end_token_has_the_reward_of_stopping() -> None:
    """A better sequence reward raises the advantage of the end token itself, with and without a critic."""
    rewards = [token_rewards(vector(x), double([0.0, 0, 0]), MASK[:1], 0.1) for x in (0.0, 1.0)]
    for lam in (0.0, 0.95, 1.0):
        low, high = (gae(r, torch.zeros_like(r), MASK[:1], 1.0, lam)[0] for r in rewards)
        assert float(high[0, 2] - low[0, 2]) == 1
    low, high = (greedy_baseline_advantages(r, vector(0.5), MASK[:1], 1.0) for r in rewards)
    assert float(high[0, 2] - low[0, 2]) == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_more_padding_changes_nothing(side: str) -> None:
    rewards, values, mask = random_tables(4)
    pad = (2, 0) if side == "left" else (0, 2)
    wide = [torch.nn.functional.pad(t, pad, value=v) for t, v in ((rewards, NAN), (values, NAN), (mask, False))]
    expected, found = gae(rewards, values, mask, 0.9, 0.8), gae(wide[0], wide[1], wide[2], 0.9, 0.8)
    for before, after in zip(expected, found, strict=True):
        assert torch.equal(after[wide[2]], before[mask])


def test_no_gradient_flows_into_the_targets() -> None:
    rewards, values, mask = random_tables(5)
    values.requires_grad_(True)
    advantages, targets = gae(rewards, values, mask, 0.9, 0.8)
    assert not advantages.requires_grad
    assert not targets.requires_grad


def test_responses_without_a_column() -> None:
    empty = torch.zeros(2, 0)
    assert gae(empty, empty, empty, 1.0, 0.95)[0].shape == (2, 0)
    assert token_rewards(torch.zeros(2), empty, empty, 0.1).shape == (2, 0)


def test_wrong_shapes_are_named() -> None:
    table = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match="sequence_rewards_B"):
        token_rewards(torch.zeros(3), table, table, 0.1)
    with pytest.raises(ShapeError, match="mask_BT"):
        discounted_returns(table, table[:, :2], 1.0)
    with pytest.raises(ShapeError, match="values_BT"):
        gae(table, table[:1], table, 1.0, 0.95)
    with pytest.raises(ShapeError, match="greedy_sequence_rewards_B"):
        greedy_baseline_advantages(table, torch.zeros(1), table, 1.0)
    with pytest.raises(ShapeError, match="two responses"):
        leave_one_out_baseline(table[:, :1])
