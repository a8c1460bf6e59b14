"""The settings of ``odin-rm evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option, options_of, resamples_option
from odin_rm.core.shared_options import EndpointOptions

_of_responses = options_of("responses")
_of_judge = options_of("judge")
_of_win_rate = options_of("win rates")


@dataclass
class EvaluateConfig(EndpointOptions):
    """Everything that ``odin-rm evaluate`` takes."""

    runs: list[str] = option(
        help="Folders: a sweep, runs of rl, sft or dpo, folders of them, policies; or files of outputs (.json)."
    )
    baseline: str = option(help="Outputs that all are held against: AlpacaEval's .json or .jsonl. It has the prompts.")
    judge: str = option(
        help="As for odin-rm judge: openai:NAME, a reward model, gold, or recorded judgements (of one run)."
    )
    output: str = option(help="Folder for evaluation.json, win_rates.json and, for each run, outputs and judgements.")

    max_new_tokens: int = _of_responses(512, "Longest response.", at_least=1)
    temperature: float = _of_responses(1.0, "Sampling temperature; 0 takes the most likely token.", at_least=0)
    top_p: float = _of_responses(1.0, "Sample from the smallest set of tokens with this much.", above=0, at_most=1)
    seed: int = _of_responses(0, "Decides what is drawn, and the resamples.", at_least=0, below=2**32)
    rollout_tokens: int = _of_responses(65536, "Padded tokens per batch (memory).", at_least=1)
    chat_template: str | None = _of_responses(None, "Jinja template, or 'plain'; default the tokenizer's own.")

    template: str = _of_judge("scores", "Endpoint: scores (1 to 10 each), pairwise, or a template's path.")
    tie_margin: float = _of_judge(0.0, "Reward model, gold: differences up to this are ties.", at_least=0)
    microbatch_tokens: int = _of_judge(16384, "Reward model: padded tokens per forward pass.", at_least=1)
    max_tokens: int | None = _of_judge(512, "Endpoint: most tokens of a reply.", above=0)

    tokenizer: str | None = _of_win_rate(None, "Tokenizer that counts tokens; default words are counted.")
    bootstrap_samples: int = resamples_option(of=_of_win_rate)

    dtype: Literal["float32", "bfloat16", "float16"] | None = option(None, "Precision of policies and reward model.")
    device: str | None = option(None, "cpu, cuda, ...; default CUDA if there is one.")
    trust_remote_code: bool = option(False, "Run code that comes with a model.")
    overwrite: bool = option(False, "Replace an evaluation by other settings in the folder; judge's replies are kept.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        check_options(self)
        if not self.runs:
            raise ConfigError("names no run", where="--runs", fix="Give folders of runs.")
