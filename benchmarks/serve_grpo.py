"""A short GRPO run of TRL twice: with the reward in process, and with the same reward from ``odin-rm serve`` over HTTP.

    make bench-serve-grpo ARGS="--steps 6"

A random policy and a random reward model, both Qwen3-shaped with one tokenizer; same seed, CPU, float32. Compared are
the rewards of every response in the order in which TRL asked for them, and the policies at the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import odin_rm
from benchmarks.interop.bases import BASES
from benchmarks.interop.texts import as_rows, read_pairs
from benchmarks.serve_clients import make_model, without_token
from benchmarks.serve_load import SERVE, free_ports, say
from benchmarks.shared.reward_setup import quiet
from benchmarks.shared.serve_rivals import started
from odin_rm.core.files import atomic_write_json, environment_record


def run(options: argparse.Namespace, place: Path, model: str, prompts: list[str]) -> tuple[list[list[float]], Any]:
    """Rewards step by step, and the policy's weights."""
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(place / "policy")
    function = odin_rm.trl_reward(model, end_token_ids=[tokenizer.eos_token_id], policy_tokenizer=tokenizer)
    seen: list[list[float]] = []

    def watched(prompts: Any, completions: Any, **others: Any) -> list[float | None]:
        values = function(prompts=prompts, completions=completions, **others)
        seen.append([float("nan") if one is None else one for one in values])
        return values

    set_seed(0)
    # A random policy would write the template's own tokens into its responses, which no trained one does.
    others = [i for i in tokenizer.all_special_ids if i != tokenizer.eos_token_id]
    trainer = GRPOTrainer(
        model=str(place / "policy"),
        reward_funcs=watched,
        args=GRPOConfig(
            output_dir=str(place / "out"),
            max_steps=options.steps,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=24,
            learning_rate=1e-3,
            generation_kwargs={"suppress_tokens": others},
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            seed=0,
        ),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": one}] for one in prompts]}),
        processing_class=tokenizer,
    )
    trainer.train()
    weights = torch.cat([one.detach().flatten() for one in trainer.model.parameters()])
    return seen, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output")
    options = parser.parse_args()
    quiet()
    rows = as_rows(read_pairs(None, 12, 0)[0])
    prompts = [row["prompt"] for row in rows[::2]]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_model(place / "model", rows)
        make_policy(place)
        own, own_weights = run(options, place, str(place / "model"), prompts)
        say("in process: done")
        (port,) = free_ports(1)
        address = f"http://127.0.0.1:{port}"
        flags = ["serve", "--model", str(place / "model"), "--port", str(port), "--no_log_requests"]
        with started([SERVE, *flags], address, env=without_token()):
            served, served_weights = run(options, place, f"{address}/get_reward", prompts)
    one, two = np.array(own), np.array(served)
    found = {
        "steps": options.steps,
        "rewards": int(one.size),
        "not_finite": int((~np.isfinite(one)).sum()),
        "deviation_of_rewards": float(np.nanstd(one)),
        "largest_difference": float(np.abs(one - two).max()),
        "policies_apart": float((own_weights - served_weights).abs().max()),
    }
    print(json.dumps(found))
    if options.output:
        atomic_write_json(options.output, {**found, "machine": environment_record()})


def make_policy(place: Path) -> None:
    """A random policy with the reward model's tokenizer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "model")
    torch.manual_seed(1)
    policy = transformers.AutoModelForCausalLM.from_config(BASES["qwen"].config(tokenizer))
    policy.save_pretrained(place / "policy")
    tokenizer.save_pretrained(place / "policy")


if __name__ == "__main__":
    main()
