"""A reward server in OpenRLHF's protocol, well and ill: what is asked, what is tried again, what ends the run."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from odin_rm.core.errors import RewardSourceError
from odin_rm.data.messages import ChatPrompt
from odin_rm.data.prompts import encode_prompts
from odin_rm.rl.reward_source import load_reward_source
from odin_rm.rl.sources import http
from odin_rm.rl.sources.http import HttpSource
from odin_rm.testbed.tiny import build_tokenizer
from tests.rl.sources_kit import CHAT, make_request

Act = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def say(handler: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def pay_length(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    numbers = [float(len(query)) for query in asked["query"]]
    say(handler, {"rewards": numbers, "scores": numbers, "extra_logs": {"n": numbers, "odd": [1], "text": "x"}})


class Server:
    """Does what ``acts`` say, one act per request, the last one for ever."""

    def __init__(self) -> None:
        self.acts: list[Act] = [pay_length]
        self.asked: list[dict[str, Any]] = []
        self.heads: list[Any] = []
        self.accepted: list[str] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.heads.append((self.path, self.headers["Content-Type"]))
                outer.accepted.append(self.headers["Accept-Encoding"])
                act = outer.acts[min(len(outer.asked), len(outer.acts)) - 1]
                with contextlib.suppress(OSError):  # the client has gone
                    act(self, outer.asked[-1])

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/get_reward"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, content: Any, status: int = 200) -> None:
        self.acts = [lambda handler, _: say(handler, content, status)]

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    yield running
    running.close()


def source(server: Server, **options: Any) -> HttpSource:
    return HttpSource(server.url, **({"timeout": 5.0, "retries": 2, "pause": 0.01} | options))


def refused(server: Server, **options: Any) -> str:
    with pytest.raises(RewardSourceError) as caught:
        source(server, **options).judge(make_request())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(server.url)
    return message


def test_what_is_asked_and_answered(server):
    tokenizer = build_tokenizer()
    word = tokenizer.convert_tokens_to_ids("human")
    request = make_request(columns={"label": ["a", None, 3]})
    request.response_ids[:] = [[word, tokenizer.eos_token_id], [word, word], [tokenizer.eos_token_id]]
    judged = source(server, policy_tokenizer=tokenizer).judge(request)
    (asked,) = server.asked
    assert server.heads == [("/get_reward", "application/json")]
    assert set(asked) == {"query", "prompts", "labels"}
    ids, _ = encode_prompts(tokenizer, request.prompts, max_prompt_tokens=99)
    for row, (prompt_ids, response_ids) in enumerate(zip(ids, request.response_ids, strict=True)):
        assert asked["prompts"][row] == tokenizer.decode(prompt_ids)
        assert asked["query"][row] == tokenizer.decode(prompt_ids + response_ids)
    assert asked["query"][0].endswith("human <eos>")  # special tokens are kept, also the one that ends
    assert asked["labels"] == ["a", None, "3"]
    assert judged.quality.tolist() == [len(query) for query in asked["query"]]
    assert judged.quality.dtype == np.float64
    assert judged.log_columns == {"n": judged.quality.tolist()}  # what is no list of one value each is left alone


def test_the_chat_template_of_the_policy_writes_the_queries(server):
    tokenizer = build_tokenizer()
    template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}assistant :"
    HttpSource(server.url, policy_tokenizer=tokenizer, chat_template=template).judge(make_request([CHAT], ["no"]))
    tokenizer.chat_template = template
    HttpSource(server.url, policy_tokenizer=tokenizer).judge(make_request([CHAT], ["no"]))
    HttpSource(server.url, policy_tokenizer=tokenizer, chat_template="plain").judge(make_request([CHAT], ["no"]))
    given, own, plain = (asked["prompts"] for asked in server.asked)
    assert given == own
    assert given != plain


def test_tools_are_in_the_query_and_beside_it(server):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for t in tools or [] %}{{ t.name }} {% endfor %}{% for m in messages %}{{ m['content'] }} {% endfor %}"
    )
    tools = [{"name": "bread"}]
    prompts = [ChatPrompt(CHAT, {"tools": tools}), CHAT]
    HttpSource(server.url, policy_tokenizer=tokenizer).judge(make_request(prompts, ["no", "no"]))
    (asked,) = server.asked
    assert asked["tools"] == [tools, None]
    assert ["bread" in prompt for prompt in asked["prompts"]] == [True, False]
    assert ["bread" in query for query in asked["query"]] == [True, False]


def test_without_a_tokenizer_queries_are_plain_text(server):
    source(server).judge(make_request(["Why?"], ["no"]))
    assert server.asked[0] == {
        "query": ["Human: Why?\n\nAssistant: no"],
        "prompts": ["Human: Why?\n\nAssistant:"],
        "labels": [None],
    }


def test_many_responses_are_asked_in_parts_and_keep_their_order(server, monkeypatch):
    monkeypatch.setattr(http, "MOST_QUERIES", 2)
    texts = ["a " * n for n in (5, 1, 4, 2, 3)]
    judged = source(server).judge(make_request(["q"] * 5, texts, columns={"label": list("vwxyz")}))
    assert [len(asked["query"]) for asked in server.asked] == [2, 2, 1]
    assert [label for asked in server.asked for label in asked["labels"]] == list("vwxyz")
    base = len("Human: q\n\nAssistant: ")
    assert judged.quality.tolist() == [base + 2 * n for n in (5, 1, 4, 2, 3)]
    assert judged.log_columns["n"] == judged.quality.tolist()


# ---- trouble that may pass -------------------------------------------------------------------------------------------


def busy(status: int) -> Act:
    return lambda handler, _: say(handler, b"loading", status)


def hangs_up(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.close_connection = True  # without a word


def dies_midway(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"rewards": [1.0,')
    handler.close_connection = True


def dies_in_chunks(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'40\r\n{"rewards": [1.0,')
    handler.close_connection = True


@pytest.mark.parametrize(
    "trouble", [busy(500), busy(503), busy(429), hangs_up, dies_midway, dies_in_chunks], ids=lambda act: act.__name__
)
def test_trouble_that_passes_is_tried_again(server, trouble):
    server.acts = [trouble, trouble, pay_length]
    assert len(source(server).judge(make_request()).quality) == 3
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (busy(500), r"no answer in 3 tries \(HTTP 500 Internal Server Error: loading\)"),
        (hangs_up, r"no answer in 3 tries \(Server disconnected without sending a response"),
        (dies_midway, r"no answer in 3 tries \(.*received 17 bytes, expected 500"),
        (dies_in_chunks, r"no answer in 3 tries \(.*incomplete chunked read"),
    ],
)
def test_trouble_that_stays_ends_with_a_line_that_says_so(server, trouble, why):
    server.acts = [trouble]
    message = refused(server)
    assert re.search(why, message), message
    assert "--resume_from_checkpoint" in message
    assert len(server.asked) == 3


def test_a_server_that_is_silent_or_drips_is_given_up_in_time(server):
    def silent(handler: BaseHTTPRequestHandler, _: Any) -> None:
        server.closing.wait(20)

    def drips(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not server.closing.wait(0.02):
            handler.wfile.write(b" ")

    for act in (silent, drips):
        server.asked.clear()
        server.acts = [act]
        assert "no answer in 2 tries (nothing within 0.2 s)" in refused(server, timeout=0.2, retries=1)
        assert len(server.asked) == 2


def test_headers_that_drip_are_given_up_in_time(server):
    def drips(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        number = 0
        while not server.closing.wait(0.02):
            handler.wfile.write(b"X-Part-%d: more\r\n" % number)
            number += 1

    server.acts = [drips]
    assert "no answer in 1 try (nothing within 0.2 s)" in refused(server, timeout=0.2, retries=0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nobody_is_sent_elsewhere(server, status):
    """A redirected POST becomes a GET, or takes the responses to another address."""
    other = Server()

    def elsewhere(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(status)
        handler.send_header("Location", f"{other.url}?key=secret")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.acts = [elsewhere]
    message = refused(server)
    other.close()
    assert f"it sends elsewhere (HTTP {status}, to {other.url}), and redirects are not followed" in message
    assert "secret" not in message
    assert (len(server.asked), other.asked) == (1, [])


def test_a_body_without_end_is_left_at_the_limit(server, monkeypatch):
    monkeypatch.setattr(http, "MOST_BYTES", 100_000)
    sent = []

    def flood(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" " * 100_000)
            sent.append(1)

    server.acts = [flood]
    assert "the answer is longer than 0.0954 MiB" in refused(server)
    server.answer(b" " * 100_001)
    assert "the answer is longer than 0.0954 MiB" in refused(server)
    assert len(sent) < 1000


def test_a_compressed_body_is_not_unpacked(server):
    def packed(handler: BaseHTTPRequestHandler, _: Any) -> None:
        body = gzip.compress(b" " * 10_000_000)
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server.acts = [packed]
    assert "the answer is compressed (gzip)" in refused(server)
    assert server.accepted == ["identity"]


def test_an_error_is_read_no_further_than_it_is_shown(server):
    def endless(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(404)
        handler.end_headers()
        while not server.closing.wait(0.001):
            handler.wfile.write(b"no such page " * 100)

    server.acts = [endless]
    assert "the server refuses (HTTP 404 Not Found: no such page" in refused(server)


def test_a_server_that_is_not_there(server):
    server.close()
    assert "no answer in 1 try (" in refused(server, retries=0)
    assert server.asked == []


def test_the_pauses_double_up_to_a_limit(server, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    server.acts = [busy(503)]
    refused(server, pause=8.0, retries=4)
    assert pauses == [8.0, 16.0, 30.0, 30.0]


# ---- answers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"<html>oops</html>", "the answer is not JSON (b'<html>oops</html>')"),
        (b"\xff\xfe\x00", "the answer is not JSON"),
        (b"", "the answer is not JSON (b'')"),
        ([1.0, 2.0, 3.0], "the answer has no 'rewards' (it is no object)"),
        ({"scores": [1.0, 2.0, 3.0], "extra_logs": {}}, "the answer has no 'rewards' (it has scores, extra_logs)"),
        ({}, "the answer has no 'rewards' (it has nothing)"),
        ({"rewards": [1.0, 2.0]}, "'rewards' has 2 numbers for 3 responses"),
        ({"rewards": [1.0] * 4}, "'rewards' has 4 numbers for 3 responses"),
        ({"rewards": 1.0}, "'rewards' has 1.0 for 3 responses"),
        ({"rewards": None}, "'rewards' has None for 3 responses"),
        ({"rewards": [1.0, float("nan"), 3.0]}, "the reward of response 2 is NaN, not a finite number"),
        ({"rewards": [1.0, 2.0, float("-inf")]}, "the reward of response 3 is -Infinity, not a finite number"),
        ({"rewards": [None, 2.0, 3.0]}, "the reward of response 1 is null, not a finite number"),
        ({"rewards": [1.0, "2.0", 3.0]}, 'the reward of response 2 is "2.0", not a finite number'),
        ({"rewards": [1.0, [2.0], 3.0]}, "the reward of response 2 is [2.0], not a finite number"),
        ({"rewards": [1.0, True, 3.0]}, "the reward of response 2 is true, not a finite number"),
        ({"rewards": [1.0, 2.0, 10**400]}, "the answer is not JSON"),  # more digits than a float holds
        (b'{"rewards": [1, 2, 1' + b"0" * 5000 + b"]}", "the answer is not JSON"),  # more digits than Python reads
        (b"[" * 100_000 + b"]" * 100_000, "the answer is not JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rubbish_ends_at_once_and_is_named(server, answer, why):
    server.answer(answer)
    assert why in refused(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_not_tried_again(server, status):
    server.answer(b"no key\nno answer", status)
    message = refused(server)
    assert f"the server refuses (HTTP {status} " in message
    assert "no key no answer" in message
    assert len(server.asked) == 1


def test_rows_are_counted_over_all_parts(server, monkeypatch):
    monkeypatch.setattr(http, "MOST_QUERIES", 2)
    server.acts = [pay_length, lambda handler, _: say(handler, {"rewards": [None]})]
    assert "the reward of response 3 is null" in refused(server)


@pytest.mark.parametrize("url", ["http://", "http://host:none/x", "http://a b/", "http://höst/", "https:///x"])
def test_an_address_that_is_none_is_refused_when_it_is_given(url):
    with pytest.raises(RewardSourceError, match="is no address"):
        load_reward_source(url)


def test_a_key_in_the_address_is_used_and_never_told(server):
    keyed = load_reward_source(server.url + "?key=secret", timeout=5.0, retries=0)
    keyed.judge(make_request())
    assert server.heads[0][0] == "/get_reward?key=secret"
    server.answer([])
    with pytest.raises(RewardSourceError) as caught:
        keyed.judge(make_request())
    assert "secret" not in str(caught.value) + keyed.name
