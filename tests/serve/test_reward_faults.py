"""Bad requests of every kind, wrong keys, slow and half-sent ones: the right answer, and the others are served on."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import numpy as np
import pytest
import torch
from benchmarks.shared.bad_requests import bad_requests, good_bodies, takes

from odin_rm.model.scoring import Scorer
from odin_rm.serve.http import Guard, Limits
from odin_rm.serve.reward import app, queue
from odin_rm.serve.reward.app import Service
from odin_rm.serve.reward.dialects.table import DIALECTS
from odin_rm.serve.reward.queue import QueueSettings
from tests.serve.reward_kit import KEY, assert_close, dumps, make_model, make_scorer, quality, rendered, serving
from tests.waiting import wait_until

TEXT = rendered("Why?", "No.")
GOOD = good_bodies(TEXT)
CASES = bad_requests(TEXT)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return make_scorer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> Iterator[httpx2.Client]:
    with serving(Service({"rm": make_model(scorer)})) as client:
        yield client


@pytest.mark.parametrize(("path", "name", "body"), CASES, ids=[f"{path}-{name}" for path, name, _ in CASES])
def test_bad_requests_are_refused_in_the_clients_own_shape(client, path, name, body):
    content = body if isinstance(body, bytes) else dumps(body)
    reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
    if takes(path, name):
        assert reply.status_code == 200, reply.text
        return
    assert 400 <= reply.status_code < 500, (reply.status_code, reply.text[:200])
    assert reply.headers["content-type"] == "application/json"
    found = reply.json()
    shape = {
        "/get_reward": {"detail"},
        "/v1/score/evaluation": {"detail"},
        "/predict": {"error", "error_type"},
        "/rerank": {"message", "error"},
    }
    assert set(found) == shape.get(path, {"error"})
    if isinstance(found.get("error"), dict):
        assert set(found["error"]) == {"message", "type", "param", "code"}
        assert found["error"]["code"] == reply.status_code


def test_there_are_sixty_bad_requests_for_each_protocol():
    counts = {path: sum(1 for case in CASES if case[0] == path and not takes(path, case[1])) for path in GOOD}
    assert min(counts.values()) >= 60, counts
    assert {dialect.name for path, dialect in DIALECTS.items() if path in GOOD} == {d.name for d in DIALECTS.values()}


def test_the_server_answers_after_all_of_them(client, scorer):
    for path, body in GOOD.items():
        assert client.post(path, json=body).status_code == 200, path
    assert_close(
        client.post("/get_reward", json=GOOD["/get_reward"]).json()["rewards"], quality(scorer, ["Why?"], ["No."])
    )


def test_unknown_paths_and_methods(client):
    assert client.post("/v1/chat/completions", json={}).status_code == 404
    assert client.get("/classify").status_code == 405
    assert client.get("/docs").status_code == 404
    assert client.put("/get_reward", json={}).json()["detail"]


@pytest.mark.parametrize("field", ["tools", "chat_template_kwargs"])
def test_what_a_template_cannot_write_is_the_clients_fault(tmp_path, field):
    """Nested so deeply that JSON can be read and the template's own JSON cannot be written."""
    deep: object = "a"
    for _ in range(900):
        deep = {"a": deep}
    body = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}]}
    body |= {field: [deep] if field == "tools" else {"deep": deep}}
    scorer = make_scorer(tmp_path)
    scorer.tokenizer.chat_template += "{% if tools or deep %}{{ (tools or deep) | tojson }}{% endif %}"
    with serving(Service({"rm": make_model(scorer)})) as client:
        reply = client.post("/classify", json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages"), reply.text
        assert "nested too deeply" in reply.json()["error"]["message"]


def test_odd_heads_of_requests(client, scorer):
    """What curl, probes and proxies send: a slash too many, HEAD, compressed bodies, an Origin that is no address."""
    good = GOOD["/get_reward"]
    wanted = quality(scorer, ["Why?"], ["No."])
    assert_close(client.post("/get_reward/", json=good).json()["rewards"], wanted)
    assert client.post("/nothing/", json=good).status_code == 404
    for path in ("/", "/health", "/health/", "/v1/models", "/info", "/metrics"):
        reply = client.head(path)
        assert (reply.status_code, reply.content) == (200, b""), path
    reply = client.post("/get_reward", content=gzip.compress(dumps(good)), headers={"Content-Encoding": "gzip"})
    assert (reply.status_code, list(reply.json())) == (415, ["detail"])
    assert client.post("/get_reward", json=good, headers={"Content-Encoding": "identity"}).status_code == 200
    assert len(client.post("/" + "a" * 50_000, json=good).content) < 1000


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_too_many_texts(scorer):
    with serving(Service({"rm": make_model(scorer)}, most_texts=3)) as client:
        assert client.post("/get_reward", json={"query": [TEXT] * 3}).status_code == 200
        reply = client.post("/get_reward", json={"query": [TEXT] * 4})
        assert (reply.status_code, list(reply.json())) == (413, ["detail"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get_reward", {"query": [""] * 5}),
        ("/classify", {"input": [[5]] * 5}),
        ("/score", {"text_1": "a", "text_2": {"content": [{"type": "text", "text": "a"}] * 5}}),
        ("/predict", {"inputs": [["a", "b"]] * 5}),
        ("/api/score", {"prompt": "a", "responses": ["a"] * 5}),
    ],
)
def test_too_many_texts_are_counted_before_anything_is_made_of_them(scorer, monkeypatch, path, body):
    from odin_rm.serve.reward.dialects import records

    def made(*arguments, **options):
        raise AssertionError("an entry was read")

    with serving(Service({"rm": make_model(scorer)}, most_texts=4)) as client, monkeypatch.context() as patched:
        patched.setattr(records.Item, "__init__", made)
        assert client.post(path, json=body).status_code == 413


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get_reward", {"query": "rice " * 250_000}),
        ("/get_reward", {"prompt": "rice " * 120_000, "response": "rice " * 120_000}),
        ("/classify", {"input": ["rice " * 250_000, TEXT], "truncate_prompt_tokens": -1}),
        ("/rerank", {"query": "a", "documents": [{"content": [{"type": "text", "text": "rice " * 250_000}]}]}),
        (
            "/classify",
            {
                "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}],
                "tools": [{"a": {"b": ["rice " * 250_000]}}],
            },
        ),
    ],
)
def test_a_text_that_can_not_fit_is_refused_before_it_is_tokenised(scorer, monkeypatch, path, body):
    """Tokenising takes 200 times a text's size."""

    def tokenised(*arguments, **options):
        raise AssertionError("was tokenised")

    with serving(Service({"rm": make_model(scorer)})) as client, monkeypatch.context() as patched:
        patched.setattr(type(scorer.tokenizer), "__call__", tokenised)
        reply = client.post(path, json=body)
        assert reply.status_code == 400
        assert "at most 1,048,576 are read" in reply.text


def test_ids_of_one_text_are_not_texts(scorer):
    with serving(Service({"rm": make_model(scorer)}, most_texts=4)) as client:
        assert client.post("/classify", json={"input": [5, 6, 7, 8, 9, 10]}).status_code == 200


def test_a_large_request_is_read_beside_the_others_and_answered_alike(scorer):
    """Of more than a quarter of a megabyte, in white space that no tokenizer counts."""
    body = {"query": [TEXT], "labels": [" " * 2**19]}
    with serving(Service({"rm": make_model(scorer)})) as client:
        assert_close(client.post("/get_reward", json=body).json()["rewards"], quality(scorer, ["Why?"], ["No."]))
        assert client.post("/get_reward", content=b" " * 2**19).status_code == 400


def test_a_body_of_600_mebibytes_is_refused_and_never_held(scorer):
    """Announced, and sent in chunks of no announced size."""
    limits = Limits(body_bytes=2**20)
    piece = b"x" * 2**20

    def stream() -> Iterator[bytes]:
        for _ in range(600):
            yield piece

    with serving(Service({"rm": make_model(scorer)}, limits=limits)) as client:
        for headers in ({"Content-Length": str(600 * 2**20)}, {}):
            reply = client.post("/get_reward", content=stream(), headers=headers)
            assert (reply.status_code, list(reply.json())) == (413, ["detail"])
        assert client.post("/get_reward", json=GOOD["/get_reward"]).status_code == 200


def test_many_bodies_at_a_time_are_bounded(scorer):
    limits = Limits(body_bytes=2**20, pending_bytes=2**20)
    with serving(Service({"rm": make_model(scorer)}, limits=limits)) as client:
        half = b'{"query": ["' + b"x" * (2**20 - 2000)
        held = open_socket(client, post_head("/get_reward", 2**20) + half)
        wait_until(lambda: client.post("/get_reward", content=b"x" * 5000).status_code == 429)
        assert client.post("/get_reward", content=b"x" * 5000).headers["retry-after"] == "1"
        held.close()
        wait_until(lambda: client.post("/get_reward", json=GOOD["/get_reward"]).status_code == 200)


def post_head(path: str, length: int, host: str = "127.0.0.1") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n".encode()


def open_socket(client: httpx2.Client, first: bytes) -> socket.socket:
    held = socket.create_connection((client.base_url.host, int(client.base_url.port or 0)))
    held.settimeout(120)
    held.sendall(first)
    return held


# ---- slow senders ----------------------------------------------------------------------------------------------------


def test_half_sent_requests_are_given_up(scorer):
    limits = Limits(header_seconds=0.2, body_seconds=0.2)
    with serving(Service({"rm": make_model(scorer)}, limits=limits)) as client:
        silent = open_socket(client, b"")
        head = open_socket(client, b"POST /get_reward HTT")
        body = open_socket(client, post_head("/get_reward", 100) + b"{")
        assert silent.recv(100) == b""
        assert head.recv(100) == b""
        assert body.recv(100).startswith(b"HTTP/1.1 408")
        assert client.post("/get_reward", json=GOOD["/get_reward"]).status_code == 200


def test_more_slow_senders_than_connections_keep_nobody_out(scorer):
    limits = Limits(connections=16)
    with serving(Service({"rm": make_model(scorer)}, limits=limits)) as client:
        starts = [b"", b"POST /get", post_head("/get_reward", 100), post_head("/get_reward", 100) + b"{"]
        held = [open_socket(client, starts[i % 4]) for i in range(64)]
        for _ in range(3):
            assert client.post("/get_reward", json=GOOD["/get_reward"]).status_code == 200
            held.append(open_socket(client, b"GET "))
        for one in held:
            one.close()


# ---- keys and hosts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(scorer: Scorer) -> Iterator[httpx2.Client]:
    with serving(Service({"rm": make_model(scorer)}, key=KEY)) as client:
        yield client


GUARDED = [("POST", path) for path in (*DIALECTS, "/api/score", "/nothing")]
GUARDED += [("GET", path) for path in ("/", "/v1/models", "/metrics", "/info", "/docs", "/nothing")]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_every_path_but_health_asks_for_the_key(guarded, method, path, headers):
    reply = guarded.request(method, path, headers=headers, content=b"{" if method == "POST" else None)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_health_is_open(guarded, path):
    assert guarded.get(path).status_code == 200
    assert guarded.post(path).status_code == 401


def test_the_key_opens_by_header_and_by_address(guarded, scorer):
    wanted = quality(scorer, ["Why?"], ["No."])
    for options in (
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"Authorization": f"bearer  {KEY}"}},
        {"params": {"key": KEY}},
    ):
        reply = guarded.post("/get_reward", json=GOOD["/get_reward"], **options)
        assert_close(reply.json()["rewards"], wanted)
    assert guarded.post("/get_reward", json=GOOD["/get_reward"], params={"key": "wrong"}).status_code == 401


@pytest.mark.parametrize(
    "query", ["?key=a+b/c==", "?x=1&key=a+b/c==&y=", "?key=a%2Bb%2Fc%3D%3D", "?key=no&key=a+b/c=="]
)
def test_a_key_of_base64_opens_as_it_is_written(scorer, query):
    with serving(Service({"rm": make_model(scorer)}, key="a+b/c==")) as client:
        assert client.post(f"/get_reward{query}", json=GOOD["/get_reward"]).status_code == 200
        assert client.post("/get_reward?key=a b/c==", json=GOOD["/get_reward"]).status_code == 401


def test_the_key_is_asked_before_the_body_is_read(guarded):
    """The refusal comes while the body has not been sent."""
    held = open_socket(guarded, post_head("/get_reward", 10_000_000))
    assert held.recv(100).startswith(b"HTTP/1.1 401")
    held.close()


def test_without_a_key_other_names_and_other_sites_are_refused(scorer):
    service = Service({"rm": make_model(scorer)}, hosts=("127.0.0.1", "localhost"))
    with serving(service) as client:
        body = GOOD["/get_reward"]
        assert client.post("/get_reward", json=body).status_code == 200
        assert client.post("/get_reward", json=body, headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
        for origin in ("http://evil.example", "null", "http://["):
            assert client.post("/get_reward", json=body, headers={"Origin": origin}).status_code == 403
        own = f"http://{client.base_url.host}:{client.base_url.port}"
        assert client.post("/get_reward", json=body, headers={"Origin": own}).status_code == 200


# ---- the model fails -------------------------------------------------------------------------------------------------


def failing(scorer: Scorer, fail) -> Service:
    """A service whose model meets what ``fail(sequences)`` does."""
    model = make_model(scorer)
    own = model.score

    def score(sequences):
        fail(sequences)
        return own(sequences)

    model.score = score  # type: ignore[method-assign]
    return Service({"rm": model})


def test_a_text_that_does_not_fit_into_memory_spoils_no_other(scorer):
    def fail(sequences):
        if max(map(len, sequences)) > 40:
            raise torch.OutOfMemoryError("out of memory")

    long = rendered("Why?", "rice " * 40)
    with serving(failing(scorer, fail)) as client:
        both = client.post("/get_reward", json={"query": [TEXT, long]})
        assert both.status_code == 503
        assert int(both.headers["retry-after"]) >= 1
        assert_close(
            client.post("/get_reward", json={"query": [TEXT]}).json()["rewards"], quality(scorer, ["Why?"], ["No."])
        )


@pytest.mark.parametrize(
    "said", [MemoryError(), RuntimeError("can't start new thread"), RuntimeError("std::bad_alloc")]
)
def test_no_memory_is_503_wherever_it_shows(scorer, monkeypatch, said):
    """While a body is read as JSON, while texts are tokenised, and while a batch begins; the server goes on."""
    model = make_model(scorer)
    service = Service({"rm": model}, QueueSettings(cache_size=0))
    with serving(service) as client:

        def asked() -> httpx2.Response:
            return client.post("/classify", json={"input": [TEXT]})

        def no_room(*arguments, **options):
            raise said

        for owner, name in (
            (app, "_understand"),
            (app, "_encode_all"),
            (queue, "score_batch"),
            (queue.ScoreQueue, "_check_room"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, no_room)
                reply = asked()
            assert (reply.status_code, reply.json()["error"]["type"]) == (503, "ServiceUnavailableError"), name
            assert reply.headers["retry-after"] == "10"
            assert asked().status_code == 200, name


def test_a_body_that_memory_does_not_hold_is_503_and_counts_no_more():
    import asyncio

    async def fails(scope, receive, send):
        raise AssertionError("is not asked")

    refused: list[int] = []
    guard = Guard(
        fails,
        key=None,
        open_paths=(),
        hosts=None,
        limits=Limits(),
        refuse=lambda path, status, message: message.encode(),
        refused=lambda method, path, status: refused.append(status),
    )
    sent: list[dict] = []
    parts = iter([{"body": b"x" * 100, "more_body": True}, MemoryError(), {"body": b"", "more_body": False}])

    async def receive():
        part = next(parts)
        if isinstance(part, MemoryError):
            raise part
        return {"type": "http.request", **part}

    async def send(message):
        sent.append(message)

    asyncio.run(
        guard({"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}, receive, send)
    )
    assert (refused, guard.pending) == ([503], 0)
    assert (b"retry-after", b"10") in sent[0]["headers"]


def test_a_score_that_is_not_finite_is_never_sent(scorer):
    model = make_model(scorer)
    model.score = lambda sequences: (np.array([np.nan if len(s) > 40 else 1.0 for s in sequences]), None)
    long = rendered("Why?", "rice " * 40)
    with serving(Service({"rm": model})) as client:
        assert client.post("/get_reward", json={"query": [TEXT, long]}).status_code == 422
        found = client.post("/get_reward", json={"query": [TEXT]}).json()
        assert found["rewards"] == [1.0]
        assert "length_reward" not in found["extra_logs"]


def test_a_fault_of_ours_names_no_text_and_the_server_goes_on(scorer, caplog):
    def fail(sequences):
        if len(sequences[0]) > 40:
            raise ZeroDivisionError("inside the model")

    long = rendered("Why?", "rice " * 40)
    with serving(failing(scorer, fail)) as client:
        reply = client.post("/get_reward", json={"query": [long]})
        assert reply.status_code == 500
        assert list(reply.json()) == ["detail"]
        assert client.post("/get_reward", json={"query": [TEXT]}).status_code == 200
    assert "rice" not in caplog.text
    assert "a text could not be scored" in caplog.text


def test_a_request_that_takes_too_long_is_told_so(scorer):
    import threading

    release = threading.Event()
    service = replace(failing(scorer, lambda sequences: release.wait(120)), score_seconds=0.2)
    with serving(service) as client:
        reply = client.post("/get_reward", json={"query": [TEXT]})
        release.set()
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1


def test_a_full_queue_says_when_to_come_again(scorer):
    import threading

    release, begun = threading.Event(), threading.Event()

    def fail(sequences):
        begun.set()
        release.wait(120)

    service = replace(failing(scorer, fail), queue=QueueSettings(window=0, most_texts=2))
    bodies = [{"query": [rendered("Why?", f"{word} .")]} for word in ("rice", "cats", "hill", "water")]
    statuses: list[int] = []
    with serving(service) as client:
        threads = [
            threading.Thread(target=lambda b=b: statuses.append(client.post("/get_reward", json=b).status_code))
            for b in bodies[:3]
        ]
        threads[0].start()
        begun.wait(120)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: "waiting_texts 2.0" in client.get("/metrics").text)
        reply = client.post("/get_reward", json=bodies[3])
        assert reply.status_code == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        release.set()
        for thread in threads:
            thread.join()
        assert statuses == [200, 200, 200]
        assert client.post("/get_reward", json=bodies[3]).status_code == 200
