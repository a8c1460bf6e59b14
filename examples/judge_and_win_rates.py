"""Two policies against a baseline: responses, judgements in both orders, win rates with intervals.

The judge is the testbed's truth, which reads the quality off the text; in earnest it is ``openai:NAME`` or a reward
model that the policies have not been trained on.
"""

from testbed_files import make_files

from odin_rm.workflows.evaluate.config import EvaluateConfig
from odin_rm.workflows.evaluate.run import run_evaluate
from odin_rm.workflows.generate.config import GenerateConfig
from odin_rm.workflows.generate.run import run_generate
from odin_rm.workflows.policy.sft import SFTRunConfig, train_sft

folder = make_files()
for name, steps in (("short_training", 20), ("long_training", 120)):
    train_sft(
        SFTRunConfig(
            model=str(folder / "model"),
            dataset=str(folder / "demonstrations.jsonl"),
            output_dir=str(folder / "policies" / name),
            overwrite_output_dir=True,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=4e-3,
            save_strategy="no",
            use_cpu=True,
        )
    )
run_generate(
    GenerateConfig(
        model=str(folder / "policies" / "short_training"),
        prompts=str(folder / "held_out.jsonl"),
        output=str(folder / "baseline.json"),
        generator="baseline",
        limit=20,
        max_new_tokens=40,
        seed=1,
        overwrite=True,
        device="cpu",
    )
)
content = run_evaluate(
    EvaluateConfig(
        runs=[str(folder / "policies")],
        baseline=str(folder / "baseline.json"),
        judge="gold",
        output=str(folder / "evaluation"),
        max_new_tokens=40,
        overwrite=True,
        device="cpu",
    )
)
for row in content["runs"]:
    if row["status"] == "done":
        score, words = row["win_score"], row["mean_tokens"]["value"]
        interval = f"{score['low']:.1f} to {score['high']:.1f}"
        print(f"{row['name']:<16} win score {score['value']:5.1f} ({interval}; 50 is a tie), {words:.0f} words")
