"""An audit of a model that odin-rm did not train: anything that AutoModelForSequenceClassification loads."""

import json

import torch
from testbed_files import make_files
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from odin_rm.workflows.audit.config import AuditConfig
from odin_rm.workflows.audit.run import run_audit

folder = make_files()

# Somebody's reward model. A real one is a hub id: "Skywork/Skywork-Reward-V2-Qwen3-0.6B".
theirs = folder / "theirs"
torch.manual_seed(0)
AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1).save_pretrained(theirs)
AutoTokenizer.from_pretrained(folder / "model").save_pretrained(theirs)

run_audit(
    AuditConfig(
        model=str(theirs),
        dataset=str(folder / "held_out.jsonl"),
        output=str(folder / "audit"),
        overwrite_output_dir=True,
        device="cpu",
    )
)
audit = json.loads((folder / "audit" / "audit.json").read_text())
for name in ("accuracy", "longer_response_baseline_accuracy", "pearson", "pearson_within_prompt"):
    print(f"{name:<34} {audit[name]['value']:6.3f}  ({audit[name]['low']:.3f} to {audit[name]['high']:.3f})")
print(f"The page: {folder / 'audit' / 'report.html'}")
