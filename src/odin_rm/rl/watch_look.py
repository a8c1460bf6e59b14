"""One look of the hacking watch: the policy writes to fixed prompts, and what it wrote is judged and measured.

Looks draw under a random state of their own, the same at each look: training goes on as if there had been none, and two
looks differ by what the policy has learnt and not by luck.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odin_rm.data.batching import plan_microbatches
from odin_rm.data.prompts import PromptSet
from odin_rm.model.policy import ResponseBatch, collate_responses, response_log_probs
from odin_rm.rl.records import RewardSource, Rollout, RolloutEngine, SamplingSettings
from odin_rm.rl.request import reward_request, sample_row
from odin_rm.rl.text_statistics import text_statistics
from odin_rm.rl.watch import WatchRecord


def observe_policy(
    *,
    engine: RolloutEngine,
    policy: nn.Module,
    reference_pass: Callable[[ResponseBatch], Tensor],
    prompts: PromptSet,
    prompt_ids: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    source: RewardSource,
    held_out: RewardSource | None,
    pad_token_id: int,
    microbatch_tokens: int,
    seed: int,
    step: int,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[WatchRecord, list[dict[str, Any]]]:
    """Let the policy answer every prompt once, and measure.

    Random states (Python's, numpy's, torch's on the CPU and on the policy's device) are the same afterwards as before,
    and so are the training modes of the policy's modules.

    Args:
        engine: writes with the policy.
        policy: for log-probs and entropy.
        reference_pass: ``(B, T)`` log-probs of the response tokens under the reference, at ``sampling.temperature``.
        prompts: what the reward sources get.
        prompt_ids: the same prompts as the policy reads them.
        sampling: how to write. With ``top_p`` or ``top_k`` the KL is that of the whole distribution, measured on
            samples of the cut one.
        source: the reward that is trained on.
        held_out: a reward that training never sees.
        pad_token_id: what ids are padded with.
        microbatch_tokens: padded tokens (prompt and response) per forward pass.
        seed: decides what is drawn.
        step: optimiser steps so far.
        precision: makes the context for the policy's forward passes: ``accelerator.autocast``.

    Returns:
        The record, and one row per prompt for ``samples.jsonl``: ``step``, ``prompt``, ``response``,
        ``response_tokens`` (without the end token), ``ended``, ``quality``, ``length_reward``, ``held_out`` (``None``
        where there is none).

    Raises:
        RewardSourceError: a reward source does not answer.
    """
    device = next(policy.parameters()).device
    with _own_random_state(seed, device), _evaluating(policy), torch.no_grad():
        rollouts = engine.generate(prompt_ids, sampling)
        with precision():
            kl_R, entropy = _distance(
                policy, reference_pass, rollouts, sampling, pad_token_id, microbatch_tokens, device
            )
        request = reward_request(prompts, range(len(rollouts)), rollouts, step)
        judged = source.judge(request)
        held_out_R = None if held_out is None else held_out.judge(request).quality
    statistics = text_statistics([r.response_ids for r in rollouts])
    quality, quality_error = _mean_and_error(judged.quality)
    held_out_mean, held_out_error = (None, 0.0) if held_out_R is None else _mean_and_error(held_out_R)
    record = WatchRecord(
        step=step,
        mean_tokens=float(request.response_tokens.mean()),
        ended_share=float(np.mean([r.ended for r in rollouts])),
        quality=quality,
        length_reward=None if judged.length_for_log is None else _mean_and_error(judged.length_for_log)[0],
        kl=float(kl_R.mean()),
        entropy=entropy,
        held_out=held_out_mean,
        distinct_2=statistics["distinct_2"],
        repetition=statistics["repetition"],
        quality_error=quality_error,
        held_out_error=held_out_error,
    )
    judgements = {"quality": judged.quality, "length_reward": judged.length_for_log, "held_out": held_out_R}
    return record, _sample_rows(step, prompts, rollouts, judgements)


def _sample_rows(
    step: int, prompts: PromptSet, rollouts: list[Rollout], judgements: dict[str, np.ndarray | None]
) -> list[dict[str, Any]]:
    rows = zip(prompts.prompts, rollouts, strict=True)
    return [
        sample_row(step, prompt, rollout, {n: None if v_R is None else v_R[i] for n, v_R in judgements.items()})
        for i, (prompt, rollout) in enumerate(rows)
    ]


def _distance(
    policy: nn.Module,
    reference_pass: Callable[[ResponseBatch], Tensor],
    rollouts: list[Rollout],
    sampling: SamplingSettings,
    pad_token_id: int,
    microbatch_tokens: int,
    device: torch.device,
) -> tuple[np.ndarray, float]:
    """``(R,)`` KL of each response (k1 summed over its tokens, nats), and the mean entropy per token, nats."""
    kl_R = np.zeros(len(rollouts))
    entropy_sum = 0.0
    tokens_R = np.array([len(r.prompt_ids) + len(r.response_ids) for r in rollouts])
    for part in plan_microbatches(tokens_R, microbatch_tokens)[0]:
        rows = [rollouts[int(row)] for row in part]
        ids = [r.prompt_ids for r in rows], [r.response_ids for r in rows]
        batch = collate_responses(*ids, pad_token_id).to(device)
        policy_log_probs_BT, entropy_BT = response_log_probs(policy, batch, sampling.temperature, with_entropy=True)
        difference_BT = policy_log_probs_BT - reference_pass(batch)
        mask_BT = batch.response_mask_BT.bool()
        kl_R[part] = difference_BT.masked_fill(~mask_BT, 0.0).sum(1).double().cpu().numpy()
        entropy_sum += float(entropy_BT.masked_fill(~mask_BT, 0.0).double().sum())
    return kl_R, entropy_sum / max(1, sum(len(r.response_ids) for r in rollouts))


def _mean_and_error(values_R: np.ndarray) -> tuple[float, float]:
    """Mean over the finite values and its standard error; NaN and 0 where there are none."""
    known = values_R[np.isfinite(values_R)]
    if not len(known):
        return math.nan, 0.0
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else 0.0
    return float(known.mean()), error


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds Python, numpy, torch's CPU and the device for the block, and puts back what was there."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach devices that are not put back
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
