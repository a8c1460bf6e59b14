"""What ``odin-rm rivals`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, resamples_option
from odin_rm.core.shared_options import RowOptions

POOLINGS = ("backbone", "mean")


@dataclass
class RivalsConfig(RowOptions):
    """Everything that ``odin-rm rivals`` takes; best written into the ``--config`` file."""

    model: str = option(help="The backbone (path or hub id) whose frozen features all heads read.")
    datasets: list[str] = option(help="Preference data, each PATH or NAME=PATH; every one is split by prompt.")
    output: str = option(help="Folder for rivals.json, tables, figures and the page; the same command goes on there.")
    arms: list[str] = option(
        [],
        "What is compared, each 'OBJECTIVE' or 'NAME=OBJECTIVE option=value ...'; the first is the reference. "
        "Default all objectives, bradley_terry first, and bag_of_words.",
    )
    folds: int = option(5, "Parts of the prompts; each is scored by heads that were trained on the others.", at_least=2)
    seeds: list[int] = option([0], "Of the first weights and of the order of pairs; figures are means over them.")
    pairs: str | None = option(
        None, "Rows of prompt with shorter and longer, or original and edited: which side is preferred?"
    )
    edits: list[str] = option(
        ["add_filler", "make_list", "prefix_agreement"],
        "Edits whose price is measured; 'none' for none (docs/probe.md).",
    )
    responses: int = option(200, "Most responses of a data set that are edited.", at_least=2)
    gold: str | None = option(
        None, "A score that rows have as chosen_NAME and rejected_NAME: what best-of-n by each arm makes of it."
    )
    n: int = option(8, "Responses that best-of-n draws.", at_least=2)
    batch_pairs: int = option(256, "Pairs in a step.", at_least=1)
    epochs: int = option(8, "Passes over the training pairs.", at_least=1)
    learning_rate: float = option(0.01, "Of the heads, at its peak; it falls as a cosine.", above=0)
    weight_decay: float = option(0.01, "Of the heads.", at_least=0)
    pooling: str = option(
        "mean", "What a head reads: the mean of all tokens, or as the backbone has it.", choices=POOLINGS
    )
    max_length: int = option(512, "Window in tokens; longer responses are cut.", at_least=2)
    microbatch_tokens: int = option(8192, "Tokens of a forward pass of the backbone.", at_least=1)
    device: str | None = option(None, "cpu, cuda, ...; default CUDA if there is one.")
    cache_dir: str | None = option(None, "Where texts and features are kept; default as for odin-rm reward.")
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of folds, of drawn responses and of resamples.", at_least=0, below=SEEDS)

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        check_options(self)
        for name in ("datasets", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError("is empty or names one twice", where=f"--{name}", fix="Give each once.")
        if any(not isinstance(seed, int) or not 0 <= seed < SEEDS for seed in self.seeds):
            raise ConfigError(f"must be whole numbers from 0, they are {self.seeds}", where="--seeds")
        if self.edits == ["none"]:
            self.edits = []
