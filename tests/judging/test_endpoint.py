"""Judging through the real client against a local server: replies, faults, limits, interruptions, the cache."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from odin_rm.core.errors import ConfigError, JudgeError, OutputError
from odin_rm.judging import pacing
from odin_rm.judging.cache import JudgementCache
from odin_rm.judging.chat import Call, ChatClient, ChatSettings
from odin_rm.judging.replies import Reply
from odin_rm.workflows.judge.run import estimate_run, run_judge
from tests.judging.clock import beside
from tests.judging.conftest import annotations, write_outputs
from tests.judging.server import KEY, FakeEndpoint, biased
from tests.waiting import PATIENCE

PREFERENCES = [2.0, 2.0, 1.0, 1.5, 2.0]


def stored(folder: str = "out") -> list[tuple]:
    with sqlite3.connect(Path(folder, "cache.sqlite")) as connection:
        return connection.execute("SELECT key, attempt, preference, reply FROM replies").fetchall()


def expect_all_judged_once(server: FakeEndpoint, questions: int = 10) -> None:
    assert [row["preference"] for row in annotations()] == PREFERENCES
    rows = stored()
    assert len(rows) == len({row[0] for row in rows}) == questions
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == questions


@pytest.mark.parametrize("stream", [False, True])
def test_both_orders_are_asked_and_turned_to_the_candidate(make_config, stream):
    with FakeEndpoint() as server:
        report = run_judge(make_config(base_url=server.url, stream=stream))
        expect_all_judged_once(server)
        assert len(server.requests) == 10
    row = annotations()[0]
    assert (row["generator_1"], row["generator_2"], row["annotator"]) == ("old", "new", "judge-1")
    assert row["output_2"] == "answer of new, worth 8"
    assert [row["preference_candidate_second"], row["preference_candidate_first"]] == [2.0, 2.0]
    assert (report["wins"], report["ties"], report["losses"], report["missing"]) == (3, 1, 1, 0)
    assert (report["disagreement"], report["first_place_preference"]) == (0.0, 0.5)
    assert (report["prompt_tokens"], report["completion_tokens"]) == (1000, 100)
    assert {p.name for p in Path("out").iterdir()} >= {"judge.json", "config.yaml", "environment.json"}


def test_what_the_request_says(make_config):
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url, seed=7, max_tokens=33))
        request = server.requests[0]
        server.requests.clear()
        run_judge(make_config(base_url=server.url, temperature=None, max_tokens=None, output="other"))
        bare = server.requests[0]
    assert (request["model"], request["temperature"], request["seed"]) == ("judge-1", 0.0, 7)
    assert request["max_completion_tokens"] == 33
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    # Calls are under way side by side, so any of them may arrive first.
    assert re.search(r"question \d", request["messages"][1]["content"])
    assert "{" not in request["messages"][1]["content"]
    assert set(bare) == {"model", "messages"}


def test_the_two_orders_cancel_a_judges_liking_for_the_first_place(room, make_config):
    write_outputs(room / "candidate.json", [5, 5, 5, 6, 9], "new")
    write_outputs(room / "baseline.json", [5, 5, 5, 5, 2], "old")
    with FakeEndpoint(biased) as server:
        report = run_judge(make_config(base_url=server.url))
    rows = annotations()
    assert [row["preference_candidate_second"] for row in rows] == [1.0, 1.0, 1.0, 1.0, 2.0]
    assert [row["preference_candidate_first"] for row in rows] == [2.0] * 5
    assert [row["preference"] for row in rows] == [1.5, 1.5, 1.5, 1.5, 2.0]
    assert (report["wins"], report["ties"], report["losses"]) == (1, 4, 0)
    assert report["disagreement"] == report["reversal"] == 0.8
    assert report["first_place_preference"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    "fault", [429, 500, 503, "html", "half_json", "no_choices", "cut", "drop", (429, {"Retry-After": "0.05"})]
)
def test_what_may_pass_is_asked_again_and_counted(make_config, fault):
    with FakeEndpoint(faults={0: fault, 4: fault, 7: fault}) as server:
        report = run_judge(make_config(base_url=server.url, concurrency=3))
        expect_all_judged_once(server)
        assert len(server.requests) == 13
    assert report["judgements"]["calls_made_again"] == 3
    assert report["judgements"]["unparsed_replies"] == 0


@pytest.mark.parametrize("fault", ["cut_stream", "half_json", "drop", 500])
def test_streams_that_break_off_are_asked_again(make_config, fault):
    with FakeEndpoint(faults={0: fault, 5: fault}) as server:
        report = run_judge(make_config(base_url=server.url, stream=True))
        expect_all_judged_once(server)
    assert report["judgements"]["calls_made_again"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_hangs_is_given_up_after_the_timeout_and_made_again(make_config, clock, stream):
    hangs = (0, 4, 7)
    with FakeEndpoint(faults=dict.fromkeys(hangs, "hang")) as server:
        config = make_config(base_url=server.url, stream=stream, timeout=30.0, concurrency=1)
        with beside(run_judge, config, at_end=clock.let_go) as run:
            for number in hangs:
                server.until(number + 1)
                clock.advance(29.0)
                clock.advance(1.0)
                clock.until_pausing(1)
                clock.advance(pacing.FIRST_PAUSE)
            report = run.result(PATIENCE)
        assert len(server.requests) == 13
        expect_all_judged_once(server)
    assert report["judgements"]["calls_made_again"] == 3
    assert len(clock.pauses) == 3


@pytest.mark.parametrize("header", ["Retry-After", "retry-after-ms"])
def test_a_refused_call_holds_all_workers_back_for_as_long_as_the_server_asks(make_config, clock, header):
    wait = {"Retry-After": "1.0", "retry-after-ms": "1000"}[header]
    with FakeEndpoint(faults={0: (429, {header: wait})}) as server:
        server.after[0], server.held_from = 3, 1
        config = make_config(base_url=server.url, concurrency=3)
        with beside(run_judge, config, at_end=lambda: (clock.let_go(), server.let_go())) as run:
            clock.until_pausing(1)  # the one that was refused
            server.let_go()
            clock.until_pausing(3)  # and two that were answered
            assert len(server.requests) == 3
            clock.advance(1.0)
            run.result(PATIENCE)
        assert server.times == [0.0] * 3 + [1.0] * 8
        assert clock.pauses == [1.0] * 3
        expect_all_judged_once(server)


def test_a_wait_that_is_too_long_ends_the_run_with_what_it_has(make_config):
    with FakeEndpoint(faults={6: (429, {"Retry-After": "86400"})}) as server:
        with pytest.raises(JudgeError, match="asks to wait 86,400 s"):
            run_judge(make_config(base_url=server.url, concurrency=1))
        assert len(stored()) == 6
        run_judge(make_config(base_url=server.url))
        expect_all_judged_once(server)


def test_calls_per_minute_are_limited(make_config, clock):
    with FakeEndpoint() as server:
        config = make_config(base_url=server.url, requests_per_minute=240, concurrency=1)
        with beside(run_judge, config, at_end=clock.let_go) as run:
            for _ in range(9):
                clock.until_pausing(1)
                clock.advance(0.25)
            run.result(PATIENCE)
        assert server.times == [0.25 * k for k in range(10)]
        assert clock.pauses == [0.25] * 9
        expect_all_judged_once(server)


def test_as_many_calls_are_under_way_as_asked(monkeypatch):
    """Each call lets all others go as far as they can before it ends."""
    under_way: list[int] = []
    most = []

    async def call(self: ChatClient, client: Any, one: Call) -> Reply:
        under_way.append(1)
        for _ in range(50):
            await asyncio.sleep(0)
        most.append(len(under_way))
        under_way.pop()
        return Reply("", "stop", None, None)

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(ChatClient, "_call", call)
    settings = ChatSettings("m", base_url="http://nowhere/v1", concurrency=3)
    taken: list[int] = []
    calls = [Call([{"role": "user", "content": "?"}])] * 10
    ChatClient(settings, role="judge", error=JudgeError).complete(calls, lambda number, reply: taken.append(number))
    assert max(most) == 3
    assert sorted(taken) == list(range(10))


def test_a_reply_that_cannot_be_read_is_asked_for_once_more_and_never_guessed(make_config):
    def reply(first: str, second: str, times: int) -> str:
        if "worth 8" in first:  # question 0 with the candidate first: never in the form
            return "The first one gets 8/10, the other 5/10."
        if "worth 8" in second and times == 0:
            return "Let me think."
        return f"{7 if 'new' in first else 6} {7 if 'new' in second else 6}"

    with FakeEndpoint(reply) as server:
        report = run_judge(make_config(base_url=server.url))
        assert sorted(server.answered.values()) == [1] * 8 + [2, 2]
        assert len(server.requests) == 12
        again = run_judge(make_config(base_url=server.url))
        assert len(server.requests) == 12
    first = annotations()[0]
    assert (first["preference"], first["preference_candidate_second"]) == (None, 2.0)
    assert first["preference_candidate_first"] is None
    counts = report["judgements"]
    assert (counts["unparsed_replies"], counts["asked_again"], counts["unparsed"]) == (3, 2, 1)
    assert (report["missing"], report["wins"]) == (1, 4)
    assert again["judgements"]["from_cache"] == 12


def test_the_last_line_of_a_reply_that_was_cut_off_is_not_read(make_config):
    def reply(first: str, second: str, times: int) -> str:
        return "6 1..." if times else "6 1\nThe first one is better in every way, because..."

    with FakeEndpoint(reply) as server:
        report = run_judge(make_config(base_url=server.url))
    assert report["judgements"]["unparsed_replies"] == 0
    assert report["first_place_preference"] == 1.0


def test_a_question_that_the_endpoint_refuses_is_left_out_and_the_others_are_judged(make_config):
    with FakeEndpoint(faults={3: 400}) as server:
        report = run_judge(make_config(base_url=server.url, concurrency=1))
        assert len(server.requests) == 10
        assert (report["judgements"]["refused"], report["missing"]) == (1, 1)
        assert annotations()[1]["preference"] is None
        report = run_judge(make_config(base_url=server.url))
        expect_all_judged_once(server)
    assert report["judgements"]["refused"] == 0


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (dict.fromkeys(range(20), 400), "it refuses every question"),
        ({0: "quota"}, "exceeded your quota"),
        ({0: 404}, "made to fail with 404"),
        (dict.fromkeys(range(20), 500), "HTTP 500, 3 times in a row"),
    ],
)
def test_what_does_not_pass_ends_the_run_in_one_line(make_config, faults, said):
    with FakeEndpoint(faults=faults) as server, pytest.raises(JudgeError, match=said) as error:
        run_judge(make_config(base_url=server.url, retries=2, concurrency=1))
    assert "run the same command again" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_address_where_nobody_answers(make_config):
    with FakeEndpoint() as server:
        url = server.url
    with pytest.raises(JudgeError, match="it cannot be reached"):
        run_judge(make_config(base_url=url))


def test_a_server_that_dies_midway_and_comes_back(make_config):
    with FakeEndpoint(faults=dict.fromkeys(range(5, 100), "drop")) as server:
        with pytest.raises(JudgeError, match="times in a row"):
            run_judge(make_config(base_url=server.url, retries=2))
        kept = len(stored())
        assert kept == 5
        assert not Path("out/annotations.json").exists()
        server.faults = {}
        report = run_judge(make_config(base_url=server.url))
        expect_all_judged_once(server)
    assert report["judgements"]["from_cache"] == kept


def test_a_finished_comparison_asks_nothing_and_needs_no_key(make_config, monkeypatch):
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url))
        before = annotations()
        monkeypatch.delenv("OPENAI_API_KEY")
        report = run_judge(make_config(base_url=server.url, concurrency=2))
        assert len(server.requests) == 10
    assert annotations() == before
    assert report["judgements"]["from_cache"] == 10


def test_other_settings_need_leave_and_pay_only_for_what_is_new(room, make_config):
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url))
        with pytest.raises(OutputError, match="template 'scores', not 'pairwise'"):
            run_judge(make_config(base_url=server.url, template="pairwise"))
        write_outputs(room / "candidate.json", [8, 6, 3, 5, 1], "new")
        report = run_judge(make_config(base_url=server.url))
        assert len(server.requests) == 12  # one answer is new: two questions
        run_judge(make_config(base_url=server.url, temperature=0.5, overwrite_output_dir=True))
        assert len(server.requests) == 22
    assert report["judgements"]["from_cache"] == 8


def test_equal_answers_are_a_tie_without_a_call(room, make_config):
    write_outputs(room / "baseline.json", [8, 6, 3, 5, 9], "new")
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url))
        assert server.requests == []
    assert [row["preference"] for row in annotations()] == [1.5] * 5


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(make_config, monkeypatch):
    prices = {"input_price": 2.0, "output_price": 10.0, "max_tokens": 100}
    with FakeEndpoint() as server:
        monkeypatch.delenv("OPENAI_API_KEY")
        estimate = estimate_run(make_config(base_url=server.url, **prices))
        assert not Path("out").exists()
        assert (estimate.calls, estimate.cached, estimate.completion_tokens) == (10, 0, 1000)
        characters = 0
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        run_judge(make_config(base_url=server.url, **prices))
        for request in server.requests:
            characters += sum(len(message["content"]) for message in request["messages"])
        assert estimate.prompt_tokens == pytest.approx(characters / 4, abs=0.1 * 100)
        assert estimate.cost == pytest.approx((estimate.prompt_tokens * 2 + 1000 * 10) / 1e6)
        after = estimate_run(make_config(base_url=server.url, **prices))
        assert (after.calls, after.cached, after.cost) == (0, 10, 0.0)
    assert json.loads(Path("out/judge.json").read_text())["cost"] == pytest.approx((1000 * 2 + 100 * 10) / 1e6)


def test_the_key_is_in_no_file_and_no_message(room, make_config, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url))
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        monkeypatch.setenv("OTHER", "sk-wrong-but-still-secret")
        with pytest.raises(JudgeError, match="Incorrect API key provided: Bearer \\*\\*\\*") as error:
            run_judge(make_config(base_url=server.url, api_key_env="OTHER", output="other"))
    written = b"".join(path.read_bytes() for path in room.rglob("*") if path.is_file())
    for secret in (KEY, "sk-wrong-but-still-secret"):
        assert secret.encode() not in written
        assert secret not in str(error.value) + caplog.text


@pytest.mark.parametrize("url", ["http://me:sk-1@host/v1", "http://host/v1?key=sk-1", "host:80"])
def test_addresses_that_carry_secrets_or_are_none(make_config, url):
    with pytest.raises(ConfigError) as error:
        run_judge(make_config(base_url=url))
    assert "sk-1" not in str(error.value)
    assert not Path("out").exists()


def test_one_process_at_a_time_writes_to_a_cache(make_config):
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url))
        with JudgementCache("out/cache.sqlite"), pytest.raises(OutputError, match="another process is judging"):
            run_judge(make_config(base_url=server.url))
    Path("out/cache.sqlite").write_bytes(b"something else entirely, and long enough" * 100)
    with pytest.raises(OutputError, match="cannot be used as a cache"):
        run_judge(make_config(base_url=server.url))


def test_every_question_is_its_own_key(make_config):
    with FakeEndpoint() as server:
        run_judge(make_config(base_url=server.url))
    assert max(Counter(row[0] for row in stored()).values()) == 1


def test_what_is_under_way_when_another_call_fails_is_still_taken_in(make_config):
    with FakeEndpoint(faults={3: "quota"}) as server:
        server.held_from = 0
        config = make_config(base_url=server.url, concurrency=4)
        with beside(run_judge, config, at_end=server.let_go) as run:
            server.until(4)
            server.let_go()
            with pytest.raises(JudgeError, match="quota"):
                run.result(PATIENCE)
        # Whatever was answered is kept, and little was asked after the failure: no worker began a second call more.
        assert 3 <= len(stored()) == sum(server.answered.values()) < 10
        run_judge(make_config(base_url=server.url))
        expect_all_judged_once(server)


def win_score(preferences: list[float]) -> float:
    n = len(preferences)
    return 50 + 100 * (sum(p > 1.5 for p in preferences) - sum(p < 1.5 for p in preferences)) / n


def test_equal_models_score_50_by_a_biased_judge_in_both_orders_and_in_neither_alone(room, make_config):
    """Each pair of worths occurs with its mirror image, so that the models are equally good."""
    worths = [(a, b) for a in range(1, 9) for b in range(1, 9)]
    write_outputs(room / "candidate.json", [new for new, _ in worths], "new")
    write_outputs(room / "baseline.json", [old for _, old in worths], "old")
    with FakeEndpoint(biased) as server:
        report = run_judge(make_config(base_url=server.url))
    rows = annotations()
    columns = ("preference_candidate_second", "preference_candidate_first", "preference")
    second, first, both = (win_score([row[name] for row in rows]) for name in columns)
    print(f"\nwin score: second {second:.1f}, first {first:.1f}, both {both:.1f}; {report['disagreement']:.3f} differ")
    assert both == 50.0
    # Second, the candidate needs 3 points more to win (15 of 64 pairs) and loses with up to 1 more (43).
    assert (second, first) == (50 + 100 * (15 - 43) / 64, 50 + 100 * (43 - 15) / 64)
