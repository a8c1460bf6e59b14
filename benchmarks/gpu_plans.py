"""Memory of reward training on one 80 GB card, as ``odin-rm reward --dry_run`` computes it: no GPU is used.

    make bench-gpu-plans ARGS="--data FILE"

Configs in the shapes of Qwen3 0.6B, 1.7B and 8B are written, without weights, beside a tokenizer that is trained on the
texts at hand (their own tokenizers give other counts of tokens, by some tens of percent). Each setting of
``docs/gpu.md`` is planned with the code that a run uses, and the largest ``--microbatch_tokens`` that fits is found:
what is left of the card after a tenth kept free, over what a token needs.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from benchmarks.shared.reward_setup import make_tokenizer, quiet
from odin_rm.core.files import atomic_write_json
from odin_rm.reward.config import RewardConfig
from odin_rm.workflows.reward.plan import RewardPlan
from odin_rm.workflows.reward.run import plan_run

CARD = 80e9
"""Bytes of the card; a tenth is kept free for workspaces and what the allocator cannot use."""
USED = 0.9

SHAPES: dict[str, dict[str, Any]] = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
VOCABULARY = 151_936
LORA = {"lora_r": 64, "model_dtype": "bfloat16", "learning_rate": 1e-4}
RECOMPUTE = {"activation_checkpointing": True}
SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("0.6B", "full", {}),
    ("0.6B", "LoRA", LORA),
    ("1.7B", "full", {}),
    ("1.7B", "LoRA", LORA),
    ("8B", "full, AdamW", RECOMPUTE),
    ("8B", "full, Adafactor", RECOMPUTE | {"optim": "adafactor"}),
    ("8B", "full, 16-bit weights", RECOMPUTE | {"model_dtype": "bfloat16"}),
    ("8B", "LoRA", LORA),
    ("8B", "LoRA, recomputed", LORA | RECOMPUTE),
]
TOKENS = 4096
"""Of a micro-batch in the plan from which the need of a token is read."""


@dataclass(frozen=True)
class Row:
    """A setting with its plan."""

    shape: str
    way: str
    plan: RewardPlan

    @property
    def held(self) -> int:
        """Bytes that stand whatever the micro-batch."""
        return sum(size for name, size in self.plan.memory.items() if name != "activations")

    @property
    def per_token(self) -> float:
        """Bytes of activations per computed token."""
        return self.plan.memory["activations"] / self.plan.largest

    @property
    def fits(self) -> int:
        """Computed tokens whose graphs fit beside what is held; 0 where nothing does."""
        return max(0, int((USED * CARD - self.held) / self.per_token))

    def cells(self) -> list[str]:
        """The row of the table."""
        gib = [f"{self.plan.memory.get(name, 0) / 2**30:.1f}" for name in
               ("weights", "gradients", "optimiser", "16-bit copies")]  # fmt: skip
        fits = f"{self.fits:,}" if self.fits else "does not fit"
        trained = f"{self.plan.parameters / 1e9:.2f} ({self.plan.trained / 1e9:.2f})"
        return [self.shape, self.way, trained, *gib, f"{self.held / 2**30:.1f}", f"{self.per_token / 2**20:.2f}", fits]


def save_shape(folder: Path, tokenizer: Any, shape: dict[str, Any]) -> None:
    """A config in a shape of Qwen3, and the tokenizer; no weights."""
    config = transformers.Qwen3Config(
        **shape,
        vocab_size=VOCABULARY,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["Qwen3ForCausalLM"],
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Plan every setting, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="preference rows")
    parser.add_argument("--output", help="file of figures (JSON)")
    options = parser.parse_args()
    quiet()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = make_tokenizer(options.data)
        for name, shape in SHAPES.items():
            save_shape(Path(scratch) / name, tokenizer, shape)
        for name, way, flags in SETTINGS:
            config = RewardConfig(
                model=str(Path(scratch) / name), dataset=options.data, output_dir=str(Path(scratch) / "run"),
                cache_dir=str(Path(scratch) / "cache"), on_bad_row="skip", microbatch_tokens=str(TOKENS), bf16=True,
                use_cpu=True, report_to=[], dry_run=True, **flags,
            )  # fmt: skip
            rows.append(Row(name, way, plan_run(config)))
            print("| " + " | ".join(rows[-1].cells()) + " |", flush=True)
    tokens = rows[0].plan.tokens
    print(f"tokens a step of 128 pairs: {tokens.computed / rows[0].plan.planned_steps:,.0f} in trees")
    if options.output:
        atomic_write_json(Path(options.output), [row.cells() for row in rows])


if __name__ == "__main__":
    main()
