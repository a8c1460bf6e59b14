"""A calibration beside a model: found, refused where it belongs to other weights, applied to every score, watched."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.data.dial import AttributeCurve, Calibration, Dial, read_calibration
from odin_rm.model.calibrated import AppliedDial, calibration_file, weights_digest
from odin_rm.model.scoring import load_scorer, score_texts
from tests.model.words import WORDS, saved_reward_model

CURVE = AttributeCurve("response_tokens", 2, 30, (2.0,), (0.1, 0.3, -0.2), centre=0.4)


def words(generator: np.random.Generator, most: int) -> str:
    return " ".join(generator.choice(WORDS, generator.integers(2, most)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return saved_reward_model(tmp_path_factory.mktemp("model") / "run" / "model", 60)


def content(model: Path | None, *, curves=(CURVE,), kappa=0.7, anchor="twins", **changes) -> dict:
    return {
        "format_version": 1,
        "anchor": anchor,
        "kappa": {"value": kappa, "low": 0.5, "high": 0.9},
        "curve": [curve.to_json() for curve in curves],
        "model": {"name": "m", "digest": None if model is None else weights_digest(model)},
        "calibrated_reward": {"mean": 0.1, "std": 0.9},
        **changes,
    }


@pytest.fixture
def model(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def put(place: Path, what: dict) -> Path:
    (place / "calibration.json").write_text(json.dumps(what))
    return place / "calibration.json"


def texts(n=12):
    generator = np.random.default_rng(0)
    return [words(generator, 6) for _ in range(n)], [words(generator, 25) for _ in range(n)]


@pytest.mark.parametrize("inside", [True, False])
def test_scores_are_the_formula_by_value(model, inside, caplog):
    prompts, responses = texts()
    plain, _, tokens = score_texts(load_scorer(model), prompts, responses)
    put(model if inside else model.parent, content(model))
    with caplog.at_level(logging.WARNING):
        scorer = load_scorer(model if inside else model.parent)
    assert sum("--calibration none" in line for line in caplog.messages) == 1
    found, _, _ = score_texts(scorer, prompts, responses)
    held = np.clip(tokens, 2, 30)
    curve = 0.1 * held + 0.3 * np.log1p(held) - 0.2 * np.maximum(np.log1p(held) - 2, 0) - 0.4
    assert found == pytest.approx(plain - 0.7 * curve, abs=1e-6)
    assert np.abs(found - plain).max() > 0.1
    off, _, _ = score_texts(load_scorer(model, calibration="none"), prompts, responses)
    assert off == pytest.approx(plain, abs=1e-7)


def test_an_attribute_of_the_text_is_counted_in_the_text(model):
    curve = AttributeCurve("exclamations", 0, 5, (), (1.0, 0.0))
    put(model, content(model, curves=(curve,), kappa=1.0))
    prompts, responses = ["a b"] * 3, ["a b c", "a b c!", "a!! b c!!"]
    scorer, plain = load_scorer(model), load_scorer(model, calibration="none")
    difference = score_texts(plain, prompts, responses)[0] - score_texts(scorer, prompts, responses)[0]
    assert difference == pytest.approx([0, 1, 4])
    with pytest.raises(DataError, match="text is not known"):
        scorer.dial.attributes_of([3], [None])


def test_a_calibration_of_other_weights_is_refused(model):
    put(model, content(model))
    (model / "reward_heads.safetensors").write_bytes((model / "reward_heads.safetensors").read_bytes()[:-1] + b"\1")
    with pytest.raises(ConfigError, match="belongs to other weights"):
        load_scorer(model)
    load_scorer(model, calibration="none")
    put(model, content(None))
    with pytest.raises(ConfigError, match="of which only scores were known"):
        load_scorer(model)


def test_what_is_no_calibration_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="no such calibration"):
        load_scorer(model, calibration=str(tmp_path / "nowhere.json"))
    good = content(model)
    broken = [{}, good | {"curve": []}, good | {"anchor": "luck"}, good | {"kappa": {"value": float("nan")}}, [1]]
    broken.append(good | {"curve": [CURVE.to_json() | {"coefficients": [1.0]}]})
    for what in broken:
        with pytest.raises(DataError, match="Run odin-rm calibrate again"):
            read_calibration(put(tmp_path, what))
    with pytest.raises(DataError, match="newer odin-rm"):
        read_calibration(put(tmp_path, good | {"format_version": 2}))


def test_where_it_is_looked_for(model, tmp_path):
    assert calibration_file(model, None) is None
    put(model.parent, content(model))
    assert calibration_file(model, None) == model.parent / "calibration.json"
    put(model, content(model))
    assert calibration_file(model, None) == model / "calibration.json"
    assert calibration_file(model, "none") is None
    assert calibration_file(model, str(model.parent)) == model.parent / "calibration.json"
    assert calibration_file("someone/model", None) is None
    other = tmp_path / "other"
    shutil.copytree(model, other)
    put(tmp_path, content(model))  # a folder that is not called model has no run folder around it
    (other / "calibration.json").unlink()
    assert calibration_file(other, None) is None


def test_the_digest_sees_every_weight_file_and_nothing_else(model):
    before = weights_digest(model)
    (model / "README.md").write_text("other words")
    put(model, content(model))
    assert weights_digest(model) == before
    (model / "more.safetensors").write_bytes(b"x")
    assert weights_digest(model) != before
    assert weights_digest("someone/model") is None


# ---- the watch ------------------------------------------------------------------------------------------------------


def applied(**changes) -> AppliedDial:
    curve = AttributeCurve("response_tokens", 10, 100, (), (0.01, 0.0))
    return AppliedDial(Calibration(Dial((curve,), 1.0, "zero"), "m", "d", None, None, "f"), "m")


def test_lengths_outside_the_range_are_told_once(caplog):
    dial = applied()
    lengths = np.r_[np.full(45, 50.0), np.full(10, 300.0)]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            dial(np.zeros(55), {"response_tokens": lengths})
    assert len(caplog.messages) == 1
    assert "10 of 55 responses lie outside its range" in caplog.messages[0]


def test_a_domain_like_the_one_of_the_fit_is_not_told(caplog):
    rng = np.random.default_rng(0)
    prompt, length = np.repeat(np.arange(80), 4), rng.uniform(10, 100, 320)
    with caplog.at_level(logging.WARNING):
        applied()(0.01 * length + 0.1 * rng.normal(size=320) + prompt, {"response_tokens": length}, prompt)
    assert not caplog.messages


@pytest.mark.parametrize(("steepness", "words_"), [(3.0, "3.0"), (-1.0, "-1.0")])
def test_another_slope_within_prompts_is_told(caplog, steepness, words_):
    rng = np.random.default_rng(0)
    prompt, length = np.repeat(np.arange(80), 4), rng.uniform(10, 100, 320)
    quality = steepness * 0.01 * length + 0.01 * rng.normal(size=320) + prompt
    dial = applied()
    with caplog.at_level(logging.WARNING):
        for half in (slice(0, 160), slice(160, 320)):  # sums go on over calls
            dial(quality[half], {"response_tokens": length[half]}, prompt[half])
    (line,) = caplog.messages
    assert f"rises {words_}" in line
    # A few noisy prompts say nothing.
    caplog.clear()
    few = applied()
    few(quality[:40], {"response_tokens": length[:40]}, prompt[:40])
    assert not caplog.messages
