"""An annotator with a known bias, and the data files that it and the writers of the world make.

Of two responses it prefers by a Bradley-Terry choice on its utility

    U = quality_scale * true quality + length_bias * f(tokens)
        + list_bias * [is a list] + flattery_bias * [is flattering]

with ``f`` the identity unless ``length_bias_curve`` says otherwise; in prompts outside of ``biased_prompts`` only the
first term counts. That is ``P(a over b) = sigmoid((U_a - U_b) / temperature)``. Of more than two it makes a ranked
list by the Plackett-Luce choice, whose pairs are the same Bradley-Terry choices.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option
from odin_rm.testbed.world import World, count_tokens, is_flattering, is_list, stream

Row = dict[str, Any]
LINEAR, LOG, SATURATING = "linear", "log", "saturating"
MIDDLE = 25
"""Tokens at which the curved biases are about as steep as the linear one, or end."""


@dataclass(frozen=True)
class AnnotatorSettings:
    """The knobs of the annotator.

    Raises:
        ConfigError: a knob is outside its range.
    """

    quality_scale: float = option(
        4.0, "what the annotator gives for one unit of true quality, in log-odds", finite=True
    )
    length_bias: float = option(0.1, "what the annotator gives for one more token, in log-odds", finite=True)
    length_bias_curve: str = option(
        LINEAR,
        f"how tokens count: linear; log ({MIDDLE} ln(1 + tokens), so one more of {MIDDLE} counts about as in linear); "
        f"saturating (tokens beyond {MIDDLE} count nothing)",
        choices=(LINEAR, LOG, SATURATING),
    )
    biased_prompts: float = option(
        1.0, "share of the prompts in which the annotator is biased at all (0 to 1)", at_least=0, at_most=1
    )
    list_bias: float = option(0.0, "what the annotator gives for list formatting, in log-odds", finite=True)
    flattery_bias: float = option(0.0, "what the annotator gives for a flattering opener, in log-odds", finite=True)
    temperature: float = option(
        1.0, "noise of the annotator's choices: 0 always takes the higher utility", at_least=0, at_most=1e6
    )
    lapse_rate: float = option(
        0.0, "share of pairs that the annotator decides by a coin (0 to 1)", at_least=0, at_most=1
    )

    def __post_init__(self) -> None:
        check_options(self)


def length_effect(tokens: float, curve: str) -> float:
    """``f(tokens)`` of the module's text."""
    if curve == LOG:
        return MIDDLE * math.log1p(tokens)
    return min(tokens, MIDDLE) if curve == SATURATING else tokens


class Annotator:
    """Utilities, choices and rankings, as set by :class:`AnnotatorSettings`.

    Args:
        world: whose true quality the annotator sees.
        settings: the knobs; the defaults if not given.
    """

    def __init__(self, world: World, settings: AnnotatorSettings | None = None) -> None:
        self.world = world
        self.settings = settings or AnnotatorSettings()

    def utility(self, prompt: str, response: str) -> float:
        """What a response is worth to the annotator, biases included, in log-odds at temperature 1."""
        knobs = self.settings
        worth = knobs.quality_scale * self.world.true_quality(prompt, response)
        if not self.is_biased(prompt):
            return worth
        return (
            worth
            + knobs.length_bias * length_effect(count_tokens(response), knobs.length_bias_curve)
            + knobs.list_bias * is_list(response)
            + knobs.flattery_bias * is_flattering(response)
        )

    def is_biased(self, prompt: str) -> bool:
        """Whether a prompt is one of those in which the annotator is biased; decided by its text alone."""
        return zlib.crc32(f"bias {prompt}".encode()) < self.settings.biased_prompts * 2**32

    def preference_probability(self, prompt: str, first: str, second: str) -> float:
        """``P(first over second)``, lapses included."""
        gap = self.utility(prompt, first) - self.utility(prompt, second)
        knobs = self.settings
        if knobs.temperature == 0:
            attentive = 0.5 * (1 + np.sign(gap))
        else:
            attentive = 0.5 * (1 + np.tanh(0.5 * gap / knobs.temperature))
        return float((1 - knobs.lapse_rate) * attentive + knobs.lapse_rate / 2)

    def prefers_first(self, prompt: str, first: str, second: str, rng: np.random.Generator) -> bool:
        """One choice between two responses."""
        return bool(rng.random() < self.preference_probability(prompt, first, second))

    def rank(self, prompt: str, responses: list[str], rng: np.random.Generator) -> list[int]:
        """Ranks of the responses, 1 the best: one Plackett-Luce draw (all of it by chance in a lapse)."""
        utility = np.array([self.utility(prompt, response) for response in responses])
        noise = rng.gumbel(size=len(responses))
        if rng.random() < self.settings.lapse_rate:
            utility = noise
        else:
            utility = utility + self.settings.temperature * noise
        order = np.argsort(-utility, kind="stable")
        ranks = np.empty(len(responses), dtype=int)
        ranks[order] = np.arange(1, len(responses) + 1)
        return [int(rank) for rank in ranks]


def _distinct_responses(world: World, prompt: str, count: int, rng: np.random.Generator) -> list[str]:
    found: dict[str, None] = {}
    for _ in range(1000 * count):
        found.setdefault(world.write_response(prompt, rng))
        if len(found) == count:
            return list(found)
    raise ConfigError(
        f"the writers of this world hardly ever write {count} different responses to one prompt",
        where="world settings",
        fix="Raise --max_steps, --steps_per_topic, --length_spread or --filler_rate.",
    )


def make_preferences(world: World, annotator: Annotator, n_pairs: int, seed: int, *, split: str = "train") -> list[Row]:
    """Preference pairs: a prompt, two different responses by two writers, the annotator's choice.

    Args:
        world: where prompts and responses come from.
        annotator: who chooses.
        n_pairs: how many rows.
        seed: equal seeds give equal rows.
        split: ``"train"``, or any other name for independent rows on prompts that training never sees.

    Returns:
        Rows ``prompt``, ``chosen``, ``rejected``, ``chosen_true_quality``, ``rejected_true_quality``.
    """
    rng = stream(seed, "preferences", split)
    prompts = world.prompts(split)
    rows = []
    for _ in range(n_pairs):
        prompt = prompts[int(rng.integers(len(prompts)))]
        first, second = _distinct_responses(world, prompt, 2, rng)
        if not annotator.prefers_first(prompt, first, second, rng):
            first, second = second, first
        rows.append(
            {
                "prompt": prompt,
                "chosen": first,
                "rejected": second,
                "chosen_true_quality": world.true_quality(prompt, first),
                "rejected_true_quality": world.true_quality(prompt, second),
            }
        )
    return rows


def make_ranked_lists(
    world: World, annotator: Annotator, n_prompts: int, responses_per_prompt: int, seed: int, *, split: str = "train"
) -> list[Row]:
    """Ranked lists: rows ``prompt``, ``responses``, ``ranks`` (1 the best) and ``true_quality`` (a list)."""
    rng = stream(seed, "ranked", split)
    prompts = world.prompts(split)
    rows = []
    for _ in range(n_prompts):
        prompt = prompts[int(rng.integers(len(prompts)))]
        responses = _distinct_responses(world, prompt, responses_per_prompt, rng)
        rows.append(
            {
                "prompt": prompt,
                "responses": responses,
                "ranks": annotator.rank(prompt, responses, rng),
                "true_quality": [world.true_quality(prompt, response) for response in responses],
            }
        )
    return rows


def make_sft(world: World, n_rows: int, seed: int, *, split: str = "train") -> list[Row]:
    """Demonstrations by writers of mixed skill: rows ``prompt``, ``response``, ``true_quality``."""
    rng = stream(seed, "sft", split)
    prompts = world.prompts(split)
    rows = []
    for _ in range(n_rows):
        prompt = prompts[int(rng.integers(len(prompts)))]
        response = world.write_response(prompt, rng)
        rows.append({"prompt": prompt, "response": response, "true_quality": world.true_quality(prompt, response)})
    return rows


def make_prompts(world: World, n_rows: int, seed: int, *, split: str = "train") -> list[Row]:
    """Prompts alone: rows ``prompt``."""
    rng = stream(seed, "prompts", split)
    prompts = world.prompts(split)
    return [{"prompt": prompts[int(rng.integers(len(prompts)))]} for _ in range(n_rows)]


def describe_preferences(rows: list[Row]) -> dict[str, float]:
    """Facts about a preference set that its reader should know, each by its name.

    Returns:
        ``prefers_longer`` (share of pairs of different length whose chosen response is the longer one),
        ``prefers_better`` (the same for true quality), ``quality_length_pearson`` (true quality against tokens over
        all responses), ``mean_tokens``, ``mean_true_quality``.
    """
    tokens = np.array([[count_tokens(row["chosen"]), count_tokens(row["rejected"])] for row in rows])
    quality = np.array([[row["chosen_true_quality"], row["rejected_true_quality"]] for row in rows])

    def share(values: np.ndarray) -> float:
        gap = values[:, 0] - values[:, 1]
        return float(np.mean(gap[gap != 0] > 0)) if np.any(gap != 0) else float("nan")

    varied = tokens.std() > 0 and quality.std() > 0
    return {
        "prefers_longer": share(tokens),
        "prefers_better": share(quality),
        "quality_length_pearson": float(np.corrcoef(tokens.ravel(), quality.ravel())[0, 1]) if varied else float("nan"),
        "mean_tokens": float(tokens.mean()),
        "mean_true_quality": float(quality.mean()),
    }
