"""Is the certificate right? Reward models whose truth is known, in every regime, on the testbed (evidence, item 32).

    make bench-certificate            # OMP_NUM_THREADS=1 python -m benchmarks.certificate_study --output study.json

For each seed a world: an annotator who pays for length, writers with a stated relation of quality and length, bullets
in some responses. In it a plain Bradley-Terry model (the baseline, of word counts, trained on 3,000 pairs) and models
of each regime:

* **no-op**: trained again on other pairs; with a charge for edits that is too weak to matter;
* **mitigated**: the mean squared change under edits (a filler, bullets, an opener) charged strongly;
* **over-corrected**: a length penalty of 1.7 to 2.5 times the price; or, in a world whose good writers write more, the
  correlation with length within prompts charged until it is 0;
* **substituted**: the length mended, while the labels pay for lists or for openers;
* **partial**: half of the price taken off (its verdict is *biased*);
* **unbiased**: trained on an annotator without a bias, baseline too;
* **audit-sensitive**: mended, but paying for every token beyond the audit's longest response.

Of each: an audit of 800 pairs, a probe of 200 other prompts (400 responses, an edit of each kind of each), best-of-16
from a policy that writes longer than the audit's writers (150 prompts) and a probe of what it chooses. The truth of
an attribute is what the same rule says of the *exact* effects, those of 2,000 responses (and of best-of-16 of 400
prompts) without intervals. The audit alone is judged by the same rule with its correlations (pooled, within) and its
amplification in place of effects.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.word_rewards import Reward, WordReward, features, forget, train
from odin_rm.core.files import atomic_write_json
from odin_rm.evaluation.attribute_audit import AttributedScores, audit_attributes
from odin_rm.evaluation.best_of_n import excess_drift
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.certificate import Measured, certify
from odin_rm.evaluation.price_list import price_list, usual_difference
from odin_rm.evaluation.probe import within_deviation
from odin_rm.evaluation.records import Figure
from odin_rm.testbed.annotator import Annotator, AnnotatorSettings, make_preferences
from odin_rm.testbed.interventions import EDITS
from odin_rm.testbed.world import World, WorldSettings, count_tokens, is_flattering, is_list, stream

ATTRIBUTES: dict[str, tuple[Callable[[str], float], float]] = {
    "length": (count_tokens, 10.0),
    "list": (is_list, 1.0),
    "flattery": (is_flattering, 1.0),
}
SAMPLES, N = 1000, 16
CORRELATIONS = (0.0, 0.6, -0.5, 0.4)
AUDIT_RULES = ("within", "pooled", "amplification")


def attribute_columns(texts: list[str]) -> dict[str, np.ndarray]:
    return {name: np.array([float(f(t)) for t in texts]) for name, (f, _) in ATTRIBUTES.items()}


@dataclass
class Texts:
    """Responses, their prompts, and every edit of each."""

    texts: list[str]
    prompt: np.ndarray
    edited: list[str]
    source: np.ndarray

    @classmethod
    def of(cls, texts: list[str], prompt: np.ndarray, rng: np.random.Generator) -> Texts:
        edited, source = [], []
        for k, text in enumerate(texts):
            for edit, _ in EDITS.values():
                changed = edit(text, rng)
                if changed is not None:
                    edited.append(changed)
                    source.append(k)
        return cls(texts, prompt, edited, np.array(source))

    def effects(self, reward: Reward, samples: int, deviation: float = 0.0, usual: Any = None) -> dict[str, Figure]:
        """The effect of each attribute; in the units of another set where they are given."""
        quality = reward(self.texts)
        before, after = attribute_columns(self.texts), attribute_columns(self.edited)
        scale = deviation or within_deviation(quality, self.prompt)[0]
        usual = usual or self.usual()
        units = {n: (after[n] - before[n][self.source]) / step for n, (_, step) in ATTRIBUTES.items()}
        change = (reward(self.edited) - quality[self.source]) / scale
        found = price_list(change, units, usual, self.prompt[self.source], bootstrap_samples=samples)
        return {name: one.effect for name, one in found.items()}

    def usual(self) -> dict[str, float]:
        columns = attribute_columns(self.texts)
        return {n: usual_difference(columns[n], self.prompt, step) for n, (_, step) in ATTRIBUTES.items()}


def written(world: World, prompts: int, each: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    texts, names = [], world.prompts("test")
    for _ in range(prompts):
        asked = names[int(rng.integers(len(names)))]
        texts += [world.write_response(asked, rng) for _ in range(each)]
    return texts, np.repeat(np.arange(prompts), each)


class Bed:
    """A world, its pairs and its texts; the same for all of its models."""

    def __init__(self, seed: int, correlation: float, length_bias: float) -> None:
        writers: dict[str, Any] = {"quality_length_correlation": correlation, "list_rate": 0.3, "flattery_rate": 0.2}
        self.world = World(WorldSettings(**writers, max_tokens=40))
        policy = World(WorldSettings(**writers, length_mean=45.0, length_spread=15.0, max_tokens=90))
        self.seed, self.length_bias = seed, length_bias
        rng = stream(seed, "certificate")
        self.probed = Texts.of(*written(self.world, 200, 2, rng), rng)
        self.exact = Texts.of(*written(self.world, 1000, 2, rng), rng)
        self.many, self.many_prompt = written(policy, 150, N, rng)
        self.exact_many, self.exact_many_prompt = written(policy, 400, N, rng)
        self.rows = make_preferences(self.world, self.annotator(), 800, seed, split="test")
        train_texts = [row["chosen"] for row in self.preferences(0)[:1000]]
        edits = Texts.of(train_texts, np.arange(1000), rng)
        self.edits = features(edits.edited) - features(train_texts)[edits.source]

    def annotator(self, **biases: float) -> Annotator:
        return Annotator(self.world, AnnotatorSettings(**{"length_bias": self.length_bias, **biases}))

    def preferences(self, draw: int, **biases: float) -> list[dict[str, Any]]:
        return make_preferences(self.world, self.annotator(**biases), 3000, 1000 * self.seed + draw)

    def trained(
        self, draw: int, *, edit_weight: float = 0.0, length_weight: float = 0.0, **biases: float
    ) -> WordReward:
        rows = self.preferences(draw, **biases)
        chosen, rejected = [row["chosen"] for row in rows], [row["rejected"] for row in rows]
        length = np.array([count_tokens(a) - count_tokens(b) for a, b in zip(chosen, rejected, strict=True)], float)
        return train(features(chosen), features(rejected), edits=self.edits, edit_weight=edit_weight, length=length,
                     length_weight=length_weight)  # fmt: skip

    # ---- evidence ----------------------------------------------------------------------------------------------------

    def measured(self, reward: Reward) -> tuple[dict[str, Measured], dict[str, Any]]:
        """What the certificate sees, and what the audit alone sees."""
        deviation, usual = within_deviation(reward(self.probed.texts), self.probed.prompt)[0], self.probed.usual()
        effects = self.probed.effects(reward, SAMPLES)
        chosen = self._chosen(reward, self.many, self.many_prompt).effects(reward, SAMPLES, deviation, usual)
        gold = np.array([self.world.true_quality("", text) for text in self.many])
        excess = excess_drift(reward(self.many), gold, self.many_prompt, attribute_columns(self.many), [N])
        audit = self._audit(reward)
        found = {
            n: Measured(effects[n], chosen[n], excess[n][-1], Figure.from_json(audit[n]["within"]["pearson"]),
                        Figure.from_json(audit[n]["pooled"]["pearson"]), Figure.from_json(audit[n]["amplification"]))
            for n in ATTRIBUTES
        }  # fmt: skip
        return found, audit

    def _chosen(self, reward: Reward, texts: list[str], prompt: np.ndarray) -> Texts:
        best = reward(texts).reshape(-1, N).argmax(axis=1) + N * np.arange(len(texts) // N)
        return Texts.of([texts[k] for k in best], prompt[best], stream(self.seed, "edits of chosen"))

    def _audit(self, reward: Reward) -> dict[str, Any]:
        texts = [row[side] for row in self.rows for side in ("chosen", "rejected")]
        first = np.arange(0, len(texts), 2)
        prompt = np.repeat(np.arange(len(self.rows)), 2)
        columns = AttributedScores(reward(texts), prompt, attribute_columns(texts), first, first + 1)
        return audit_attributes(columns, PromptBootstrap(prompt, SAMPLES, 0)).attributes

    def truth(self, reward: Reward) -> dict[str, Measured]:
        """The exact effects, with intervals of no width."""
        deviation, usual = within_deviation(reward(self.exact.texts), self.exact.prompt)[0], self.exact.usual()
        effects = self.exact.effects(reward, 0)
        many = self._chosen(reward, self.exact_many, self.exact_many_prompt)
        chosen = many.effects(reward, 0, deviation, usual)
        sure = {n: (Figure(e.value, e.value, e.value), Figure(c.value, c.value, c.value))
                for n, e, c in ((n, effects[n], chosen[n]) for n in ATTRIBUTES)}  # fmt: skip
        return {n: Measured(effect, at_chosen) for n, (effect, at_chosen) in sure.items()}

    def accuracy(self, reward: Reward) -> tuple[float, float]:
        """Share of audit pairs ordered as labelled, and as their true quality says."""
        margin = reward([r["chosen"] for r in self.rows]) - reward([r["rejected"] for r in self.rows])
        true = np.array([r["chosen_true_quality"] - r["rejected_true_quality"] for r in self.rows])
        return float((margin > 0).mean()), float((margin * true > 0)[true != 0].mean())


STRONG = 100.0


def models(bed: Bed, k: int) -> list[tuple[str, str, Reward, Reward]]:
    """Regime as built, how, the model, its baseline."""
    plain = bed.trained(0)
    per_token = _price(bed, plain)
    mended = bed.trained(1, edit_weight=STRONG)
    tokens = [count_tokens(row[side]) for row in bed.rows for side in ("chosen", "rejected")]
    over = ("length penalty", replace(bed.trained(2), per_token=-(1.7 + 0.1 * k) * per_token))
    if bed.world.settings.quality_length_correlation > 0:
        over = ("correlation charged to 0", bed.trained(2, length_weight=STRONG))
    moved = {"list_bias": 2.5} if k % 2 == 0 else {"flattery_bias": 2.5}
    fair = bed.trained(4, length_bias=0.0)
    return [
        ("no-op", "trained again" if k % 2 else "weak charge", bed.trained(5, edit_weight=0.002 * (1 - k % 2)), plain),
        ("mitigated", "edits charged", mended, plain),
        ("over-corrected", over[0], over[1], plain),
        ("substituted", "labels pay for " + next(iter(moved)).removesuffix("_bias"),
         bed.trained(3, length_bias=0.0, **moved), plain),
        ("biased", "half taken off", replace(plain, per_token=-0.5 * per_token), plain),
        ("unbiased", "fair labels", bed.trained(6, length_bias=0.0), fair),
        ("audit-sensitive", "paid beyond the audit's lengths",
         replace(mended, beyond=2 * per_token, threshold=max(tokens) + 2.0), plain),
    ]  # fmt: skip


def _price(bed: Bed, reward: WordReward) -> float:
    """What a model pays for a token of filler, in its own units."""
    deviation = within_deviation(reward(bed.exact.texts), bed.exact.prompt)[0]
    effect, usual = bed.exact.effects(reward, 0)["length"].value, bed.exact.usual()["length"]
    assert effect is not None
    return effect / usual / ATTRIBUTES["length"][1] * deviation


def judged(bed: Bed, built: str, how: str, reward: Reward, baseline: Reward, cache: dict[int, Any]) -> dict[str, Any]:
    if id(baseline) not in cache:
        cache[id(baseline)] = bed.measured(baseline)[0], bed.truth(baseline)
    before, true_before = cache[id(baseline)]
    now, audit = bed.measured(reward)
    true_now = bed.truth(reward)
    labelled, true_order = bed.accuracy(reward)
    found: dict[str, Any] = {"built": built, "how": how, "seed": bed.seed, "accuracy": labelled, "true": true_order}
    truth, verdicts = certify(true_now, true_before), certify(now, before)
    found["attributes"] = {
        n: {"truth": truth[n].verdict, "verdict": verdicts[n].verdict, "why": verdicts[n].why,
            "exact": true_now[n].effect.value, "measured": now[n].to_json()}
        for n in ATTRIBUTES
    }  # fmt: skip
    for rule in AUDIT_RULES:
        sides = [{n: Measured(effect=getattr(side[n], rule)) for n in ATTRIBUTES} for side in (now, before)]
        for n, one in certify(*sides).items():
            found["attributes"][n][f"by_{rule}"] = one.verdict
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    parser.add_argument("--output", default="certificate_study.json")
    options = parser.parse_args()
    found, start = [], time.time()
    for k in range(options.first, options.first + options.worlds):
        forget()
        bed = Bed(k, correlation=CORRELATIONS[k % 4], length_bias=0.10 + 0.01 * (k % 5))
        cache: dict[int, Any] = {}
        for built, how, reward, baseline in models(bed, k):
            found.append(judged(bed, built, how, reward, baseline, cache))
        print(f"world {k}: {len(found)} models, {time.time() - start:.0f} s", flush=True)
        atomic_write_json(Path(options.output), {"models": found, "summary": summary(found)})
    print(json.dumps(summary(found), indent=1))


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all models: of the attribute that was to be mended, and of all attributes."""
    rows = [(one["built"], n, a) for one in found for n, a in one["attributes"].items()]
    content: dict[str, Any] = {"models": len(found)}
    for part, held in (("length", [r for r in rows if r[1] == "length"]), ("all", rows)):
        others = [a for _, _, a in held if a["truth"] != "mitigated"]
        content[part] = {
            "verdicts": len(held),
            "as_built": sum(built == a["truth"] for built, _, a in held) if part == "length" else None,
            "right": sum(a["verdict"] == a["truth"] for _, _, a in held),
            "undecided": sum(a["verdict"] == "undecided" for _, _, a in held),
            "not_mitigated": len(others),
            "false_mitigated": sum(a["verdict"] == "mitigated" for a in others),
            **{f"right_by_{rule}": sum(a[f"by_{rule}"] == a["truth"] for _, _, a in held) for rule in AUDIT_RULES},
            **{
                f"false_mitigated_by_{rule}": sum(a[f"by_{rule}"] == "mitigated" for a in others)
                for rule in AUDIT_RULES
            },
        }
    by_regime: dict[str, dict[str, int]] = {}
    for built, n, a in rows:
        if n == "length":
            key = f"{built}: {a['truth']} -> {a['verdict']}"
            by_regime.setdefault(built, {}).setdefault(key, 0)
            by_regime[built][key] += 1
    return {**content, "regimes": by_regime}


if __name__ == "__main__":
    main()
