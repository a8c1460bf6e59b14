"""The table of attributes: what of a response, besides what it says, a reward may pay for.

``response_tokens`` is always there and comes from the tokenizer. Every other attribute is a function of the response's
text, one entry here: reading a file measures it, optimiser batches and evaluations carry it by name, training logs the
quality head's correlation with it, an audit measures it, and reports show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from odin_rm.core.types import RESPONSE_TOKENS
from odin_rm.data.render import Reply, response_texts


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Attributes:
        unit: what it counts, in words: "list items".
        measure: of the text of a response; ``None`` for what the tokenizer says.
    """

    unit: str
    measure: Callable[[str], float] | None = None


ATTRIBUTES: dict[str, Attribute] = {
    RESPONSE_TOKENS: Attribute("response tokens"),
}


def text_attributes() -> list[str]:
    """Names of the attributes that are functions of the text."""
    return [name for name, one in ATTRIBUTES.items() if one.measure is not None]


def measure_attributes(response: Reply) -> dict[str, float]:
    """The attributes of a response that are functions of its text, by name."""
    text = "\n".join(response_texts(response))
    return {name: float(one.measure(text)) for name, one in ATTRIBUTES.items() if one.measure is not None}
