"""Losses of policy and critic: by hand, against numpy, gradcheck, splits, padding, identities of the first update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.policy import gather_log_probs, ppo_policy_loss, reinforce_loss, token_entropy, value_loss


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def batch(seed: int, rows: int = 5, columns: int = 7) -> dict[str, Tensor]:
    """Random tables with right padding, one row without any token, and NaN wherever nothing counts."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[0], rng.integers(1, columns + 1, rows - 1)])
    mask = torch.tensor(np.arange(columns) < lengths[:, None])
    old = torch.tensor(-rng.exponential(2.0, (rows, columns)))
    tables = {
        "policy": old + torch.tensor(rng.normal(0, 0.3, (rows, columns))),
        "old": old,
        "advantages": torch.tensor(rng.normal(size=(rows, columns))),
        "values": torch.tensor(rng.normal(size=(rows, columns))),
        "old_values": torch.tensor(rng.normal(size=(rows, columns))),
        "returns": torch.tensor(rng.normal(size=(rows, columns))),
    }
    tables = {name: torch.where(mask, table, torch.nan) for name, table in tables.items()}
    return {**tables, "weights": mask.double() / mask.sum(), "mask": mask}


def policy_loss(of: dict[str, Tensor], **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return ppo_policy_loss(of["policy"], of["old"], of["advantages"], of["weights"], **{"epsilon": 0.2, **options})


def critic_loss(of: dict[str, Tensor], **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return value_loss(of["values"], of["old_values"], of["returns"], of["weights"], **{"clip": 0.2, **options})


def policy_gradient(of: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    return reinforce_loss(of["policy"], of["advantages"], of["weights"]), {}


LOSSES = [(policy_loss, "policy"), (critic_loss, "values"), (policy_gradient, "policy")]
Loss = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def test_log_probs_by_hand() -> None:
    # softmax of (0, log 3) is (1/4, 3/4); at temperature 1/2 the logits double: (1/10, 9/10).
    logits = double([0.0, math.log(3)], [0.0, math.log(3)])[None]
    tokens = torch.tensor([[0, 1]])
    assert gather_log_probs(logits, tokens).exp().tolist()[0] == pytest.approx([0.25, 0.75], abs=1e-15)
    assert gather_log_probs(logits, tokens, 0.5).exp().tolist()[0] == pytest.approx([0.1, 0.9], abs=1e-15)


def test_entropy_by_hand() -> None:
    # Uniform over 4; certain; half and half beside a token that cannot be written.
    infinite = float("inf")
    logits = double([0.0, 0, 0, 0], [9e9, 0, 0, 0], [1.0, 1, -infinite, -infinite])[None]
    assert token_entropy(logits)[0].tolist() == pytest.approx([math.log(4), 0, math.log(2)], abs=1e-15)
    quarter = double([0.0, math.log(3)])[None]
    assert float(token_entropy(quarter, 0.5)) == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9), abs=1e-15)


def test_log_probs_and_entropy_of_half_precision_are_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 5, 50) * 8).bfloat16()
    tokens = torch.randint(50, (3, 5))
    wide = torch.log_softmax(logits.double() / 0.7, -1)
    found, entropy = gather_log_probs(logits, tokens, 0.7), token_entropy(logits, 0.7)
    assert found.dtype == entropy.dtype == torch.float32
    assert torch.allclose(found.double(), wide.gather(-1, tokens[..., None])[..., 0], atol=1e-5, rtol=0)
    assert torch.allclose(entropy.double(), -(wide.exp() * wide).sum(-1), atol=1e-5, rtol=0)
    assert not entropy.requires_grad


def test_gradient_of_log_probs() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(6, (2, 3))
    assert torch.autograd.gradcheck(lambda x_BTV: gather_log_probs(x_BTV, tokens, 1.7), (logits,))


def test_ppo_by_hand() -> None:
    # Ratios 1.5, 1.5, 0.5, 0.5, 1.1 with epsilon 0.2: only a gain beyond the range is cut off.
    old = double([-1.0] * 5)
    policy = old + double([1.5, 1.5, 0.5, 0.5, 1.1]).log()
    advantages = double([2.0, -2.0, 2.0, -2.0, 3.0])
    policy.requires_grad_(True)
    loss, parts = ppo_policy_loss(policy, old, advantages, double([0.2] * 5), epsilon=0.2)
    # min terms: 1.2 * 2, 1.5 * -2, 0.5 * 2, 0.8 * -2, 1.1 * 3.
    assert float(loss.detach()) == pytest.approx(-(2.4 - 3.0 + 1.0 - 1.6 + 3.3) / 5, abs=1e-15)
    loss.backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx([0, 0.2 * 1.5 * 2, -0.2 * 0.5 * 2, 0, -0.2 * 1.1 * 3], abs=1e-15)
    assert float(parts["clip_fraction"]) == pytest.approx(2 / 5, abs=1e-15)
    assert float(parts["ratio_mean"]) == pytest.approx(5.1 / 5, abs=1e-15)
    logs = 2 * math.log(1.5) + 2 * math.log(0.5) + math.log(1.1)
    assert float(parts["approx_kl"]) == pytest.approx((0.1 - logs) / 5, abs=1e-15)
    assert not any(part.requires_grad for part in parts.values())


def test_ppo_clips_where_epsilon_says() -> None:
    policy, old, one = double([math.log(1.3)]), double([0.0]), double([1.0])
    for epsilon, expected in ((0.1, -1.1), (0.25, -1.25), (0.4, -1.3), (math.inf, -1.3)):
        loss, _ = ppo_policy_loss(policy, old, one, one, epsilon=epsilon)
        assert float(loss) == pytest.approx(expected, abs=1e-15)


def test_value_by_hand() -> None:
    # Old value 0, clip 0.5. Value 1, return 2: clipped to 0.5, errors 1 and 2.25, the larger one has no gradient.
    # Value 1, return 0: errors 1 and 0.25, the larger has one. Value 0.3, return 1: inside, nothing is clipped.
    values = double([1.0, 1.0, 0.3]).requires_grad_(True)
    loss, parts = value_loss(values, double([0.0] * 3), double([2.0, 0.0, 1.0]), double([1 / 3] * 3), clip=0.5)
    assert float(loss.detach()) == pytest.approx(0.5 * (2.25 + 1 + 0.49) / 3, abs=1e-15)
    loss.backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([0, 1 / 3, -0.7 / 3], abs=1e-15)
    assert float(parts["value_clip_fraction"]) == pytest.approx(1 / 3, abs=1e-15)


def test_value_clip_zero_is_off() -> None:
    values, returns = double([1.0, 1.0, 0.3]), double([2.0, 0.0, 1.0])
    loss, parts = value_loss(values, double([0.0] * 3), returns, double([1 / 3] * 3), clip=0.0)
    assert float(loss) == pytest.approx(0.5 * (1 + 1 + 0.49) / 3, abs=1e-15)
    assert float(parts["value_clip_fraction"]) == 0


def test_reinforce_by_hand() -> None:
    policy = double([-1.0, -2.0], [-3.0, math.nan]).requires_grad_(True)
    loss = reinforce_loss(policy, double([1.0, 2.0], [-1.0, math.nan]), double([1 / 3, 1 / 3], [1 / 3, 0]))
    assert float(loss.detach()) == pytest.approx((1 + 4 - 3) / 3, abs=1e-15)
    loss.backward()
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([-1 / 3, -2 / 3, 1 / 3, 0], abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_numpy_twin(seed: int) -> None:
    """A loop over tokens, with the definitions written as cases instead of as a minimum and a maximum."""
    tables = batch(seed, rows=8)
    of = {name: table.numpy() for name, table in tables.items()}
    cells = [(b, t) for b, t in np.ndindex(of["mask"].shape) if of["mask"][b, t]]
    surrogate = squares = clipped = value_clipped = 0.0
    for cell in cells:
        ratio = math.exp(of["policy"][cell] - of["old"][cell])
        gain = of["advantages"][cell]
        cut = (gain > 0 and ratio > 1.1) or (gain < 0 and ratio < 0.9)
        surrogate += gain * (float(np.sign(gain)) * 0.1 + 1 if cut else ratio)
        clipped += cut
        value, old, target = of["values"][cell], of["old_values"][cell], of["returns"][cell]
        limited = min(max(value, old - 0.3), old + 0.3)
        cut = abs(limited - target) > abs(value - target)
        squares += ((limited if cut else value) - target) ** 2
        value_clipped += cut
    loss, parts = policy_loss(tables, epsilon=0.1)
    assert float(loss) == pytest.approx(-surrogate / len(cells), abs=1e-13)
    assert float(parts["clip_fraction"]) == pytest.approx(clipped / len(cells), abs=1e-13)
    loss, parts = critic_loss(tables, clip=0.3)
    assert float(loss) == pytest.approx(squares / 2 / len(cells), abs=1e-13)
    assert float(parts["value_clip_fraction"]) == pytest.approx(value_clipped / len(cells), abs=1e-13)
    assert clipped
    assert value_clipped


@pytest.mark.parametrize(("loss", "trained"), LOSSES)
def test_gradcheck(loss: Loss, trained: str) -> None:
    tables = {name: table.nan_to_num() for name, table in batch(3).items()}
    tables[trained].requires_grad_(True)
    assert torch.autograd.gradcheck(lambda table: loss({**tables, trained: table})[0], (tables[trained],))


@pytest.mark.parametrize(("loss", "trained"), LOSSES)
def test_padding_reaches_neither_loss_nor_gradient(loss: Loss, trained: str) -> None:
    tables = batch(4)
    assert bool(tables[trained].isnan().any())
    tables[trained].requires_grad_(True)
    value, parts = loss(tables)
    value.backward()
    gradient = tables[trained].grad
    assert gradient is not None
    assert all(math.isfinite(float(x)) for x in (value.detach(), *parts.values()))
    assert torch.equal(gradient[~tables["mask"]], torch.zeros_like(gradient[~tables["mask"]]))
    assert int((gradient != 0).sum()) > 3


@pytest.mark.parametrize(("loss", "trained"), LOSSES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 3), st.randoms(use_true_random=False))
def test_any_split_and_any_padding_gives_one_loss_and_one_gradient(
    loss: Loss, trained: str, seed: int, pieces: int, more_padding: int, random: Any
) -> None:
    tables = batch(seed, rows=9)
    whole = tables[trained].clone().requires_grad_(True)
    expected, expected_parts = loss({**tables, trained: whole})
    expected.backward()
    order = torch.tensor(random.sample(range(9), 9))
    leaf = tables[trained].clone().requires_grad_(True)
    total, sums = 0.0, dict.fromkeys(expected_parts, 0.0)
    for rows in order.tensor_split(pieces):
        piece = {name: (leaf if name == trained else table)[rows] for name, table in tables.items()}
        fill = {name: 0.0 if name == "weights" else math.nan for name in piece if name != "mask"}
        padded = {n: torch.nn.functional.pad(piece[n], (0, more_padding), value=v) for n, v in fill.items()}
        part, parts = loss(padded)
        part.backward()
        total += float(part.detach())
        sums = {name: sums[name] + float(parts[name]) for name in sums}
    assert total == pytest.approx(float(expected.detach()), abs=1e-12)
    assert sums == pytest.approx({name: float(part) for name, part in expected_parts.items()}, abs=1e-12)
    assert whole.grad is not None
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, whole.grad, atol=1e-12, rtol=0)


def test_first_ppo_update_is_reinforce() -> None:
    """With the old policy still the policy, every ratio is 1 and the gradient that of REINFORCE, whatever epsilon."""
    tables = batch(5)
    first = tables["policy"].clone().requires_grad_(True)
    loss, parts = policy_loss({**tables, "policy": first, "old": first.detach()}, epsilon=0.01)
    loss.backward()
    second = tables["policy"].clone().requires_grad_(True)
    policy_gradient({**tables, "policy": second})[0].backward()
    assert first.grad is not None
    assert second.grad is not None
    assert torch.allclose(first.grad, second.grad, atol=1e-15, rtol=0)
    assert bool((first.grad != 0).any())
    assert float(parts["ratio_mean"]) == pytest.approx(1, abs=1e-14)
    assert float(parts["clip_fraction"]) == float(parts["approx_kl"]) == 0


def test_the_end_token_receives_gradient() -> None:
    """The last token of every response, and no token after it."""
    tables = batch(6)
    tables["policy"] = tables["old"].clone().requires_grad_(True)
    policy_loss(tables)[0].backward()
    gradient = tables["policy"].grad
    assert gradient is not None
    lengths = tables["mask"].sum(1)
    for row, length in enumerate(lengths.tolist()):
        assert int((gradient[row] != 0).sum()) == length
        assert length == 0 or float(gradient[row, length - 1]) != 0


def test_small_steps_find_the_better_token() -> None:
    """Gradient ascent on a bandit of three tokens ends in the one of the highest reward."""
    torch.manual_seed(0)
    logits = torch.zeros(1, 1, 3, dtype=torch.float64, requires_grad=True)
    quality = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    weights = torch.full((64, 1), 1 / 64, dtype=torch.float64)
    for _ in range(60):
        tokens = torch.multinomial(logits.detach()[0, 0].softmax(-1), 64, replacement=True)[:, None]
        advantages = quality[tokens] - quality[tokens].mean()
        policy = gather_log_probs(logits.expand(64, 1, 3), tokens)
        loss, _ = ppo_policy_loss(policy, policy.detach(), advantages, weights, epsilon=0.2)
        logits.data -= 3.0 * torch.autograd.grad(loss, logits)[0]
    assert float(logits.detach().softmax(-1)[0, 0, 1]) > 0.95


def test_wrong_shapes_are_named() -> None:
    table, logits, tokens = torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ShapeError, match="tokens_BT"):
        gather_log_probs(logits, tokens[:, :2])
    with pytest.raises(ShapeError, match="logits_BTV"):
        token_entropy(table)
    with pytest.raises(ShapeError, match="temperature"):
        gather_log_probs(logits, tokens, 0.0)
    with pytest.raises(ShapeError, match="advantages_BT"):
        ppo_policy_loss(table, table, table[:, :2], table, epsilon=0.2)
    with pytest.raises(ShapeError, match="weights_BT"):
        value_loss(table, table, table, table[0], clip=0.2)
    with pytest.raises(ShapeError, match="policy_log_probs_BT"):
        reinforce_loss(tokens, table, table)
