"""The intervals hold the truth about as often as they say; the benchmark measures it with many more runs."""

from __future__ import annotations

import pytest
from benchmarks import coverage as benchmark
from benchmarks.coverage import World, controls, coverage, means


def test_means_are_covered_as_promised():
    found = coverage(World("small", 150, True), means, runs=300, samples=200, seed=0)
    names = [name for name in found if name != "mean length"]
    assert len(names) == 5
    assert [found[name]["coverage"] for name in names] == pytest.approx([0.95] * 5, abs=0.035)


def test_too_narrow_intervals_are_seen(monkeypatch):
    """Intervals of half their width hold the truth too seldom, and the benchmark says so."""
    resample = benchmark.resample

    def narrow(statistics, prompts, samples, seed):
        draws = resample(statistics, prompts, samples, seed)
        return {name: values.mean() + (values - values.mean()) / 2 for name, values in draws.items()}

    monkeypatch.setattr(benchmark, "resample", narrow)
    found = coverage(World("small", 150, True), means, runs=100, samples=100, seed=0)
    assert max(figure["coverage"] for figure in found.values()) < 0.85


def test_controlled_figures_are_measured_for_every_candidate(monkeypatch):
    monkeypatch.setattr(benchmark, "TRUTH_PROMPTS", 5000)
    found = coverage(World("small", 100, False), controls, runs=4, samples=30, seed=0)
    assert len(found) == 7
    assert all(0.5 <= figure["coverage"] <= 1 and 5 < figure["truth"] < 70 for figure in found.values())
