"""Scores of kept exports by whatever transformers the interpreter has; imports nothing of ours.

    .venv-interop-transformers4/bin/python benchmarks/shared/stock_readings.py DIR

DIR is what ``benchmarks.one_score --keep DIR`` wrote: a folder for each cell with ``export/`` and its texts with our
scores. Prints one JSON object: ``{"version": v, "differences": {cell: {texts: largest difference}}}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers


@torch.no_grad()
def largest_difference(folder: Path, texts: Path) -> float:
    """Padded on the right in one batch, and one by one, against our scores."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    content = json.loads(texts.read_text())
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in content["rows"]]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    options = {"return_tensors": "pt", "padding": True, "add_special_tokens": False}
    batch = model(**tokenizer(rendered, padding_side="right", **options)).logits[:, 0].tolist()
    single = [float(model(**tokenizer([text], **options)).logits[0, 0]) for text in rendered]
    return max(abs(a - b) for found in (batch, single) for a, b in zip(found, content["scores"], strict=True))


def main() -> None:
    transformers.logging.set_verbosity_error()
    found = {
        cell.name: {
            texts.stem: largest_difference(cell / "export", texts) for texts in sorted(cell.glob("texts-*.json"))
        }
        for cell in sorted(Path(sys.argv[1]).iterdir())
        if (cell / "export").is_dir()
    }
    print(json.dumps({"version": transformers.__version__, "differences": found}))


if __name__ == "__main__":
    main()
