"""Our PPO mathematics against what TRL 1.12.0's ``PPOTrainer`` computes, the last release that has one.

    make bench-trl-ppo-parity        # in an environment of its own, .venv-trl112

TRL has these formulas inside ``PPOTrainer.train``, not in functions. So this runs the trainer itself for one collection
of a tiny random policy, and reads its tensors while it works: at each backward pass those of the minibatch, with the
gradient of its loss in the new log-probs and values, and those of the whole collection. Nothing of its computation is
replaced. The models are float64, so that the differences are those of the formulas and not of rounding. Inputs and
outputs go to ``tests/parity/trl_ppo.json``, which ``tests/parity/test_trl_ppo.py`` compares with our functions;
printed is the largest absolute difference of each function.

TRL lays a response that has ended out differently: its sequence reward stands one position *after* the end token, on a
state that only the critic sees. Given that layout (``mask_with_next``) our functions must give TRL's numbers; in our
own runs the reward stands on the end token.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORDING = Path(__file__).resolve().parents[1] / "tests" / "parity" / "trl_ppo.json"
VERSION = "1.12.0"
TOKENS = 12
PAD, END = 0, 1
RESPONSES, PROMPT_TOKENS, RESPONSE_TOKENS = 8, 3, 9
CASES: dict[str, dict[str, Any]] = {
    "k1": {"kl_estimator": "k1", "kl_coef": 0.05, "gamma": 1.0, "lam": 0.95, "cliprange": 0.2, "cliprange_value": 0.2},
    "k3": {
        "kl_estimator": "k3",
        "kl_coef": 0.3,
        "gamma": 0.9,
        "lam": 0.7,
        "cliprange": 0.1,
        "cliprange_value": 0.05,
        "temperature": 0.7,
        "missing_eos_penalty": 1.0,
    },
}


# ---- TRL's numbers --------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Reads the variables of ``PPOTrainer.train`` from the calls that it makes."""

    collection: dict[str, Any] = field(default_factory=dict)
    minibatches: list[dict[str, Any]] = field(default_factory=list)
    unwhitened: Tensor | None = None
    logits: Tensor | None = None

    def attach(self, trainer: Any, module: Any) -> None:
        """Wrap what ``train`` calls; each wrapper ends in the original."""
        whiten, forward, backward, log = module.masked_whiten, module.forward, trainer.accelerator.backward, trainer.log

        def watched_whiten(values: Tensor, mask: Tensor, **options: Any) -> Tensor:
            self.unwhitened = values.clone()
            return whiten(values, mask, **options)

        def watched_forward(*arguments: Any) -> Any:
            output = forward(*arguments)
            if isinstance(output, tuple):
                self.logits = output[0].logits.detach().clone()  # TRL divides them by the temperature in place
            return output

        def watched_backward(loss: Tensor, **options: Any) -> None:
            self.read(sys._getframe(1).f_locals)
            backward(loss, **options)

        def watched_log(metrics: dict[str, float], *arguments: Any) -> None:
            here = sys._getframe(1).f_locals
            for name in ("approxkl", "pg_clipfrac", "vf_clipfrac", "entropy"):
                for minibatch, value in zip(self.minibatches, here[f"{name}_stats"][..., 0].flatten(), strict=True):
                    minibatch[name] = float(value)
            log(metrics, *arguments)

        module.masked_whiten, module.forward = watched_whiten, watched_forward
        trainer.accelerator.backward, trainer.log = watched_backward, watched_log

    def read(self, here: dict[str, Any]) -> None:
        """Keep the tensors of the collection (once) and of this minibatch."""
        start = here["context_length"] - 1
        self.collection = {
            "kl": here["kl"],
            "policy_log_probs": here["logprobs"],
            "reference_log_probs": here["ref_logprobs"],
            "sequence_rewards": here["scores"],
            "token_rewards": here["rewards"],
            "values": here["values"],
            "advantages": self.unwhitened,
            "returns": here["returns"],
            "whitened_advantages": here["advantages"],
            "mask": ~here["padding_mask"],
            "mask_with_next": ~here["padding_mask_p1"],
        }
        assert self.logits is not None
        slopes = torch.autograd.grad(here["loss"], [here["new_logprobs"], here["vpred"]], retain_graph=True)
        self.minibatches.append(
            {
                "rows": here["micro_batch_inds"].tolist(),
                "tokens": here["mb_responses"],
                "logits": self.logits[:, start:-1],
                "new_log_probs": here["new_logprobs"],
                "new_values": here["vpred"],
                "policy_loss": here["pg_loss"],
                "value_loss": here["vf_loss"],
                "policy_gradient": slopes[0],
                "value_gradient": slopes[1] / here["args"].vf_coef,
            }
        )


def tiny_models() -> tuple[Any, Any, Any]:
    """A random policy, its critic and a reward model, float64."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=2,
        initializer_range=0.25,
    )
    classifier = transformers.LlamaForSequenceClassification
    return transformers.LlamaForCausalLM(config).double(), classifier(config).double(), classifier(config).double()


def tokenizer() -> Any:
    """Twelve words."""
    import transformers
    from tokenizers import Tokenizer, models

    words = {"<pad>": PAD, "<end>": END, **{f"w{i}": i for i in range(2, TOKENS)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="w2"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def record(options: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """One collection of ``PPOTrainer``, two passes of two minibatches over it."""
    import datasets
    import transformers
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    transformers.set_seed(seed)
    policy, critic, judge = tiny_models()
    reference, _, _ = tiny_models()  # another random policy, so that the KL is not 0
    prompts = torch.randint(2, TOKENS, (RESPONSES, PROMPT_TOKENS)).tolist()
    kept = {name: getattr(ppo_trainer, name) for name in ("masked_whiten", "forward")}
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder,
            seed=seed,
            per_device_train_batch_size=RESPONSES // 2,
            gradient_accumulation_steps=2,
            num_mini_batches=2,
            num_ppo_epochs=2,
            total_episodes=RESPONSES,
            response_length=RESPONSE_TOKENS,
            stop_token="eos",
            num_sample_generations=0,
            learning_rate=0.02,  # large, so that the later minibatches are clipped
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer(),
            model=policy,
            ref_model=reference,
            reward_model=judge,
            value_model=critic,
            train_dataset=datasets.Dataset.from_dict({"input_ids": prompts}),
        )
        watch = Watch()
        watch.attach(trainer, ppo_trainer)
        try:
            trainer.train()
        finally:
            for name, original in kept.items():
                setattr(ppo_trainer, name, original)
    return {
        "settings": {"temperature": config.temperature, **options},
        "collection": plain(watch.collection),
        "minibatches": plain(watch.minibatches),
    }


def plain(value: Any) -> Any:
    """Tensors as lists of numbers."""
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list) else value


# ---- Ours -----------------------------------------------------------------------------------------------------------


def double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def distance(found: Any, expected: Any, mask: Tensor | None = None) -> float:
    """Largest absolute difference (under a mask)."""
    apart = (double(found) if not isinstance(found, Tensor) else found.detach().double()) - double(expected)
    return float((apart if mask is None else apart[mask]).abs().max())


def collection_differences(case: dict[str, Any]) -> dict[str, float]:
    """From log-probs, values and scores to advantages: each function on TRL's own input to that step."""
    from odin_rm.objectives.kl import kl_estimate
    from odin_rm.objectives.returns import gae, masked_moments, mean_and_std, token_rewards, whiten

    options, of = case["settings"], {name: double(table) for name, table in case["collection"].items()}
    mask, with_next = of["mask"] != 0, of["mask_with_next"] != 0
    kl = kl_estimate(of["policy_log_probs"], of["reference_log_probs"], options["kl_estimator"])
    shaped = token_rewards(of["sequence_rewards"], of["kl"], with_next, options["kl_coef"])
    advantages, returns = gae(of["token_rewards"], of["values"], with_next, options["gamma"], options["lam"])
    mean, std = mean_and_std(masked_moments(of["advantages"], mask))
    # And all of it in one go, from the first inputs to the last output.
    through = gae(
        token_rewards(of["sequence_rewards"], kl, with_next, options["kl_coef"]),
        of["values"],
        with_next,
        options["gamma"],
        options["lam"],
    )[0]
    through = whiten(through, mask, *mean_and_std(masked_moments(through, mask)))
    return {
        f"kl_estimate {options['kl_estimator']}": distance(kl, case["collection"]["kl"]),
        "token_rewards": distance(shaped, case["collection"]["token_rewards"]),
        "gae advantages": distance(advantages, case["collection"]["advantages"]),
        "gae returns": distance(returns, case["collection"]["returns"]),
        "whiten": distance(whiten(of["advantages"], mask, mean, std), case["collection"]["whitened_advantages"]),
        "scores to advantages": distance(through, case["collection"]["whitened_advantages"]),
    }


def minibatch_differences(case: dict[str, Any], minibatch: dict[str, Any]) -> dict[str, float]:
    """Log-probs, entropy, and both losses with their gradients and clip fractions."""
    from odin_rm.objectives.kl import kl_estimate
    from odin_rm.objectives.policy import gather_log_probs, ppo_policy_loss, token_entropy, value_loss

    options, rows = case["settings"], minibatch["rows"]
    of = {name: double(table)[rows] for name, table in case["collection"].items()}
    mask, with_next = of["mask"], of["mask_with_next"]
    logits, tokens = double(minibatch["logits"]), torch.tensor(minibatch["tokens"])
    temperature = options["temperature"] + 1e-7  # as TRL has it
    log_probs = gather_log_probs(logits, tokens, temperature)
    entropy = token_entropy(logits, temperature).mean()

    policy = double(minibatch["new_log_probs"]).requires_grad_(True)
    loss, parts = ppo_policy_loss(
        policy, of["policy_log_probs"], of["whitened_advantages"], mask / mask.sum(), epsilon=options["cliprange"]
    )
    loss.backward()
    values = double(minibatch["new_values"]).requires_grad_(True)
    critic_loss, critic_parts = value_loss(
        values, of["values"], of["returns"], with_next / with_next.sum(), clip=options["cliprange_value"]
    )
    critic_loss.backward()
    k2 = kl_estimate(policy.detach(), of["policy_log_probs"], "k2").mean()  # TRL averages over padding too
    return {
        "gather_log_probs": distance(log_probs, minibatch["new_log_probs"], mask != 0),
        "token_entropy": distance(entropy, minibatch["entropy"]),
        "ppo_policy_loss": distance(loss, minibatch["policy_loss"]),
        "ppo_policy_loss gradient": distance(policy.grad, minibatch["policy_gradient"]),
        "ppo_policy_loss clip_fraction": distance(parts["clip_fraction"], minibatch["pg_clipfrac"]),
        "value_loss": distance(critic_loss, minibatch["value_loss"]),
        "value_loss gradient": distance(values.grad, minibatch["value_gradient"]),
        "value_loss value_clip_fraction": distance(critic_parts["value_clip_fraction"], minibatch["vf_clipfrac"]),
        "kl_estimate k2": distance(k2, minibatch["approxkl"]),
    }


def differences(recording: dict[str, Any]) -> dict[str, float]:
    """The largest absolute difference of each function, over all cases and minibatches of a recording."""
    worst: dict[str, float] = {}
    for case in recording["cases"].values():
        for found in (collection_differences(case), *(minibatch_differences(case, m) for m in case["minibatches"])):
            for name, value in found.items():
                worst[name] = max(worst.get(name, 0.0), value)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="Our PPO mathematics against TRL's PPOTrainer.")
    parser.add_argument("--output", type=Path, default=RECORDING, help="where TRL's numbers go")
    output = parser.parse_args().output

    import transformers
    import trl

    if trl.__version__ != VERSION:
        sys.exit(f"this needs TRL {VERSION} (here: {trl.__version__}); run make bench-trl-ppo-parity")
    versions = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    warnings.simplefilter("ignore", FutureWarning)
    recording = {"versions": versions, "cases": {name: record(options) for name, options in CASES.items()}}
    output.write_text(json.dumps(recording) + "\n", encoding="utf-8")
    print(f"wrote {output.name} ({output.stat().st_size // 1024} KiB)")
    for name, value in differences(recording).items():
        print(f"{name:32s} {value:.1e}")


if __name__ == "__main__":
    main()
