"""``odin-rm serve`` on several machines: Ray Serve runs replicas of the same application.

    ODIN_RM_MODEL=runs/odin/model serve run ray_serve:app        # in this folder, with ray[serve] installed

Every replica loads the model and answers all of the server's protocols. ``ODIN_RM_REPLICAS`` says how many there are
(2), ``ODIN_RM_GPUS`` how many GPUs each takes (0), ``ODIN_RM_TOKEN`` what callers must show. Ray gives each request to
a replica that has little to do, so the responses to one prompt may be shared out, and each replica then computes the
prompt for itself: send the responses to one prompt in one request, or take ``odin-rm serve --workers`` where one
machine is enough.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from odin_rm.serve.reward.config import TOKEN_VARIABLE, ServeConfig


@serve.deployment(
    num_replicas=int(os.environ.get("ODIN_RM_REPLICAS", "2")),
    ray_actor_options={"num_cpus": 1, "num_gpus": float(os.environ.get("ODIN_RM_GPUS", "0"))},
    max_ongoing_requests=1024,  # they wait in the replica's own queue, which batches them
    graceful_shutdown_timeout_s=60,
)
class RewardServer:
    """One replica: the models, the queue, and the server's application.

    Args:
        model: what ``odin-rm serve --model`` takes.
        token: that callers must show; ``None`` for none, which is for a network of your own only.
    """

    def __init__(self, model: list[str], token: str | None) -> None:
        from odin_rm.serve.reward.app import Service, make_app
        from odin_rm.serve.reward.run import load_models

        service = Service(load_models(ServeConfig(model=model)), key=token)
        self.guard: Any = make_app(service)
        self._lifespan: AsyncExitStack | None = None

    async def __call__(self, request: Request) -> Response:
        """The application's answer."""
        if self._lifespan is None:  # here there is a loop, which the queue needs
            self._lifespan, inner = AsyncExitStack(), self.guard.app
            await self._lifespan.enter_async_context(inner.router.lifespan_context(inner))
        status, headers, body = 500, [], bytearray()

        async def send(message: Any) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
            else:
                body.extend(message.get("body", b""))

        await self.guard(request.scope, request.receive, send)
        response = Response(bytes(body), status)
        response.raw_headers = [(name, value) for name, value in headers if name != b"connection"]
        return response


app = RewardServer.bind(os.environ["ODIN_RM_MODEL"].split(), os.environ.get(TOKEN_VARIABLE))
