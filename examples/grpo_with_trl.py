"""The quality reward in TRL's GRPOTrainer, as a reward function; ``odin-rm rl --algorithm grpo`` does that too.

The length head is left out of the reward: it was trained to take the length bias, and is thrown away.
"""

import json

import torch
from datasets import Dataset
from testbed_files import make_files
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import odin_rm

folder = make_files()
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
torch.manual_seed(0)
odin_rm.RewardModel.from_backbone(str(folder / "model")).save_pretrained(folder / "reward", tokenizer=tokenizer)
scorer = odin_rm.load_scorer(folder / "reward")  # in earnest: runs/odin/model of odin-rm reward


def quality_reward(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    quality, _, _ = odin_rm.score_texts(scorer, prompts, completions)
    return [float(value) for value in quality]


prompts = [{"prompt": json.loads(line)["prompt"]} for line in (folder / "demonstrations.jsonl").open()]
trainer = GRPOTrainer(
    model=str(folder / "model"),
    reward_funcs=quality_reward,
    args=GRPOConfig(
        output_dir=str(folder / "grpo"),
        max_steps=3,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=16,
        learning_rate=1e-3,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    ),
    train_dataset=Dataset.from_list(prompts),
    processing_class=tokenizer,
)
trainer.train()
for row in trainer.state.log_history:
    if "rewards/quality_reward/mean" in row:
        print(f"step {row['step']}  mean quality reward {row['rewards/quality_reward/mean']:.3f}")
