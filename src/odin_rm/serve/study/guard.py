"""What stands before the study's calls, beside what :mod:`odin_rm.serve.http` asks of every request.

A page of another site, open in a rater's browser, can send calls to this one. Browsers say so, and it cannot send JSON
without asking first; so calls are taken from the study's own page alone, and only as JSON.
"""

from __future__ import annotations

from typing import Any

from odin_rm.core.files import dump_json
from odin_rm.serve.http import App, Limits, Message, Receive, Scope, Send, netloc_of

LIMITS = Limits(body_bytes=64 * 1024, pending_bytes=2**24, header_seconds=15.0, body_seconds=10.0, connections=512)
"""A rating is short, and so is the time that it takes to send one."""


class SamePage:
    """An ASGI application that lets calls of the study's own page through to another one.

    Args:
        app: what is guarded; its calls are below ``/api/``.
        has_token: whether callers show a token, which no other site's page has.
    """

    def __init__(self, app: App, *, has_token: bool) -> None:
        self.app, self.has_token = app, has_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is not of the page, or pass it on."""
        problem = self._problem(scope) if scope["type"] == "http" and scope["path"].startswith("/api/") else None
        if problem is None:
            await self.app(scope, receive, send)
            return
        content = refusal(scope["path"], *problem)
        heads = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        start: Message = {
            "type": "http.response.start",
            "status": problem[0],
            "headers": [*heads, (b"connection", b"close")],
        }
        await send(start)
        await send({"type": "http.response.body", "body": content})

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        heads: dict[bytes, str] = {name: value.decode("latin-1") for name, value in scope["headers"]}
        site, origin = heads.get(b"sec-fetch-site"), heads.get(b"origin")
        # Browsers set these two, and no page can change them. Behind a proxy the host may differ from the origin's.
        same = origin is None or netloc_of(origin) == heads.get(b"host", "").lower()
        if site not in (None, "same-origin", "none") or (not same and (not self.has_token or site is None)):
            return 403, "Calls from other sites are refused."
        kind = heads.get(b"content-type", "").partition(";")[0].strip().lower()
        if scope["method"] not in ("GET", "HEAD") and kind != "application/json":
            return 422, "Send JSON, as the page does."
        return None


def refusal(path: str, status: int, message: str) -> bytes:
    """The body of a refusal, as the page reads it."""
    said: Any = "This study needs an access token." if status == 401 else message
    return dump_json({"detail": said}).encode()
