"""``--objective matched``: Bradley-Terry on pairs of like length (or other attributes), beside an explicit curve.

    w_b  = exp( -sum_k (a_k(chosen) - a_k(rejected))^2 / (2 tau_k^2) )       a_k on a logarithmic scale
    d_b  = r_Q(chosen) - r_Q(rejected) + g(chosen) - g(rejected) - margin_b
    L    = 1/B sum_b (w_b / w) log(1 + exp(-d_b)) + ridge |beta|^2           w = mean of w_b over the training pairs

Pairs whose answers agree in an attribute say what the reader wants beside it, whatever the bias is. The curve ``g`` is
``S(a) . beta`` of whitened columns of the attributes and of nothing else, so it can take no content; it takes what
difference is left within a pair. It is thrown away after training: the model is one head.

The weight is normalised by a constant of the data set, not of the batch. The loss is then a sum over pairs, and any
split into micro-batches or processes gives the same gradient; no correlation of a batch can be degenerate.

``beta`` starts at its fit on the attributes alone and has a rate of its own, larger than the heads'. With one rate for
both the head takes the length first. With ``tau`` infinite every pair counts (a product of experts with a local curve);
a *fixed* curve keeps its first fit.

With *edits*, copies of responses that were changed in something that should not matter ride in the tree of their
prompt, and an augmented Lagrangian (:mod:`odin_rm.objectives.tolerance`) holds what each edit ``e`` does on average:

    | mean_y tanh( (r_Q(e(y)) - r_Q(y)) / scale ) | <= eps
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.types import RESPONSE_TOKENS, RewardScores
from odin_rm.objectives.adam import adam_step
from odin_rm.objectives.attribute_curve import CurveBasis, curve_gradient, fit_curve, log_attribute, match_weight
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.preference import bradley_terry
from odin_rm.objectives.registry import MatchedSettings
from odin_rm.objectives.tolerance import Tolerances

log = logging.getLogger(__name__)
FEW_PAIRS = 4000
"""With fewer pairs of any likeness the weights leave too little to learn from (docs/objectives.md)."""


def widths(text: str, tau: float) -> dict[str, float]:
    """The attributes to match, each with its width.

    Args:
        text: names with commas between them; ``name=tau`` gives one a width of its own.
        tau: width of the others.

    Raises:
        ConfigError: a name is missing or stands twice, or a width is not a positive number.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, given, own = part.strip().partition("=")
        try:
            width = float(own) if given else tau
        except ValueError:
            width = math.nan
        if not name or name in found or not width > 0:
            fix = "Write names with commas between them, such as response_tokens,list_items=0.5."
            raise ConfigError(f"cannot read {text!r}", where="--match_attributes", fix=fix)
        found[name] = width
    return found


def edit_names(text: str | None) -> tuple[str, ...]:
    """Names of edits with commas between them.

    Raises:
        ConfigError: a name is missing or stands twice.
    """
    names = tuple(part.strip() for part in text.split(",")) if text is not None else ()
    if "" in names or len(set(names)) < len(names):
        fix = "Write names with commas between them, such as append_closing,add_bold."
        raise ConfigError(f"cannot read {text!r}", where="--edits", fix=fix)
    return names


class Matched(Objective):
    """See the module's text.

    Attributes:
        mean_weight: ``w``, the mean weight of the training pairs.
        curve_D: ``beta``, float64.
    """

    settings: MatchedSettings

    def __init__(self, settings: MatchedSettings) -> None:
        super().__init__(settings)
        self.widths = widths(settings.match_attributes, settings.match_tau)
        # A function is given as module:function, and its column is called after the function.
        self.names = tuple(name.rpartition(":")[2] for name in self.widths)
        if len(set(self.names)) < len(self.names):
            fix = "Give one of the functions another name."
            raise ConfigError("two attributes have one name", where="--match_attributes", fix=fix)
        self.mean_weight = 1.0
        self.basis: CurveBasis | None = None
        self.curve_D = self._first_D = self._second_D = torch.zeros(0, dtype=torch.float64)
        self._updates = torch.zeros((), dtype=torch.int64)
        self._draw_B: Tensor | None = None
        self.variants = edit_names(settings.edits)
        self.tolerances: Tolerances | None = None
        if self.variants:
            told = [f"edit_{name}" for name in self.variants]
            self.tolerances = Tolerances(told, settings.edit_tolerance, settings.edit_penalty)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What is matched beside the response tokens."""
        return tuple(name for name in self.widths if name != RESPONSE_TOKENS)

    # ---- constants of the data ---------------------------------------------------------------------------------------

    def begin(self, data: PairColumns) -> None:
        """The mean weight, the whitening of the curve's columns, and the curve's fit on the attributes alone."""
        for name in self.names:
            if name not in data.attributes:
                fix = f"Use some of {', '.join(data.attributes)}."
                raise ConfigError(f"the data have no attribute '{name}'", where="--match_attributes", fix=fix)
            if bool((data.attributes[name] < 0).any()):
                fix = "Match counts; a logarithm is taken of them."
                raise ConfigError(f"the attribute '{name}' has negative values", where="--match_attributes", fix=fix)
        for name in self.variants:
            if not len(data.variants.get(name, ())):
                fix = "Leave it out; odin-rm probe says what each edit needs."
                raise ConfigError(f"no training response can be edited by '{name}'", where="--edits", fix=fix)
        weight_B = self._likeness(data)
        self.mean_weight = float(weight_B.mean())
        if not float(weight_B.sum()) > 1:
            what = f"leaves the weight of {float(weight_B.sum()):.2g} of {len(weight_B):,} pairs"
            raise ConfigError(what, where="--match_tau", fix="Raise it, or match fewer attributes.")
        self._say(weight_B)
        drawn = self.settings.match_by == "draws"
        self._draw_B = weight_B if drawn else None
        if self.settings.match_curve == "none":
            return
        self.basis = CurveBasis.of(data.attributes, self.names, self.settings.match_curve_shape)
        share_B = weight_B / weight_B.sum()
        self.curve_D = fit_curve(-data.margin_B, self._differences(data), share_B, self.settings.match_curve_ridge)
        self._first_D, self._second_D = torch.zeros_like(self.curve_D), torch.zeros_like(self.curve_D)

    def draws(self) -> Tensor | None:
        """``(B,)`` the pairs' weights as probabilities of entering an epoch (``--match_by draws``)."""
        return self._draw_B

    def _likeness(self, batch: PairColumns) -> Tensor:
        logs_KR = torch.stack([log_attribute(name, batch.attributes[name].double().cpu()) for name in self.names])
        tau_K = torch.tensor(list(self.widths.values()), dtype=torch.float64)
        return match_weight(logs_KR[:, batch.chosen_B] - logs_KR[:, batch.rejected_B], tau_K)

    def _differences(self, batch: PairColumns) -> Tensor:
        """``(B, D)`` columns of the chosen less those of the rejected responses."""
        assert self.basis is not None
        columns_RD = self.basis.columns({name: value.double().cpu() for name, value in batch.attributes.items()})
        return columns_RD[batch.chosen_B] - columns_RD[batch.rejected_B]

    def _weights(self, batch: PairColumns) -> Tensor:
        """``(B,)`` weights with a mean of 1 over the training pairs."""
        return self._likeness(batch) / self.mean_weight

    def _step_weights(self, batch: PairColumns, progress: Progress) -> Tensor:
        """The weights of a step's pairs; ones where they were drawn by them. Nobody draws held-out pairs."""
        if self._draw_B is None or progress.held_out:
            return self._weights(batch)
        return torch.ones(len(batch.chosen_B), dtype=torch.float64)

    def _say(self, weight_B: Tensor) -> None:
        effective = float(weight_B.sum() ** 2 / weight_B.pow(2).sum())
        log.info("matched pairs: %s, of which weights leave as many as %.0f", f"{len(weight_B):,}", effective)
        if len(weight_B) < FEW_PAIRS and any(math.isfinite(width) for width in self.widths.values()):
            log.warning(
                "%s pairs are few for --objective matched, which learns from pairs of like length; plain Bradley-Terry "
                "and a length curve taken off afterwards keep more (docs/objectives.md)",
                f"{len(weight_B):,}",
            )

    # ---- the loss ----------------------------------------------------------------------------------------------------

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The weighted ranking loss with the curve as it stands."""
        quality_R = scores.quality
        gap_B = quality_R[batch.chosen_B] - quality_R[batch.rejected_B]
        curve_B, ridge = torch.zeros_like(gap_B), 0.0
        if self.basis is not None:
            curve_B = (self._differences(batch) @ self.curve_D).to(gap_B)
            ridge = self.settings.match_curve_ridge * float(self.curve_D.pow(2).sum())
        weight_B = self._step_weights(batch, progress).to(gap_B)
        ranking = (weight_B * bradley_terry(gap_B + curve_B, torch.zeros_like(gap_B), batch.margin_B.to(gap_B))).mean()
        value = ranked(scores, batch).with_ranking(ranking).plus(ridge, match_weight=weight_B.mean())
        if self.basis is not None and RESPONSE_TOKENS in self.names:
            value = value.plus(0.0, curve_doubling=self.doubling(batch))
        if self.tolerances is None:
            return value
        effects = self.effects(quality_R, batch)
        met = self.tolerances.met(effects if progress.held_out else None)
        return value.plus(self.tolerances.term(effects).to(ranking), tolerance_met=met, **effects)

    def effects(self, quality_R: Tensor, batch: PairColumns) -> dict[str, Tensor]:
        """``()`` mean of ``tanh(change / scale)`` of each edit that some response of the batch has."""
        found = {}
        for name in self.variants:
            places = batch.variants.get(name)
            if places is not None and len(places):
                change_n = quality_R[places[:, 1]] - quality_R[places[:, 0]]
                found[f"edit_{name}"] = torch.tanh(change_n / self.settings.edit_scale).mean()
        return found

    def doubling(self, batch: PairColumns) -> float:
        """What the curve gives for twice the batch's median length, all other attributes equal; reward units."""
        assert self.basis is not None
        median = {name: value.double().cpu().median()[None] for name, value in batch.attributes.items()}
        twice = {**median, RESPONSE_TOKENS: 2 * median[RESPONSE_TOKENS]}
        return float((self.basis.columns(twice) - self.basis.columns(median)) @ self.curve_D)

    # ---- the curve's own steps ---------------------------------------------------------------------------------------

    def after_step(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> None:
        """The multipliers of the edits, and one Adam step of the curve at a rate that falls with a cosine."""
        if self.tolerances is not None:
            self.tolerances.after_step(self.effects(scores.quality, batch), progress)
        if self.basis is None or self.settings.match_curve != "joint":
            return
        quality_R = scores.quality.double().cpu()
        gap_B = quality_R[batch.chosen_B] - quality_R[batch.rejected_B] - batch.margin_B
        share_B = self._step_weights(batch, progress) / len(gap_B)
        ridge = self.settings.match_curve_ridge
        gradient_D, _ = curve_gradient(self.curve_D, gap_B, self._differences(batch), share_B, ridge)
        self._updates = self._updates + 1
        rate = self.settings.match_curve_rate * progress.fall()
        self.curve_D, self._first_D, self._second_D = adam_step(
            self.curve_D, gradient_D, self._first_D, self._second_D, int(self._updates), rate
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The curve and its optimiser, and the multipliers of the edits."""
        held = {} if self.tolerances is None else self.tolerances.state_dict("edits")
        if self.settings.match_curve == "none":
            return held
        return held | {
            "curve": self.curve_D,
            "curve_first_moment": self._first_D,
            "curve_second_moment": self._second_D,
            "curve_updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the curve and its optimiser, and the multipliers."""
        if self.tolerances is not None:
            self.tolerances.load_state_dict(state, "edits")
        if self.settings.match_curve == "none":
            return
        self.curve_D, self._first_D = state["curve"], state["curve_first_moment"]
        self._second_D, self._updates = state["curve_second_moment"], state["curve_updates"]
