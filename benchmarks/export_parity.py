"""How far an exported quality head is from the original, for every tested family (docs/evidence.md, item 4).

    python -m benchmarks.export_parity [--output FILE.json]

Tiny random models (``tests/families.py``) in float32, eight sequences of 2 to 30 tokens and the built-in texts for the
check of the export, in every way of reading, and texts through ``transformers.pipeline("text-classification")`` and
through TRL's reward path (``num_labels=1``, right padding, ``logits[:, 0]``). Printed are the largest absolute
differences in reward units.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.families import FAMILIES, random_sequences
from tests.model.words import TEXTS, build_tokenizer, reward_model

from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.model.backbone import ensure_pad_token
from odin_rm.model.export import export_quality_head

SETTINGS = EncodingSettings(max_length=50)


@torch.no_grad()
def measure(name: str, folder: Path) -> dict[str, float]:
    """Largest differences of one family."""
    model, tokenizer = reward_model(name, folder / "base"), build_tokenizer(name)
    ensure_pad_token(tokenizer, model.config)
    model.info = model.info.with_(encoding=vars(SETTINGS))
    out = folder / "out"
    report = export_quality_head(model, out, sequences=random_sequences(8), tokenizer=tokenizer)
    prompts, responses = map(list, zip(*TEXTS, strict=True))
    ours = []
    for encoded in encode_responses(tokenizer, prompts, responses, SETTINGS):
        ids = torch.tensor([encoded.input_ids])
        ours.append(float(model.eval()(ids, torch.ones_like(ids)).quality))
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in TEXTS]
    pipeline = transformers.pipeline("text-classification", model=str(out), function_to_apply="none", device="cpu")
    texts = [pipeline.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    piped = [row["score"] for row in pipeline(texts, add_special_tokens=False)]
    return {"export": report.max_difference, "pipeline": distance(piped, ours), "trl": distance(trl(out, texts), ours)}


def trl(out: Path, texts: list[str]) -> list[float]:
    """Scores as TRL's online trainers take them from a reward model's path."""
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(out, num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    kept: dict[str, Any] = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    return classifier.eval()(**kept).logits[:, 0].tolist()


def distance(found: list[float], expected: list[float]) -> float:
    """Largest absolute difference."""
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results = {}
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = measure(name, Path(scratch))
    print("| family | export check | transformers pipeline | TRL's reward path |\n|---|---|---|---|")
    for name, row in results.items():
        print(f"| {name} | {row['export']:.1e} | {row['pipeline']:.1e} | {row['trl']:.1e} |")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
