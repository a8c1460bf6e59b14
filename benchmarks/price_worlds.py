"""Does the price list find prices that are known? 200 worlds of the testbed (evidence, item 33).

    make bench-prices                 # OMP_NUM_THREADS=1 python -m benchmarks.price_worlds --worlds 200

Each world states its log-odds for a token (0.02 to 0.15), for a list (-1 to 2.5) and for a flattering opener (-1 to
2.5). The reward that is probed is the annotator's utility with these, each price varying by a fifth from prompt to
prompt, and noise of its own for every text (deviation 0.7 log-odds: what a reward says of texts besides). Probed are
200 responses to 100 prompts by a filler, bullets and an opener, and by two edits that cost nothing in the truth
(another order of the sentences, double blanks). Counted is how often a 95 % interval holds the stated log-odds, and
how often the interval of a pure edit holds zero. Seeds 0 to 199.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.files import atomic_write_json
from odin_rm.evaluation.price_list import price_list
from odin_rm.evaluation.probe import edit_figures, within_deviation
from odin_rm.testbed.annotator import Annotator, AnnotatorSettings
from odin_rm.testbed.interventions import EDITS, PURE
from odin_rm.testbed.world import World, WorldSettings, count_tokens, is_flattering, is_list, stream

NOISE, VARIES, PROMPTS = 0.7, 0.2, 100
ATTRIBUTES = {"length": count_tokens, "list": is_list, "flattery": is_flattering}


class Probed:
    """A world's reward and its responses."""

    def __init__(self, seed: int) -> None:
        self.rng = stream(seed, "prices")
        self.stated = {
            "length": float(self.rng.uniform(0.02, 0.15)),
            "list": float(self.rng.uniform(-1.0, 2.5)),
            "flattery": float(self.rng.uniform(-1.0, 2.5)),
        }
        self.seed = seed
        world = World(WorldSettings(list_rate=0.3, flattery_rate=0.3))
        self.annotator = Annotator(world, AnnotatorSettings(length_bias=0.0))
        asked = [world.draw_prompt(self.rng, "test") for _ in range(PROMPTS)]
        self.texts = [world.write_response(prompt, self.rng) for prompt in asked for _ in range(2)]
        self.prompt = np.repeat(np.arange(PROMPTS), 2)
        self.factor = 1 + VARIES * self.rng.standard_normal((PROMPTS, len(ATTRIBUTES)))

    def reward(self, texts: Sequence[str], prompt: np.ndarray) -> np.ndarray:
        values = np.empty(len(texts))
        for k, (text, p) in enumerate(zip(texts, prompt, strict=True)):
            noise = np.random.default_rng([self.seed, zlib.crc32(text.encode())]).standard_normal()
            paid = sum(
                factor * self.stated[name] * measure(text)
                for factor, (name, measure) in zip(self.factor[p], ATTRIBUTES.items(), strict=True)
            )
            values[k] = self.annotator.utility("", text) + paid + NOISE * noise
        return values

    def edited(self, edits: dict[str, Any]) -> tuple[list[str], np.ndarray]:
        texts, source = [], []
        for k, text in enumerate(self.texts):
            for edit in edits.values():
                changed = edit(text, self.rng)
                if changed is not None:
                    texts.append(changed)
                    source.append(k)
        return texts, np.array(source)


def columns(texts: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.array([float(measure(text)) for text in texts]) for name, measure in ATTRIBUTES.items()}


def world(seed: int, samples: int) -> dict[str, Any]:
    probed = Probed(seed)
    quality = probed.reward(probed.texts, probed.prompt)
    deviation, _ = within_deviation(quality, probed.prompt)
    texts, source = probed.edited({name: edit for name, (edit, _) in EDITS.items()})
    before, after = columns(probed.texts), columns(texts)
    change = (probed.reward(texts, probed.prompt[source]) - quality[source]) / deviation
    units = {name: after[name] - before[name][source] for name in ATTRIBUTES}
    found = price_list(change, units, dict.fromkeys(ATTRIBUTES, 1.0), probed.prompt[source],
                       bootstrap_samples=samples, seed=seed)  # fmt: skip
    prices = {}
    for name, stated in probed.stated.items():
        figure = found[name].price.times(deviation)
        assert figure.low is not None
        assert figure.high is not None
        prices[name] = {"stated": stated, **figure.to_json(), "holds": figure.low <= stated <= figure.high}
    pure = {}
    for name, edit in PURE.items():
        texts, source = probed.edited({name: edit})
        rewards = probed.reward(texts, probed.prompt[source])
        change_of = edit_figures(quality[source], rewards, None, 1.0, deviation, probed.prompt[source],
                                 bootstrap_samples=samples, seed=seed).change  # fmt: skip
        assert change_of.low is not None
        assert change_of.high is not None
        pure[name] = {**change_of.to_json(), "holds": change_of.low <= 0 <= change_of.high}
    return {"seed": seed, "prices": prices, "pure": pure}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of worlds whose interval holds the truth, and the mean error with its standard error."""
    content: dict[str, Any] = {"worlds": len(found)}
    for name in ATTRIBUTES:
        rows = [one["prices"][name] for one in found]
        error = np.array([row["value"] - row["stated"] for row in rows])
        content[name] = {
            "holds": float(np.mean([row["holds"] for row in rows])),
            "mean_error": float(error.mean()),
            "standard_error": float(error.std(ddof=1) / np.sqrt(len(error))),
            "mean_width": float(np.mean([row["high"] - row["low"] for row in rows])),
        }
    for name in PURE:
        rows = [one["pure"][name] for one in found]
        content[name] = {
            "holds": float(np.mean([row["holds"] for row in rows])),
            "mean": float(np.mean([row["value"] for row in rows])),
            "largest": float(max(abs(row["value"]) for row in rows)),
        }
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--output", default="price_worlds.json")
    options = parser.parse_args()
    found = [world(seed, options.samples) for seed in range(options.worlds)]
    content = summary(found)
    atomic_write_json(Path(options.output), {"summary": content, "worlds": found})
    for name, one in content.items():
        print(name, one)


if __name__ == "__main__":
    main()
