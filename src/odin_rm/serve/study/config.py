"""The settings of ``odin-rm study``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, resamples_option
from odin_rm.core.settings import non_default_fields

# What decides which pairs are rated, in which order; it stays as it is for the life of a study.
DESIGN = ("sample_size", "max_length_ratio", "match_mean_length", "length_unit", "seed")

_SHORTEST_TOKEN = 8


@dataclass
class StudyConfig:
    """Everything that ``odin-rm study`` takes."""

    a: str | None = option(None, "Outputs of the policy whose win score is wanted: AlpacaEval's .json or .jsonl.")
    b: str | None = option(None, "Outputs of the policy it is held against, of the same prompts.")
    output: str | None = option(None, "Folder of the study: a new one, or one to go on with.")
    results: str | None = option(None, "Folder of a study: write its results as they stand and end. No page.")

    sample_size: int | None = option(
        None, "Prompts to rate; default as many as the matching of lengths allows.", at_least=1
    )
    match_mean_length: bool = option(True, "Draw the prompts so that the mean difference of lengths is about zero.")
    max_length_ratio: float | None = option(
        None, "Only pairs whose longer answer is at most so many times the other.", at_least=1
    )
    length_unit: Literal["characters", "words"] = option("characters", "What lengths are matched by.")
    seed: int = option(
        0, "Of the sample, of each rater's order and sides, and of the resamples.", at_least=0, below=SEEDS
    )
    question: str = option("Which answer is better?", "What the page asks.")

    host: str = option("127.0.0.1", "Address to listen at. Any that is not this machine's own loopback needs --token.")
    port: int = option(8421, "Port to listen at; 0 takes a free one.", at_least=0, at_most=65535)
    token: str | None = option(None, "What raters' addresses must carry (after '#token='); no file holds it.")
    bootstrap_samples: int = resamples_option()

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if self.results is not None:
            others = non_default_fields(self, ["a", "b", "output", "question", "host", "port", "token", *DESIGN])
            if others:
                fix = "Pass --results DIR and at most --bootstrap_samples."
                raise ConfigError("has no effect with --results", where=f"--{others[0]}", fix=fix)
        for name in ("a", "b", "output"):
            if self.results is None and not getattr(self, name):
                fix = "Pass --a, --b and --output, or --results DIR alone."
                raise ConfigError("is required", where=f"--{name}", fix=fix)
        check_options(self)
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
