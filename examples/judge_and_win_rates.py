"""Two systems against a baseline: judgements in both orders, win rates with intervals.

The systems are the two sides of held-out pairs; in earnest they are folders of policies, which ``evaluate`` lets answer
the baseline's prompts first. The judge is the testbed's truth; in earnest ``openai:NAME`` or a reward model.
"""

import json

from testbed_files import make_files

from odin_rm.workflows.evaluate.config import EvaluateConfig
from odin_rm.workflows.evaluate.run import run_evaluate

folder = make_files()
pairs = [json.loads(line) for line in (folder / "held_out.jsonl").open()]
of_prompt = {row["prompt"]: row for row in pairs}  # one pair of each prompt
others = {row["prompt"]: row for row in reversed(pairs)}


def write_outputs(name: str, rows: dict[str, dict], side: str) -> str:
    outputs = [{"instruction": prompt, "output": row[side], "generator": name} for prompt, row in rows.items()]
    (folder / f"{name}.json").write_text(json.dumps(outputs))
    return str(folder / f"{name}.json")


content = run_evaluate(
    EvaluateConfig(
        runs=[write_outputs("chosen", of_prompt, "chosen"), write_outputs("rejected", of_prompt, "rejected")],
        baseline=write_outputs("baseline", dict(sorted(others.items())), "rejected"),
        judge="gold",
        output=str(folder / "evaluation"),
        overwrite=True,
    )
)
for row in content["runs"]:
    score, words = row["win_score"], row["mean_tokens"]["value"]
    interval = f"{score['low']:.1f} to {score['high']:.1f}"
    print(f"{row['name']:<9} win score {score['value']:5.1f} ({interval}; 50 is a tie), {words:.0f} words")
