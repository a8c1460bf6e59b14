"""From sequence rewards to advantages: KL-shaped token rewards, returns, GAE, baselines, whitening.

Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (arXiv 1506.02438);
Li et al. 2024, "ReMax" (arXiv 2310.10505); Ahmadian et al. 2024, "Back to Basics" (arXiv 2402.14740) for leave-one-out.

``mask_BT`` is true (or not 0) on the tokens of a response, one unbroken run per row, the end token among them: stopping
is an action, it earns the sequence reward and has an advantage. Results are 0 on padding, and 0 for a response without
tokens, never NaN; what stands on padding in an argument does not matter. A response that was cut at the limit ends
there for good, it is not bootstrapped with a value. Nothing here has a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.checks import check_tokens, check_vector
from odin_rm.objectives.masking import kept_tokens, zero_padding

VARIANCE_FLOOR = 1e-8


@torch.no_grad()
def token_rewards(sequence_rewards_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """KL-shaped reward of each token: ``-kl_coef * kl``, and the sequence reward on a response's last token.

    Args:
        sequence_rewards_B: ``(B,)`` shaped reward of each response, reward units.
        kl_BT: ``(B, T)`` KL estimate of each token, nats.
        mask_BT: ``(B, T)`` see the module.
        kl_coef: ``beta``, reward units per nat.

    Returns:
        ``(B, T)`` reward units.

    Raises:
        ShapeError: shapes do not fit.
    """
    check_tokens("kl_BT", kl_BT)
    check_vector("sequence_rewards_B", sequence_rewards_B, len(kl_BT))
    kept_BT = kept_tokens("mask_BT", mask_BT, kl_BT.shape)
    still_to_come_BT = kept_BT.flip(1).cumsum(1).flip(1)
    last_BT = kept_BT & (still_to_come_BT == 1)
    return zero_padding(-kl_coef * kl_BT, kept_BT) + zero_padding(sequence_rewards_B[:, None].expand_as(kl_BT), last_BT)


@torch.no_grad()
def discounted_returns(token_rewards_BT: Tensor, mask_BT: Tensor, gamma: float) -> Tensor:
    """Return to go of each token, ``G_t = r_t + gamma G_{t+1}``, 0 beyond the last.

    Args:
        token_rewards_BT: ``(B, T)`` reward units.
        mask_BT: ``(B, T)`` see the module.
        gamma: discount per token.

    Returns:
        ``(B, T)`` reward units.

    Raises:
        ShapeError: shapes do not fit.
    """
    check_tokens("token_rewards_BT", token_rewards_BT)
    kept_BT = kept_tokens("mask_BT", mask_BT, token_rewards_BT.shape)
    return _discounted_sum(zero_padding(token_rewards_BT, kept_BT), kept_BT, gamma)


@torch.no_grad()
def gae(
    token_rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the value targets that go with them.

    ``A_t = delta_t + gamma lam A_{t+1}`` with ``delta_t = r_t + gamma V_{t+1} - V_t`` (GAE, eq. 16), value and
    advantage 0 beyond the last token; targets ``A_t + V_t``. With ``lam = 1`` the targets are the returns to go, with
    ``lam = 0`` the advantages are the one-step errors.

    Args:
        token_rewards_BT: ``(B, T)`` reward units.
        values_BT: ``(B, T)`` the critic's value of the state *before* each token, reward units.
        mask_BT: ``(B, T)`` see the module.
        gamma: discount per token.
        lam: ``lambda``; 1 trusts the returns alone, 0 the critic.

    Returns:
        Advantages ``(B, T)`` and targets ``(B, T)``, reward units.

    Raises:
        ShapeError: shapes do not fit.
    """
    check_tokens("token_rewards_BT", token_rewards_BT)
    check_tokens("values_BT", values_BT, token_rewards_BT.shape)
    kept_BT = kept_tokens("mask_BT", mask_BT, token_rewards_BT.shape)
    values_BT = zero_padding(values_BT, kept_BT)
    next_values_BT = torch.zeros_like(values_BT)
    next_values_BT[:, :-1] = values_BT[:, 1:]
    delta_BT = zero_padding(token_rewards_BT, kept_BT) + gamma * next_values_BT - values_BT
    advantages_BT = _discounted_sum(delta_BT, kept_BT, gamma * lam)
    return advantages_BT, advantages_BT + values_BT


@torch.no_grad()
def greedy_baseline_advantages(
    token_rewards_BT: Tensor, greedy_sequence_rewards_B: Tensor, mask_BT: Tensor, gamma: float
) -> Tensor:
    """ReMax's advantages: the return to go of each token less the reward of the greedy response to the same prompt.

    Args:
        token_rewards_BT: ``(B, T)`` of the sampled responses, reward units.
        greedy_sequence_rewards_B: ``(B,)`` shaped reward of each prompt's greedy response, reward units.
        mask_BT: ``(B, T)`` see the module, of the sampled responses.
        gamma: discount per token.

    Returns:
        ``(B, T)`` reward units.

    Raises:
        ShapeError: shapes do not fit.
    """
    returns_BT = discounted_returns(token_rewards_BT, mask_BT, gamma)
    check_vector("greedy_sequence_rewards_B", greedy_sequence_rewards_B, len(returns_BT))
    kept_BT = kept_tokens("mask_BT", mask_BT, returns_BT.shape)
    return zero_padding(returns_BT - greedy_sequence_rewards_B[:, None], kept_BT)


@torch.no_grad()
def leave_one_out_baseline(sequence_rewards_PG: Tensor) -> Tensor:
    """RLOO's baseline: the mean reward of the prompt's *other* responses.

    Args:
        sequence_rewards_PG: ``(P, G)`` rewards of ``G`` responses to each of ``P`` prompts, reward units.

    Returns:
        ``(P, G)`` reward units.

    Raises:
        ShapeError: not two dimensions, or fewer than two responses per prompt.
    """
    check_tokens("sequence_rewards_PG", sequence_rewards_PG)
    responses = sequence_rewards_PG.shape[1]
    if responses < 2:
        raise ShapeError(f"a leave-one-out baseline needs two responses per prompt at least, it has {responses}")
    return (sequence_rewards_PG.sum(1, keepdim=True) - sequence_rewards_PG) / (responses - 1)


@torch.no_grad()
def masked_moments(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum, sum of squares and count over the tokens of the responses: they add up over micro-batches and ranks.

    Returns:
        ``(3,)`` float64, for :func:`mean_and_std`.

    Raises:
        ShapeError: shapes do not fit.
    """
    check_tokens("values_BT", values_BT)
    kept_BT = kept_tokens("mask_BT", mask_BT, values_BT.shape)
    # float64: the variance is a difference of large sums.
    table_BT = zero_padding(values_BT, kept_BT).double()
    return torch.stack([table_BT.sum(), (table_BT**2).sum(), kept_BT.sum().double()])


def mean_and_std(moments_3: Tensor) -> tuple[float, float]:
    """Mean and (Bessel-corrected) standard deviation of what :func:`masked_moments` has summed; 0 where undefined."""
    total, squares, count = (float(x) for x in moments_3)
    mean = total / max(count, 1.0)
    return mean, (max(squares - count * mean**2, 0.0) / max(count - 1, 1.0)) ** 0.5


@torch.no_grad()
def whiten(values_BT: Tensor, mask_BT: Tensor, mean: float, std: float) -> Tensor:
    """``(values - mean) / sqrt(std^2 + 1e-8)``, 0 on padding.

    Args:
        values_BT: ``(B, T)`` advantages.
        mask_BT: ``(B, T)`` see the module.
        mean: of all advantages of the experience, over all ranks.
        std: their deviation.

    Raises:
        ShapeError: shapes do not fit.
    """
    check_tokens("values_BT", values_BT)
    kept_BT = kept_tokens("mask_BT", mask_BT, values_BT.shape)
    return zero_padding((values_BT - mean) / (std**2 + VARIANCE_FLOOR) ** 0.5, kept_BT)


def _discounted_sum(table_BT: Tensor, kept_BT: Tensor, discount: float) -> Tensor:
    """``s_t = x_t + discount s_{t+1}`` along each row; padding is 0."""
    sums_BT = torch.zeros_like(table_BT)
    running_B = table_BT.new_zeros(len(table_BT))
    for t in reversed(range(table_BT.shape[1])):
        running_B = table_BT[:, t] + discount * running_B
        sums_BT[:, t] = running_B
    return zero_padding(sums_BT, kept_BT)
