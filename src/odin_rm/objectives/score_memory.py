"""Scores of past batches that join a batch's statistics, as a larger batch would have them.

A correlation over 64 pairs is noise of a few hundredths to a tenth. With the scores of the last ``K`` batches beside
them it is taken over ``K + 1`` batches; past scores are numbers, without a gradient, as they were when their step was
taken. The gradient of the batch's own scores is multiplied by the share ``all / own`` of the weights: it stands for the
gradient that all of them would have (a memory bank, Wang et al. 2020, "Cross-batch memory", 1912.06798).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from odin_rm.core.types import RewardScores
from odin_rm.objectives.disentangle import slot_multiplicity
from odin_rm.objectives.objective import PairColumns


@dataclass(frozen=True)
class Pool:
    """Responses that one statistic is taken over: those of the batch first, then remembered ones.

    Attributes:
        heads: by name, ``(N,)`` scores; those of the batch have a gradient.
        tokens_N: ``(N,)`` lengths.
        prompt_N: ``(N,)`` prompts; no remembered one is a prompt of the batch.
        weight_N: ``(N,)`` how many slots of pairs each stands in.
    """

    heads: dict[str, Tensor]
    tokens_N: Tensor
    prompt_N: Tensor
    weight_N: Tensor


def pool_of(scores: RewardScores, batch: PairColumns) -> Pool:
    """The responses of a batch that stand in pairs."""
    like = scores.quality
    weight_R = slot_multiplicity(batch.chosen_B, batch.rejected_B, len(like)).to(like)
    kept_R = weight_R > 0  # variants stand in no pair
    return Pool(
        {name: column[kept_R] for name, column in scores.heads.items()},
        batch.tokens_R.to(like)[kept_R],
        batch.prompt_R.to(like.device)[kept_R],
        weight_R[kept_R],
    )


class ScoreMemory:
    """The last batches' scores.

    Args:
        batches: ``K``, how many; 0 for none.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self._columns: dict[str, Tensor] = {}

    def joined(self, own: Pool) -> Pool:
        """A batch's pool with what is remembered."""
        if not self._columns:
            return own
        past = {name: column.to(own.tokens_N) for name, column in self._columns.items()}
        share = 1 + past["weight"].sum() / own.weight_N.sum()
        first = int(own.prompt_N.max()) + 1
        return Pool(
            {
                name: torch.cat([column.detach() + share * (column - column.detach()), past[f"head_{name}"]])
                for name, column in own.heads.items()
            },
            torch.cat([own.tokens_N, past["tokens"]]),
            torch.cat([own.prompt_N, first + self._columns["prompt"].to(own.prompt_N)]),
            torch.cat([own.weight_N, past["weight"]]),
        )

    def add(self, own: Pool) -> None:
        """Remember a batch, and forget the one ``K`` steps before it."""
        if not self.batches:
            return
        new = {f"head_{name}": column.detach().double().cpu() for name, column in own.heads.items()}
        new |= {"tokens": own.tokens_N.double().cpu(), "weight": own.weight_N.double().cpu()}
        numbers = {"prompt": own.prompt_N.cpu(), "age": torch.zeros(len(own.tokens_N), dtype=torch.int64)}
        past = self._columns
        if past:
            kept = past["age"] < self.batches - 1
            past = {name: column[kept] for name, column in past.items()}
            past["age"] = past["age"] + 1
            past["prompt"] = past["prompt"] + int(own.prompt_N.max()) + 1
            self._columns = {n: torch.cat([column, past[n]]) for n, column in {**new, **numbers}.items()}
        else:
            self._columns = {**new, **numbers}

    def state_dict(self, heads: tuple[str, ...]) -> dict[str, Tensor]:
        """What is remembered; the names are there from the first step on."""
        if not self.batches:
            return {}
        none, numbers = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        empty = {**{f"head_{name}": none for name in heads}, "tokens": none, "weight": none}
        columns = self._columns or {**empty, "prompt": numbers, "age": numbers}
        return {f"memory_{name}": column for name, column in columns.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what a checkpoint holds."""
        if self.batches:
            columns = {n.removeprefix("memory_"): c.clone() for n, c in state.items() if n.startswith("memory_")}
            self._columns = columns if len(columns["age"]) else {}
