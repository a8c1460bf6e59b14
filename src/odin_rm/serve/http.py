"""What a server of ours needs before its application is asked: who may call, how much is read, and for how long.

:class:`Guard` stands before the application. It looks at the host, the key and the announced size before anything of
the body is read, reads the body within a limit of bytes and seconds, and hands on a request that is whole.
:func:`patient_protocol` closes connections that send half a request and then nothing, and the oldest of them where
there are too many; so neither slow senders nor idle ones keep others out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import resource
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.reading import read_text

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# (path, status, message) -> the body of the reply
Refuse = Callable[[str, int, str], bytes]

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
SHORTEST_KEY = 8
# Descriptors for what is no connection: files, pipes, the listener.
_SPARE_DESCRIPTORS = 56
# Connections that asyncio accepts in one turn of its loop, and those that may wait in the kernel for it.
_ACCEPTED_AT_ONCE, _BACKLOG = 8, 2048
# What is still read, and thrown away, behind a refusal, so that a client that is sending can read it.
_READ_AWAY = {401: 2**20, 403: 2**20}
_READ_AWAY_ELSE = 2**31
_READ_AWAY_SECONDS = 10.0
_RETRY_AFTER = {429: b"1", 503: b"10"}
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True)
class Limits:
    """How much a server takes in.

    Attributes:
        body_bytes: the largest body.
        pending_bytes: of all bodies that are being read at a time.
        header_seconds: for the head of a request, and for each further one on a connection.
        body_seconds: for the body.
        connections: open at a time; beyond, those that wait for their client are closed, the oldest first.
    """

    body_bytes: int = 32 * 2**20
    pending_bytes: int = 256 * 2**20
    header_seconds: float = 20.0
    body_seconds: float = 60.0
    connections: int = 4096

    def within_descriptors(self) -> Limits:
        """The same with no more connections than this process may have descriptors."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most == resource.RLIM_INFINITY:
            return self
        fitting = max(8, min(self.connections, most - _SPARE_DESCRIPTORS))
        return Limits(self.body_bytes, self.pending_bytes, self.header_seconds, self.body_seconds, fitting)


class Guard:
    """An ASGI application that lets only good requests through to another one.

    Args:
        app: is asked with requests whose body has been read.
        key: what callers must show, as ``Authorization: Bearer KEY`` or ``?key=KEY``; ``None`` asks for none.
        open_paths: may be fetched by anybody.
        hosts: the names by which the server may be called; ``None`` takes any. Without a key these keep pages of
            other sites, open in a browser of this machine, from asking under a name of their own.
        limits: see :class:`Limits`.
        refuse: makes the body of a refusal.
        refused: is told of refusals: method, path and status.
    """

    def __init__(
        self,
        app: App,
        *,
        key: str | None,
        open_paths: Collection[str],
        hosts: Collection[str] | None,
        limits: Limits,
        refuse: Refuse,
        refused: Callable[[str, str, int], None] = lambda method, path, status: None,
    ) -> None:
        self.app, self.key, self.open_paths = app, key, frozenset(open_paths)
        self.hosts = None if hosts is None else {name.lower().strip("[]") for name in hosts}
        self.limits, self.refuse, self.refused = limits, refuse, refused
        self.pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _with_headers(send)
        if len(scope["path"]) > 1:  # clients join a base URL and a path in many ways
            scope["path"] = scope["path"].rstrip("/") or "/"
        head = {name: value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._check_caller(scope, head) or self._check_body(head)
        if problem is not None:
            await self._refuse(scope, receive, send, *problem)
            return
        body, problem = await self._read(receive)
        try:
            if problem is not None:
                await self._refuse(scope, receive, send, *problem)
            elif body is not None:
                await self.app(scope, _replay(body, receive), send)
        finally:
            self.pending -= len(body) if body is not None else 0

    def _check_caller(self, scope: Scope, head: dict[bytes, str]) -> tuple[int, str] | None:
        if self.hosts is not None:
            host = head.get(b"host", "")
            if _name_of(host) not in self.hosts:
                return 403, "this server is not called by that host name"
            origin = head.get(b"origin")
            if origin and netloc_of(origin) != host.lower():
                return 403, "another site's page may not ask this server"
        if scope["path"] in self.open_paths and scope["method"] in ("GET", "HEAD"):
            return None
        if self.key is not None and not self._shows_key(scope, head):
            return 401, "the key is missing or wrong; send it as 'Authorization: Bearer KEY' or '?key=KEY'"
        return None

    def _shows_key(self, scope: Scope, head: dict[bytes, str]) -> bool:
        assert self.key is not None
        scheme, _, value = head.get(b"authorization", "").partition(" ")
        shown = [value.strip()] if scheme.lower() == "bearer" else []
        query = scope["query_string"].decode("latin-1")
        if query.count("&") < 100:
            # A "+" may be written as it is: addresses are seldom encoded by hand.
            for one in (query, query.replace("+", "%2B")):
                shown += parse_qs(one, max_num_fields=100).get("key", [])
        # Of digests, so that neither content nor length of the key shows in the time it takes.
        matches = [hmac.compare_digest(_digest(one), _digest(self.key)) for one in shown]
        return any(matches)

    def _check_body(self, head: dict[bytes, str]) -> tuple[int, str] | None:
        if head.get(b"content-encoding", "").strip().lower() not in ("", "identity"):
            return 415, "the body is compressed; send it as it is, without Content-Encoding"
        length = head.get(b"content-length", "0")
        if not length.isdecimal():
            return 400, "Content-Length is not a number"
        if int(length) > self.limits.body_bytes:
            return self._too_large()
        if self.pending + int(length) > self.limits.pending_bytes:
            return 429, "too many bodies are being read; try again"
        return None

    def _too_large(self) -> tuple[int, str]:
        return 413, f"the body is larger than {self.limits.body_bytes:,} bytes"

    async def _read(self, receive: Receive) -> tuple[bytes | bytearray | None, tuple[int, str] | None]:
        """The body, ``None`` where the client has gone, and what is wrong with it; it counts as pending."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        self.pending -= len(body)
                        return None, None
                    before = len(body)
                    body += message.get("body", b"")
                    self.pending += len(body) - before
                    if len(body) > self.limits.body_bytes:
                        return body, self._too_large()
                    if self.pending > self.limits.pending_bytes:
                        return body, (429, "too many bodies are being read; try again")
                    if not message.get("more_body", False):
                        return bytes(body), None
        except TimeoutError:
            return body, (408, f"the body did not arrive within {self.limits.body_seconds:g} s")
        except MemoryError:
            self.pending -= len(body)
            return b"", (503, "this machine's memory does not hold this body now")
        except asyncio.CancelledError:
            self.pending -= len(body)
            raise

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
        self.refused(scope["method"], scope["path"], status)
        content = self.refuse(scope["path"], status, message)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers.append((b"connection", b"close"))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status in _RETRY_AFTER:
            headers.append((b"retry-after", _RETRY_AFTER[status]))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        if status != 408:
            await _read_away(receive, _READ_AWAY.get(status, _READ_AWAY_ELSE))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            extra = [pair for pair in _HEADERS if pair[0] not in there]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return wrapped


def _replay(body: bytes | bytearray, receive: Receive) -> Receive:
    """Gives the whole body once; after it, what the connection says."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _read_away(receive: Receive, most: int) -> None:
    seen = 0
    try:
        async with asyncio.timeout(_READ_AWAY_SECONDS):
            while seen <= most:
                message = await receive()
                seen += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def netloc_of(address: str) -> str:
    """Host and port of an address, in small letters; empty where it is none."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:  # half a bracket of IPv6
        return ""


def _name_of(host: str) -> str:
    """The name in a ``Host`` header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def patient_protocol(limits: Limits) -> type:
    """uvicorn's HTTP protocol with a time for the head of a request, and a limit of connections that makes room.

    Raises:
        ImportError: uvicorn is not installed.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        """A connection that is closed where its client keeps it waiting."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._since = self.loop.time()
            self._watch()
            if len(self.connections) > limits.connections:
                waiting = [one for one in self.connections if one is not self and one._is_waiting()]  # type: ignore
                victim = min(waiting, key=lambda one: one._since, default=self)  # type: ignore[union-attr]
                victim.transport.abort()
                self.connections.discard(victim)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watch()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._since = self.loop.time()

        def _in_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _is_waiting(self) -> bool:
            return not self._in_request() or self.cycle.more_body

        def _watch(self) -> None:
            """Wait so long for the head of a request; uvicorn itself watches connections that say nothing at all."""
            if self._in_request():
                self._stop_watch()
            elif self._timer is None:
                self._timer = self.loop.call_later(limits.header_seconds, self._give_up)

        def _stop_watch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if not self._in_request():
                self.transport.abort()

    return PatientProtocol


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def server_settings(app: Any, limits: Limits, **changes: Any) -> Any:
    """uvicorn's settings for a server of ours, which :func:`listen` listens for.

    Half a request keeps nobody out, and neither does a crowd: asyncio accepts connections as fast as they come, before
    a protocol hears of any. Without descriptors it then stops accepting for a second. So it accepts a few at a time.

    Args:
        app: the application.
        limits: of its connections.
        changes: further settings of uvicorn.

    Raises:
        ImportError: uvicorn is not installed.
    """
    import uvicorn

    return uvicorn.Config(
        app,
        http=patient_protocol(limits),
        loop="asyncio",
        ws="none",
        access_log=False,
        backlog=_ACCEPTED_AT_ONCE,
        **changes,
    )


class _Listener(socket.socket):
    """A listening socket that lets many wait in the kernel, however few asyncio accepts at a time."""

    def listen(self, backlog: int = _BACKLOG, /) -> None:
        super().listen(max(backlog, _BACKLOG))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: there is no such address, or the port is in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        return _Listener(fileno=made.detach())
    except OSError as error:
        what = f"cannot listen at {host} port {port} ({error.strerror or error})"
        raise ConfigError(what, where="--port", fix="Pass another --port; 0 takes a free one.") from error


def address_of(host: str, listener: socket.socket, *, tls: bool = False) -> str:
    """The address to tell users."""
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{listener.getsockname()[1]}"


def read_key(file: str | None, variable: str, environment: MutableMapping[str, str] | Any) -> str | None:
    """The key: what the file holds, else the environment variable; ``None`` where neither is there.

    Raises:
        ConfigError: the file cannot be read, or the key is too short or holds what a header cannot.
    """
    if file is not None:
        try:
            key = read_text(file).strip()
        except DataError as error:
            raise ConfigError(error.what, where=file, fix="Write the key into it as one line.") from error
        where = file
    else:
        key, where = str(environment.get(variable, "")).strip(), variable
        if not key:
            return None
    if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        what = f"the key is shorter than {SHORTEST_KEY} characters, or holds others than plain ones"
        raise ConfigError(what, where=where, fix="Give one line of letters, digits and punctuation.")
    return key
