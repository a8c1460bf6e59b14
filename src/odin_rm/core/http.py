"""The one door to servers of others: nothing is followed elsewhere, nothing is read without end, no wait is for ever.

A redirect is refused, for it would carry texts and keys to an address that nobody named, and turn what is posted into
something else. A body is read up to a limit and never decompressed, so that a small one stays small. A call as a whole
has a time limit, from the first step of the connection to the last byte.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import httpx2

Value = TypeVar("Value")

MOST_BYTES = 64 * 2**20
"""Of an answer, where nothing else is said."""
MOST_OF_AN_ERROR = 4096
"""Bytes that are read of what a server says beside an error."""

_NO_HEADERS: Mapping[str, str] = {}


class ServerError(Exception):
    """A server gave nothing that can be used."""


class NoAnswerError(ServerError):
    """It cannot be reached, hangs up, or takes too long: it may answer next time."""


class UnusableAnswerError(ServerError):
    """It answers what nobody may use: it sends elsewhere, or too much. It would do so again."""


class RedirectError(UnusableAnswerError):
    """It sends to another address."""


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: of HTTP.
        reason: its name.
        content: the body; of an error its first bytes.
    """

    status: int
    reason: str
    content: bytes

    @property
    def words(self) -> str:
        """The start of the body, as words on one line."""
        return " ".join(self.content[:200].decode("utf-8", "replace").split())


def ask(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
    timeout: float,
    most_bytes: int = MOST_BYTES,
) -> Answer:
    """Ask a server once, from any thread.

    Args:
        method, url, body, headers: what is asked.
        timeout: seconds for all of it.
        most_bytes: the longest body that is read.

    Raises:
        NoAnswerError: there is no whole answer within the time.
        UnusableAnswerError: a redirect, a body that is too long, or a compressed one.
    """
    return _in_background(_ask(method, url, body, headers, timeout, most_bytes))


def make_client(*, timeout: float, most_bytes: int = MOST_BYTES) -> httpx2.AsyncClient:
    """An asynchronous client that keeps the rules of this module, for libraries that take one.

    Args:
        timeout: seconds that any one step of a call may take; the whole call is limited by the caller.
        most_bytes: the longest body that is read.
    """

    async def look(response: httpx2.Response) -> None:
        _refuse(response, most_bytes)
        response.stream = _Limited(response.stream, most_bytes)

    return httpx2.AsyncClient(
        timeout=timeout,
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [look]},
        verify=_certificates(),
    )


# ---- internals -------------------------------------------------------------------------------------------------------


class _Limited(httpx2.AsyncByteStream):
    """A body that ends with an error where it goes on too long."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for part in self._stream:
            read += len(part)
            if read > self._most:
                raise _too_long(self._most)
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _too_long(most: int) -> UnusableAnswerError:
    return UnusableAnswerError(f"the answer is longer than {most / 2**20:,.3g} MiB")


def _refuse(response: httpx2.Response, most_bytes: int) -> None:
    if 300 <= response.status_code < 400:
        # Its query may repeat a key.
        place = response.headers.get("location", "").partition("?")[0].partition("#")[0].rpartition("@")[2]
        to = f", to {place[:100]}" if place else ""
        what = f"it sends elsewhere (HTTP {response.status_code}{to}), and redirects are not followed"
        raise RedirectError(what)
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise UnusableAnswerError(f"the answer is compressed ({packed[:40]}), which was not asked for")
    if response.status_code < 400 and response.headers.get("content-length", "").isdecimal():
        length = response.headers["content-length"]
        if len(length) > 18 or int(length) > most_bytes:
            raise _too_long(most_bytes)


async def _ask(
    method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float, most_bytes: int
) -> Answer:
    # A connection that was kept may have died with a server that was started anew.
    try:
        async with (
            asyncio.timeout(timeout),
            make_client(timeout=timeout, most_bytes=most_bytes) as client,
            client.stream(method, url, content=body, headers={"Connection": "close", **headers}) as response,
        ):
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if response.status_code >= 400 and len(content) >= MOST_OF_AN_ERROR:
                    break
            return Answer(response.status_code, response.reason_phrase, bytes(content))
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise NoAnswerError(f"nothing within {timeout:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
        raise NoAnswerError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The deepest of the messages, which says what happened; the upper ones are all alike."""
    said = str(error)
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
    return said or type(error).__name__


@cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


class _Loop:
    """One event loop in a thread of its own: a limit of time holds there whatever the calling thread does."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="odin-rm network", daemon=True).start()


_lock = threading.Lock()
_running: list[_Loop] = []


def _in_background(work: Coroutine[Any, Any, Value]) -> Value:
    with _lock:
        if not _running or _running[0].process != os.getpid():  # a thread does not survive a fork
            _running[:] = [_Loop()]
        loop = _running[0].loop
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
