"""Options that do nothing beside others are refused; each is shown to change no value, and beside its partner to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.types import RewardScores
from odin_rm.objectives.objective import Objective, PairColumns, Progress
from odin_rm.objectives.registry import OBJECTIVES, make_objective
from odin_rm.reward.config import RewardConfig

STEP = Progress(3, 10)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BATCH = PairColumns(
    {
        "response_tokens": double(20, 25, 40, 44, 90, 70, 60, 70),
        "words": double(15, 20, 30, 34, 70, 55, 45, 50),
    },
    torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
    torch.tensor([0, 2, 5, 7]),
    torch.tensor([1, 3, 4, 6]),
    torch.zeros(4, dtype=torch.float64),
    {"filler": torch.tensor([[0, 1], [2, 3]])},
)
SCORES = RewardScores(
    heads={"quality": double(0.3, -1, 0.7, 0.1, 1.5, -0.2, 0.4, 0.9), "length": double(1, 0, 2, -1, 3, 0.5, -0.4, 1)}
)


def total(name: str, **options: Any) -> float:
    """The loss of the second step, with the state that the first one left, without the check."""
    spec = OBJECTIVES[name]
    settings = spec.settings(**options)
    from importlib import import_module

    module, kind = spec.place.split(":")
    made: Objective = getattr(import_module(module), kind)(settings)
    scores = SCORES if name == "odin" else RewardScores(quality=SCORES.quality)
    made.begin(BATCH)
    first = made.draws()
    made.after_step(RewardScores(heads={k: -v for k, v in scores.heads.items()}), BATCH, Progress(2, 10))
    value = float(made.value(scores, BATCH, STEP).total)
    return value + (0 if first is None else float(first.sum()))


@pytest.mark.parametrize(
    ("name", "idle", "option", "partner"),
    [
        ("bradley_terry", {}, {"length_measure": "squared"}, {"length_weight": 1.0}),
        ("bradley_terry", {}, {"length_memory": 2}, {"length_weight": 1.0}),
        ("bradley_terry", {}, {"length_scope": "both"}, {"length_weight": 1.0}),
        ("bradley_terry", {}, {"length_warmup": 0.5}, {"length_weight": 1.0}),
        ("odin", {"length_weight": 0.0}, {"length_measure": "unbiased"}, {}),
        ("odin", {"length_weight": 0.0}, {"length_memory": 2}, {"length_weight": 0.0, "orthogonality_of": "outputs"}),
        ("odin", {"orthogonality_weight": 0.0}, {"orthogonality_of": "outputs"}, {}),
        ("odin", {"length_weight": 0.0, "orthogonality_weight": 0.0}, {"length_warmup": 0.5}, {}),
        ("matched", {"match_curve": "none"}, {"match_curve_shape": "spline"}, {}),
        ("matched", {"match_curve": "none"}, {"match_curve_rate": 0.5}, {}),
        ("matched", {"match_curve": "none"}, {"match_curve_ridge": 0.5}, {}),
        ("matched", {"match_curve": "fixed"}, {"match_curve_rate": 0.5}, {}),
        ("matched", {"match_attributes": "words"}, {"match_curve_shape": "spline"}, {}),
        ("matched", {"match_attributes": "response_tokens=1,words=2"}, {"match_tau": 1.0}, {}),
        ("matched", {}, {"edit_scale": 3.0}, {"edits": "filler"}),
        ("matched", {}, {"edit_tolerance": 0.5}, {"edits": "filler"}),
        ("matched", {}, {"edit_penalty": 3.0}, {"edits": "filler"}),
        ("fimi", {"penalty_weight": 0.0}, {"penalty_start": 0.9}, {}),
    ],
)
def test_an_option_that_does_nothing_is_refused(
    name: str, idle: dict[str, Any], option: dict[str, Any], partner: dict[str, Any]
) -> None:
    (key,) = option
    assert total(name, **idle, **option) == pytest.approx(total(name, **idle), rel=1e-12)
    assert total(name, **partner, **option) != pytest.approx(total(name, **partner), rel=1e-9)
    where = f"--{key}"
    with pytest.raises(ConfigError, match=where) as caught:
        RewardConfig(output_dir="unused", objective=name, use_cpu=True, **idle, **option)
    assert caught.value.where == where
    assert caught.value.fix
    with pytest.raises(ConfigError, match=where):
        make_objective(name, OBJECTIVES[name].settings(**idle, **option))
    RewardConfig(output_dir="unused", objective=name, use_cpu=True, **partner, **option)


def test_a_scope_within_prompts_is_that_of_the_log_also_without_the_term() -> None:
    made = [
        make_objective("bradley_terry", OBJECTIVES["bradley_terry"].settings(length_scope=s))
        for s in ("batch", "prompt")
    ]
    scores = RewardScores(quality=SCORES.quality)
    both = [one.value(scores, BATCH, STEP).metrics["quality_length_correlation"] for one in made]
    assert float(both[0]) != float(both[1])


def test_draws_of_every_pair_are_refused_and_no_defaults_are() -> None:
    with pytest.raises(ConfigError, match="every pair counts"):
        RewardConfig(output_dir="unused", objective="matched", use_cpu=True, match_tau=math.inf, match_by="draws")
    for name, spec in OBJECTIVES.items():
        settings = spec.settings()
        assert type(make_objective(name, settings).settings) is type(settings)
        assert {item.name for item in dataclasses.fields(settings)} >= set(getattr(settings, "idle", dict)())
