"""Options of the length loss: hand values, numpy twins, gradients, states, and the same gradient from every split."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.types import RewardScores
from odin_rm.objectives.association import (
    intraclass,
    pearson,
    pearson_within,
    unbiased_square,
    unbiased_square_within,
)
from odin_rm.objectives.length_term import LengthPenalised
from odin_rm.objectives.objective import COMPLETE, Objective, PairColumns, Progress, ranked
from odin_rm.objectives.registry import make_objective
from odin_rm.objectives.tolerance import Tolerances
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer
from tests.reward.test_exact_batch import GRADIENT_TOLERANCE

STEP = Progress(1, 10)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def columns(tokens: list[float], pairs: list[tuple[int, int]], prompts: list[int]) -> PairColumns:
    chosen, rejected = zip(*pairs, strict=True)
    return PairColumns(
        {"response_tokens": double(*tokens)},
        torch.tensor(prompts),
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.zeros(len(pairs), dtype=torch.float64),
        {},
    )


def objective(name: str = "odin", **options: Any) -> Objective:
    config = RewardConfig(output_dir="unused", objective=name, use_cpu=True, **options)
    return make_objective(name, config.objective_settings)


# Two prompts of two responses, each a pair.
FOUR = columns([1, 2, 3, 6], [(1, 0), (3, 2)], [0, 0, 1, 1])
SCORES = RewardScores(heads={"quality": double(0, 2, 1, 1), "length": double(1, 2, 3, 4)})
RHO = 1 / math.sqrt(2 * 14)  # of (0, 2, 1, 1) and (1, 2, 3, 6): 1 / sqrt(2 * 14)
RHO_WITHIN = 1 / math.sqrt(2 * 5)  # of (-1, 1, 0, 0) and (-0.5, 0.5, -1.5, 1.5)
LENGTH_RHO = 8 / math.sqrt(5 * 14)
LENGTH_WITHIN = 2 / math.sqrt(1 * 5)


# ---- hand values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, RHO - LENGTH_RHO),
        ({"length_scope": "prompt"}, RHO_WITHIN - LENGTH_WITHIN),
        ({"length_scope": "both"}, (RHO + RHO_WITHIN - LENGTH_RHO - LENGTH_WITHIN) / 2),
        ({"length_measure": "squared"}, RHO**2 - LENGTH_RHO),
        ({"length_measure": "squared", "length_scope": "prompt"}, RHO_WITHIN**2 - LENGTH_WITHIN),
        # Products of different prompts: c = (1, 0), so there is none.
        ({"length_measure": "unbiased", "length_scope": "prompt"}, 0 - LENGTH_WITHIN),
    ],
)
def test_the_length_loss_by_hand(options: dict[str, Any], expected: float) -> None:
    value = objective(length_weight=0.5, **options).value(SCORES, FOUR, STEP)
    assert float(value.metrics["length_loss"]) == pytest.approx(expected, abs=1e-14)
    ranking = float(ranked(SCORES, FOUR).total)
    assert float(value.total) == pytest.approx(ranking + 0.5 * expected, abs=1e-14)


def test_the_unbiased_square_by_hand() -> None:
    # Four values: one quadruple, all its orders. The mean of x_i y_i x_j y_j - 2 x_i y_i x_j y_k + x_i y_j x_k y_l.
    x, y = [0.0, 2.0, 1.0, 1.0], [1.0, 2.0, 3.0, 6.0]
    terms = [
        x[i] * y[i] * x[j] * y[j] - 2 * x[i] * y[i] * x[j] * y[k] + x[i] * y[j] * x[k] * y[m]
        for i, j, k, m in itertools.permutations(range(4))
    ]
    scale = (2 / 3) * (14 / 3)  # variances with n - 1
    found = unbiased_square(double(*x), double(*y))
    assert float(found.value) == pytest.approx(np.mean(terms) / scale, abs=1e-14)
    assert bool(unbiased_square(double(1, 2, 3), double(1, 2, 3)).degenerate)
    assert float(unbiased_square(double(1, 1, 1, 1), double(1, 2, 3, 4)).value) == 0.0


def test_the_unbiased_squares_are_zero_on_average_where_nothing_is_there() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(600, 2, 8, generator=generator, dtype=torch.float64)
    plain = [float(pearson(x, y).value ** 2) for x, y in draws]
    unbiased = [float(unbiased_square(x, y).value) for x, y in draws]
    assert np.mean(plain) == pytest.approx(1 / 7, abs=0.03)
    assert np.mean(unbiased) == pytest.approx(0.0, abs=0.03)
    group = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    within = [float(unbiased_square_within(x, y, group).value) for x, y in draws]
    assert np.mean([float(pearson_within(x, y, group).value ** 2) for x, y in draws]) > 0.2
    assert np.mean(within) == pytest.approx(0.0, abs=0.05)


def test_the_unbiased_squares_become_the_square() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, generator=generator, dtype=torch.float64)
    y = x + torch.randn(4000, generator=generator, dtype=torch.float64)
    assert float(unbiased_square(x, y).value) == pytest.approx(float(pearson(x, y).value ** 2), abs=2e-3)
    group = torch.arange(4000) // 2
    squared = float(pearson_within(x, y, group).value ** 2)
    assert float(unbiased_square_within(x, y, group).value) == pytest.approx(squared, abs=2e-3)


def test_intraclass_by_hand() -> None:
    # Centred -2, 0, 1, 1; pairs (-2)(0) and (1)(1), each twice over four; variance 6 / 4.
    found = intraclass(double(0, 2, 3, 3), torch.tensor([0, 0, 1, 1]))
    assert float(found.value) == pytest.approx((2 * 0 + 2 * 1) / 4 / 1.5, abs=1e-15)
    # Weights are multiplicities between groups, and a value that counts twice is no pair of its own.
    twice = intraclass(double(0, 2, 3, 3), torch.tensor([0, 0, 1, 1]), double(2, 1, 1, 1))
    mean = 8 / 5
    centred = [-mean, 2 - mean, 3 - mean, 3 - mean]
    pairs = 2 * 2 * centred[0] * centred[1] + 2 * centred[2] * centred[3]
    variance = (2 * centred[0] ** 2 + sum(one**2 for one in centred[1:])) / 5
    assert float(twice.value) == pytest.approx(pairs / 6 / variance, abs=1e-14)
    assert bool(intraclass(double(1, 2), torch.tensor([0, 1])).degenerate)


def test_prompts_levels_have_a_term_of_their_own_and_answers_apart_have_none() -> None:
    scores = RewardScores(heads={"quality": double(0, 2, 3, 3), "length": double(1, 2, 3, 4)})
    plain = objective().value(scores, FOUR, STEP)
    value = objective(prompt_offset_weight=0.5).value(scores, FOUR, STEP)
    assert float(value.total - plain.total) == pytest.approx(0.5 / 3, abs=1e-14)
    assert float(value.metrics["prompt_offset_share"]) == pytest.approx(1 / 3, abs=1e-14)
    apart = objective(prompt_offset_weight=0.5).value(SCORES, FOUR, STEP)  # within prompts they differ more
    assert float(apart.total) == float(objective().value(SCORES, FOUR, STEP).total)


def test_orthogonality_of_outputs_by_hand() -> None:
    # (0, 2, 1, 1) and (1, 2, 3, 4): 1 / sqrt(2 * 5).
    of_outputs = objective(orthogonality_of="outputs", orthogonality_weight=0.7)
    value = of_outputs.value(SCORES, FOUR, STEP)
    plain = objective().value(SCORES, FOUR, STEP)
    assert float(value.total - plain.total) == pytest.approx(0.7 / math.sqrt(10), abs=1e-14)
    assert float(value.metrics["orthogonality_loss"]) == pytest.approx(1 / math.sqrt(10), abs=1e-14)

    class Heads:
        def cosine(self, first: str, second: str) -> Tensor:
            return torch.tensor(-0.25)

    assert of_outputs.head_term(Heads(), STEP) is None
    assert of_outputs.head_metrics(Heads()) == {"head_cosine": -0.25}
    weights = objective(orthogonality_weight=0.8)
    term = weights.head_term(Heads(), STEP)
    assert term is not None
    assert float(term) == pytest.approx(0.2)
    assert weights.head_metrics(Heads()) == {"orthogonality_loss": 0.25, "head_cosine": -0.25}


# ---- a tolerance -----------------------------------------------------------------------------------------------------


def test_the_augmented_lagrangian_by_hand() -> None:
    held = Tolerances(["c"], 0.1, 2.0)
    # Multipliers 0: max(0, 2 (0.3 - 0.1))^2 / 4 = 0.04, and nothing of the other side.
    assert float(held.term({"c": double(0.3)[0]})) == pytest.approx(0.04, abs=1e-15)
    assert float(held.term({"c": double(-0.3)[0]})) == pytest.approx(0.04, abs=1e-15)
    assert float(held.term({"c": double(0.05)[0]})) == 0.0
    held.after_step({"c": double(0.3)[0]}, STEP)  # a tenth of 2 (0.3 - 0.1)
    assert held.multipliers() == {"c": pytest.approx(0.04)}
    # Now (0.04 + 2 (0.2 - 0.1))^2 less 0.04^2, over 4.
    assert float(held.term({"c": double(0.2)[0]})) == pytest.approx((0.24**2 - 0.04**2) / 4, abs=1e-15)
    held.after_step({"c": double(-0.25)[0]}, STEP)  # upper 0.04 - 0.07 -> 0, lower 0 + 0.03
    assert held.multipliers() == {"c": pytest.approx(-0.03)}
    average = (0.95 * 0.05 * 0.3 - 0.05 * 0.25) / (0.95 * 0.05 + 0.05)
    assert held.averages() == {"c": pytest.approx(average)}
    assert held.met() == 1.0
    assert held.met({"c": double(0.2)[0]}) == 0.0
    assert float(held.term({})) == 0.0
    held.after_step({"c": double(0.6)[0]}, Progress(6, 10))  # half of the run is over: half of 0.2 (0.6 - 0.1)
    assert held.multipliers() == {"c": pytest.approx(0.05)}


def test_the_gradient_at_the_bound_is_the_multiplier() -> None:
    held = Tolerances(["c"], 0.1, 2.0)
    held.after_step({"c": double(0.35)[0]}, STEP)
    at = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(held.term({"c": at}), at)
    assert float(slope) == pytest.approx(0.05, abs=1e-15)


def test_a_tolerance_is_reached_and_told(caplog: pytest.LogCaptureFixture) -> None:
    # Minimise (c - 1)^2 / 2 under |c| <= 0.2: the multiplier must become 0.8.
    held, c = Tolerances(["c"], 0.2, 1.0), torch.tensor(0.0, dtype=torch.float64)
    for step in range(1, 401):
        c = c.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad((c - 1) ** 2 / 2 + held.term({"c": c}), c)
        c = (c - 0.5 * slope).detach()
        with caplog.at_level(logging.INFO, "odin_rm"):
            held.after_step({"c": c}, Progress(step, 400))
    assert float(c) == pytest.approx(0.2, abs=1e-3)
    assert held.multipliers()["c"] == pytest.approx(0.8, abs=1e-3)
    assert caplog.messages == ["c: 0.200 over the last steps, within its tolerance of 0.2"]


def test_noise_without_a_mean_moves_no_multiplier_far() -> None:
    held, generator = Tolerances(["c"], 0.05, 10.0), torch.Generator().manual_seed(0)
    for _ in range(500):
        held.after_step({"c": 0.1 * torch.randn((), generator=generator, dtype=torch.float64)}, STEP)
    assert abs(held.multipliers()["c"]) < 0.5  # of absolute values, 0.08 - 0.05 a step, it would be 15


def test_the_tolerance_of_an_objective_by_hand() -> None:
    found = objective(length_tolerance=0.1, length_weight=0.2)
    assert isinstance(found, LengthPenalised)
    value = found.value(SCORES, FOUR, STEP)
    penalty = (2 * (RHO - 0.1)) ** 2 / 4
    expected = float(ranked(SCORES, FOUR).total) + penalty - 0.2 * LENGTH_RHO
    assert float(value.total) == pytest.approx(expected, abs=1e-14)
    assert math.isnan(float(value.metrics["tolerance_met"]))  # no step was taken
    found.after_step(SCORES, FOUR, STEP)
    value = found.value(SCORES, FOUR, STEP)
    assert float(value.metrics["tolerance_met"]) == 0.0
    multiplier = 0.2 * (RHO - 0.1)
    assert float(value.metrics["quality_length_multiplier_batch"]) == pytest.approx(multiplier, abs=1e-14)
    pushed = multiplier + 2 * (RHO - 0.1)
    expected = float(ranked(SCORES, FOUR).total) + (pushed**2 - multiplier**2) / 4 - 0.2 * LENGTH_RHO
    assert float(value.total) == pytest.approx(expected, abs=1e-14)


def test_options_that_do_nothing_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="length_measure"):
        objective(length_tolerance=0.1, length_measure="squared")
    with pytest.raises(ConfigError, match="length_weight"):
        objective("bradley_terry", length_tolerance=0.1)


# ---- memory ----------------------------------------------------------------------------------------------------------

PAST = columns([4, 1], [(0, 1)], [0, 0])
PAST_SCORES = RewardScores(heads={"quality": double(5, -1), "length": double(0, 3)})


def test_memory_by_hand() -> None:
    found = objective(length_memory=1, orthogonality_of="outputs", orthogonality_weight=0.5)
    found.after_step(PAST_SCORES, PAST, STEP)
    quality = SCORES.quality.clone().requires_grad_(True)
    value = found.value(RewardScores(heads={**SCORES.heads, "quality": quality}), FOUR, STEP)
    all_quality, all_length = [0, 2, 1, 1, 5, -1], [1, 2, 3, 4, 0, 3]
    all_tokens = [1, 2, 3, 6, 4, 1]
    rho = np.corrcoef(all_quality, all_tokens)[0, 1]
    expected = abs(rho) - np.corrcoef(all_length, all_tokens)[0, 1]
    overlap = abs(np.corrcoef(all_quality, all_length)[0, 1])
    assert float(value.metrics["length_loss"]) == pytest.approx(expected, abs=1e-14)
    total = float(ranked(SCORES, FOUR).total) + expected + 0.5 * overlap
    assert float(value.total.detach()) == pytest.approx(total, abs=1e-14)
    # The gradient of the four stands for that of all six.
    (found_R,) = torch.autograd.grad(value.total, quality)
    six = double(*all_quality).requires_grad_(True)
    statistics = pearson(six, double(*all_tokens)).value.abs() + 0.5 * pearson(six, double(*all_length)).value.abs()
    (statistic_R,) = torch.autograd.grad(statistics, six)
    own = SCORES.quality.clone().requires_grad_(True)
    (ranking_R,) = torch.autograd.grad(ranked(RewardScores(heads={**SCORES.heads, "quality": own}), FOUR).total, own)
    torch.testing.assert_close(found_R, ranking_R + 1.5 * statistic_R[:4], rtol=0, atol=1e-14)


def test_memory_within_prompts_mixes_no_prompts_and_forgets() -> None:
    found = objective("bradley_terry", length_memory=2, length_weight=1.0, length_scope="prompt")
    quality = {"quality": double(0, 2, 1, 1)}
    for _ in range(2):
        found.after_step(RewardScores(heads={"quality": PAST_SCORES.quality}), PAST, STEP)
    x, y = [0, 2, 1, 1, 5, -1, 5, -1], [1, 2, 3, 6, 4, 1, 4, 1]
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    expected = float(pearson_within(double(*x), double(*y), groups).value.abs())
    value = found.value(RewardScores(heads=quality), FOUR, STEP)
    assert float(value.metrics["length_loss"]) == pytest.approx(expected, abs=1e-14)
    alone = found.value(RewardScores(heads=quality), FOUR, COMPLETE)  # held-out scores stand alone
    assert float(alone.metrics["length_loss"]) == pytest.approx(RHO_WITHIN, abs=1e-14)
    for _ in range(2):
        found.after_step(RewardScores(heads=quality), FOUR, STEP)
    value = found.value(RewardScores(heads=quality), FOUR, STEP)  # the first two are gone
    assert float(value.metrics["length_loss"]) == pytest.approx(RHO_WITHIN, abs=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {"length_memory": 2},
        {"length_tolerance": 0.05},
        {"length_memory": 1, "length_tolerance": 0.1, "length_scope": "both"},
    ],
)
def test_the_state_goes_on_where_it_was(options: dict[str, Any]) -> None:
    first = objective(**options)
    assert set(first.state_dict()) == set(objective(**options).state_dict())  # also before the first step
    for scores, batch in ((PAST_SCORES, PAST), (SCORES, FOUR)):
        first.after_step(scores, batch, STEP)
    second = objective(**options)
    assert set(second.state_dict()) == set(first.state_dict())
    second.load_state_dict({name: column.clone() for name, column in first.state_dict().items()})
    for one in (first, second):
        one.after_step(PAST_SCORES, PAST, Progress(3, 10))
    values = [one.value(SCORES, FOUR, Progress(4, 10)).total for one in (first, second)]
    assert float(values[0]) == float(values[1])
    fresh = objective(**options).value(SCORES, FOUR, Progress(4, 10)).total
    assert float(fresh) != float(values[0])


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["unbiased", "unbiased_within", "intraclass"])
def test_gradients(measure: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    group, weight = torch.tensor([0, 0, 1, 1, 1, 2, 2]), double(1, 2, 1, 1, 3, 1, 1)
    functions = {
        "unbiased": lambda x: unbiased_square(x, y).value,
        "unbiased_within": lambda x: unbiased_square_within(x, y, group, weight).value,
        "intraclass": lambda x: intraclass(x, group, weight).value,
    }
    assert torch.autograd.gradcheck(functions[measure], x.requires_grad_(True))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers.logging.set_verbosity_error()
    return exactness.save_tiny_llama(tmp_path_factory.mktemp("options") / "model")


def primed(trainer: RewardTrainer) -> RewardTrainer:
    """The trainer with an objective that has seen two batches, so that every state is in use."""
    generator = torch.Generator().manual_seed(3)
    for step in (1, 2):
        batch = trainer.batches[step % len(trainer.batches)]
        heads = {n: torch.randn(len(batch.tokens_R), generator=generator).double() for n in ("quality", "length")}
        trainer.objective.after_step(RewardScores(heads=heads), batch, Progress(step, 10))
    return trainer


@pytest.mark.parametrize("name", exactness.OPTIONS)
def test_every_split_gives_the_gradient_of_responses_alone(llama: Path, name: str) -> None:
    data = exactness.make_data(prompts=8)

    def trainer(**changes: Any) -> RewardTrainer:
        made = exactness.make_trainer(
            llama, data, str(llama.parent / "run"), max_steps=10, **exactness.OPTIONS[name], **changes
        )
        return primed(made)

    probe = trainer()
    exactness.value_alone(probe).backward()
    expected = exactness.gradients(probe._reward_model())
    lengths = np.asarray(data.sequence_tokens)[probe.batches[0].batch.responses]
    everything = int(lengths.max() * len(lengths))
    for changes in (
        {"microbatch_tokens": everything},
        {"microbatch_tokens": exactness.budget_for(lengths, 4)},
        {"microbatch_tokens": exactness.budget_for(lengths, 4), "batch_layout": "tree"},
    ):
        found = exactness.step_gradients(trainer(**changes))
        assert exactness.worst(found, expected) < GRADIENT_TOLERANCE, changes


def test_a_resumed_run_has_the_bytes_of_an_unbroken_one(llama: Path, tmp_path: Path) -> None:
    data = exactness.make_data(prompts=8)
    options = {
        **exactness.OPTIONS["odin, tolerance, memory"],
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = exactness.make_trainer(llama, data, str(tmp_path / "whole"), **options)
    whole.train()
    again = exactness.make_trainer(llama, data, str(tmp_path / "whole"), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, weight in whole._reward_model().state_dict().items():
        assert torch.equal(weight, again._reward_model().state_dict()[name]), name
    for name, column in whole.objective.state_dict().items():
        assert torch.equal(column, again.objective.state_dict()[name]), name
