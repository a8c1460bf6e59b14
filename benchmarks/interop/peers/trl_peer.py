"""TRL: GRPO's and RLOO's own reward step, with the export as ``reward_funcs``."""

from __future__ import annotations

import tempfile
from typing import Any

import datasets
import trl
from answer import Answer, batches

ALGORITHMS = {"GRPO": (trl.GRPOTrainer, trl.GRPOConfig), "RLOO": (trl.RLOOTrainer, trl.RLOOConfig)}
KINDS = ("chat prompts", "text prompts")


def rewards(trainer: Any, rows: list[dict[str, str]], kind: str) -> list[float]:
    """What the trainer's reward step gives for these prompts and completions."""
    found: list[float] = []
    for part in batches(rows):
        if kind == "chat prompts":
            prompts: list[Any] = [[{"role": "user", "content": row["prompt"]}] for row in part]
            completions: list[Any] = [[{"role": "assistant", "content": row["response"]}] for row in part]
        else:
            prompts, completions = [row["prompt"] for row in part], [row["response"] for row in part]
        inputs = [{"prompt": prompt} for prompt in prompts]
        ids = [trainer.processing_class(row["response"])["input_ids"] for row in part]
        found += trainer._calculate_rewards(inputs, prompts, completions, ids)[:, 0].tolist()
    return found


def score_model(answer: Answer, name: str, model: dict[str, Any], algorithm: str) -> None:
    """One model in one trainer, which takes the tiny policy of the request."""
    trainer_class, config_class = ALGORITHMS[algorithm]
    prompts = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "Hello."}]}] * 8)
    flags = {"per_device_train_batch_size": 8, "num_generations": 2, "report_to": [], "use_cpu": True, "bf16": False}
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(output_dir=folder, **flags)
        given = {"model": answer.request["policy"], "reward_funcs": model["export"]}
        ways = {f"{algorithm}, {kind}": kind for kind in KINDS}
        trainer = answer.load(name, ways, lambda: trainer_class(**given, args=config, train_dataset=prompts))
        if trainer is None:
            return
        for way, kind in ways.items():
            answer.measure(name, way, lambda kind=kind: rewards(trainer, answer.rows, kind))


def main() -> None:
    answer = Answer("trl", "transformers", "torch")
    for name, model in answer.models():
        for algorithm in ALGORITHMS:
            score_model(answer, name, model, algorithm)


if __name__ == "__main__":
    main()
