"""The grids of policies and their settings."""

from __future__ import annotations

from collections import Counter

import pytest

from odin_rm.core.errors import ConfigError
from odin_rm.testbed.sweep import PENALTIES, SWEEPS, PolicyRun, SweepSettings, full_sweep, small_sweep, sweep_runs


def test_arms_and_folders_by_hand() -> None:
    assert PolicyRun("odin", "ppo").arm == "odin"
    clipped = PolicyRun("vanilla", "remax", 0.1, 1e-4, reward_clip=1.0, seed=3)
    assert clipped.arm == "vanilla + clip 1"
    assert clipped.name == "vanilla_clip_1_remax_beta_0.1_lr_0.0001_seed_3"
    assert PolicyRun("vanilla", "ppo", length_penalty=0.02).arm == "vanilla + penalty 0.02"
    assert PolicyRun("odin", "ppo", clip_epsilon=0.4, experience_size=32).name.endswith("_epsilon_0.4_n_32")
    assert PolicyRun("dpo", "dpo").name.startswith("dpo_beta_")
    assert PolicyRun("odin", "ppo", 0.1, 1e-4, seed=5).settings == {
        "kl_coef": 0.1, "learning_rate": 1e-4, "length_penalty": 0.0, "reward_clip": float("inf"), "seed": 5,
        "clip_epsilon": 0.2, "experience_size": 64,
    }  # fmt: skip


def test_full_sweep_gives_every_arm_the_same_grid_of_twelve() -> None:
    runs = full_sweep(seed=2)
    counts = Counter(run.arm for run in runs)
    compared = {"vanilla", "odin", "gold", "vanilla + clip 1", *(f"vanilla + penalty {p:g}" for p in PENALTIES)}
    assert set(counts) == compared | {"length_only"}
    assert {counts[arm] for arm in compared} == {12}
    grids = {arm: {(r.algorithm, r.kl_coef, r.learning_rate) for r in runs if r.arm == arm} for arm in compared}
    assert len({frozenset(points) for points in grids.values()}) == 1
    assert {run.seed for run in runs} == {2}


def test_small_sweep_compares_both_models_under_both_algorithms() -> None:
    runs = small_sweep(seed=0)
    assert {(r.reward_model, r.algorithm) for r in runs} >= {
        (model, algorithm) for model in ("vanilla", "odin") for algorithm in ("ppo", "remax")
    }
    assert {r.arm for r in runs} == {"vanilla", "odin", "gold", "length_only"}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_no_two_runs_share_a_folder_and_the_help_counts_them(sweep: str) -> None:
    names = [run.name for run in sweep_runs(sweep, 0)]
    assert len(names) == len(set(names))
    words = SweepSettings.__dataclass_fields__["sweep"].metadata["help"]
    if sweep != "none":
        assert f"{sweep} ({len(names)} runs" in words


@pytest.mark.parametrize(
    ("knobs", "flag"),
    [
        ({"sweep": "huge"}, "--sweep"),
        ({"policy_responses": 100}, "--policy_responses"),
        ({"policy_responses": 0}, "--policy_responses"),
        ({"workers": 0}, "--workers"),
        ({"max_new_tokens": 0}, "--max_new_tokens"),
        ({"sft_steps": 0}, "--sft_steps"),
    ],
)
def test_bad_settings_are_refused_by_name(knobs: dict, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        SweepSettings(**knobs)
