"""The length loss of ``odin`` and of the plain model with a penalty, with everything that may be asked of it.

    L_L = m(r_Q, L) - rho(r_L, L)

``m`` is ``|rho|`` (the paper), ``rho^2``, or the square without its bias (``--length_measure``); over the batch, within
prompts, or the mean of both (``--length_scope``); of the batch alone or with the last batches beside it
(``--length_memory``). With a tolerance the first term is an augmented Lagrangian of ``|rho| <= eps`` instead
(:mod:`odin_rm.objectives.tolerance`) with ``mu = 10 lambda_L``.

``--prompt_offset_weight`` adds ``w max(0, ICC)`` with the intraclass correlation of the quality rewards by prompt. The
ranking loss leaves the level of each prompt open, and what clips, thresholds or standardises rewards later would see
prompts instead of answers.

Every one of these is a function of the whole batch's scores, so the exact gradient holds for any split of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.types import LENGTH, QUALITY, RewardScores
from odin_rm.objectives.association import (
    intraclass,
    pearson,
    pearson_within,
    unbiased_square,
    unbiased_square_within,
)
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.registry import LengthTerm
from odin_rm.objectives.score_memory import Pool, ScoreMemory, pool_of
from odin_rm.objectives.tolerance import Tolerances

PENALTY = 10.0
"""``mu`` of a tolerance, in weights of the length loss."""
SCOPES = {"batch": ("batch",), "prompt": ("prompt",), "both": ("batch", "prompt")}


def correlation(x_N: Tensor, y_N: Tensor, pool: Pool, scope: str) -> Tensor:
    """Pearson over a pool, or within its prompts; 0 where it does not exist."""
    if scope == "prompt":
        return pearson_within(x_N, y_N, pool.prompt_N, pool.weight_N).value
    return pearson(x_N, y_N, pool.weight_N).value


def measured(x_N: Tensor, y_N: Tensor, pool: Pool, scope: str, measure: str) -> Tensor:
    """``|rho|``, ``rho^2`` or the unbiased square. The last one over a batch counts each response once."""
    if measure == "unbiased":
        if scope == "prompt":
            return unbiased_square_within(x_N, y_N, pool.prompt_N, pool.weight_N).value
        return unbiased_square(x_N, y_N).value
    rho = correlation(x_N, y_N, pool, scope)
    return rho**2 if measure == "squared" else rho.abs()


class LengthPenalised(Objective):
    """The ranking loss with the length loss; see the module's text.

    Args:
        settings: options of the length loss.
        heads: names of the heads, for the state.
    """

    settings: LengthTerm

    def __init__(self, settings: LengthTerm, heads: tuple[str, ...] = (QUALITY,)) -> None:
        super().__init__(settings)
        self.heads = heads
        self.scopes = SCOPES[settings.length_scope]
        self.memory = ScoreMemory(settings.length_memory)
        self.tolerances: Tolerances | None = None
        if settings.length_tolerance is not None:
            if settings.length_measure != "absolute":
                fix = "A tolerance bounds the correlation itself; leave one of the two out."
                raise ConfigError("has no effect with --length_tolerance", where="--length_measure", fix=fix)
            if not settings.length_weight:
                fix = "Give a number above 0: the penalty behind the multiplier is 10 times that."
                raise ConfigError("is 0, and --length_tolerance needs it", where="--length_weight", fix=fix)
            names = [f"quality_length_correlation_{scope}" for scope in self.scopes]
            self.tolerances = Tolerances(names, settings.length_tolerance, PENALTY * settings.length_weight)

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """Ranking and length loss, with the term of the prompts' levels."""
        weight = progress.rise(self.settings.length_warmup) * self.settings.length_weight
        if self._is_the_papers:
            value = ranked(scores, batch, length_weight=weight, length_scope=self.settings.length_scope)
        else:
            scope = "prompt" if self.scopes == ("prompt",) else "batch"
            value = self._with_length(ranked(scores, batch, length_scope=scope), scores, batch, progress)
        return self._with_offsets(value, scores, batch)

    @property
    def _is_the_papers(self) -> bool:
        plain = self.settings.length_measure == "absolute" and self.settings.length_scope != "both"
        return plain and self.tolerances is None and not self.settings.length_memory

    def pool(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> Pool:
        """What statistics are taken over; held-out scores stand alone."""
        own = pool_of(scores, batch)
        return own if progress.held_out else self.memory.joined(own)

    def _with_length(
        self, value: ObjectiveValue, scores: RewardScores, batch: PairColumns, progress: Progress
    ) -> ObjectiveValue:
        pool = self.pool(scores, batch, progress)
        tokens_N, rise = pool.tokens_N, progress.rise(self.settings.length_warmup)
        weight, quality_N = rise * self.settings.length_weight, pool.heads[QUALITY]
        lost = torch.zeros_like(tokens_N.sum())
        if LENGTH in pool.heads:
            lost = torch.stack([correlation(pool.heads[LENGTH], tokens_N, pool, s) for s in self.scopes]).mean()
        if self.tolerances is None:
            found = [measured(quality_N, tokens_N, pool, s, self.settings.length_measure) for s in self.scopes]
            term = torch.stack(found).mean() - lost
            return value.plus(weight * term, length_loss=term)
        rhos = self.correlations(pool)
        term = self.tolerances.term(rhos)
        met = self.tolerances.met(rhos if progress.held_out else None)
        told: dict[str, Tensor | float] = {"length_loss": term - lost, "tolerance_met": met}
        if not progress.held_out:
            multipliers = self.tolerances.multipliers()
            told |= {name.replace("correlation", "multiplier"): one for name, one in multipliers.items()}
        return value.plus(rise * term - weight * lost, **told)

    def correlations(self, pool: Pool) -> dict[str, Tensor]:
        """Pearson of quality and length in each scope, by the names of the tolerances."""
        return {
            f"quality_length_correlation_{scope}": correlation(pool.heads[QUALITY], pool.tokens_N, pool, scope)
            for scope in self.scopes
        }

    def _with_offsets(self, value: ObjectiveValue, scores: RewardScores, batch: PairColumns) -> ObjectiveValue:
        if not self.settings.prompt_offset_weight:
            return value
        own = pool_of(scores, batch)
        share = intraclass(own.heads[QUALITY], own.prompt_N, own.weight_N).value
        return value.plus(self.settings.prompt_offset_weight * share.clamp_min(0), prompt_offset_share=share)

    # ---- state -------------------------------------------------------------------------------------------------------

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """Move the multipliers on the statistics of the step, then remember its scores."""
        if self.tolerances is not None:
            found = self.correlations(self.pool(scores, batch, progress))
            self.tolerances.after_step(found, progress)
        self.memory.add(pool_of(scores, batch))

    def state_dict(self) -> dict[str, Tensor]:
        """Multipliers and remembered scores; empty where there is neither."""
        held = {} if self.tolerances is None else self.tolerances.state_dict("length")
        return held | self.memory.state_dict(self.heads)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them over."""
        if self.tolerances is not None:
            self.tolerances.load_state_dict(state, "length")
        self.memory.load_state_dict(state)
