"""Weighted statistics against plain resampling, determinism, and the coverage of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from odin_rm.evaluation import bootstrap as boot
from odin_rm.evaluation.association import pearson_within_prompt
from odin_rm.evaluation.records import Figure


def make(prompts: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prompt = np.sort(rng.integers(0, prompts, size=4 * prompts))
    prompt = np.unique(prompt, return_inverse=True)[1]
    x = rng.integers(0, 8, size=len(prompt)).astype(float)
    return x, x + rng.integers(0, 9, size=len(prompt)), prompt


def resampled(weights: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a plain resample, and prompt numbers that keep two copies of a prompt apart."""
    take, copies, fresh = [], [], 0
    for number, weight in enumerate(weights.astype(int)):
        for _ in range(weight):
            members = np.flatnonzero(prompt == number)
            take.append(members)
            copies.append(np.full(len(members), fresh))
            fresh += 1
    return np.concatenate(take), np.concatenate(copies)


def test_weighted_statistics_are_those_of_the_repeated_sample() -> None:
    x, y, prompt = make()
    prompts = prompt.max() + 1
    sampler = boot.PromptBootstrap(prompt, 25, seed=3)
    (weights,) = list(sampler.blocks())
    got = {
        "pearson": boot.pearson_statistic(x, y, prompt, prompts)(weights),
        "spearman": boot.spearman_statistic(x, y, prompt)(weights),
        "kendall": boot.kendall_statistic(x, y, prompt, 25)(weights),
        "within": boot.within_statistic(x, y, prompt, prompts)(weights),
        "slope": boot.slope_statistic(x, y, prompt, prompts)(weights),
        "mean": boot.ratio_statistic(x, np.ones(len(x)), prompt, prompts)(weights),
    }
    for row, weight in enumerate(weights):
        take, copies = resampled(weight, prompt)
        a, b = x[take], y[take]
        r = stats.pearsonr(a, b).statistic
        assert got["pearson"][row] == pytest.approx(r)
        assert got["spearman"][row] == pytest.approx(stats.spearmanr(a, b).statistic)
        assert got["kendall"][row] == pytest.approx(stats.kendalltau(a, b).statistic)
        assert got["within"][row] == pytest.approx(pearson_within_prompt(a, b, copies).value)
        assert got["slope"][row] == pytest.approx(r / b.std())
        assert got["mean"][row] == pytest.approx(a.mean())


def test_each_resample_draws_as_many_prompts_as_there_are() -> None:
    _, _, prompt = make()
    blocks = np.concatenate(list(boot.PromptBootstrap(prompt, 50, seed=0).blocks()))
    assert blocks.shape == (50, prompt.max() + 1)
    assert (blocks.sum(axis=1) == prompt.max() + 1).all()
    assert len(np.unique(blocks, axis=0)) > 40


def test_the_size_of_blocks_changes_nothing(monkeypatch) -> None:
    _, _, prompt = make()
    whole = np.concatenate(list(boot.PromptBootstrap(prompt, 30, seed=1).blocks()))
    monkeypatch.setattr(boot, "BLOCK_ELEMENTS", 7 * len(prompt))
    parts = list(boot.PromptBootstrap(prompt, 30, seed=1).blocks())
    assert len(parts) == 5
    assert (np.concatenate(parts) == whole).all()


def test_mean_interval_has_the_width_of_theory() -> None:
    values = np.random.default_rng(0).normal(size=400)
    figure = boot.bootstrap_mean(values, samples=2000)
    half = 1.96 * values.std(ddof=1) / 20
    assert figure.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_copies_within_a_prompt_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=60)
    alone = boot.bootstrap_mean(values, samples=400)
    repeated = boot.bootstrap_mean(np.repeat(values, 10), np.repeat(np.arange(60), 10), samples=400)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
    naive = boot.bootstrap_mean(np.repeat(values, 10), samples=400)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_capped_kendall_gives_nearly_the_percentile_interval(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y, prompt = x + rng.normal(size=300), np.arange(300)
    value = {"kendall": Figure(float(stats.kendalltau(x, y).statistic))}

    def interval() -> Figure:
        sampler = boot.PromptBootstrap(prompt, 1000, seed=0)
        statistic = boot.kendall_statistic(x, y, prompt, sampler.kendall_resamples())
        return sampler.intervals(value, {"kendall": statistic})["kendall"]

    full = interval()
    monkeypatch.setattr(boot, "KENDALL_BUDGET", 300 * 200)
    assert boot.PromptBootstrap(prompt, 1000, 0).kendall_resamples() == 200
    capped = interval()
    width = full.high - full.low
    assert capped.low == pytest.approx(full.low, abs=0.12 * width)
    assert capped.high == pytest.approx(full.high, abs=0.12 * width)


def test_one_prompt_has_no_interval_and_says_so() -> None:
    figure = boot.bootstrap_mean(np.arange(5.0), np.zeros(5))
    assert figure.value == 2.0
    assert figure.low is None
    assert "two prompts" in figure.why


def coverage(worlds: int, samples: int) -> tuple[float, float]:
    """Share of worlds whose interval holds the true mean and the true correlation (0.6), clusters of 4."""
    held = np.zeros(2)
    for world in range(worlds):
        rng = np.random.default_rng(world)
        prompt = np.repeat(np.arange(80), 4)
        x = np.repeat(rng.normal(size=80), 4) + rng.normal(size=320)
        y = 0.6 * x + np.sqrt(1 - 0.36) * (np.repeat(rng.normal(size=80), 4) + rng.normal(size=320))
        sampler = boot.PromptBootstrap(prompt, samples, seed=world)
        figures = sampler.intervals(
            {"mean": Figure(float(x.mean())), "pearson": Figure(float(np.corrcoef(x, y)[0, 1]))},
            {
                "mean": boot.ratio_statistic(x, np.ones(320), prompt, 80),
                "pearson": boot.pearson_statistic(x, y, prompt, 80),
            },
        )
        truths = {"mean": 0.0, "pearson": 0.6}
        held += [figures[name].low <= truth <= figures[name].high for name, truth in truths.items()]
    return float(held[0] / worlds), float(held[1] / worlds)


def test_intervals_cover_the_truth() -> None:
    for share in coverage(200, 300):
        # 95 % nominal; 0.89 is four standard errors of 200 worlds below.
        assert 0.89 <= share < 1.0


@pytest.mark.slow
def test_intervals_cover_the_truth_closely() -> None:
    for share in coverage(2000, 1000):
        assert 0.925 <= share <= 0.97


@pytest.mark.parametrize("name", ["spearman_statistic", "kendall_statistic"])
def test_large_sets_go_by_influences_and_get_the_same_intervals(monkeypatch, name) -> None:
    """The same resamples of the same data, once with ranks made anew and once to first order."""
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(200), 3)
    x = rng.normal(size=600) + rng.normal(size=200)[prompt]
    y = np.round(x + rng.normal(size=600))
    more = (prompt, 300) if name == "kendall_statistic" else (prompt,)
    weights_SP = np.concatenate(list(boot.PromptBootstrap(prompt, 300, 0).blocks()))
    exact = getattr(boot, name)(x, y, *more)(weights_SP)
    monkeypatch.setattr(boot, "LINEAR_FROM", 100)
    linear = getattr(boot, name)(x, y, *more)(weights_SP)
    assert np.corrcoef(exact, linear)[0, 1] > 0.98
    assert linear.std() == pytest.approx(exact.std(), rel=0.05)
    assert linear.mean() == pytest.approx(exact.mean(), abs=0.005)
    assert boot.PromptBootstrap(prompt, 1000, 0).kendall_resamples() == 1000
