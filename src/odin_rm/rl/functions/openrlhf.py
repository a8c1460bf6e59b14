"""A reward function for OpenRLHF's ``--reward.remote_url file.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from odin_rm.core.errors import ConfigError, RewardSourceError
from odin_rm.data.policy_text import split_policy_text
from odin_rm.model.scoring import Scorer
from odin_rm.rl.functions.shared import SharedReward, Written
from odin_rm.rl.sources.model import ModelSource


def openrlhf_reward(
    model: Scorer | str | Path,
    *,
    standardise: str = "none",
    device: str | None = None,
    microbatch_tokens: int = 16384,
    trust_remote_code: bool = False,
    **steps: float,
) -> Callable[..., dict[str, Any]]:
    """A ``reward_func(queries, prompts, labels)``: put ``reward_func = odin_rm.openrlhf_reward(...)`` into a file.

    A query is what the policy read and wrote, in the form of the reward model's template (or plain text behind a plain
    prompt); its end is completed, and one without an end token is scored as cut. Lengths are tokens of the reward
    model. OpenRLHF asks for one response at a time, so nothing can compare the responses to one prompt, and no prompt
    is computed once for all of them: a server (``odin-rm serve``) is faster.

    Args:
        model: a reward model (ours or any one-label classifier), or a loaded scorer.
        standardise, device, microbatch_tokens, trust_remote_code, **steps: as in
            :func:`odin_rm.rl.functions.trl.trl_reward`.

    Returns:
        The function. It gives ``rewards`` (shaped), ``scores`` (``sigmoid`` of them, for OpenRLHF's filter), and
        ``extra_logs``.

    Raises:
        OdinError: the model cannot be loaded, or a step is unknown or needs what OpenRLHF does not tell.
    """
    load = {"device": device, "microbatch_tokens": microbatch_tokens, "trust_remote_code": trust_remote_code}
    shared = SharedReward(model, standardise=standardise, texts_tell_end=True, steps=steps, load=load)
    refuse_comparison(shared, "OpenRLHF asks for one response at a time")
    if not isinstance(shared.source, ModelSource):
        what = "queries are read by the reward model's own template"
        raise ConfigError(what, where="model", fix="Give a model; OpenRLHF takes an address itself.")
    tokenizer, settings = shared.source.scorer.tokenizer, shared.source.settings

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str] | None = None, labels: Any = None, **others: Any
    ) -> dict[str, Any]:
        known = list(prompts) if prompts else [None] * len(queries)
        parts = [split_policy_text(tokenizer, q, p, settings) for q, p in zip(queries, known, strict=True)]
        written = Written(
            [part.prompt for part in parts],
            [part.response for part in parts],
            ended=[not part.cut for part in parts],
        )
        shaped, judged = shared(written)
        if not all(map(math.isfinite, shaped.sequence_R)):
            what = "a response has no reward: it does not fit into the reward model's window"
            raise RewardSourceError(what, where=shared.source.name, fix="Write shorter responses.")
        values = torch.tensor(shaped.sequence_R, dtype=torch.float32)
        logs = {"quality": torch.tensor(shaped.quality_R, dtype=torch.float32)}
        if judged.tokens is not None:
            logs["response_tokens"] = torch.tensor(judged.tokens, dtype=torch.float32)
        if judged.length_for_log is not None:
            logs["length_reward"] = torch.tensor(judged.length_for_log, dtype=torch.float32)
        logs["cut"] = torch.tensor([float(part.cut) for part in parts])
        return {"rewards": values, "scores": torch.sigmoid(values), "extra_logs": logs}

    return reward_func


def refuse_comparison(shared: SharedReward, why: str) -> None:
    """Refuse a step that compares the responses to one prompt where they come alone.

    Raises:
        ConfigError: there is such a step.
    """
    if shared.compares:
        what = f"compares the responses to one prompt, but {why}"
        raise ConfigError(what, where="group_length_rescaling", fix="Leave it out.")
