"""A tiny model with a chat template under a real server, and what in-process scoring says of the same texts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

import odin_rm
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.scoring import Scorer
from odin_rm.serve.http import listen, server_settings
from odin_rm.serve.reward.app import Service, make_app
from odin_rm.serve.reward.models import ServedModel
from tests.model.words import build_tokenizer, reward_model
from tests.waiting import wait_until

# As ChatML: something stands behind the end token, and a header asks for the assistant.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
WINDOW = 64
KEY = "a-long-secret-key"


def make_scorer(folder: Path, *, chat: bool = True, seed: int = 1) -> Scorer:
    """A tiny Llama of ours, with a length head."""
    import torch

    model = reward_model("llama", folder / "base")
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and seed != 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    tokenizer = build_tokenizer("llama")
    if chat:
        tokenizer.chat_template = TEMPLATE
    settings = EncodingSettings(max_length=WINDOW, read_at="end_of_turn" if chat else "end")
    return Scorer(model, tokenizer, settings, "tiny", True)


def make_model(scorer: Scorer, name: str = "rm", **options: Any) -> ServedModel:
    """The scorer as a served model."""
    return ServedModel(name, f"runs/{name}/model", scorer, scorer.settings, **options)


def rendered(prompt: str, response: str, ending: str = " <eos>", start: str = "<bos>") -> str:
    """What a policy with the model's template reads and writes."""
    return f"{start}user : {prompt} <eos> . assistant : {response}{ending}"


def quality(scorer: Scorer, prompts: list[Any], responses: list[Any]) -> list[float]:
    """In-process scores, one at a time."""
    return [float(odin_rm.score_texts(scorer, [p], [r])[0][0]) for p, r in zip(prompts, responses, strict=True)]


@contextmanager
def serving(service: Service) -> Iterator[httpx2.Client]:
    """The application on a free port of this machine, in a thread; a client of it."""
    import uvicorn

    limits = service.limits.within_descriptors()
    config = server_settings(make_app(service), limits, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = listener.getsockname()[1]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def with_queue(service: Service, **changes: Any) -> Service:
    """The service with other settings of its queue."""
    return replace(service, queue=replace(service.queue, **changes))


def assert_close(found: Any, expected: Any) -> None:
    """Check that numbers agree to 1e-5."""
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def dumps(body: Any) -> bytes:
    """JSON as Python writes it, NaN and half characters included."""
    return json.dumps(body).encode()
