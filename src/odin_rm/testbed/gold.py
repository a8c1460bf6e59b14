"""The testbed's truth as a reward: the arm that shows what is attainable."""

from __future__ import annotations

from typing import Any

from odin_rm.data.render import Reply, response_texts
from odin_rm.testbed.world import World

_WORLD = World()


def true_quality(prompts: list[Any], completions: list[Reply], **_: Any) -> list[float]:
    """The true quality of each completion in the default world, in the signature of TRL's ``reward_funcs``.

    Args:
        prompts: strings or chat messages; this world does not need them.
        completions: texts, or lists of messages.

    Returns:
        1 at best, 0 for saying nothing, below 0 for harm.
    """
    return [_WORLD.true_quality("", " ".join(response_texts(completion))) for completion in completions]
