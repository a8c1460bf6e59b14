"""The study's web application: one page, and four calls that it makes.

The page learns nothing that tells the policies apart: no names, ids that are different for each rater, and no rating of
anybody else. Only calls with JSON bodies from the page itself change anything (:mod:`odin_rm.serve.study.guard`) and
the page may load nothing from elsewhere, so that another site open in the same browser can neither rate nor read; a
foreign ``Host`` is refused where no token protects.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.middleware.trustedhost import TrustedHostMiddleware

from odin_rm.core.files import dump_json
from odin_rm.serve.http import Guard
from odin_rm.serve.study import guard
from odin_rm.serve.study.design import Turn, turns
from odin_rm.serve.study.store import LONGEST_NAME, StudyStore, rater_key

_MOST_REMEMBERED = 1000
"""Raters whose order is kept at hand; that of others is drawn again."""
LOCAL_HOSTS = ["127.0.0.1", "localhost", "::1", "[::1]"]


class RaterBody(BaseModel):
    """Who speaks."""

    model_config = ConfigDict(extra="forbid")
    rater: str


class RatingBody(RaterBody):
    """A rating: which side of which item is better."""

    item: str
    side: Literal["left", "tie", "right"]


def make_app(store: StudyStore, *, question: str, token: str | None = None, hosts: list[str] | None = None) -> FastAPI:
    """The application.

    Args:
        store: the study.
        question: what the page asks.
        token: what every call must carry as bearer token; ``None`` asks for none.
        hosts: the names by which it may be called; ``None`` takes any.
    """
    desk = _Desk(store)
    page, policy = render_page()

    # No pages that describe the calls: they load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, key=token, open_paths=("/",), hosts=None, limits=guard.LIMITS, refuse=guard.refusal)
    app.add_middleware(guard.SamePage, has_token=token is not None)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

    @app.exception_handler(RequestValidationError)
    def other_fields(request: Request, error: RequestValidationError) -> Response:
        # FastAPI's own repeats what was sent, and fails on some of it.
        return JSONResponse({"detail": "The call holds other fields than the page sends."}, 422)

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = policy
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/")
    def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/api/study")
    def show_study() -> Response:
        return _json({"question": question, "total": len(store.study.pairs), "longest_name": LONGEST_NAME})

    @app.post("/api/start")
    def start(body: RaterBody) -> Response:
        key = _key(body.rater)
        store.join(key, body.rater)
        return _json(desk.state(key))

    @app.post("/api/rate")
    def rate(body: RatingBody) -> Response:
        key = _key(body.rater)
        turn = desk.turn(key, body.item)
        _check_started(store, key)
        store.rate(key, turn.pair, turn.choice(body.side), turn.a_left)
        return _json(desk.state(key))

    @app.post("/api/undo")
    def undo(body: RaterBody) -> Response:
        key = _key(body.rater)
        _check_started(store, key)
        store.undo(key)
        return _json(desk.state(key))

    return app


class _Desk:
    """What each rater is to see next."""

    def __init__(self, store: StudyStore) -> None:
        self.store = store
        self._turns: dict[str, list[Turn]] = {}

    def turns(self, key: str) -> list[Turn]:
        if key not in self._turns:
            while len(self._turns) >= _MOST_REMEMBERED:
                self._turns.pop(next(iter(self._turns)))
            self._turns[key] = turns(self.store.study, key)
        return self._turns[key]

    def turn(self, key: str, item: str) -> Turn:
        for turn in self.turns(key):
            if turn.item == item:
                return turn
        raise HTTPException(404, "This pair is not in the study. Load the page again.")

    def state(self, key: str) -> dict[str, Any]:
        """Progress and the next pair, ``None`` when all are rated."""
        rated = self.store.rated(key)
        ahead = next((turn for turn in self.turns(key) if turn.pair not in rated), None)
        return {
            "done": len(rated),
            "total": len(self.store.study.pairs),
            "pair": None if ahead is None else self._shown(ahead),
        }

    def _shown(self, turn: Turn) -> dict[str, str]:
        pair = self.store.study.pairs[turn.pair]
        left, right = (pair.answer_a, pair.answer_b) if turn.a_left else (pair.answer_b, pair.answer_a)
        return {"item": turn.item, "instruction": pair.instruction, "left": left, "right": right}


def _key(name: str) -> str:
    key = rater_key(name)
    if key is None:
        raise HTTPException(422, f"Give a name of 1 to {LONGEST_NAME} letters.")
    return key


def _check_started(store: StudyStore, key: str) -> None:
    """Refuse a rating of somebody unknown, which no result would count."""
    if not store.knows(key):
        raise HTTPException(409, "Nobody of this name has started. Load the page again.")


def _json(value: Any) -> Response:
    # Not FastAPI's own, which fails on the half characters that cut-off answers may end in.
    return Response(dump_json(value), media_type="application/json")


def render_page() -> tuple[str, str]:
    """The page with its style and script inside, and the content security policy that allows these two alone."""
    folder = resources.files("odin_rm.serve.study")
    style, script, page = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js", "page.html"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.replace("/* style */", style).replace("/* script */", script), policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
