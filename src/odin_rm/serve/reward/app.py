"""The application: paths to protocols, protocols to the queue, and what went wrong in the client's own words."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from odin_rm.model.device import is_out_of_memory
from odin_rm.serve.http import Guard, Limits
from odin_rm.serve.reward.dialects.records import (
    NO_SCORE,
    Asked,
    Dialect,
    Item,
    Json,
    Problem,
    Scored,
    check_count,
    check_lists,
)
from odin_rm.serve.reward.dialects.table import DIALECTS, error_at
from odin_rm.serve.reward.metrics import CONTENT_TYPE, Metrics
from odin_rm.serve.reward.models import Encoded, ServedModel, find_model
from odin_rm.serve.reward.page import PAGE_PATH, read_page_request, render_page
from odin_rm.serve.reward.queue import QueueSettings, ScoreQueue, own_score
from odin_rm.serve.reward.replicas import Replica

log = logging.getLogger("odin_rm.serve")

OPEN_PATHS = ("/health", "/ping")
_GONE = 499  # nobody reads this answer
# Larger bodies are read and tokenised beside the loop, one at a time, since each may take many times its size.
_LARGE_BYTES = 2**18


@dataclass(frozen=True)
class Service:
    """What an application is made of.

    Attributes:
        models: by name, the first one for requests that name none.
        queue: how texts gather.
        limits: of requests, see :class:`odin_rm.serve.http.Limits`.
        most_texts: of one request.
        score_seconds: after which a request is given up.
        key, hosts: see :class:`odin_rm.serve.http.Guard`.
        log_requests: a line for each request.
        replicas: of the models, in processes of their own.
    """

    models: Mapping[str, ServedModel]
    queue: QueueSettings = field(default_factory=QueueSettings)
    limits: Limits = field(default_factory=Limits)
    most_texts: int = 4096
    score_seconds: float = 170.0
    key: str | None = None
    hosts: tuple[str, ...] | None = None
    log_requests: bool = False
    replicas: tuple[Replica, ...] = ()


class Draining:
    """Whether a server is ending: then health says so, and balancers send no more.

    Attributes:
        now: it is.
    """

    now = False


def make_app(service: Service, draining: Draining | None = None) -> Guard:
    """The application behind its guard.

    Args:
        service: what it is made of.
        draining: is set when the server begins to end.
    """
    desk = _Desk(service, draining or Draining())
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=desk.lifespan)
    app.add_exception_handler(HTTPException, desk.no_such_path)
    app.add_exception_handler(Exception, desk.own_fault)
    for path, dialect in DIALECTS.items():
        app.add_api_route(path, desk.answers(dialect), methods=["POST"])
    app.add_api_route(
        PAGE_PATH, desk.answers(Dialect("page", read_page_request, DIALECTS["/classify"].error)), methods=["POST"]
    )
    looks = {"/v1/models": desk.list_models, "/info": desk.info, "/metrics": desk.show_metrics, "/": desk.page}
    for path, look in {**dict.fromkeys(OPEN_PATHS, desk.health), **looks}.items():
        app.add_api_route(path, look, methods=["GET", "HEAD"])
    return Guard(
        app,
        key=service.key,
        open_paths=OPEN_PATHS,
        hosts=service.hosts,
        limits=service.limits,
        refuse=lambda path, status, message: _dump(error_at(path, status, message)),
        refused=lambda method, path, status: desk.note(path, status, 0.0, refused=True),
    )


class _Desk:
    """Answers requests."""

    def __init__(self, service: Service, draining: Draining) -> None:
        self.service, self.draining = service, draining
        self.queue = ScoreQueue(service.queue, [own_score, *(one.score for one in service.replicas)])
        self.metrics = Metrics(self.queue)
        self.large = ThreadPoolExecutor(1, thread_name_prefix="large")

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.queue.start()
        yield
        await self.queue.close()
        self.large.shutdown(wait=False, cancel_futures=True)

    # ---- scores ------------------------------------------------------------------------------------------------------

    def answers(self, dialect: Dialect) -> Any:
        """The function that answers a protocol's requests."""

        async def answer(request: Request) -> Response:
            start, path = time.perf_counter(), request.url.path
            facts: dict[str, Any] = {}
            try:
                with self.metrics.in_progress.track_inprogress():
                    response = await self._score(dialect, request, facts)
            except Exception as error:
                problem = _problem_of(error)
                response = _refusal(dialect, problem)
                facts["error"] = problem.message[:200] if problem.status >= 500 else None
            self.note(path, response.status_code, time.perf_counter() - start, **facts)
            return response

        return answer

    async def _score(self, dialect: Dialect, request: Request, facts: dict[str, Any]) -> Response:
        content = await request.body()
        most, large = self.service.most_texts, len(content) > _LARGE_BYTES
        asked = await self._aside(large, _understand, dialect, content, most)
        check_count(len(asked.items), most)
        model = find_model(self.service.models, asked.model, named=asked.named)
        facts |= {"model": model.name, "texts": len(asked.items)}
        work = asyncio.ensure_future(self._scored(model, asked.items, large))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            done, _ = await asyncio.wait(
                {work, gone}, timeout=self.service.score_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                scores = work.result()
            elif gone in done:
                return Response(status_code=_GONE)
            else:
                what = f"no score within {self.service.score_seconds:g} s"
                raise Problem(503, what, retry_after=self.queue.retry_after())
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        facts["tokens"] = sum(one.tokens for one in scores)
        self._count(model, scores)
        return _json(await self._aside(large, asked.reply, model.name, scores))

    async def _aside(self, large: bool, work: Callable[..., Any], *arguments: Any) -> Any:
        """A function's value; of large requests beside the loop, and only one at a time."""
        if not large:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.large, work, *arguments)

    async def _scored(self, model: ServedModel, items: tuple[Item, ...], large: bool) -> list[Scored]:
        if not items:
            return []
        # Templates and tokenizers take a while for many texts, and the others are not to wait for that.
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self.large if large else None, _encode_all, model, items)
        pairs = iter(await self.queue.scores(model, [one for one in encoded if one is not None]))
        return [NO_SCORE if text is None else _scored_text(text, *next(pairs)) for text in encoded]

    def _count(self, model: ServedModel, scores: list[Scored]) -> None:
        self.metrics.texts.labels(model.name).inc(len(scores))
        for kind in ("cut", "truncated", "free"):
            number = sum(getattr(one, kind) for one in scores)
            if number:
                self.metrics.kinds.labels(kind).inc(number)

    # ---- everything else ---------------------------------------------------------------------------------------------

    def note(self, path: str, status: int, seconds: float, **facts: Any) -> None:
        """Count and log a request; never its texts."""
        known = path if path in DIALECTS or path in (*OPEN_PATHS, PAGE_PATH) else "other"
        self.metrics.requests.labels(known, str(status)).inc()
        self.metrics.seconds.labels(known).observe(seconds)
        if self.service.log_requests:
            line = {"path": known, "status": status, "seconds": round(seconds, 4)}
            line |= {name: value for name, value in facts.items() if value is not None}
            log.info("%s", json.dumps(line))

    async def health(self) -> Response:
        if self.draining.now:
            return _json({"status": "ending"}, 503, {"Retry-After": "5"})
        return _json({"status": "ok"})

    async def list_models(self) -> Response:
        data = [
            {
                "id": model.name,
                "object": "model",
                "created": model.created,
                "owned_by": "odin-rm",
                "root": model.path,
                "max_model_len": model.window,
            }
            for model in self.service.models.values()
        ]
        return _json({"object": "list", "data": data})

    async def info(self) -> Response:
        from odin_rm import __version__

        first = next(iter(self.service.models.values()))
        models = {name: _about(model) for name, model in self.service.models.items()}
        limits = {
            "max_client_batch_size": self.service.most_texts,
            "max_batch_tokens": self.service.queue.batch_tokens,
            "max_input_length": first.window,
        }
        model_type = {"reranker": {"id2label": {"0": "quality"}, "label2id": {"quality": 0}}}
        head = {"model_id": first.name, "model_type": model_type, "version": __version__}
        return _json({**head, **limits, "workers": 1 + len(self.service.replicas), "models": models})

    async def show_metrics(self) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def page(self) -> Response:
        content, policy = render_page(list(self.service.models))
        return Response(content, media_type="text/html", headers={"Content-Security-Policy": policy})

    async def no_such_path(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        self.note(path, error.status_code, 0.0)
        what = (
            f"there is no {path[:200]}" if error.status_code == 404 else f"{request.method} is not answered at {path}"
        )
        body = error_at(path, error.status_code, what)
        return _json(body, error.status_code, dict(error.headers or {}))

    async def own_fault(self, request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return _json(error_at(request.url.path, 500, "the server failed; its log says why"), 500)


def _about(model: ServedModel) -> Json:
    info = model.scorer.info
    return {
        "path": model.path,
        "ours": info is not None,
        "length_head": model.scorer.has_length_head,
        "reward_mean": None if info is None else info.reward_mean,
        "reward_std": None if info is None else info.reward_std,
        "read_at": model.settings.read_at,
        "max_length": model.window,
        "calibration": None if model.scorer.dial is None else model.scorer.dial.calibration.sentence(),
        "device": str(model.scorer.device),
    }


def _problem_of(error: Exception) -> Problem:
    """What a client is told of an error; one that is no matter of the request or of memory is raised again."""
    if isinstance(error, Problem):
        return error
    if not is_out_of_memory(error):
        raise error
    log.error("no memory for a request")
    return Problem(503, "this machine's memory does not hold this request now", retry_after=10)


def _understand(dialect: Dialect, content: bytes, most_texts: int) -> Asked:
    """The request of a body.

    Raises:
        Problem: it is no JSON, not what the protocol asks for, or has too many texts.
    """
    try:
        body = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Problem(400, f"the body is not JSON ({reason[:100]})") from error
    if not isinstance(body, dict):
        raise Problem(400, "the body is no JSON object")
    check_lists(body, most_texts)
    return dialect.read(body)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _encode_all(model: ServedModel, items: tuple[Item, ...]) -> list[Encoded | None]:
    found: list[Encoded | None] = []
    for item in items:
        try:
            found.append(model.encode(item))
        except Problem:
            if not item.optional:
                raise
            found.append(None)
    return found


def _scored_text(text: Encoded, quality: float, length: float | None) -> Scored:
    return Scored(
        quality - text.taken_off,
        length,
        text.response_tokens,
        len(text.ids),
        text.cut,
        text.free,
        text.truncated,
        text.taken_off,
        text.attributes,
    )


async def _disconnected(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return


def _refusal(dialect: Dialect, problem: Problem) -> Response:
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    status = dialect.bad_status if problem.status == 400 else problem.status
    return _json(dialect.error(status, problem.message, problem.param), status, headers)


def _json(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_dump(value), status, headers, media_type="application/json")


def _dump(value: Json) -> bytes:
    # No NaN ever, and half characters (in a document that is given back) as JSON writes them.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
