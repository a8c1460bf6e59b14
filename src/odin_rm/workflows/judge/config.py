"""What ``odin-rm judge`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, options_of
from odin_rm.core.shared_options import CALIBRATION_HELP, EndpointOptions
from odin_rm.results.preference_codes import preference_codes

ENDPOINT = "openai:"

_of_endpoint = options_of("endpoint")
_of_model = options_of("reward model")


@dataclass
class JudgeConfig(EndpointOptions):
    """Everything that ``odin-rm judge`` takes."""

    candidate: str = option(help="Outputs of the model to be judged: AlpacaEval's .json or .jsonl.")
    baseline: str = option(help="Outputs of the model it is held against, of the same prompts.")
    judge: str = option(
        help="openai:NAME (a model at an OpenAI-compatible endpoint), a reward model (path or hub id), gold "
        "(the testbed's truth), or recorded judgements (an annotation file, or a folder that judge wrote)."
    )
    output: str = option(help="Folder for annotations.json, judge.json and the cache.")

    template: str = _of_endpoint("scores", "scores (1 to 10 each), pairwise (A, B or tie), or a template's path.")
    temperature: float | None = _of_endpoint(
        0.0, "Of the reply; null in --config leaves it to the endpoint.", at_least=0
    )
    max_tokens: int | None = _of_endpoint(512, "Most tokens of a reply.", above=0)
    seed: int | None = _of_endpoint(None, "Sent along, where it knows seeds.", at_least=0, below=SEEDS)
    stream: bool = _of_endpoint(False, "Receive replies piece by piece (for slow ones behind proxies).")
    tokens_per_minute: float | None = _of_endpoint(
        None, "At most so many tokens a minute (estimated).", above=0, infinite=True
    )
    input_price: float | None = _of_endpoint(None, "Price of a million prompt tokens, for the cost.", at_least=0)
    output_price: float | None = _of_endpoint(None, "Price of a million reply tokens, for the cost.", at_least=0)

    tie_margin: float = option(0.0, "Reward model, gold: differences up to this are ties.", at_least=0)
    column: str | None = _of_model(None, "Label to read of classifiers with several.")
    max_length: int | None = _of_model(None, "Most tokens of a sequence; default its own setting.", at_least=1)
    dtype: Literal["float32", "bfloat16", "float16"] | None = _of_model(None, "Precision; default float32.")
    device: str | None = _of_model(None, "cpu, cuda, ...; default CUDA if there is one.")
    microbatch_tokens: int = _of_model(16384, "Padded tokens per forward pass (memory).", at_least=1)
    trust_remote_code: bool = _of_model(False, "Run code that comes with it.")
    calibration: str | None = _of_model(None, CALIBRATION_HELP)

    preference_codes: list[str] | None = option(
        None, "Recorded judgements: how they write a win of output_1, of output_2 and a tie, as in 0 1 0.5 or A B tie."
    )

    empty_outputs: Literal["error", "lose"] = option(
        "error", "Refuse a file with an empty output, or let such an output lose without a question to the judge."
    )
    dry_run: bool = option(False, "Say how many calls, tokens and how much money it would take; do nothing.")
    overwrite_output_dir: bool = option(
        False, "Replace the results of other settings in the folder; replies in its cache are kept.", flag="overwrite"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        check_options(self)
        if self.base_url is not None and not self.judge.startswith(ENDPOINT):
            fix = f"Name the model there: --judge {ENDPOINT}NAME."
            raise ConfigError(f"--judge {self.judge} is no endpoint", where="--base_url", fix=fix)
        if self.preference_codes is not None:
            preference_codes(self.preference_codes)
            if not is_recorded(self.judge):
                what = f"has no effect: --judge {self.judge} is no file of judgements"
                raise ConfigError(what, where="--preference_codes", fix="Leave it out.")


def is_recorded(name: str) -> bool:
    """Whether ``--judge`` names judgements that were made before."""
    if name == "gold" or name.startswith(ENDPOINT):
        return False
    plain = name.lower().removesuffix(".gz").endswith((".json", ".jsonl", ".csv", ".parquet"))
    return plain or Path(name, "annotations.json").is_file()
