"""Losses of policy and critic on given responses: PPO with clipping, the clipped value loss, REINFORCE.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), eq. 7; Williams 1992 (REINFORCE).

``weights_BT`` is mask and normaliser in one: 0 on padding, elsewhere one over the number of response tokens of the
*whole* minibatch, over all micro-batches and ranks. The losses are weighted sums, so those of the parts of a minibatch
add up to that of the minibatch, and no split changes the gradient. The end token of a response carries weight like any
other token. What stands on padding (even NaN) reaches neither a loss nor a gradient.

Deviations from the papers:
1. The mean is taken over the tokens of a minibatch, not first within each response.
2. The value is clipped as in the authors' implementation; the PPO paper does not have it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from odin_rm.core.errors import ShapeError
from odin_rm.objectives.checks import check_tokens
from odin_rm.objectives.masking import kept_tokens, zero_padding


def gather_log_probs(logits_BTV: Tensor, tokens_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each written token, ``log softmax(logits / temperature)[token]``.

    Args:
        logits_BTV: ``(B, T, V)`` logits that predict the tokens.
        tokens_BT: ``(B, T)`` integer tokens; on padding any token of the vocabulary.
        temperature: the one that the tokens were sampled with, so that both describe one distribution.

    Returns:
        ``(B, T)`` log-probabilities in nats, float32 at least.

    Raises:
        ShapeError: sizes do not fit, or the temperature is not positive.
    """
    scaled_BTV = _scaled(logits_BTV, temperature)
    if tokens_BT.shape != logits_BTV.shape[:2] or tokens_BT.is_floating_point():
        raise ShapeError(
            f"'tokens_BT' must be integers of shape {tuple(logits_BTV.shape[:2])}, it is {tokens_BT.dtype} of shape "
            f"{tuple(tokens_BT.shape)}"
        )
    # One fused pass forward and one back; indexing a log_softmax would hold the (B, T, V) table once more.
    return -F.cross_entropy(scaled_BTV.flatten(0, 1), tokens_BT.flatten(), reduction="none").view(tokens_BT.shape)


@torch.no_grad()
def token_entropy(logits_BTV: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of each next-token distribution, ``-sum p log p`` with ``p = softmax(logits / temperature)``.

    Args:
        logits_BTV: ``(B, T, V)`` logits; minus infinity stands for a token that cannot be written.
        temperature: the sampling temperature.

    Returns:
        ``(B, T)`` entropies in nats, float32 at least, without gradient.

    Raises:
        ShapeError: not three dimensions, or the temperature is not positive.
    """
    # Row by row: the probabilities of a whole batch would double the memory of its logits.
    rows = [torch.special.entr(_scaled(row_1TV, temperature).softmax(-1)).sum(-1) for row_1TV in logits_BTV.split(1)]
    return torch.cat(rows)


def ppo_policy_loss(
    policy_log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    advantages_BT: Tensor,
    weights_BT: Tensor,
    *,
    epsilon: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate (eq. 7), as a loss.

    ``-sum w min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon) A)`` with ``ratio = exp(policy - old)``. Where policy
    and old agree, the ratio is 1 and the gradient is that of :func:`reinforce_loss`.

    Args:
        policy_log_probs_BT: ``(B, T)`` log-probs of the policy that is trained, nats.
        old_log_probs_BT: ``(B, T)`` log-probs of the policy that wrote the responses, nats, without gradient.
        advantages_BT: ``(B, T)`` advantages, without gradient.
        weights_BT: ``(B, T)`` see the module.
        epsilon: how far the ratio may move.

    Returns:
        The loss ``()`` and its parts, detached weighted sums: ``clip_fraction``, the share of tokens whose gradient is
        cut off; ``ratio_mean``; ``approx_kl``, Schulman's k3 of ``KL(old || policy)`` per token, nats.

    Raises:
        ShapeError: shapes do not fit.
    """
    _check_alike(
        policy_log_probs_BT=policy_log_probs_BT, old_log_probs_BT=old_log_probs_BT, advantages_BT=advantages_BT
    )
    kept_BT = kept_tokens("weights_BT", weights_BT, policy_log_probs_BT.shape)
    log_ratio_BT = zero_padding(policy_log_probs_BT - old_log_probs_BT, kept_BT)
    advantages_BT = zero_padding(advantages_BT, kept_BT)
    ratio_BT = log_ratio_BT.exp()
    plain_BT = ratio_BT * advantages_BT
    clipped_BT = ratio_BT.clamp(1 - epsilon, 1 + epsilon) * advantages_BT
    loss = -(weights_BT * torch.minimum(plain_BT, clipped_BT)).sum()
    with torch.no_grad():
        parts = {
            "clip_fraction": (weights_BT * (clipped_BT < plain_BT)).sum(),
            "ratio_mean": (weights_BT * ratio_BT).sum(),
            "approx_kl": (weights_BT * (torch.expm1(log_ratio_BT) - log_ratio_BT)).sum(),
        }
    return loss, parts


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, weights_BT: Tensor, *, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared error of the critic, the larger of that of the value and of the value clipped to the old one.

    ``sum w max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2``; with ``clip`` 0 the first term alone.

    Args:
        values_BT: ``(B, T)`` values of the critic that is trained, reward units.
        old_values_BT: ``(B, T)`` its values when the responses were written, without gradient.
        returns_BT: ``(B, T)`` the targets, reward units, without gradient.
        weights_BT: ``(B, T)`` see the module.
        clip: ``c``, reward units; 0 turns clipping off.

    Returns:
        The loss ``()``, in squared reward units, and ``value_clip_fraction``, the share of tokens whose gradient is cut
        off (a detached weighted sum).

    Raises:
        ShapeError: shapes do not fit.
    """
    _check_alike(values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT)
    kept_BT = kept_tokens("weights_BT", weights_BT, values_BT.shape)
    values_BT = zero_padding(values_BT, kept_BT)
    old_values_BT = zero_padding(old_values_BT, kept_BT)
    returns_BT = zero_padding(returns_BT, kept_BT)
    plain_BT = (values_BT - returns_BT) ** 2
    clipped_BT = plain_BT
    if clip:
        clipped_BT = (values_BT.clamp(old_values_BT - clip, old_values_BT + clip) - returns_BT) ** 2
    loss = 0.5 * (weights_BT * torch.maximum(plain_BT, clipped_BT)).sum()
    return loss, {"value_clip_fraction": (weights_BT * (clipped_BT > plain_BT)).sum().detach()}


def reinforce_loss(policy_log_probs_BT: Tensor, advantages_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """The policy gradient as a loss, ``-sum w A log pi``.

    Args:
        policy_log_probs_BT: ``(B, T)`` log-probs of the policy that wrote the responses and is trained, nats.
        advantages_BT: ``(B, T)`` advantages, without gradient.
        weights_BT: ``(B, T)`` see the module.

    Returns:
        The loss ``()``; only its gradient means something.

    Raises:
        ShapeError: shapes do not fit.
    """
    _check_alike(policy_log_probs_BT=policy_log_probs_BT, advantages_BT=advantages_BT)
    kept_BT = kept_tokens("weights_BT", weights_BT, policy_log_probs_BT.shape)
    return -(weights_BT * zero_padding(advantages_BT, kept_BT) * zero_padding(policy_log_probs_BT, kept_BT)).sum()


def _scaled(logits_BTV: Tensor, temperature: float) -> Tensor:
    """Logits over temperature, in float32 at least: bfloat16 has no room for a log-probability's digits."""
    if logits_BTV.ndim != 3 or not logits_BTV.is_floating_point():
        raise ShapeError(f"'logits_BTV' must be a floating (B, T, V) tensor, it has shape {tuple(logits_BTV.shape)}")
    if not temperature > 0:
        raise ShapeError(f"'temperature' must be positive, it is {temperature}")
    wide_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    return wide_BTV if temperature == 1 else wide_BTV / temperature


def _check_alike(**tables: Tensor) -> None:
    shape = next(iter(tables.values())).shape
    for name, table_BT in tables.items():
        check_tokens(name, table_BT, shape)
