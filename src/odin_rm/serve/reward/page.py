"""The page at ``/``: a prompt, two answers, and what the model says of them; it asks nobody but this server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from odin_rm.serve.reward.dialects.records import (
    Asked,
    Item,
    Json,
    Problem,
    Scored,
    kind,
    messages_of,
    name_of,
    texts_of,
)

PAGE_PATH = "/api/score"


def read_page_request(body: Mapping[str, Json]) -> Asked:
    """``prompt`` (text or messages) and ``responses``; the reply says everything of each."""
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        prompt = messages_of(prompt, "prompt")
    if not isinstance(prompt, (str, list)):
        raise Problem(400, f"'prompt' is {kind(prompt)}, not text or messages", param="prompt")
    responses = texts_of(body, "responses")
    items = tuple(Item(f"responses[{i}]", prompt=prompt, response=text) for i, text in enumerate(responses))
    return Asked(items, write_page_reply, name_of(body), named=True)


def write_page_reply(model: str, scores: Sequence[Scored]) -> Json:
    """Quality, length reward and tokens of each response."""
    rows = [
        {
            "quality": one.quality,
            "length_reward": one.length,
            "response_tokens": one.response_tokens,
            "read_tokens": one.tokens,
            "truncated": one.truncated,
        }
        for one in scores
    ]
    return {"model": model, "scores": rows}


@cache
def _template() -> tuple[object, str, str]:
    import jinja2

    folder = resources.files("odin_rm.serve.reward")
    page, style, script = (folder.joinpath(f"page.{name}").read_text("utf-8") for name in ("html.j2", "css", "js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(page), style, script


def render_page(models: Sequence[str]) -> tuple[str, str]:
    """The page with its style and script inside, and the content security policy that allows these two alone."""
    import jinja2

    template, style, script = _template()
    assert isinstance(template, jinja2.Template)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return template.render(models=models, style=style, script=script, path=PAGE_PATH), policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
