"""The table of objectives: what each is called, its options, its heads, and what it logs.

The table names classes and imports none of them, so that ``odin-rm reward --help`` can read it at once. A new objective
is a file with its class (:mod:`odin_rm.objectives.objective`) and an entry here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import option
from odin_rm.core.types import LENGTH, QUALITY, RESPONSE_TOKENS
from odin_rm.objectives.rivals import settings as rivals

if TYPE_CHECKING:
    from odin_rm.objectives.objective import Objective

LENGTH_SCOPES = ("batch", "prompt", "both")
LENGTH_MEASURES = ("absolute", "squared", "unbiased")
Idle = dict[str, tuple[str, str]]
"""Options that do nothing beside the others, by name: what makes them so, and how to mend it."""
_NO_LENGTH_TERM = "has no effect with --length_weight 0", "Give --length_weight above 0, or leave it out."


@dataclass(frozen=True)
class Metric:
    """A quantity that an objective logs, as reports show it.

    Attributes:
        name: its key in the log.
        title, label: heading of its figure, and axis with its unit.
        caption: what to see in it.
        held_out: its key as measured on held-out data, drawn dashed.
        percent: it is a share.
        mark: where a line goes across the figure (0, or 0.5 for chance); ``None`` for none.
        file: name of the figure's files; default ``reward_`` and its name.
    """

    name: str
    title: str
    label: str
    caption: str = ""
    held_out: str = ""
    percent: bool = False
    mark: float | None = None
    file: str = ""


@dataclass(frozen=True)
class ObjectiveSpec:
    """What is known of an objective before anything is computed.

    Attributes:
        place: ``module:class`` of the :class:`odin_rm.objectives.objective.Objective`.
        summary: a few words for help.
        card: what a model card says of a model that was trained with it.
        export_card: the same for a card of the exported quality head.
        settings: a frozen dataclass of its options, made with :func:`odin_rm.core.options.option`.
        heads: names of the heads that it trains.
        normalise_heads: whether heads are normalised unless the user says otherwise.
        metrics: what it logs and reports show. It may log more.
    """

    place: str
    summary: str
    card: str
    export_card: str
    settings: type[Any]
    heads: tuple[str, ...] = (QUALITY,)
    normalise_heads: bool = False
    metrics: tuple[Metric, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(item.name for item in fields(self.settings))


@dataclass(frozen=True)
class LengthTerm:
    """Options of a penalty on the correlation of the quality head with length."""

    length_weight: float = option(1.0, "lambda_L of the length-correlation loss.", at_least=0)
    length_warmup: float = option(
        0.0, "Share of the steps over which both weights rise linearly from 0.", at_least=0, below=1
    )
    length_scope: str = option(
        "batch",
        "Correlation over the whole batch (the paper), of responses centred within each prompt, or the mean of both.",
        choices=LENGTH_SCOPES,
    )
    length_measure: str = option(
        "absolute",
        "What of the quality head's correlation is penalised: its absolute value (the paper), its square, or the "
        "square without the bias that a small batch gives it.",
        choices=LENGTH_MEASURES,
    )
    length_memory: int = option(
        0,
        "How many past batches' scores join the correlations, without gradient, as if the batch were larger.",
        at_least=0,
    )
    length_tolerance: float | None = option(
        None,
        "Hold the quality head's correlation within plus or minus this number by a multiplier, instead of a penalty "
        "with a fixed weight; behind the multiplier is a penalty of 10 times --length_weight.",
        above=0,
        at_most=1,
    )
    prompt_offset_weight: float = option(
        0.0,
        "Weight of the share of the rewards' variance that lies between prompts, which ranking leaves open.",
        at_least=0,
    )

    def idle(self) -> Idle:
        """Without the term its options do nothing; but the scope within prompts is also that of the log."""
        names = ["length_warmup", "length_measure", "length_memory"]
        names += ["length_scope"] if self.length_scope == "both" else []
        return {} if self.length_weight else dict.fromkeys(names, _NO_LENGTH_TERM)


@dataclass(frozen=True)
class OdinSettings(LengthTerm):
    """Options of ``--objective odin``."""

    orthogonality_weight: float = option(
        1.0, "lambda_O of the orthogonality loss.", at_least=0, elsewhere=0.0, needs="a length head"
    )
    orthogonality_of: str = option(
        "heads",
        "What is to be orthogonal: the heads' weights (the paper), or what they give over the batch (outputs: the "
        "absolute correlation of both rewards).",
        choices=("heads", "outputs"),
    )

    def idle(self) -> Idle:
        """As of the length term; the warm-up and the memory also serve the orthogonality."""
        found = super().idle()
        if not self.orthogonality_weight:
            fix = "Give --orthogonality_weight above 0, or leave it out."
            return found | {"orthogonality_of": ("has no effect with --orthogonality_weight 0", fix)}
        served = {"length_warmup", *(("length_memory",) if self.orthogonality_of == "outputs" else ())}
        return {name: why for name, why in found.items() if name not in served}


@dataclass(frozen=True)
class BradleyTerrySettings(LengthTerm):
    """Options of ``--objective bradley_terry``."""

    length_weight: float = option(0.0, "lambda_L of the length-correlation loss.", at_least=0)


@dataclass(frozen=True)
class MatchedSettings:
    """Options of ``--objective matched``."""

    match_attributes: str = option(
        "response_tokens",
        "Attributes that count as a likeness of two answers, with commas between them; name=0.5 gives one a tau of "
        "its own. The curve reads the same ones.",
    )
    match_tau: float = option(
        0.3,
        "How unlike two answers may be, as the difference of the logarithms of an attribute; inf: every pair counts.",
        above=0,
        infinite=True,
    )
    match_by: str = option(
        "weights",
        "Pairs count by their likeness (weights), or enter an epoch with that probability (draws: no time is spent on "
        "unlike pairs).",
        choices=("weights", "draws"),
    )
    match_curve: str = option(
        "joint",
        "Explicit curve of the attributes beside the head in training: joint (learns with it), fixed (keeps its fit on "
        "the attributes alone), none.",
        choices=("joint", "fixed", "none"),
    )
    match_curve_shape: str = option(
        "powers",
        "The curve's columns of the length: powers (L, sqrt L, log L) or a natural spline of log L with five knots.",
        choices=("powers", "spline"),
    )
    match_curve_rate: float = option(0.03, "Learning rate of a joint curve; it falls with a cosine.", at_least=0)
    match_curve_ridge: float = option(1e-3, "Weight of the curve's squared coefficients.", above=0)
    edits: str | None = option(
        None,
        "Edits of responses that should change no reward, with commas between their names (odin-rm probe has the "
        "list). Edited copies are scored beside the responses, and a multiplier for each edit holds their mean effect.",
    )
    edit_tolerance: float = option(
        0.05, "How much an edit may do on average, |mean tanh(change / --edit_scale)|.", above=0, at_most=1
    )
    edit_scale: float = option(1.0, "Change of the reward that counts as large, reward units.", above=0)
    edit_penalty: float = option(10.0, "Penalty behind the multipliers of the edits.", above=0)

    def idle(self) -> Idle:
        """What the curve, the widths and the edits need."""
        found: Idle = {}
        widths = {part.strip().partition("=")[0]: part.partition("=")[2] for part in self.match_attributes.split(",")}
        if all(widths.values()):
            what = "has no effect where every attribute of --match_attributes has a width of its own"
            found["match_tau"] = what, "Leave it out."
        if {own.strip() or str(self.match_tau) for own in widths.values()} == {"inf"}:
            found["match_by"] = "has no effect where every pair counts", "Give --match_tau a number, or leave it out."
        if RESPONSE_TOKENS not in widths:
            found["match_curve_shape"] = "is of the length, which --match_attributes leaves out", "Leave it out."
        if self.match_curve != "joint":
            idle = f"has no effect with --match_curve {self.match_curve}", "Leave one of the two out."
            names = ("match_curve_rate", "match_curve_shape", "match_curve_ridge")
            found |= dict.fromkeys(names if self.match_curve == "none" else names[:1], idle)
        if self.edits is None:
            names = ("edit_tolerance", "edit_scale", "edit_penalty")
            found |= dict.fromkeys(names, ("has no effect without --edits", "Add --edits, or leave it out."))
        return found


RANKING_LOSS = Metric(
    "ranking_loss",
    "Ranking loss",
    "loss of the preference, nats",
    "The part of the objective that learns from the preferences.",
)
ACCURACY = Metric(
    "accuracy",
    "Accuracy",
    "share of pairs in order",
    "How many pairs the quality head orders as the annotators do.",
    held_out="eval_accuracy",
    percent=True,
    mark=0.5,
)
QUALITY_LENGTH = Metric(
    "quality_length_correlation",
    "Quality head and length",
    "Pearson with length",
    "Correlation of the quality head with length: the nearer to 0, the less it pays for length.",
    held_out="eval_pearson",
    mark=0.0,
    file="reward_quality_correlation",
)
WATCHED = (RANKING_LOSS, ACCURACY, QUALITY_LENGTH)
"""What every objective logs that starts from :func:`odin_rm.objectives.objective.ranked`."""
LENGTH_LENGTH = Metric(
    "length_length_correlation",
    "Length head and length",
    "Pearson with length",
    "Correlation of the length head with length. It is to be high: what this head takes up, the quality head need not.",
    held_out="eval_length_head_pearson",
    file="reward_length_correlation",
)
ORTHOGONALITY = Metric(
    "orthogonality_loss",
    "Overlap of the heads",
    "absolute cosine",
    "How far the two heads are from orthogonal; 0 is a right angle.",
    file="reward_orthogonality",
)

CURVE_DOUBLING = Metric(
    "curve_doubling",
    "The curve of length",
    "reward for twice the length",
    "What the curve that is thrown away gives for twice the median length: what it takes up, the head need not.",
    file="reward_curve_doubling",
)


def _term(name: str, title: str, label: str) -> Metric:
    """A term of an objective, measured in training and on held-out data."""
    return Metric(name, title, label, held_out=f"eval_{name}")


OBJECTIVES: dict[str, ObjectiveSpec] = {
    "odin": ObjectiveSpec(
        place="odin_rm.objectives.odin:Odin",
        summary="two heads, disentangled",
        card=(
            "Two heads on one feature: `quality`, the reward, and `length`, which absorbed what pays for length in "
            "training and is\nnever part of the reward."
        ),
        export_card="The length head that absorbed what pays for length in training is not part of it.",
        settings=OdinSettings,
        heads=(QUALITY, LENGTH),
        normalise_heads=True,
        metrics=(*WATCHED, LENGTH_LENGTH, ORTHOGONALITY),
    ),
    "bradley_terry": ObjectiveSpec(
        place="odin_rm.objectives.bradley_terry:BradleyTerry",
        summary="the vanilla arm",
        card="One head, `quality`: the plain Bradley-Terry baseline.",
        export_card="It is the plain Bradley-Terry baseline; nothing was done about length in its training.",
        settings=BradleyTerrySettings,
        metrics=WATCHED,
    ),
    "matched": ObjectiveSpec(
        place="odin_rm.objectives.matched:Matched",
        summary="pairs of like length, beside a curve of length",
        card=(
            "One head, `quality`, trained on pairs of like length; a curve of the length that took up the rest was "
            "thrown away\nafter training."
        ),
        export_card="It was trained on pairs of like length, beside a curve of the length that is not part of it.",
        settings=MatchedSettings,
        metrics=(*WATCHED, CURVE_DOUBLING),
    ),
    "poe": ObjectiveSpec(
        place="odin_rm.objectives.rivals.poe:Poe",
        summary="product of experts",
        card="One head, `quality`, trained beside a small expert on noised features that took the coarse cues.",
        export_card="A small expert on noised features took the coarse cues in training; it is not part of it.",
        settings=rivals.PoeSettings,
        metrics=(*WATCHED, _term("expert_length_correlation", "Expert and length", "Pearson with length")),
    ),
    "crm": ObjectiveSpec(
        place="odin_rm.objectives.rivals.crm:Crm",
        summary="like distributions at every length",
        card="One head, `quality`, whose distributions at different lengths were held alike.",
        export_card="Its distributions at different lengths were held alike in training.",
        settings=rivals.CrmSettings,
        metrics=(*WATCHED, _term("discrepancy_loss", "Discrepancy between lengths", "sum of squared MMD")),
    ),
    "fimi": ObjectiveSpec(
        place="odin_rm.objectives.rivals.fimi:Fimi",
        summary="a fitted curve of length",
        card="One head, `quality`, held uncorrelated with a fitted curve of length.",
        export_card="It was held uncorrelated with a fitted curve of length in training.",
        settings=rivals.FimiSettings,
        metrics=(*WATCHED, _term("curve_correlation", "Reward and fitted curve", "absolute Pearson")),
    ),
    "bsr": ObjectiveSpec(
        place="odin_rm.objectives.rivals.bsr:Bsr",
        summary="rewards that sum to zero",
        card="One head, `quality`, whose rewards were held near a sum of zero.",
        export_card="Its rewards were held near a sum of zero in training.",
        settings=rivals.BsrSettings,
        metrics=(*WATCHED, _term("zero_sum_loss", "Distance from a sum of zero", "squared reward units")),
    ),
    "dir": ObjectiveSpec(
        place="odin_rm.objectives.rivals.dir:Dir",
        summary="no information on which is longer",
        card="One head, `quality`, on features whose differences were not to tell which response is longer.",
        export_card="Training took information on which response is longer out of what it reads.",
        settings=rivals.DirSettings,
        metrics=(*WATCHED, _term("information", "Bound on the information on length", "nats")),
    ),
    "normbt": ObjectiveSpec(
        place="odin_rm.objectives.rivals.normbt:NormBt",
        summary="weights by the distance of features",
        card="One head, `quality`; pairs weighed less the farther their features are apart.",
        export_card="In its training pairs weighed less the farther their features are apart.",
        settings=rivals.NormBtSettings,
        metrics=WATCHED,
    ),
    "inform": ObjectiveSpec(
        place="odin_rm.objectives.rivals.inform:Inform",
        summary="a noisy bottleneck",
        card="Two heads on one feature: `quality`, the mean of a noisy reward, and `spread`, the log of its deviation.",
        export_card="It is the mean of a reward that passed a noisy bottleneck in training.",
        settings=rivals.InformSettings,
        heads=(QUALITY, "spread"),
        metrics=(*WATCHED, _term("bottleneck_loss", "What the bottleneck lets through", "nats")),
    ),
    "length_balanced": ObjectiveSpec(
        place="odin_rm.objectives.rivals.length_balanced:LengthBalanced",
        summary="longer and shorter weigh alike",
        card="One head, `quality`; pairs weighed so that the longer response was right half of the time.",
        export_card="In its training pairs weighed so that the longer response was right half of the time.",
        settings=rivals.LengthBalancedSettings,
        metrics=WATCHED,
    ),
}


def check_idle(settings: Any) -> None:
    """Refuse options of an objective that were given and do nothing beside the others.

    Args:
        settings: its settings record; it may have a method ``idle``, which names them.

    Raises:
        ConfigError: with the option, and what makes it idle.
    """
    idle: Idle = settings.idle() if hasattr(settings, "idle") else {}
    for item in fields(settings):
        if item.name in idle and getattr(settings, item.name) != item.default:
            what, fix = idle[item.name]
            raise ConfigError(what, where=f"--{item.name}", fix=fix)


def make_objective(name: str, settings: Any) -> Objective:
    """The objective of that name.

    Args:
        name: a key of :data:`OBJECTIVES`.
        settings: its settings record.

    Raises:
        ConfigError: options that do not go together.
    """
    check_idle(settings)
    module, kind = OBJECTIVES[name].place.split(":")
    return getattr(importlib.import_module(module), kind)(settings)


def card_of(name: str, heads: tuple[str, ...], *, exported: bool = False) -> str:
    """What a model card says of the objective; of one that is not in the table, what the heads tell."""
    known = OBJECTIVES.get(name)
    if known is None or set(known.heads) != set(heads):
        words = f"heads are {', '.join(f'`{head}`' for head in heads)}" if len(heads) > 1 else "one head is `quality`"
        return f"It was trained with the objective `{name}`; its {words}."
    return known.export_card if exported else known.card


def all_metrics(specs: Mapping[str, ObjectiveSpec] | None = None) -> dict[str, Metric]:
    """Every metric that an objective of the table describes, by name, in the order of the table."""
    table = OBJECTIVES if specs is None else specs
    found: dict[str, Metric] = {}
    for spec in table.values():
        for metric in spec.metrics:
            found.setdefault(metric.name, metric)
    return found
