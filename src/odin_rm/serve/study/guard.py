"""What stands before the study's calls: who may call, from which page, and how much may be sent in which time.

Everything is decided from the head of a request before a byte of its body is read. A body is read up to a limit, within
a time, and must be JSON as the page sends it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

from odin_rm.core.files import dump_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST_BYTES = 64 * 1024
SECONDS_FOR_BODY = 10.0


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Guard:
    """An ASGI application around another one; see the module.

    Args:
        app: what is guarded; its calls are below ``/api/``.
        token: what every call must carry as bearer token; ``None`` asks for none.
    """

    def __init__(self, app: Any, *, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self.app(scope, receive, send)
            return
        heads = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_caller(heads)
            if scope["method"] not in ("GET", "HEAD"):
                body = await _read(heads, receive)
                receive = _again(body, receive)
        except _Refused as refused:
            await _refuse(send, refused, close=_length(heads) is None or _length(heads, -1) > MOST_BYTES)
            return
        except ConnectionResetError:
            return
        await self.app(scope, receive, send)

    def _check_caller(self, heads: dict[str, str]) -> None:
        given = heads.get("authorization", "").removeprefix("Bearer ")
        if self.token is not None and not secrets.compare_digest(given.encode(), self.token.encode()):
            raise _Refused(401, "This study needs an access token.")
        site = heads.get("sec-fetch-site")
        # Browsers set these two, and no page can change them. Behind a proxy the host may differ from the origin's.
        if site not in (None, "same-origin", "none"):
            raise _Refused(403, "Calls from other sites are refused.")
        origin = heads.get("origin")
        same = origin is None or urlsplit(origin).netloc == heads.get("host")
        if not same and (self.token is None or site is None):
            raise _Refused(403, "Calls from other sites are refused.")


async def _read(heads: dict[str, str], receive: Receive) -> bytes:
    """The body, which must be an object in JSON."""
    kind = heads.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _Refused(422, "Send JSON, as the page does.")
    if _length(heads, 0) > MOST_BYTES:
        raise _Refused(413, "That is more than the page sends.")
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS_FOR_BODY):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise ConnectionResetError
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MOST_BYTES:
                    raise _Refused(413, "That is more than the page sends.")
    except TimeoutError:
        raise _Refused(408, "The call was not sent to its end.") from None
    try:
        content = json.loads(bytes(body), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _Refused(400, "That is not JSON.") from None
    if not isinstance(content, dict):
        raise _Refused(422, "The call holds other fields than the page sends.")
    return bytes(body)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _length(heads: dict[str, str], otherwise: int | None = None) -> Any:
    """The length that is announced; ``otherwise`` without one."""
    given = heads.get("content-length", "")
    return int(given) if given.isdecimal() and len(given) < 19 else otherwise


def _again(body: bytes, receive: Receive) -> Receive:
    """The same body once more, then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _refuse(send: Send, refused: _Refused, *, close: bool) -> None:
    content = dump_json({"detail": refused.why}).encode()
    heads = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if close:  # what is still under way is not waited for
        heads.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": heads})
    await send({"type": "http.response.body", "body": content})
