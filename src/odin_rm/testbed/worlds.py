"""Named worlds of the testbed: what annotators may be biased by, and whether good writers write more.

In the default world quality and length are unrelated, so a reward without any correlation with length is right there.
Where good writers write more it is wrong: part of the correlation is quality. A method has to be right in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from odin_rm.testbed.annotator import LOG, SATURATING, Annotator, AnnotatorSettings
from odin_rm.testbed.world import World, WorldSettings


@dataclass(frozen=True)
class NamedWorld:
    """Settings of a world and of its annotator that differ from the defaults.

    Attributes:
        words: what it is, in a sentence.
        writers: of :class:`WorldSettings`.
        bias: of :class:`AnnotatorSettings`.
    """

    words: str
    writers: dict[str, Any] = field(default_factory=dict)
    bias: dict[str, Any] = field(default_factory=dict)

    @property
    def world(self) -> World:
        """The world."""
        return World(WorldSettings(**self.writers))

    @property
    def annotator(self) -> Annotator:
        """Its annotator."""
        return Annotator(self.world, AnnotatorSettings(**self.bias))


_GOOD_WRITERS: dict[str, Any] = {"quality_length_correlation": 0.7}
_MORE_STYLE: dict[str, Any] = {"list_rate": 0.3, "flattery_rate": 0.3}
_STYLE_BIAS: dict[str, Any] = {"list_bias": 2.0, "flattery_bias": 2.0}

WORLDS: dict[str, NamedWorld] = {
    "linear": NamedWorld("Every token is paid for; quality and length are unrelated (the default world)."),
    "saturating": NamedWorld("Tokens are paid for up to the 25th.", bias={"length_bias_curve": SATURATING}),
    "logarithmic": NamedWorld("Doubling an answer is paid for.", bias={"length_bias_curve": LOG}),
    "half_the_prompts": NamedWorld("Tokens are paid for in half of the prompts.", bias={"biased_prompts": 0.5}),
    "good_writers_write_more": NamedWorld("Tokens are paid for, and good writers write more.", writers=_GOOD_WRITERS),
    "good_writers_no_bias": NamedWorld(
        "Good writers write more, and nothing is paid for but quality.",
        writers=_GOOD_WRITERS,
        bias={"length_bias": 0.0},
    ),
    "lists_and_flattery": NamedWorld(
        "Lists and flattery are paid for beside length.", writers=_MORE_STYLE, bias=_STYLE_BIAS
    ),
    "lists_and_good_writers": NamedWorld(
        "Lists and flattery are paid for beside length, and good writers write more.",
        writers=_MORE_STYLE | _GOOD_WRITERS,
        bias=_STYLE_BIAS,
    ),
}
