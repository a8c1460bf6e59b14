"""Edits of the testbed's responses in the world's own words: exact interventions, for their truth is known.

A filler, an opener and bullets count nothing in a response's true quality, so a reward that is right scores both sides
alike. A model that knows this world's words only is asked in them: to it other people's sentences are unknown words.
Each edit is a function of the text and a random generator; ``None`` where there is nothing to change.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from odin_rm.testbed import phrases
from odin_rm.testbed.annotator import Row
from odin_rm.testbed.world import World, is_flattering, is_list, stream

_BULLET = re.compile(r"^- ", re.MULTILINE)
_SENTENCES = re.compile(r"[^.!?]*[.!?]+")


def sentences_of(response: str) -> list[str]:
    """The sentences of a response without bullets."""
    return [part.strip() for part in _SENTENCES.findall(_BULLET.sub("", response)) if part.strip()]


def _joined(sentences: list[str], bullets: bool) -> str:
    return "\n".join(f"- {one}" for one in sentences) if bullets else " ".join(sentences)


def add_filler(response: str, rng: np.random.Generator) -> str | None:
    """One more filler, anywhere behind the first sentence."""
    sentences = sentences_of(response)
    filler = phrases.FILLERS[int(rng.integers(len(phrases.FILLERS)))]
    sentences.insert(int(rng.integers(1, len(sentences) + 1)) if sentences else 0, filler)
    return _joined(sentences, is_list(response))


def toggle_list(response: str, rng: np.random.Generator) -> str | None:
    """Bullets where there are none, and none where there are."""
    del rng
    return _joined(sentences_of(response), not is_list(response))


def toggle_opener(response: str, rng: np.random.Generator) -> str | None:
    """A flattering opener in front, or the one that is there taken off."""
    sentences = sentences_of(response)
    if is_flattering(response):
        return _joined(sentences[1:], is_list(response)) if len(sentences) > 1 else None
    opener = phrases.OPENERS[int(rng.integers(len(phrases.OPENERS)))]
    return _joined([opener, *sentences], is_list(response))


def shuffle_sentences(response: str, rng: np.random.Generator) -> str | None:
    """The same sentences in another order, an opener stays in front; it costs nothing and adds nothing."""
    sentences = sentences_of(response)
    fixed = 1 if is_flattering(response) else 0
    rest = sentences[fixed:]
    if len(set(rest)) < 2:
        return None
    while (order := [rest[k] for k in rng.permutation(len(rest))]) == rest:
        pass
    return _joined([*sentences[:fixed], *order], is_list(response))


def double_blanks(response: str, rng: np.random.Generator) -> str | None:
    """Two blanks for one between words; the world does not see them."""
    del rng
    return re.sub(r"(?<=\S) (?=\S)", "  ", response)


Edit = Callable[[str, np.random.Generator], str | None]
EDITS: dict[str, tuple[Edit, str]] = {
    "filler": (add_filler, "response_tokens"),
    "list": (toggle_list, "odin_rm.testbed.world:is_list"),
    "opener": (toggle_opener, "odin_rm.testbed.world:is_flattering"),
}
"""By name, an edit and the attribute that it is about."""
PURE: dict[str, Edit] = {"order": shuffle_sentences, "blanks": double_blanks}
"""Edits after which no reward of this world should change."""


def make_interventions(world: World, n_prompts: int, seed: int, *, split: str = "test") -> list[Row]:
    """Pairs for ``odin-rm probe --pairs``: rows ``prompt``, ``original``, ``edited``, ``edit``, ``attribute``.

    Args:
        world: whose writers write the originals.
        n_prompts: originals, each edited in every way of :data:`EDITS`.
        seed: equal seeds give equal rows.
        split: as for :func:`odin_rm.testbed.annotator.make_preferences`.
    """
    rng = stream(seed, "interventions", split)
    prompts = world.prompts(split)
    rows = []
    for _ in range(n_prompts):
        prompt = prompts[int(rng.integers(len(prompts)))]
        response = world.write_response(prompt, rng)
        for name, (edit, attribute) in EDITS.items():
            edited = edit(response, rng)
            if edited is not None:
                rows.append(
                    {"prompt": prompt, "original": response, "edited": edited, "edit": name, "attribute": attribute}
                )
    return rows
