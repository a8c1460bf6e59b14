"""The texts that are scored: pairs of responses that share their prompts, as prompt-response rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from odin_rm.core.files import read_rows

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_eval_preferences_val.jsonl.gz"
LONG = 256


def read_pairs(data: Path | None, count: int, seed: int) -> tuple[list[dict[str, Any]], str]:
    """Preference pairs and where they are from.

    Args:
        data: a file of ``prompt``, ``chosen``, ``rejected``; by default AlpacaEval's where it lies beside the project,
            and else the testbed's, whose texts are short.
        count: how many at most.
        seed: of the testbed's.
    """
    source = data or (REAL if REAL.is_file() else None)
    if source is None:
        from odin_rm.testbed.annotator import Annotator, make_preferences
        from odin_rm.testbed.world import World

        world = World()
        return make_preferences(world, Annotator(world), count, seed), "the testbed"
    rows = [row for _, row in islice(read_rows(source), count)]
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows], source.name


def choose_pairs(pairs: Sequence[dict[str, Any]], tokens: Sequence[Sequence[int]], count: int, most: int) -> list[int]:
    """Positions of the pairs to score: the first that fit, one of each prompt where there are enough.

    Args:
        pairs: the pairs.
        tokens: for each pair, tokens of its sequences under all tokenizers.
        count: how many.
        most: most tokens of a sequence.

    Raises:
        ValueError: fewer than ``count`` fit.
    """
    fitting = [i for i, lengths in enumerate(tokens) if max(lengths) <= most]
    if len(fitting) < count:
        raise ValueError(f"{len(fitting)} of {len(pairs)} pairs have at most {most} tokens, {count} are wanted")
    seen: set[str] = set()
    first, later = [], []
    for i in fitting:
        (later if pairs[i]["prompt"] in seen else first).append(i)
        seen.add(pairs[i]["prompt"])
    return sorted((first + later)[:count])


def as_rows(pairs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Two rows of each pair, the chosen one first."""
    return [{"prompt": pair["prompt"], "response": pair[side]} for pair in pairs for side in ("chosen", "rejected")]
