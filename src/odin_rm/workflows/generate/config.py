"""The settings of ``odin-rm generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import ON_BAD_ROW, SEEDS, check_options, option, options_of
from odin_rm.core.shared_options import EndpointOptions, RowOptions

ENDPOINT = "openai:"
_ENDPOINT_ONLY = ("base_url",)
_MODEL_ONLY = ("chat_template", "dtype", "device", "attn_implementation")

_of_model = options_of("model in this process")


@dataclass
class GenerateConfig(RowOptions, EndpointOptions):
    """Everything that ``odin-rm generate`` takes."""

    model: str = option(
        help="A causal model (folder, run folder or hub id), or openai:NAME at an OpenAI-compatible endpoint."
    )
    prompts: str = option(help="Rows with a prompt (or AlpacaEval's instruction): file, folder or hub id.")
    output: str = option(help="The .json file to write.")
    generator: str | None = option(None, "The model's name in the file. Default: the name of its folder.")
    limit: int | None = option(None, "Only the first so many prompts.", at_least=1)
    on_bad_row: str = option(
        "error",
        "Stop at an unusable prompt or one that is there twice, or leave it out and count it (skip).",
        choices=ON_BAD_ROW,
    )
    overwrite: bool = option(False, "Replace --output instead of refusing.")

    max_new_tokens: int = option(512, "Longest response.", at_least=1)
    temperature: float = option(1.0, "Sampling temperature; 0 takes the most likely token each time.", at_least=0)
    top_p: float = option(1.0, "Sample from the smallest set of tokens with this much probability.", above=0, at_most=1)
    top_k: int = _of_model(0, "Sample from so many tokens; 0 from all.", at_least=0)
    seed: int = option(0, "Decides what is drawn.", at_least=0, below=SEEDS)

    chat_template: str | None = _of_model(None, "Jinja template, or 'plain'; default the tokenizer's own.")
    rollout_tokens: int = _of_model(65536, "Padded tokens (prompt and response) per batch (memory).", at_least=1)
    dtype: Literal["float32", "bfloat16", "float16"] | None = _of_model(None, "Precision; default float32.")
    device: str | None = _of_model(None, "cpu, cuda, ...; default CUDA if there is one.")
    attn_implementation: str | None = _of_model(None, "Attention of transformers: sdpa, eager, ...")
    trust_remote_code: bool = _of_model(False, "Run code that comes with it.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if not self.output.lower().endswith(".json"):
            raise ConfigError(f"is {self.output}", where="--output", fix="Give the name of a .json file.")
        if self.model in ("", ENDPOINT):
            raise ConfigError("names no model", where="--model", fix=f"Give a folder, a hub id or {ENDPOINT}NAME.")
        check_options(self)
        if self.chat_template not in (None, "plain") and "{" not in self.chat_template:
            fix = "Give a Jinja template itself (not a file of one), or 'plain'."
            raise ConfigError("never uses the messages", where="--chat_template", fix=fix)
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 0):
            where = "--top_p" if self.top_p < 1 else "--top_k"
            raise ConfigError("has no effect at temperature 0", where=where, fix="Leave it out.")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        for name in _MODEL_ONLY if self.at_endpoint else _ENDPOINT_ONLY:
            if getattr(self, name) is not None:
                what = f"has no effect: --model {self.model} is {'an' if self.at_endpoint else 'no'} endpoint"
                fix = "Leave it out." if self.at_endpoint else f"Name the model there: --model {ENDPOINT}NAME."
                raise ConfigError(what, where=f"--{name}", fix=fix)
        if self.at_endpoint and self.top_k:
            raise ConfigError("is no part of an endpoint's API", where="--top_k", fix="Leave it out.")

    @property
    def at_endpoint(self) -> bool:
        """Whether the model is behind an endpoint."""
        return self.model.startswith(ENDPOINT)

    @property
    def name(self) -> str:
        """The generator's name."""
        if self.generator is not None:
            return self.generator
        path = Path(self.model.removeprefix(ENDPOINT)) if self.at_endpoint else Path(self.model).absolute()
        return path.parent.name if path.name in ("policy", "model") and path.parent.name else path.name
