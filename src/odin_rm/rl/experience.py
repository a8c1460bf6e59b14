"""What one response leaves behind for the updates, how it is kept in a checkpoint, and how it becomes tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from odin_rm.core.files import atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.model.policy import ResponseBatch, collate_responses
from odin_rm.rl.records import Rollout

_PER_TOKEN = ("old_log_probs", "reference_log_probs", "old_values", "advantages", "returns")


@dataclass
class Experience:
    """A response with its rewards and the numbers of the policy that wrote it (the *old* policy).

    Attributes:
        prompt: position of its prompt in the prompt set.
        rollout: what was written.
        quality: quality reward in reward units of the source.
        length_for_log: length reward of a disentangled model, for the log only.
        sequence_reward: the shaped reward of the whole response, without the KL.
        usable: false for a response whose reward is not finite and that ``--on_bad_reward skip`` leaves out.
        old_log_probs, reference_log_probs: ``(T,)`` nats per response token, end token included.
        old_values: ``(T,)`` the critic's values before each token; zeros without a critic.
        advantages, returns: ``(T,)`` in shaped reward units.
    """

    prompt: int
    rollout: Rollout
    quality: float
    length_for_log: float
    sequence_reward: float
    usable: bool
    old_log_probs: np.ndarray
    reference_log_probs: np.ndarray
    old_values: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray

    @property
    def action_tokens(self) -> int:
        """Tokens that the update learns from: the whole response and its end token, or none."""
        return len(self.rollout.response_ids) if self.usable else 0


@dataclass(frozen=True)
class CollectedRewards:
    """What an algorithm works advantages out from: the responses of one rank's prompts, padded on the right.

    Attributes:
        token_rewards_BT: shaped reward at the last token, less ``beta`` times each token's KL where that is a cost.
        values_BT: the critic's values before each token; zeros without a critic.
        mask_BT: the tokens that are learnt from; none of a response whose reward is not usable.
        prompt_B: position of each response's prompt. Responses to one prompt have it in common and are all here.
        greedy_B: shaped reward of the greedy response to the prompt; ``None`` unless the algorithm asks for it.
    """

    token_rewards_BT: Tensor
    values_BT: Tensor
    mask_BT: Tensor
    prompt_B: Tensor
    greedy_B: Tensor | None


@dataclass(frozen=True)
class Minibatch:
    """Tensors of some experiences, ``(B, T)`` each; ``weights_BT`` is mask and normaliser in one."""

    batch: ResponseBatch
    old_log_probs_BT: Tensor
    reference_log_probs_BT: Tensor
    old_values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    weights_BT: Tensor


def make_minibatch(
    experiences: Sequence[Experience], total_tokens: int, pad_token_id: int, device: torch.device
) -> Minibatch:
    """Pad and stack experiences.

    Args:
        experiences: the rows.
        total_tokens: response tokens of the whole minibatch over all micro-batches and ranks; each counts the same.
        pad_token_id: what ids are padded with.
        device: where to put the tensors.
    """
    rollouts = [e.rollout for e in experiences]
    batch = collate_responses([r.prompt_ids for r in rollouts], [r.response_ids for r in rollouts], pad_token_id).to(
        device
    )
    stacked = {name: pad_stack([getattr(e, name) for e in experiences]).to(device) for name in _PER_TOKEN}
    usable_B1 = torch.tensor([[e.usable] for e in experiences], device=device)
    weights_BT = (batch.response_mask_BT.bool() & usable_B1).float() / max(1, total_tokens)
    return Minibatch(batch, **{f"{name}_BT": value for name, value in stacked.items()}, weights_BT=weights_BT)


def pad_stack(rows: Sequence[np.ndarray]) -> Tensor:
    """``(B, T)`` float32 of rows of different lengths, zeros behind them."""
    out = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.float32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return torch.from_numpy(out)


def unpad(values_BT: Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """Rows of a padded tensor as arrays of their own length."""
    return [row[:length].copy() for row, length in zip(values_BT.float().cpu().numpy(), lengths, strict=True)]


def save_experiences(experiences: Sequence[Experience], path: Path) -> None:
    """Write the replay buffer: numbers as ``PATH.safetensors``, texts as ``PATH.json``."""
    tensors: dict[str, np.ndarray] = {
        "prompt": np.array([e.prompt for e in experiences], dtype=np.int64),
        "usable": np.array([e.usable for e in experiences], dtype=np.uint8),
        "ended": np.array([e.rollout.ended for e in experiences], dtype=np.uint8),
    }
    for name in ("quality", "length_for_log", "sequence_reward"):
        tensors[name] = np.array([getattr(e, name) for e in experiences], dtype=np.float64)
    for name in ("prompt_ids", "response_ids"):
        rows = [np.asarray(getattr(e.rollout, name), dtype=np.int64) for e in experiences]
        tensors[name] = np.concatenate([np.zeros(0, np.int64), *rows])
        tensors[f"{name}_count"] = np.array([len(row) for row in rows], dtype=np.int64)
    for name in _PER_TOKEN:
        flat = [np.zeros(0, np.float32), *(getattr(e, name).astype(np.float32) for e in experiences)]
        tensors[name] = np.concatenate(flat)
    save_file(tensors, path.with_suffix(".safetensors"))
    atomic_write_json(path.with_suffix(".json"), [e.rollout.text for e in experiences])


def load_experiences(path: Path) -> list[Experience]:
    """Read what :func:`save_experiences` wrote."""
    tensors = load_file(path.with_suffix(".safetensors"))
    texts = read_json(path.with_suffix(".json"))
    prompts = _split(tensors["prompt_ids"], tensors["prompt_ids_count"])
    counts = tensors["response_ids_count"]
    responses = _split(tensors["response_ids"], counts)
    per_token = {name: _split(tensors[name], counts) for name in _PER_TOKEN}
    experiences = []
    for row, text in enumerate(texts):
        rollout = Rollout(prompts[row].tolist(), responses[row].tolist(), bool(tensors["ended"][row]), text)
        numbers: dict[str, Any] = {name: values[row] for name, values in per_token.items()}
        for name in ("quality", "length_for_log", "sequence_reward"):
            numbers[name] = float(tensors[name][row])
        usable = bool(tensors["usable"][row])
        experiences.append(Experience(int(tensors["prompt"][row]), rollout, usable=usable, **numbers))
    return experiences


def _split(flat: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(counts)[:-1]) if len(counts) else []
