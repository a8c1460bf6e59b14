"""Calls that no page makes: foreign pages, bodies without end or sense, requests that are never sent to their end."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from odin_rm.serve.study import guard, server
from odin_rm.serve.study.app import make_app
from odin_rm.serve.study.design import turns
from tests.serve.conftest import serving
from tests.serve.test_study_server import post
from tests.waiting import PATIENCE

TOKEN = "very-secret"
POST = "POST /api/start HTTP/1.1\nHost: x\nContent-Type: application/json\nConnection: close\n"


def client_of(store, **settings) -> TestClient:
    app = make_app(store, question="Which?", **settings)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"rater": NaN}', 422),
        (b'{"rater": "Ann", "more": Infinity}', 422),
        (b'{"rater": 1e999}', 422),
        (b'{"rater": "\\ud800"}', 422),
        (b'{"rater": 1}', 422),
        (b'{"rater": null}', 422),
        (b'{"rater": ["Ann"]}', 422),
        (b'["Ann"]', 422),
        (b"null", 422),
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b'{"rater": ' + b"9" * 5000 + b"}", 400),
        (b'{"rater": "' + b"x" * 100_000 + b'"}', 413),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bodies_that_the_page_does_not_send_are_refused_and_leave_nothing(make_store, body, status):
    store = make_store()
    head = {"Content-Type": "application/json"}
    for path in ("start", "rate", "undo"):
        reply = client_of(store).post(f"/api/{path}", content=body, headers=head)
        assert reply.status_code == status, reply.text
        assert isinstance(reply.json()["detail"], str)
    assert not store.knows("ann")


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, None, 200),
        ({"Origin": "http://127.0.0.1"}, None, 200),
        ({"Origin": "http://evil.example"}, None, 403),
        ({"Origin": "null"}, None, 403),
        ({"Origin": "http://["}, None, 403),
        ({"Origin": "http://127.0.0.1:81"}, None, 403),
        ({"Sec-Fetch-Site": "cross-site"}, None, 403),
        ({"Sec-Fetch-Site": "same-site"}, None, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, None, 200),
        ({"Content-Type": "text/plain"}, None, 422),
        ({"Content-Type": ""}, None, 422),
        ({"Content-Type": "application/json; charset=utf-8"}, None, 200),
        ({"Origin": "http://evil.example"}, TOKEN, 403),
        # behind a proxy that gives the call another host
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://study.example"}, TOKEN, 200),
    ],
)
def test_only_the_page_itself_may_call(make_store, headers, token, status):
    auth = {} if token is None else {"Authorization": f"Bearer {token}"}
    heads = {"Content-Type": "application/json", **auth, **headers}
    reply = client_of(make_store(), token=token).post("/api/start", content=b'{"rater": "Ann"}', headers=heads)
    assert reply.status_code == status


def test_a_rating_of_somebody_who_never_started_is_refused(make_store):
    store = make_store()
    client = client_of(store)
    item = client.post("/api/start", json={"rater": "Ann"}).json()["pair"]["item"]
    assert client.post("/api/undo", json={"rater": "Bob"}).status_code == 409
    (turn, *_) = turns(store.study, "bob")
    assert turn.item != item
    assert client.post("/api/rate", json={"rater": "Bob", "item": turn.item, "side": "left"}).status_code == 409
    assert store.ratings() == []


def talk(address: str, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request has begun."""
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=PATIENCE)
    connection.sendall(head.replace("\n", "\r\n").encode() + body)
    return connection


def replies(connection: socket.socket, until: bytes = b"") -> bytes:
    """What comes, until the other side closes or has said something."""
    received = b""
    with connection:
        while (part := connection.recv(65536)) and not (until and until in received + part):
            received += part
    return received + part


def test_the_token_is_checked_and_the_size_looked_at_before_the_body_is_sent(make_store):
    head = "POST /api/start HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"
    with serving(make_store(), token=TOKEN) as address:
        # Not a byte of either body is sent: a reply comes all the same.
        assert replies(talk(address, head + "Content-Length: 629145600\n\n"), b"}").startswith(b"HTTP/1.1 401 ")
        allowed = f"{head}Authorization: Bearer {TOKEN}\n"
        assert replies(talk(address, allowed + "Content-Length: 629145600\n\n"), b"}").startswith(b"HTTP/1.1 413 ")
        chunks = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        endless = talk(address, allowed + "Transfer-Encoding: chunked\n\n", 3 * chunks)
        assert replies(endless, b"}").startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_is_given_up(make_store, monkeypatch):
    monkeypatch.setattr(guard, "LIMITS", replace(guard.LIMITS, body_seconds=0.1))
    head = (
        "POST /api/start HTTP/1.1\nHost: x\nContent-Type: application/json\nConnection: close\nContent-Length: 20\n\n"
    )
    with serving(make_store()) as address:
        assert replies(talk(address, head, b'{"rater')).startswith(b"HTTP/1.1 408 ")


def test_requests_that_are_never_whole_are_closed(make_store, monkeypatch):
    monkeypatch.setattr(server, "LIMITS", replace(guard.LIMITS, header_seconds=0.1))
    monkeypatch.setattr(guard, "LIMITS", replace(guard.LIMITS, body_seconds=0.1))
    with serving(make_store()) as address:
        for begun in ("GET / HTTP/1.1\nHost: x\n", "POST /api/start HTTP/1.1\nHost: x\nContent-Length: 9\n"):
            connection = talk(address, begun)
            with suppress(ConnectionResetError):
                assert replies(connection) == b""


def test_half_sent_requests_shut_nobody_out(make_store, monkeypatch):
    monkeypatch.setattr(server, "LIMITS", replace(guard.LIMITS, connections=8))
    with serving(make_store()) as address, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(talk(address, "POST /api/start HTTP/1.1\nHost: x\n"))
        assert post(address, "start", rater="Ann")["done"] == 0
        whole = json.dumps({"rater": "Bob"}).encode()
        head = f"{POST}Content-Length: {len(whole)}\n\n"
        assert b'"done"' in replies(talk(address, head, whole))
