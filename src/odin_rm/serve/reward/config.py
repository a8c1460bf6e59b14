"""The settings of ``odin-rm serve``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option, options_of
from odin_rm.core.shared_options import ScorerOptions
from odin_rm.data.attributes import Attribute, find_attribute

TOKEN_VARIABLE = "ODIN_RM_TOKEN"

_of_access = options_of("who may call")
_of_batches = options_of("batches across requests")
_of_limits = options_of("limits")


@dataclass(kw_only=True)
class ServeConfig(ScorerOptions):
    """Everything that ``odin-rm serve`` takes."""

    model: list[str] = option(
        help="Reward models: ours, or any one-label classifier (path or hub id), each as PATH or NAME=PATH. Without a "
        "name the first one answers."
    )
    free_text: Literal["auto", "score", "refuse"] = option(
        "auto",
        "Texts that are not in the form of the model's template: scored as they stand where a protocol is one of plain "
        "texts and refused where it is one of rendered texts (auto), or always score or refuse.",
    )

    attributes: list[str] = option(
        ["markdown", "hedges", "flattery"],
        "What is counted in responses for the clients' logs (see odin-rm audit --attributes); never part of a reward.",
    )
    workers: int = option(
        1,
        "Replicas of the models behind one queue, each in a process of its own: one per CUDA device, or sharing out "
        "the processor's threads.",
        at_least=1,
        at_most=64,
    )

    host: str = _of_access("127.0.0.1", "Address to listen at. Any but this machine's own loopback needs a token.")
    port: int = _of_access(8765, "Port to listen at; 0 takes a free one.", at_least=0, at_most=65535)
    token_file: str | None = _of_access(
        None,
        f"File with the token that callers must show, as 'Authorization: Bearer' or ?key=. Else {TOKEN_VARIABLE} of "
        "the environment.",
        old=("api_key_file",),
    )
    tls_cert: str | None = _of_access(None, "Certificate (PEM) for https.")
    tls_key: str | None = _of_access(None, "Its private key (PEM), where that is another file.")

    window_ms: float = _of_batches(
        4.0, "Milliseconds without a new text after which what waits is scored together.", at_least=0, at_most=1000
    )
    batch_tokens: int | None = _of_batches(
        None, "Computed tokens of what is scored together; default --microbatch_tokens.", at_least=1
    )
    cache_size: int = _of_batches(100_000, "Scores that are remembered by content; 0 for none.", at_least=0)
    max_waiting_texts: int = _of_batches(8192, "Texts that may wait; with more the answer is 429.", at_least=1)
    max_waiting_tokens: int = _of_batches(
        2_000_000, "Tokens of texts that may wait; with more the answer is 429.", at_least=1
    )

    max_texts: int = _of_limits(4096, "Texts of one request.", at_least=1)
    max_body_mb: float = _of_limits(32.0, "Size of one request's body, in MiB.", above=0, at_most=1024)
    max_connections: int = _of_limits(4096, "Connections at a time; fewer where descriptors are fewer.", at_least=8)
    header_seconds: float = _of_limits(20.0, "For the head of a request to arrive.", above=0)
    body_seconds: float = _of_limits(60.0, "For the body of a request to arrive.", above=0)
    score_seconds: float = _of_limits(170.0, "For a request's scores; then the answer is 503.", above=0)
    drain_seconds: float = _of_limits(30.0, "For requests under way when the server is told to end.", above=0)
    log_requests: bool = option(True, "One line of JSON on standard error for each request, without its texts.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        check_options(self)
        self.check_layout()
        self.measured()
        names = [name for name, _ in self.models()]
        if not names:
            raise ConfigError("is required", where="--model", fix="Pass --model PATH, or NAME=PATH.")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            fix = "Give them names: --model a=PATH b=PATH."
            raise ConfigError(f"two models are called '{twice}'", where="--model", fix=fix)
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("has no effect without a certificate", where="--tls_key", fix="Add --tls_cert.")

    def measured(self) -> list[Attribute]:
        """The attributes that are counted in responses.

        Raises:
            ConfigError: there is none of that name, or it is no function of the text.
        """
        found = [find_attribute(name) for name in self.attributes]
        for one in found:
            if one.measure is None:
                fix = "Give names of attributes of the text; response_tokens is always there."
                raise ConfigError(f"'{one.name}' is no function of the text", where="--attributes", fix=fix)
        return found

    def models(self) -> list[tuple[str, str]]:
        """Names and places of the models; a folder that exists is one, whatever its name."""
        found = []
        for word in self.model:
            name, equals, path = word.partition("=")
            if not equals or Path(word).exists() or "/" in name:
                name, path = _name_of(word), word
            if not name or not path:
                raise ConfigError(f"'{word}' has no name or no path", where="--model", fix="Give NAME=PATH.")
            found.append((name, path))
        return found


def _name_of(path: str) -> str:
    """What a model is called that has been given no name: its folder's, a run's where that is ``model``."""
    place = Path(path)
    return place.parent.name if place.name == "model" and place.parent.name else place.name or path
