"""The study's calls and its results: blindness, order and sides, undo, replaced ratings, figures, the way out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from odin_rm.core.errors import DataError, OutputError, RowError
from odin_rm.serve.study.app import LOCAL_HOSTS, make_app
from odin_rm.serve.study.design import turns
from odin_rm.serve.study.run import write_results
from odin_rm.serve.study.store import Rating, StudyStore, rater_key
from odin_rm.workflows.win_rate.run import WinRateConfig, run_win_rate
from tests.serve.conftest import NAMES


def client_of(store, **settings) -> TestClient:
    return TestClient(make_app(store, question="Which?", **settings), base_url="http://127.0.0.1")


class Rater:
    """A rater at the page."""

    def __init__(self, client: TestClient, name: str) -> None:
        self.client, self.name = client, name
        self.state = self.call("start")

    def call(self, path: str, **fields) -> dict:
        reply = self.client.post(f"/api/{path}", json={"rater": self.name, **fields})
        assert reply.status_code == 200, reply.text
        self.state = reply.json()
        return self.state

    def rate(self, side: str, item: str | None = None) -> dict:
        return self.call("rate", item=item or self.state["pair"]["item"], side=side)

    def prefer(self, policy: str) -> None:
        """Rate everything that is left, always for one policy."""
        while (pair := self.state["pair"]) is not None:
            left = f"from {policy.upper()}" in pair["left"]
            self.rate("left" if left else "right")


def test_every_pair_comes_once_and_each_rater_has_an_order_sides_and_ids_of_ones_own(make_store):
    client = client_of(make_store())
    seen = {}
    for name in ("Ann", "Bob"):
        rater, seen[name] = Rater(client, name), []
        while (pair := rater.state["pair"]) is not None:
            seen[name].append(pair)
            assert rater.rate("tie")["done"] == len(seen[name])
    for pairs in seen.values():
        assert len({pair["instruction"] for pair in pairs}) == 12
        assert Counter("from A" in pair["left"] for pair in pairs) == {True: 6, False: 6}
        assert all(("from A" in pair["left"]) != ("from A" in pair["right"]) for pair in pairs)
    ann, bob = ([(pair["instruction"], pair["left"]) for pair in pairs] for pairs in seen.values())
    assert [instruction for instruction, _ in ann] != [instruction for instruction, _ in bob]
    assert dict(ann) != dict(bob)
    assert not {pair["item"] for pair in seen["Ann"]} & {pair["item"] for pair in seen["Bob"]}


def test_sides_follow_no_pattern(make_store):
    study = make_store().study
    sides = [tuple(turn.a_left for turn in turns(study, name)) for name in "abcdefgh"]
    assert len(set(sides)) > 6
    assert {sum(one) for one in sides} == {6}
    odd = make_store(output="odd", sample_size=5).study
    assert {sum(turn.a_left for turn in turns(odd, name)) for name in "abcdef"} == {2, 3}


def test_nothing_that_the_page_hears_tells_the_policies_apart(make_store):
    client = client_of(make_store())
    state = Rater(client, "Ann").state
    assert set(state) == {"done", "total", "pair"}
    assert set(state["pair"]) == {"item", "instruction", "left", "right"}
    everything = client.get("/").text + client.get("/api/study").text + json.dumps(state)
    assert not [name for name in (*NAMES.values(), "a.json", "b.json", "generator") if name in everything]
    assert {client.get(path).status_code for path in ("/docs", "/openapi.json", "/api/results")} == {404}


def test_the_order_comes_back_with_the_name_and_changes_with_the_seed(make_store):
    study = make_store().study
    assert turns(study, "ann") == turns(study, "ann")
    other = make_store(seed=1, output="other").study
    assert [turn.pair for turn in turns(study, "ann")] != [turn.pair for turn in turns(other, "ann")]
    # Same seed, another study: the same order, but ids that cannot be told from the first.
    again = make_store(output="again").study
    assert [turn.pair for turn in turns(study, "ann")] == [turn.pair for turn in turns(again, "ann")]
    assert turns(study, "ann")[0].item != turns(again, "ann")[0].item


def test_undo_goes_back_one_by_one_and_another_rating_of_a_pair_replaces_the_first(make_store):
    store = make_store()
    ann, bob = (Rater(client_of(store), name) for name in ("Ann", "Bob"))
    assert ann.call("undo")["done"] == 0
    bob.rate("left")
    items = []
    for side in ("left", "right", "tie"):
        items.append(ann.state["pair"]["item"])
        ann.rate(side)
    ann.rate("right", items[0])
    assert ann.state["done"] == 3
    assert [one.choice for one in store.ratings() if one.rater == "Ann"].count("tie") == 1
    by_pair = {turn.item: turn for turn in turns(store.study, "ann")}
    first = by_pair[items[0]]
    assert {one.pair: one.choice for one in store.ratings() if one.rater == "Ann"}[first.pair] == first.choice("right")
    # The latest rating is the one that replaced.
    assert ann.call("undo")["pair"]["item"] == items[0]
    assert ann.rate("tie")["done"] == 3
    assert [ann.call("undo")["done"] for _ in range(4)] == [2, 1, 0, 0]
    assert len(store.ratings()) == 1


def test_a_name_is_a_rater_whatever_its_case_and_spaces(make_store):
    store = make_store()
    client = client_of(store)
    Rater(client, "Ann  Lee").rate("left")
    assert Rater(client, " ann lee ").state["done"] == 1
    assert {rating.rater for rating in store.ratings()} == {"Ann Lee"}
    assert [rater_key(name) for name in ("", "  ", "a" * 61, "a\x00b", "\ud800")] == [None] * 5


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("start", {"rater": "  "}, 422),
        ("start", {"rater": "Ann", "more": 1}, 422),
        ("start", {}, 422),
        ("rate", {"rater": "Ann", "item": "0", "side": "left"}, 404),
        ("rate", {"rater": "Ann", "item": "0", "side": "a"}, 422),
        ("undo", {"rater": "x" * 100}, 422),
    ],
)
def test_what_is_no_rating_is_refused_and_leaves_nothing(make_store, path, body, status):
    store = make_store()
    client = client_of(store)
    assert client.post(f"/api/{path}", json=body).status_code == status
    assert store.ratings() == []


def test_an_id_of_another_rater_is_refused(make_store):
    client = client_of(make_store())
    foreign = Rater(client, "Bob").state["pair"]["item"]
    assert client.post("/api/rate", json={"rater": "Ann", "item": foreign, "side": "left"}).status_code == 404


def test_a_token_guards_every_call_and_a_foreign_host_or_form_is_refused(make_store):
    store = make_store()
    client = client_of(store, token="very-secret")
    body = {"rater": "Ann"}
    for headers in ({}, {"Authorization": "Bearer very-secreT"}, {"Authorization": "Bearer "}):
        assert client.get("/api/study", headers=headers).status_code == 401
        assert {client.post(f"/api/{p}", json=body, headers=headers).status_code for p in ("start", "undo")} == {401}
    assert client.get("/api/study", headers={"Authorization": "Bearer very-secret"}).status_code == 200
    local = client_of(store, hosts=LOCAL_HOSTS)
    assert local.get("/", headers={"Host": "127.0.0.1:1"}).status_code == 200
    assert local.get("/", headers={"Host": "[::1]:1"}).status_code == 200
    assert local.get("/", headers={"Host": "evil.example"}).status_code == 400
    form = {"content": json.dumps(body), "headers": {"Content-Type": "text/plain"}}
    assert local.post("/api/start", **form).status_code == 422


def test_half_characters_in_answers_are_refused(room, make_store):
    rows = json.loads(Path("a.json").read_text())
    Path("a.json").write_text(json.dumps([{**row, "output": row["output"] + " \ud83d"} for row in rows]))
    with pytest.raises(RowError, match="holds half a character"):
        make_store()


def test_results_by_hand_and_win_rate_reads_the_rows(room, make_store):
    store = make_store(sample_size=4)
    table = {"Ann": "abta", "Bob": "abba", "Cy": "ab--"}
    names = {"a": "a", "b": "b", "t": "tie"}
    for rater, choices in table.items():
        store.join(rater.lower(), rater)
        for pair, choice in enumerate(choices):
            if choice != "-":
                store.rate(rater.lower(), pair, names[choice], a_left=True)
    content = write_results(store, samples=50)
    # Preferences 2, 1, 1.25, 2: two wins, two losses.
    assert [content[name] for name in ("wins", "ties", "losses", "rated", "ratings")] == [2, 0, 2, 4, 10]
    assert content["win_score"]["value"] == pytest.approx(50)
    assert content["win_rate"]["value"] == pytest.approx(56.25)
    assert content["win_score"]["low"] < 50 < content["win_score"]["high"]
    # Agreement 1, 1, 0, 1. Of ten ratings five are for a, four for b, one a tie: expected 0.42.
    assert content["agreement"]["method"] == "fleiss"
    assert content["agreement"]["observed"]["value"] == pytest.approx(0.75)
    assert content["agreement"]["kappa"]["value"] == pytest.approx((0.75 - 0.42) / 0.58)
    assert content["left_preference"] == pytest.approx(5.5 / 10)
    ann, bob, cy = content["raters"]
    assert (ann["name"], ann["wins"], ann["ties"], ann["losses"], ann["win_score"]) == ("Ann", 2, 1, 1, 75.0)
    assert (bob["win_score"], cy["ratings"], cy["win_score"]) == (50.0, 2, 50.0)
    rows = json.loads(Path("out/annotations.json").read_text())
    assert [row["preference"] for row in rows] == [2, 1, 1.25, 2]
    for row in rows:
        assert ("from B" in row["output_1"], "from A" in row["output_2"]) == (True, True)
        assert (row["generator_1"], row["generator_2"]) == (NAMES["b"], NAMES["a"])
    assert rows[2]["ratings"] == {"Ann": 1.5, "Bob": 1.0}
    read = run_win_rate(WinRateConfig(annotations=["out/annotations.json"], output="rates.json", bootstrap_samples=50))
    assert read["generator"] == NAMES["a"]
    for name in ("win_score", "win_rate"):
        assert read[name]["value"] == pytest.approx(content[name]["value"])
    assert json.loads(Path("out/study.json").read_text())["agreement"]["prompts"] == 4


def test_two_raters_are_cohens_and_all_of_one_kind_has_no_kappa(make_store):
    store = make_store(sample_size=4)
    for rater, choices in {"ann": ["a", "a", "b", "b"], "bob": ["a", "b", "b", "b"]}.items():
        store.join(rater, rater)
        for pair, choice in enumerate(choices):
            store.rate(rater, pair, choice, a_left=False)
    agreement = write_results(store, samples=20)["agreement"]
    # Observed 3/4; expected 1/2 * 1/4 + 1/2 * 3/4 = 1/2.
    assert (agreement["method"], agreement["kappa"]["value"]) == ("cohen", pytest.approx(0.5))
    for pair in range(4):
        store.rate("ann", pair, "a", a_left=False)
        store.rate("bob", pair, "a", a_left=False)
    assert "of one kind" in write_results(store, samples=20)["agreement"]["kappa"]["why"]


def test_the_win_score_follows_the_raters_and_a_single_one_has_no_agreement(make_store):
    store = make_store()
    client = client_of(store)
    with pytest.raises(DataError, match="no rating yet"):
        write_results(store, samples=20)
    Rater(client, "Ann").prefer("a")
    content = write_results(store, samples=20)
    assert (content["wins"], content["win_score"]["value"], content["win_rate"]["value"]) == (12, 150.0, 100.0)
    assert content["left_preference"] == 0.5
    assert content["agreement"] == {
        "raters": 1, "prompts": 0, "method": None, "kappa": None, "observed": None, "why": "no prompt has two ratings"
    }  # fmt: skip
    Rater(client, "Bob").prefer("b")
    content = write_results(store, samples=20)
    assert (content["ties"], content["win_score"]["value"]) == (12, 50.0)
    assert content["agreement"]["observed"]["value"] == 0.0


def test_the_sample_is_of_equal_mean_length_if_nothing_else_is_said(make_store):
    pairs = make_store(match_mean_length=True, sample_size=6).study.pairs
    difference = np.array([len(pair.answer_a) - len(pair.answer_b) for pair in pairs])
    everything = make_store(output="all").study.pairs
    mean = np.mean([len(pair.answer_a) - len(pair.answer_b) for pair in everything])
    assert len(pairs) == 6
    assert abs(difference.mean()) < 0.2 * abs(mean)
    ratio = make_store(output="near", max_length_ratio=1.3).study.pairs
    assert 0 < len(ratio) < 12
    assert all(max(len(p.answer_a), len(p.answer_b)) <= 1.3 * min(len(p.answer_a), len(p.answer_b)) for p in ratio)


def test_equal_answers_are_not_shown(room, make_store):
    a, b = (json.loads(Path(f"{side}.json").read_text()) for side in "ab")
    a[3]["output"] = b[3]["output"]
    Path("a.json").write_text(json.dumps(a))
    study = make_store().study
    assert (study.prompts, study.identical, len(study.pairs)) == (12, 1, 11)
    assert "question 3" not in {pair.instruction for pair in study.pairs}


def test_a_study_goes_on_only_as_the_same_study(room, make_store):
    store = make_store()
    store.join("ann", "Ann")
    store.rate("ann", 0, "a", a_left=True)
    assert make_store(question="Other?", port=0).ratings() == [Rating("Ann", 0, "a", True)]
    with pytest.raises(OutputError, match="holds a study with seed 0, not 1"):
        make_store(seed=1)
    rows = json.loads(Path("b.json").read_text())
    Path("b.json").write_text(json.dumps([{**row, "output": row["output"] + "."} for row in rows]))
    with pytest.raises(OutputError, match=r"a study of other outputs of --b \(policy-vanilla, b.json\)"):
        make_store()
    assert len(StudyStore("out").ratings()) == 1
