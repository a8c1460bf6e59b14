"""Style control: by hand, against an independent fit, on known coefficients, and on published figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.core.files import RowWriter
from odin_rm.evaluation.style_control import (
    Battles,
    controlled_counts,
    fit_ratings,
    plain_win_rates,
    rating,
    style_features,
    win_rate_of,
)
from odin_rm.results.battles import read_battles
from odin_rm.workflows.win_rate.config import WinRateConfig
from odin_rm.workflows.win_rate.run import run_win_rate
from tests.published import published, published_path

COUNTS = np.array([[[30.0, 4, 6, 0], [10.0, 1, 2, 0]], [[0.0, 0, 0, 0], [0.0, 0, 0, 0]]])


def write(path, rows) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


def simulated(seed: int, n: int = 4000, beta: float = 0.5) -> tuple[Battles, np.ndarray]:
    """Three models of known abilities (log-odds); the third writes three times as much, which is paid for."""
    rng = np.random.default_rng(seed)
    ability, size = np.array([0.0, 0.8, -0.4]), np.array([100.0, 100, 300])
    first = rng.integers(0, 3, n)
    second = (first + rng.integers(1, 3, n)) % 3
    counts = np.zeros((n, 2, 4))
    for side, model in enumerate((first, second)):
        counts[:, side, 0] = np.round(size[model] * rng.lognormal(0, 0.5, n)) + 1
    d = style_features(counts, ["length"], "lmarena")[:, 0]
    d = (d - d.mean()) / d.std()
    won = rng.random(n) < expit(ability[first] - ability[second] + beta * d)
    outcome = np.where(rng.random(n) < 0.1, 0.5, won.astype(float))
    battles = Battles(("a", "b", "c"), first, second, outcome, np.ones(n), counts, np.arange(n) // 2)
    return battles, ability


def test_features_by_hand():
    assert style_features(COUNTS, ["length", "headers", "lists", "bold"], "lmarena") == pytest.approx(
        np.array([[20 / 41, 3 / 6, 4 / 9, 0], [0, 0, 0, 0]])
    )
    densities = np.array([4 / 31, 1 / 11])
    hard = style_features(COUNTS, ["length", "headers"], "arena-hard")
    assert hard[0] == pytest.approx([20 / 40, (densities[0] - densities[1]) / (densities.sum() + 1)])
    assert style_features(COUNTS, ["length", "headers"], "arena-hard-counts")[0] == pytest.approx([0.5, 3 / 6])
    assert controlled_counts(["markdown", "length"]) == ["length", "headers", "lists", "bold"]
    assert controlled_counts(["lists"]) == ["lists"]


def test_two_models_without_control_by_hand():
    """3 wins of 4 and a tie: (3 + 0.5) / 5 = 0.7 of the games, so log-odds ln(7 / 3)."""
    one = Battles(("x", "y"), np.zeros(5, int), np.ones(5, int), np.array([1, 1, 1, 0, 0.5]), np.ones(5),
                  np.full((5, 2, 4), np.nan), np.arange(5))  # fmt: skip
    fit = fit_ratings(one, [], "arena-hard", baseline="y", bootstrap_samples=1)
    assert fit.ability[0].value == pytest.approx(math.log(7 / 3), abs=1e-7)
    assert fit.ability[1].value == 0
    assert win_rate_of(fit.ability[0]).value == pytest.approx(70)
    assert plain_win_rates(one, "y", bootstrap_samples=1)[0].value == pytest.approx(70)
    thrice = replace(one, weight=np.array([3.0, 1, 1, 1, 1]))
    assert plain_win_rates(thrice, "y", bootstrap_samples=1)[0].value == pytest.approx(100 * 5.5 / 7)
    with pytest.raises(DataError, match="no battle has the counts"):
        fit_ratings(one, ["length"], "lmarena")


def test_the_fit_is_fastchats_minimum():
    """An independent minimiser of FastChat's loss: log loss, and 0.25 of the squares of all parameters."""
    battles, _ = simulated(0, 600)
    fit = fit_ratings(battles, ["length"], "lmarena", bootstrap_samples=1)
    d = style_features(battles.counts, ["length"], "lmarena")[:, 0]
    d = (d - d.mean()) / d.std()

    def loss(x: np.ndarray) -> float:
        eta = math.log(10) * (x[battles.first] - x[battles.second]) + x[3] * d
        return float((np.logaddexp(0, eta) - battles.outcome * eta).sum() + 0.25 * x @ x)

    found = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    assert [one.value for one in fit.ability] == pytest.approx(found[:3] - found[:3].mean(), abs=1e-5)
    assert fit.coefficients["length"].value == pytest.approx(found[3], abs=1e-5)
    assert rating(fit.ability[1]).value == pytest.approx(1000 + 400 * (found[1] - found[:3].mean()), abs=0.01)


def test_control_finds_the_abilities_that_length_hides():
    hits = 0
    for seed in range(20):
        battles, ability = simulated(seed, 1500)
        controlled = fit_ratings(battles, ["length"], "arena-hard-counts", baseline="a", bootstrap_samples=100)
        plain = fit_ratings(battles, [], "arena-hard-counts", baseline="a", bootstrap_samples=1)
        third = controlled.ability[2]
        hits += third.low <= ability[2] <= third.high
        assert plain.ability[2].value > third.value + 0.2
        assert controlled.coefficients["length"].low > 0
    assert hits >= 17


def test_a_model_without_a_battle_has_no_rating():
    battles, _ = simulated(1, 200)
    more = replace(battles, models=(*battles.models, "never"))
    fit = fit_ratings(more, ["length"], "lmarena", bootstrap_samples=10)
    assert fit.ability[3].value is None
    assert fit.ability[3].why == "it has no battle"


# ---- files -----------------------------------------------------------------------------------------------------------


def arena_row(a: str, b: str, winner: str, tokens: tuple[int, int]) -> dict:
    marks = {f"header_count_{s}": {"h1": 1, "h2": 2} for s in "ab"} | {f"list_count_{s}": {"ordered": 1} for s in "ab"}
    marks |= {f"bold_count_{s}": {"**": 2, "__": 0} for s in "ab"}
    metadata = {"sum_assistant_a_tokens": tokens[0], "sum_assistant_b_tokens": tokens[1], **marks}
    return {"model_a": a, "model_b": b, "winner": winner, "conv_metadata": metadata}


def test_rows_of_lmarena(tmp_path):
    rows = [arena_row("x", "y", "model_a", (10, 5)), arena_row("z", "x", "tie (bothbad)", (7, 7))]
    found = read_battles([write(tmp_path / "battles.jsonl", rows)])
    assert found.models == ("x", "y", "z")
    assert found.outcome.tolist() == [1.0, 0.5]
    assert found.counts[0].tolist() == [[10, 3, 1, 2], [5, 3, 1, 2]]
    with pytest.raises(RowError, match=r"row 1.*'winner' is 'me'"):
        read_battles([write(tmp_path / "bad.jsonl", [rows[0] | {"winner": "me"}])])


def test_rows_of_arena_hard_in_both_layouts(tmp_path):
    """Game 1 has the baseline as A, game 2 the model; a strong win counts three times; counts from the answers."""
    row = {"uid": "q", "model": "m", "baseline": "b", "games": [{"score": "B>>A"}, {"score": "A=B"}]}
    answers = [{"uid": "q", "model": name, "metadata": {"token_len": size, "header_count": {"h1": 1}, "list_count": {},
                "bold_count": {"**": 4}}} for name, size in (("m", 40), ("b", 20))]  # fmt: skip
    files = write(tmp_path / "judged.jsonl", [row]), write(tmp_path / "answers.jsonl", answers)
    found = read_battles([files[0]], [files[1]])
    assert found.models == ("m", "b")
    assert found.outcome.tolist() == [1.0, 0.5]
    assert found.weight.tolist() == [3, 1]
    assert found.counts[1].tolist() == [[40, 1, 0, 4], [20, 1, 0, 4]]
    assert np.isnan(read_battles([files[0]]).counts).all()
    bare = {"question_id": "q", "model": "m", "games": ["A>B", "B>A"]}
    path = write(tmp_path / "bare.jsonl", [bare])
    assert read_battles([path], baseline="b").outcome.tolist() == [0.0, 0.0]
    against = bare | {"baseline": "b"}
    for bad, match in (
        (bare, "whom the model was compared with"),
        (against | {"games": ["A>B"]}, "two verdicts"),
        (against | {"games": ["A", "B"]}, "verdict is 'A'"),
    ):
        with pytest.raises(RowError, match=match):
            read_battles([write(tmp_path / "bad.jsonl", [bad])])


def test_the_command_on_battles_and_on_annotations(tmp_path):
    rng = np.random.default_rng(0)
    rows = [arena_row(*names, str(rng.choice(["model_a", "model_b", "tie"])), tuple(rng.integers(5, 90, 2).tolist()))
            for names in (("x", "y"), ("y", "z"), ("z", "x")) for _ in range(40)]  # fmt: skip
    out = tmp_path / "ratings.json"
    common = {"output": str(out), "overwrite_output": True, "bootstrap_samples": 20}
    content = run_win_rate(WinRateConfig(annotations=[write(tmp_path / "arena.jsonl", rows)], ratings=True,
                                         style_control=["length"], **common))  # fmt: skip
    assert content["ratings"]["form"] == "lmarena"
    assert {one["model"] for one in content["ratings"]["models"]} == {"x", "y", "z"}
    assert np.mean([one["rating"]["value"] for one in content["ratings"]["models"]]) == pytest.approx(1000)
    controlled = [one["controlled_rating"] for one in content["ratings"]["models"]]
    assert all(one["low"] < one["high"] for one in controlled)
    assert "style_control" not in content  # there is no model that all were compared with
    with pytest.raises(ConfigError, match="all are compared with"):
        run_win_rate(WinRateConfig(annotations=[str(tmp_path / "arena.jsonl")], style_control=["length"], **common))
    with pytest.raises(ConfigError, match="no control 'shoes'"):
        WinRateConfig(annotations=["a"], output="b", style_control=["shoes"])
    settings = {"style_control": ["length"], **common}
    names = {"generator_1": "base", "generator_2": "long", "output_1": "word " * 20}
    judged = [
        {"instruction": f"q{k}", "output_2": "word " * (20 + 5 * (k % 7)), "preference": 1.0 + (k % 7 > 3), **names}
        for k in range(60)
    ]
    content = run_win_rate(WinRateConfig(annotations=[write(tmp_path / "annotations.jsonl", judged)], **settings))
    style = content["style_control"]
    assert (style["baseline"], style["form"], style["battles"]) == ("base", "lmarena", 60)
    (one,) = [m for m in style["models"] if m["model"] == "long"]
    assert one["win_rate"]["value"] == pytest.approx(content["win_rate"]["value"])
    assert style["coefficients"]["length"]["value"] > 1


# ---- published -------------------------------------------------------------------------------------------------------

BASELINE = "claude-3.7-sonnet"


@pytest.fixture(scope="module")
def korean() -> Battles:
    return read_battles([str(published_path("ko_arena_hard_battles.jsonl.gz"))], baseline=BASELINE)


def test_ko_arena_hards_win_rates_are_met_for_all_38(korean):
    found = dict(zip(korean.models, plain_win_rates(korean, BASELINE, bootstrap_samples=1), strict=True))
    rows = list(published("ko_arena_hard_published.jsonl.gz"))
    assert len(rows) == 38
    for row in rows:
        assert round(found[row["model"]].value, 2) == pytest.approx(row["no_control"], abs=0.0051), row["model"]


@pytest.mark.parametrize(
    ("controls", "column", "largest", "mean"),
    [
        (["length"], "length_control", 4.5, 1.3),
        (["markdown"], "markdown_control", 1.3, 0.4),
        (["length", "markdown"], "style_control", 3.8, 1.2),
    ],
)
def test_ko_arena_hards_controlled_columns_are_near(korean, controls, column, largest, mean):
    """They were fitted over all 76 models, of which 38 are here, 35 with counts."""
    fit = fit_ratings(korean, controls, "arena-hard-counts", baseline=BASELINE, bootstrap_samples=1)
    wanted = {row["model"]: row[column] for row in published("ko_arena_hard_published.jsonl.gz")}
    pairs = zip(korean.models, fit.ability, strict=True)
    told = {name: win_rate_of(one).value for name, one in pairs if one.value is not None}
    distance = [abs(value - wanted[name]) for name, value in told.items()]
    assert len(told) == 35
    assert max(distance) <= largest
    assert np.mean(distance) <= mean
