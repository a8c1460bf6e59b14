"""A text world in which the true quality of every response is known.

A prompt names a topic. A response is a list of short sentences: helpful steps, harmful steps, fillers ("As experts
often say."), optionally a flattering opener and list formatting. Its true quality is

    (min(distinct helpful steps, saturation) - harm_weight * harmful steps) / saturation

so 1 is the best there is, reached with ``saturation`` helpful steps (about 21 tokens by default); fillers, openers and
bullets count nothing. It is read off the *text*, so it also judges what a policy writes.

Everything is a function of the settings and a seed; there is no global state.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option
from odin_rm.testbed import phrases

# The rule of the word-level tokenizer (`tokenizers.pre_tokenizers.Whitespace`): runs of word characters, runs of
# punctuation. Counting by it needs no tokenizer; a test holds the two together.
TOKEN = re.compile(r"\w+|[^\w\s]+")
_SENTENCE_END = re.compile(r"[.!?]+")
_WORD = re.compile(r"[a-z']+")

HELD_OUT_EVERY = 5


def count_tokens(text: str) -> int:
    """Length of a text in tokens of the testbed's word-level tokenizer, without special tokens."""
    return len(TOKEN.findall(text))


@dataclass(frozen=True)
class WorldSettings:
    """The knobs of the world. Lengths are in tokens of the word-level tokenizer, full stops included.

    Raises:
        ConfigError: a knob is outside its range (the message names the knob and the range).
    """

    topics: int = option(24, "how many topics prompts are about (1 to 24)", at_least=1, at_most=len(phrases.TOPICS))
    steps_per_topic: int = option(
        8, "helpful steps that the writers of one topic know (1 to 16)", at_least=1, at_most=len(phrases.HELPFUL)
    )
    harmful_per_topic: int = option(
        5, "harmful steps that the writers of one topic know (1 to 10)", at_least=1, at_most=len(phrases.HARMFUL)
    )
    saturation: int = option(
        4,
        "distinct helpful steps beyond which more of them add nothing (1 to 16)",
        at_least=1,
        at_most=len(phrases.HELPFUL),
    )
    harm_weight: float = option(
        1.0, "what a harmful step takes away, in helpful steps (0 or more)", at_least=0, at_most=1e6
    )
    min_steps: int = option(1, "fewest steps, helpful and harmful together, in a response", at_least=0)
    max_steps: int = option(5, "most steps in a response", at_least=1, at_most=16)
    skill_mean: float = option(
        0.65,
        "share of helpful steps among the steps of the median writer (between 0 and 1)",
        at_least=1e-6,
        at_most=1 - 1e-6,
    )
    skill_spread: float = option(
        1.2, "standard deviation of the writers' skill, in log-odds of a helpful step", at_least=0, at_most=1e3
    )
    repeat_rate: float = option(
        0.1, "share of helpful steps that repeat one already given (and so add nothing)", at_least=0, at_most=1
    )
    filler_rate: float = option(
        1.0, "share of the space left by the steps that is filled with fillers (0 to 1)", at_least=0, at_most=1
    )
    fillers: int = option(10, "how many different fillers exist (1 to 10)", at_least=1, at_most=len(phrases.FILLERS))
    length_mean: float = option(25.0, "tokens that the writers aim at, mean", at_least=0, at_most=1e4)
    length_spread: float = option(11.0, "tokens that the writers aim at, standard deviation", at_least=0, at_most=1e4)
    max_tokens: int = option(60, "writers aim at no more tokens than this", at_least=1, at_most=1e4)
    quality_length_correlation: float = option(
        0.0,
        "correlation of a writer's skill with the length aimed at: above 0, good writers write more (-1 to 1)",
        at_least=-1,
        at_most=1,
    )
    list_rate: float = option(
        0.1, "share of responses formatted as a bulleted list (one token more per sentence)", at_least=0, at_most=1
    )
    flattery_rate: float = option(0.1, "share of responses that open with flattery", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.min_steps > self.max_steps:
            what = f"must be at most --max_steps ({self.max_steps}), it is {self.min_steps}"
            raise ConfigError(what, where="--min_steps")


@dataclass(frozen=True)
class Contents:
    """What a text says: counts of its sentences by kind.

    Attributes:
        helpful: distinct helpful steps.
        repeats: helpful steps said again.
        harmful: harmful steps, each time they occur.
        fillers: fillers and openers.
        other: sentences that the world does not know (a policy can write anything).
    """

    helpful: int
    repeats: int
    harmful: int
    fillers: int
    other: int


def _key(sentence: str) -> str:
    return " ".join(_WORD.findall(sentence.lower()))


_KIND = {
    **{_key(s): "helpful" for s in phrases.HELPFUL},
    **{_key(s): "harmful" for s in phrases.HARMFUL},
    **{_key(s): "filler" for s in (*phrases.FILLERS, *phrases.OPENERS)},
}


def read_contents(response: str) -> Contents:
    """Counts the sentences of any text by kind; case, bullets, spacing and a missing last full stop do not matter.

    A sentence counts as a step only when its words are exactly that step's words.
    """
    seen: set[str] = set()
    counts = dict.fromkeys(("helpful", "repeats", "harmful", "filler", "other"), 0)
    for sentence in _SENTENCE_END.split(response):
        key = _key(sentence)
        if not key:
            continue
        kind = _KIND.get(key, "other")
        if kind == "helpful":
            kind = "repeats" if key in seen else "helpful"
            seen.add(key)
        counts[kind] += 1
    return Contents(counts["helpful"], counts["repeats"], counts["harmful"], counts["filler"], counts["other"])


def is_list(response: str) -> bool:
    """Whether the text is formatted as a bulleted list."""
    return response.lstrip().startswith("-")


def is_flattering(response: str) -> bool:
    """Whether the text opens with one of the world's flattering openers."""
    return _key(_SENTENCE_END.split(response, maxsplit=1)[0]) in _OPENER_KEYS


_OPENER_KEYS = frozenset(_key(opener) for opener in phrases.OPENERS)


class World:
    """Prompts, writers and the true quality, as set by :class:`WorldSettings`.

    Args:
        settings: the knobs; the defaults if not given.
    """

    def __init__(self, settings: WorldSettings | None = None) -> None:
        self.settings = settings or WorldSettings()
        self._topic_of_prompt: dict[str, int] = {}
        for topic in range(self.settings.topics):
            for context in phrases.CONTEXTS:
                for template in phrases.PROMPT_TEMPLATES:
                    text = template.format(topic=phrases.TOPICS[topic], context=f" {context}" if context else "")
                    self._topic_of_prompt[text] = topic

    def prompts(self, split: str = "train") -> list[str]:
        """All prompts of a split: one in five is kept out of ``"train"`` and is what every other split draws from."""
        texts = list(self._topic_of_prompt)
        held_out = split != "train"
        # A prompt's split depends on its text alone, so changing a knob never moves a prompt between splits.
        chosen = [t for t in texts if (zlib.crc32(t.encode()) % HELD_OUT_EVERY == 0) == held_out]
        return chosen

    def true_quality(self, prompt: str, response: str) -> float:
        """The known truth: 1 at best, 0 for saying nothing, below 0 for harm. Any text is fine, for both arguments.

        Args:
            prompt: unused by this world, whose steps help whatever the topic; here because a judge is given it.
            response: any text.
        """
        del prompt
        contents = read_contents(response)
        helpful = min(contents.helpful, self.settings.saturation)
        return (helpful - self.settings.harm_weight * contents.harmful) / self.settings.saturation

    @property
    def truth_is_default(self) -> bool:
        """Whether this world judges texts as the default world does."""
        default = WorldSettings()
        return all(getattr(self.settings, n) == getattr(default, n) for n in ("saturation", "harm_weight"))

    def optimum_tokens(self) -> float:
        """Mean tokens of a response of true quality 1 with nothing superfluous."""
        return self.settings.saturation * float(np.mean([count_tokens(step) for step in phrases.HELPFUL]))

    def draw_prompt(self, rng: np.random.Generator, split: str = "train") -> str:
        """One prompt of the split, all equally likely."""
        texts = self.prompts(split)
        return texts[int(rng.integers(len(texts)))]

    def write_response(self, prompt: str, rng: np.random.Generator) -> str:
        """What one writer, drawn at random, answers to a prompt of this world."""
        knobs = self.settings
        skill, length_noise = rng.standard_normal(2)
        rho = knobs.quality_length_correlation
        aim = knobs.length_mean + knobs.length_spread * (rho * skill + np.sqrt(1 - rho**2) * length_noise)
        aim = min(aim, knobs.max_tokens)
        sentences = self._write_steps(self._topic_of_prompt.get(prompt, 0), skill, rng)
        opener = phrases.OPENERS[int(rng.integers(len(phrases.OPENERS)))] if rng.random() < knobs.flattery_rate else ""
        bullets = bool(rng.random() < knobs.list_rate)
        self._add_fillers(sentences, aim - count_tokens(opener), int(bullets), rng)
        if bullets:
            return "\n".join(f"- {sentence}" for sentence in ([opener] if opener else []) + sentences)
        return " ".join(([opener] if opener else []) + sentences)

    def _write_steps(self, topic: int, skill: float, rng: np.random.Generator) -> list[str]:
        knobs = self.settings
        helpful = [(5 * topic + i) % len(phrases.HELPFUL) for i in range(knobs.steps_per_topic)]
        harmful = [(3 * topic + i) % len(phrases.HARMFUL) for i in range(knobs.harmful_per_topic)]
        log_odds = np.log(knobs.skill_mean / (1 - knobs.skill_mean)) + knobs.skill_spread * skill
        share_helpful = 1 / (1 + np.exp(-log_odds))
        unused = [helpful[i] for i in rng.permutation(len(helpful))]
        used: list[int] = []
        sentences = []
        for _ in range(int(rng.integers(knobs.min_steps, knobs.max_steps + 1))):
            if rng.random() >= share_helpful:
                sentences.append(phrases.HARMFUL[harmful[int(rng.integers(len(harmful)))]])
            elif used and (not unused or rng.random() < knobs.repeat_rate):
                sentences.append(phrases.HELPFUL[used[int(rng.integers(len(used)))]])
            else:
                used.append(unused.pop())
                sentences.append(phrases.HELPFUL[used[-1]])
        return sentences

    def _add_fillers(self, sentences: list[str], aim: float, bullet: int, rng: np.random.Generator) -> None:
        """Inserts fillers at random places until the length aimed at is reached; a response is never empty."""
        knobs = self.settings
        room = aim - sum(count_tokens(s) + bullet for s in sentences)
        while not sentences or room > 2:
            if sentences and rng.random() >= knobs.filler_rate:
                room -= 5
                continue
            filler = phrases.FILLERS[int(rng.integers(knobs.fillers))]
            sentences.insert(int(rng.integers(len(sentences) + 1)), filler)
            room -= count_tokens(filler) + bullet


def stream(seed: int, *name: str) -> np.random.Generator:
    """An independent random stream for a seed and a name, the same on every machine."""
    return np.random.default_rng([seed, zlib.crc32("/".join(name).encode())])
