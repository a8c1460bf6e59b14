"""The settings of ``odin-rm study``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.settings import given

# What decides which pairs are rated, in which order; it stays as it is for the life of a study.
DESIGN = ("sample_size", "max_length_ratio", "match_mean_length", "length_unit", "seed")

_SHORTEST_TOKEN = 8


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class StudyConfig:
    """Everything that ``odin-rm study`` takes."""

    a: str | None = _option(None, "Outputs of the policy whose win score is wanted: AlpacaEval's .json or .jsonl.")
    b: str | None = _option(None, "Outputs of the policy it is held against, of the same prompts.")
    output: str | None = _option(None, "Folder of the study: a new one, or one to go on with.")
    results: str | None = _option(None, "Folder of a study: write its results as they stand and end. No page.")

    sample_size: int | None = _option(None, "Prompts to rate; default as many as the matching of lengths allows.")
    match_mean_length: bool = _option(True, "Draw the prompts so that the mean difference of lengths is about zero.")
    max_length_ratio: float | None = _option(None, "Only pairs whose longer answer is at most so many times the other.")
    length_unit: Literal["characters", "words"] = _option("characters", "What lengths are matched by.")
    seed: int = _option(0, "Of the sample, of each rater's order and sides, and of the resamples.")
    question: str = _option("Which answer is better?", "What the page asks.")

    host: str = _option("127.0.0.1", "Address to listen at. Any that is not this machine's own loopback needs --token.")
    port: int = _option(8421, "Port to listen at; 0 takes a free one.")
    token: str | None = _option(None, "What raters' addresses must carry (after '#token='); no file holds it.")
    bootstrap_samples: int = _option(1000, "Resamples of the intervals, at least 2.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if self.results is not None:
            others = given(self, ["a", "b", "output", "question", "host", "port", "token", *DESIGN])
            if others:
                fix = "Pass --results DIR and at most --bootstrap_samples."
                raise ConfigError("has no effect with --results", where=f"--{others[0]}", fix=fix)
        for name in ("a", "b", "output"):
            if self.results is None and not getattr(self, name):
                fix = "Pass --a, --b and --output, or --results DIR alone."
                raise ConfigError("is required", where=f"--{name}", fix=fix)
        least = {"sample_size": 1, "max_length_ratio": 1, "seed": 0, "bootstrap_samples": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):
                raise ConfigError(f"is {value}", where=f"--{name}", fix=f"Give at least {low}.")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"is {self.port}", where="--port", fix="Give a number from 0 to 65535.")
        if not self.question.strip():
            raise ConfigError("is empty", where="--question", fix="Ask something.")
        self._check_access()

    def _check_access(self) -> None:
        if self.token is not None and (len(self.token) < _SHORTEST_TOKEN or not _plain(self.token)):
            fix = f"Give at least {_SHORTEST_TOKEN} letters, digits, '-', '_' or '.'."
            raise ConfigError("is too short, or not of plain characters", where="--token", fix=fix)
        if self.token is None and not self.is_loopback:
            what = f"{self.host} can be reached by others"
            raise ConfigError(what, where="--host", fix="Pass --token SECRET, or leave --host at 127.0.0.1.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _plain(text: str) -> bool:
    return text.isascii() and all(letter.isalnum() or letter in "-_." for letter in text)
