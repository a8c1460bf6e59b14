"""Objectives of other groups: hand values, numpy twins, gradients, states, and the same gradient from every split."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks import exactness
from scipy import integrate
from torch import Tensor

from odin_rm.core.errors import ConfigError
from odin_rm.core.types import RewardScores
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.objectives.objective import COMPLETE, Objective, PairColumns, Progress
from odin_rm.objectives.registry import OBJECTIVES, make_objective
from odin_rm.objectives.rivals import settings as options
from odin_rm.objectives.rivals.bsr import sum_to_zero
from odin_rm.objectives.rivals.crm import pairwise_discrepancy, quantile_bins
from odin_rm.objectives.rivals.dir import club
from odin_rm.objectives.rivals.fimi import SIZE, curve_net, length_code
from odin_rm.objectives.rivals.inform import noisy_ranking, standard_kl
from odin_rm.objectives.rivals.length_balanced import balance_weights, bin_and_side
from odin_rm.objectives.rivals.normbt import inverse_distance
from odin_rm.objectives.rivals.own_net import OwnNet, two_layers
from odin_rm.objectives.rivals.poe import noised
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer

RIVALS = ("poe", "crm", "fimi", "bsr", "dir", "normbt", "inform", "length_balanced")
WITH_STATE = ("poe", "fimi", "dir")


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# ---- hand values -----------------------------------------------------------------------------------------------------


def test_bsr_by_hand() -> None:
    # Rewards 1, 2 and 0, 3: mean 1.5, two pairs: 2 * 1.5^2.
    assert float(sum_to_zero(double(1, 2), double(0, 3))) == 4.5
    assert float(sum_to_zero(double(1, 2), double(-1, -2))) == 0.0


def test_crm_by_hand() -> None:
    # Two groups of one reward each, 0 and 2, width 1: MMD^2 = 2 - 2 exp(-2), once for each order of the groups.
    found = pairwise_discrepancy(double(0, 2), torch.tensor([0, 1]), 2, double(1)[0])
    assert float(found) == pytest.approx(2 * (2 - 2 * math.exp(-2)), abs=1e-14)
    alike = pairwise_discrepancy(double(0, 2, 2, 0), torch.tensor([0, 0, 1, 1]), 2, double(1)[0])
    assert float(alike) == pytest.approx(0.0, abs=1e-14)
    empty = pairwise_discrepancy(double(0, 2), torch.tensor([0, 3]), 5, double(1)[0])
    assert float(empty) == pytest.approx(float(found), abs=1e-14)
    assert quantile_bins(double(1, 2, 3, 4, 5), 4).tolist() == [2.0, 3.0, 4.0]


def test_dir_by_hand() -> None:
    # q(1 | D) = 3/4 and 1/4; labels 1 and 0, so each pair's own log q is log 3/4 and the double mean is between.
    logit = math.log(3)
    expected = math.log(0.75) - (math.log(0.75) + math.log(0.25)) / 2
    assert float(club(double(logit, -logit), double(1, 0))) == pytest.approx(expected, abs=1e-14)
    assert float(club(double(0, 0), double(1, 0))) == pytest.approx(0.0, abs=1e-15)
    assert float(club(double(logit, -logit), double(1, 1))) == pytest.approx(0.0, abs=1e-14)  # one label only


def test_normbt_by_hand() -> None:
    # Distances 5 and 10: inverses 0.2 and 0.1, over their mean 0.15.
    found = inverse_distance(torch.tensor([[3.0, 4.0], [6.0, 8.0]], dtype=torch.float64))
    assert found.tolist() == pytest.approx([4 / 3, 2 / 3], abs=1e-14)
    assert inverse_distance(torch.zeros(2, 3, dtype=torch.float64)).tolist() == [1.0, 1.0]
    # A distance of 0 beside one of 1: mean 0.5, so it counts as 0.005.
    near = inverse_distance(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert near.tolist() == pytest.approx([200 / 100.5, 1 / 100.5], abs=1e-12)


def test_inform_by_hand() -> None:
    assert standard_kl(double(0, 1, 0), double(0, 0, math.log(2))).tolist() == pytest.approx(
        [0.0, 0.5, 1.5 - math.log(2)], abs=1e-15
    )
    assert float(noisy_ranking(double(1), double(0))) == pytest.approx(softplus(-1), abs=1e-14)
    # At d = 0 it is the expectation of log(1 + exp(s t)), by an adaptive integral.
    expected = integrate.quad(lambda t: softplus(0.7 + 1.3 * t) * math.exp(-t * t / 2), -12, 12, epsabs=1e-13)[0]
    found = float(noisy_ranking(double(-0.7), double(1.3)))
    assert found == pytest.approx(expected / math.sqrt(2 * math.pi), abs=1e-8)


def test_balance_by_hand() -> None:
    lengths = double(20, 10, 10, 30), double(10, 20, 10, 10)
    bins, sides = bin_and_side(*lengths, 10)
    assert sides.tolist() == [1, 0, -1, 1]
    assert bins.tolist() == [2, 2, 0, 4]  # log 2 = 0.69, log 3 = 1.10, in steps of 0.25
    assert bin_and_side(*lengths, 1)[0].tolist() == [0, 0, 0, 0]
    # Three longer and one shorter, and one more of each: shares 4/6 and 2/6.
    counts = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    weights = balance_weights(torch.zeros(3, dtype=torch.long), torch.tensor([1, 0, -1]), counts)
    assert weights.tolist() == pytest.approx([0.75, 1.5, 1.0], abs=1e-15)
    rare = balance_weights(torch.tensor([0]), torch.tensor([0]), torch.tensor([[0.0, 1000.0]], dtype=torch.float64))
    assert rare.tolist() == [20.0]


def test_fimi_code_and_curve_by_hand() -> None:
    code = length_code(double(0, 2))
    assert code.shape == (2, SIZE)
    assert code[0].tolist() == [0.0] * 20 + [1.0] * 20
    assert code[1, 0] == math.sin(2)
    assert float(code[1, 21]) == pytest.approx(math.cos(2 / 10_000 ** (2 / 40)), abs=1e-15)
    net = curve_net()
    assert len(net.weights(SIZE)) == 6601
    # With all matrices 0 the residual layers pass the code on, and the read-out is a plain sum of it.
    flat = torch.zeros(6601, dtype=torch.float64)
    flat[-SIZE - 1 : -1] = 1.0
    flat[-1] = 0.5
    torch.testing.assert_close(net(code, flat), code.sum(1) + 0.5, rtol=0, atol=1e-14)


def test_poe_noise_is_that_of_the_step_and_constant_columns_hold_noise_alone() -> None:
    feature = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    assert noised(feature, 0.0, 1).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert torch.equal(noised(feature, 1.0, 7), noised(feature, 1.0, 7))
    assert torch.equal(noised(feature.flip(0), 1.0, 7), noised(feature, 1.0, 7).flip(0))  # whatever the order
    assert not torch.equal(noised(feature, 1.0, 7), noised(feature, 1.0, 8))
    drawn = noised(torch.zeros(4000, 2, dtype=torch.float64), 3.0, 1)
    assert float(drawn.std()) == pytest.approx(3.0, abs=0.1)


# ---- whole objectives against numpy ----------------------------------------------------------------------------------


class Batch:
    """Random scores of a batch with shared responses, and their columns."""

    def __init__(self, seed: int = 0, responses: int = 14, pairs: int = 11, size: int = 5) -> None:
        rng = np.random.default_rng(seed)
        self.feature = rng.normal(size=(responses, size))
        self.head = rng.normal(size=size)
        self.spread = rng.normal(size=size) * 0.3
        self.tokens = rng.integers(3, 200, responses).astype(float)
        self.chosen = rng.integers(0, responses, pairs)
        self.rejected = (self.chosen + rng.integers(1, responses, pairs)) % responses
        self.margin = rng.normal(size=pairs) * 0.1
        self.columns = PairColumns(
            {"response_tokens": torch.tensor(self.tokens)},
            torch.zeros(responses, dtype=torch.int64),
            torch.tensor(self.chosen),
            torch.tensor(self.rejected),
            torch.tensor(self.margin),
            {},
        )

    def scores(self, objective: Objective, names: tuple[str, ...]) -> RewardScores:
        feature = torch.tensor(self.feature)
        heads = {name: feature @ torch.tensor(self.head if name == "quality" else self.spread) for name in names}
        return RewardScores(heads=heads, feature=feature if objective.reads_feature else None)

    @property
    def quality(self) -> np.ndarray:
        return self.feature @ self.head

    def ranking_B(self, extra: np.ndarray | float = 0.0) -> np.ndarray:
        total = self.quality + extra
        return np.logaddexp(0, -(total[self.chosen] - total[self.rejected] - self.margin))


def value_of(name: str, batch: Batch, steps: int = 0, **fields: Any) -> tuple[float, Objective]:
    objective = make_objective(name, OBJECTIVES[name].settings(**fields))
    objective.begin(batch.columns)
    scores = batch.scores(objective, OBJECTIVES[name].heads)
    for step in range(steps):
        objective.after_step(scores, batch.columns, Progress(step + 1, steps))
    return float(objective.value(scores, batch.columns, COMPLETE).total), objective


def test_bsr_twin() -> None:
    batch = Batch()
    slots = np.concatenate([batch.quality[batch.chosen], batch.quality[batch.rejected]])
    expected = batch.ranking_B().mean() + 0.3 * 11 * slots.mean() ** 2
    assert value_of("bsr", batch, penalty_weight=0.3)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("conditional", [True, False])
def test_crm_twin(conditional: bool) -> None:
    batch = Batch()
    sides = [batch.chosen, batch.rejected]
    slots = np.concatenate(sides)
    width = batch.quality[slots].std()
    edges = np.quantile(batch.tokens[slots], [1 / 3, 2 / 3])
    term = 0.0
    for rows in sides if conditional else [slots]:
        groups = [batch.quality[rows][np.searchsorted(edges, batch.tokens[rows]) == m] for m in range(3)]
        groups = [one for one in groups if len(one)]

        def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.mean([[math.exp(-((x - y) ** 2) / (2 * width**2)) for y in b] for x in a]))

        for one in groups:
            for other in groups:
                term += mean_kernel(one, one) + mean_kernel(other, other) - 2 * mean_kernel(one, other)
    expected = batch.ranking_B().mean() + 0.5 * term
    found = value_of("crm", batch, penalty_weight=0.5, length_bins=3, conditional=conditional)[0]
    assert found == pytest.approx(expected, abs=1e-12)


def test_fimi_twin_and_its_start() -> None:
    batch = Batch()
    total, objective = value_of("fimi", batch, steps=2, penalty_weight=2.0)
    weights = objective.state_dict()["weights"].numpy()
    code = length_code(torch.tensor(batch.tokens)).numpy()
    rows, place = code, 0

    def cut(*shape: int) -> np.ndarray:
        nonlocal place
        size = math.prod(shape)
        place += size
        return weights[place - size : place].reshape(shape)

    for _ in range(2):
        first, one, second, two = cut(SIZE, SIZE), cut(SIZE), cut(SIZE, SIZE), cut(SIZE)
        rows = rows + np.maximum(rows @ first.T + one, 0) @ second.T + two
    curve = rows @ cut(1, SIZE)[0] + cut(1)
    slots = np.concatenate([batch.chosen, batch.rejected])
    correlation = np.corrcoef(batch.quality[slots], curve[slots])[0, 1]
    assert total == pytest.approx(batch.ranking_B().mean() + 2 * abs(correlation), abs=1e-10)
    early = objective.value(batch.scores(objective, ("quality",)), batch.columns, Progress(1, 20))
    assert float(early.total) == pytest.approx(batch.ranking_B().mean(), abs=1e-12)
    assert float(early.metrics["curve_correlation"]) == pytest.approx(abs(correlation), abs=1e-10)


@pytest.mark.parametrize("read", ["feature", "reward"])
def test_dir_twin(read: str) -> None:
    batch = Batch()
    total, objective = value_of("dir", batch, steps=3, penalty_weight=0.7, information_of=read)
    weights = objective.state_dict()["weights"].numpy()
    rows = batch.feature if read == "feature" else batch.quality[:, None]
    size = rows.shape[1]
    matrix, bias = weights[: 64 * size].reshape(64, size), weights[64 * size : 64 * size + 64]
    second, last = weights[64 * size + 64 : -1], weights[-1]
    further = batch.tokens[batch.chosen] - batch.tokens[batch.rejected]
    difference = (rows[batch.chosen] - rows[batch.rejected])[further != 0]
    label = (further[further != 0] > 0).astype(float)
    logit = np.maximum(difference @ matrix.T + bias, 0) @ second + last
    log_q = np.stack([-np.logaddexp(0, logit), -np.logaddexp(0, -logit)])  # by label
    count = len(label)
    own = np.mean([log_q[int(label[i]), i] for i in range(count)])
    every = np.mean([log_q[int(label[j]), i] for i in range(count) for j in range(count)])
    assert total == pytest.approx(batch.ranking_B().mean() + 0.7 * (own - every), abs=1e-12)


def test_normbt_twin() -> None:
    batch = Batch()
    distance = np.linalg.norm(batch.feature[batch.chosen] - batch.feature[batch.rejected], axis=1)
    weights = (1 / distance) / (1 / distance).mean()
    assert value_of("normbt", batch)[0] == pytest.approx((weights * batch.ranking_B()).mean(), abs=1e-12)


def test_inform_twin() -> None:
    batch = Batch()
    spread = batch.feature @ batch.spread
    total = 0.0
    for c, r, m in zip(batch.chosen, batch.rejected, batch.margin, strict=True):
        s = math.sqrt(math.exp(2 * spread[c]) + math.exp(2 * spread[r]))
        d = batch.quality[c] - batch.quality[r] - m
        expectation = integrate.quad(lambda t, d=d, s=s: softplus(-(d + s * t)) * math.exp(-t * t / 2), -10, 10)[0]
        total += expectation / math.sqrt(2 * math.pi) / len(batch.chosen)
    slots = np.concatenate([batch.chosen, batch.rejected])
    kl = np.mean((batch.quality[slots] ** 2 + np.exp(2 * spread[slots]) - 1) / 2 - spread[slots])
    assert value_of("inform", batch, penalty_weight=0.2)[0] == pytest.approx(total + 0.2 * kl, abs=1e-6)


def test_poe_twin() -> None:
    batch = Batch()
    total, objective = value_of("poe", batch, steps=3, expert_noise=0.5)
    rows = noised(torch.tensor(batch.feature), 0.5, COMPLETE.step)
    expert = objective.expert(rows).numpy()  # type: ignore[attr-defined]
    assert total == pytest.approx(batch.ranking_B(expert).mean(), abs=1e-12)
    assert np.ptp(expert) > 0


@pytest.mark.parametrize("bins", [1, 6])
def test_length_balanced_twin(bins: int) -> None:
    batch = Batch(pairs=30)
    longer = batch.tokens[batch.chosen] > batch.tokens[batch.rejected]
    ratio = np.abs(np.log(batch.tokens[batch.chosen] / batch.tokens[batch.rejected]))
    place = np.minimum((ratio / 0.25).astype(int), bins - 1)
    tied = batch.tokens[batch.chosen] == batch.tokens[batch.rejected]
    weights = np.ones(30)
    for i in range(30):
        if not tied[i]:
            alike = (place == place[i]) & ~tied
            weights[i] = 1 / (2 * ((longer[alike] == longer[i]).sum() + 1) / (alike.sum() + 2))
    expected = (weights * batch.ranking_B()).sum() / weights.sum()
    assert value_of("length_balanced", batch, balance_bins=bins)[0] == pytest.approx(expected, abs=1e-12)


def test_two_classes_end_up_with_equal_weight() -> None:
    batch = Batch(pairs=400, responses=60)
    bins, sides = bin_and_side(torch.tensor(batch.tokens[batch.chosen]), torch.tensor(batch.tokens[batch.rejected]), 1)
    counts = torch.tensor([[float((sides == 0).sum()), float((sides == 1).sum())]], dtype=torch.float64)
    weights = balance_weights(bins, sides, counts)
    assert float(weights[sides == 1].sum() / weights[sides == 0].sum()) == pytest.approx(1.0, abs=0.02)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_gradients_by_differences(name: str) -> None:
    batch = Batch(seed=3)
    _, objective = value_of(name, batch, steps=2)
    detached = {  # what the paper holds fixed is fixed in the check, too
        "normbt": lambda feature: torch.tensor(batch.feature),
        "poe": lambda feature: torch.tensor(batch.feature),
    }

    def total(feature: Tensor, head: Tensor, spread: Tensor) -> Tensor:
        heads = {n: feature @ (head if n == "quality" else spread) for n in OBJECTIVES[name].heads}
        read = detached.get(name, lambda one: one)(feature) if objective.reads_feature else None
        return objective.value(RewardScores(heads=heads, feature=read), batch.columns, COMPLETE).total

    columns = [torch.tensor(x).requires_grad_(True) for x in (batch.feature, batch.head, batch.spread)]
    if name == "crm":  # the kernel's width has no gradient: its pure function is checked
        group = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1, 2, 1, 0])
        assert torch.autograd.gradcheck(
            lambda r: pairwise_discrepancy(r, group, 3, double(0.8)[0]), (torch.tensor(batch.quality).requires_grad_(),)
        )
        return
    assert torch.autograd.gradcheck(total, columns)


def test_what_is_fitted_gets_no_gradient_and_features_get_theirs() -> None:
    batch = Batch()
    for name, wanted in (("dir", True), ("normbt", False), ("poe", False)):
        _, objective = value_of(name, batch, steps=1)
        feature = torch.tensor(batch.feature).requires_grad_(True)
        scores = RewardScores(torch.tensor(batch.quality), feature=feature)
        total = objective.value(scores, batch.columns, COMPLETE).total
        assert total.requires_grad == wanted, name


# ---- networks of their own -------------------------------------------------------------------------------------------


def test_adam_is_torchs() -> None:
    net, rows = two_layers(3), torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = rows[:, 0] ** 2
    theirs = torch.nn.Parameter(net.weights(2).clone())
    optimiser = torch.optim.Adam([theirs], lr=0.05)

    def loss(weights: Tensor) -> Tensor:
        return ((net(rows, weights) - wanted) ** 2).mean()

    before = float(loss(net.weights(2)))
    net.learn(loss, 2, rate=0.05, steps=30)
    for _ in range(30):
        optimiser.zero_grad()
        loss(theirs).backward()
        optimiser.step()
    torch.testing.assert_close(net.weights(2), theirs.detach(), rtol=1e-10, atol=1e-12)
    assert float(loss(net.weights(2))) < 0.5 * before


@pytest.mark.parametrize("name", WITH_STATE)
def test_a_state_goes_on_where_it_was(name: str) -> None:
    batch = Batch()
    _, objective = value_of(name, batch, steps=3)
    again = make_objective(name, OBJECTIVES[name].settings())
    assert set(again.state_dict()) == set(objective.state_dict())  # known before the size of the feature is
    again.load_state_dict(objective.state_dict())
    scores = batch.scores(objective, OBJECTIVES[name].heads)
    values = []
    for one in (objective, again):
        for step in (3, 4):
            one.after_step(scores, batch.columns, Progress(step, 5))
        values.append(one.state_dict())
    assert all(torch.equal(values[0][key], values[1][key]) for key in values[0])
    assert int(values[0]["steps"]) == 5 * OBJECTIVES[name].settings().aux_steps


def test_the_adversary_learns_length_and_the_curve_follows_a_bend() -> None:
    batch = Batch(responses=60, pairs=50)
    batch.feature[:, 0] = (batch.tokens - 100) / 50  # length is readable
    _, objective = value_of("dir", batch, steps=60)
    told = objective.value(batch.scores(objective, ("quality",)), batch.columns, COMPLETE).metrics
    assert float(told["information"]) > 0.5
    batch.feature[:, 0] = -np.abs(batch.tokens - 100) / 50  # no line fits it
    batch.head = np.array([1.0, 0, 0, 0, 0])
    _, objective = value_of("fimi", batch, steps=100)
    told = objective.value(batch.scores(objective, ("quality",)), batch.columns, COMPLETE).metrics
    assert float(told["curve_correlation"]) > 0.9 > 0.6 > abs(float(told["quality_length_correlation"]))


def test_a_value_changes_no_state() -> None:
    batch = Batch()
    for name in WITH_STATE:
        _, objective = value_of(name, batch, steps=1)
        before = {key: tensor.clone() for key, tensor in objective.state_dict().items()}
        objective.value(batch.scores(objective, ("quality",)), batch.columns, COMPLETE)
        assert all(torch.equal(before[key], tensor) for key, tensor in objective.state_dict().items())


def test_an_own_net_without_vectors_of_bias_starts_as_drawn() -> None:
    net = OwnNet(lambda columns: [(1, columns)], lambda tensors, rows: rows @ tensors[0][0])
    assert torch.equal(net.weights(3), net.weights(3))
    assert len(net.state_dict()["weights"]) == 3


# ---- the same gradient from every split ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TokenisedPreferences]:
    transformers.logging.set_verbosity_error()
    folder = exactness.save_tiny_llama(tmp_path_factory.mktemp("rivals") / "model")
    return folder, exactness.make_data(prompts=8)


def make_trainer(world: Any, objective: str, **fields: Any) -> RewardTrainer:
    from odin_rm.workflows.reward.run import build_model

    folder, data = world
    config = RewardConfig(
        output_dir=str(folder.parent / "run"),
        batch_pairs=data.num_pairs // 2,
        max_pairs_per_prompt=exactness.PAIRS,
        learning_rate=1e-3,
        max_grad_norm=0.0,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        objective=objective,
        **{"batch_layout": "padded", "microbatch_tokens": 400, **fields},
    )
    torch.manual_seed(1)
    return RewardTrainer(build_model(config, str(folder)), config, data, tokenizer=exactness.PadOnly())


def prepared(trainer: RewardTrainer) -> RewardTrainer:
    """Gives an objective that learns by itself a state other than its first one."""
    batch, size = trainer.batches[0], trainer._reward_model().heads.in_features
    feature = torch.randn(len(batch.tokens_R), size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    heads = {name: feature.sum(1) for name in trainer._reward_model().heads.names}
    for step in (1, 2):
        trainer.objective.after_step(RewardScores(heads=heads, feature=feature), batch, Progress(step, 2))
    return trainer


@pytest.mark.parametrize("objective", RIVALS)
def test_every_split_gives_the_gradient_of_one_graph(world: Any, objective: str) -> None:
    trainer = prepared(make_trainer(world, objective))
    exactness.value_alone(trainer).backward()
    expected = exactness.gradients(trainer._reward_model())
    for fields in ({"microbatch_tokens": 60}, {"batch_layout": "tree", "microbatch_tokens": 90}):
        other = prepared(make_trainer(world, objective, **fields))
        assert len(other.batches[0].micro_batches) > 2
        assert exactness.worst(exactness.step_gradients(other), expected) < 1e-5
    shuffled = exactness.step_gradients(prepared(make_trainer(world, objective)), shuffle=True)
    assert exactness.worst(shuffled, expected) < 1e-5


def test_dir_on_frozen_features_needs_rewards() -> None:
    given = {"output_dir": "x", "use_cpu": True, "objective": "dir", "train": "heads"}
    with pytest.raises(ConfigError, match="no gradient in heads on frozen features"):
        RewardConfig(**given)
    assert RewardConfig(**given, information_of="reward").objective_settings.information_of == "reward"


def test_settings_are_the_flags() -> None:
    assert options.DirSettings().information_of == "feature"
    assert RewardConfig(output_dir="x", use_cpu=True, objective="crm").objective_settings == options.CrmSettings()
    assert RewardConfig(output_dir="x", use_cpu=True, objective="bsr").objective_settings.penalty_weight == 0.001


# ---- settings reach their formulas -----------------------------------------------------------------------------------


def three_pairs() -> tuple[RewardScores, PairColumns]:
    batch = PairColumns(
        attributes={"response_tokens": double(10, 30, 25, 12, 40, 7)},
        prompt_R=torch.zeros(6, dtype=torch.int64),
        chosen_B=torch.tensor([0, 2, 4]),
        rejected_B=torch.tensor([1, 3, 5]),
        margin_B=double(0, 0, 0),
        variants={},
    )
    generator = torch.Generator().manual_seed(5)
    feature_RD = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return RewardScores(heads={"quality": double(0.3, -0.2, 1.1, 0.4, -0.6, 0.9)}, feature=feature_RD), batch


def test_fimis_penalty_begins_after_its_share_of_the_steps() -> None:
    scores, batch = three_pairs()
    made = make_objective("fimi", options.FimiSettings(penalty_weight=2.0, penalty_start=0.5))
    early, late = (made.value(scores, batch, Progress(step, 10)) for step in (5, 6))
    assert float(early.total) == float(early.metrics["ranking_loss"])
    term = float(late.metrics["curve_correlation"])
    assert term > 0
    assert float(late.total) == pytest.approx(float(late.metrics["ranking_loss"]) + 2.0 * term, abs=1e-12)


@pytest.mark.parametrize("name", WITH_STATE)
@pytest.mark.parametrize("rate", [0.01, 0.002])
def test_an_own_networks_first_step_has_the_size_of_its_rate(name: str, rate: float) -> None:
    """Adam's first step moves each weight that has a gradient by the rate."""
    scores, batch = three_pairs()
    made = make_objective(name, OBJECTIVES[name].settings(aux_learning_rate=rate, aux_steps=1))
    made.value(scores, batch, COMPLETE)  # draws the first weights
    before = made.state_dict()["weights"].clone()
    made.after_step(scores, batch, COMPLETE)
    moved = (made.state_dict()["weights"] - before).abs()
    assert float(moved.max()) == pytest.approx(rate, rel=1e-3)
