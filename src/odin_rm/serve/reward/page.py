"""The page at ``/``: a prompt, two answers, and what the model says of them; it asks nobody but this server."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from odin_rm.data.attributes import ATTRIBUTES, DEFAULT, measure_texts
from odin_rm.evaluation.edits import EDITS, Edit
from odin_rm.serve.reward.dialects.records import (
    Asked,
    Item,
    Json,
    Problem,
    Scored,
    flag_of,
    kind,
    messages_of,
    name_of,
    texts_of,
)

PAGE_PATH = "/api/score"


_SHOWN = [ATTRIBUTES[name] for name in DEFAULT]


def read_page_request(body: Mapping[str, Json]) -> Asked:
    """``prompt`` (text or messages), ``responses``, and ``edits`` for what each edit of a response would earn.

    The reply says everything of each response. Edits are those of ``odin-rm probe``; one that changes nothing, or whose
    text does not fit, has no price.
    """
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        prompt = messages_of(prompt, "prompt")
    if not isinstance(prompt, (str, list)):
        raise Problem(400, f"'prompt' is {kind(prompt)}, not text or messages", param="prompt")
    responses = texts_of(body, "responses")
    items = [Item(f"responses[{i}]", prompt=prompt, response=text) for i, text in enumerate(responses)]
    edited: list[tuple[int, Edit]] = []
    if flag_of(body, "edits", False):
        for number, response in enumerate(responses):
            for edit in EDITS:
                text = edit.apply(response)
                if text is not None:
                    edited.append((number, edit))
                    items.append(Item(f"responses[{number}]", prompt=prompt, response=text, optional=True))

    def write(model: str, scores: Sequence[Scored]) -> Json:
        rows = [_row(text, one) for text, one in zip(responses, scores, strict=False)]
        if body.get("edits"):
            for row in rows:
                row["edits"] = []
        for (number, edit), after in zip(edited, scores[len(responses) :], strict=True):
            if math.isfinite(after.quality):
                rows[number]["edits"].append(_price(edit, scores[number], after))
        return {"model": model, "scores": rows}

    return Asked(tuple(items), write, name_of(body), named=True)


def _row(text: str, one: Scored) -> dict[str, Json]:
    """Quality, length reward, tokens and attributes of a response."""
    measured = measure_texts([text], _SHOWN)
    return {
        "quality": one.quality,
        "uncalibrated_quality": one.quality + one.taken_off,
        "length_reward": one.length,
        "response_tokens": one.response_tokens,
        "read_tokens": one.tokens,
        "truncated": one.truncated,
        "attributes": [{"words": each.words, "value": float(measured[each.name][0])} for each in _SHOWN],
    }


def _price(edit: Edit, before: Scored, after: Scored) -> Json:
    """What an edit earns, with the calibration and without it."""
    earned = after.quality - before.quality
    return {
        "name": edit.name,
        "words": edit.words,
        "control": edit.control,
        "earns": earned,
        "uncalibrated_earns": earned + after.taken_off - before.taken_off,
    }


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
