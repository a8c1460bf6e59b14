"""RewardBench: its command line on a file of pairs.

It sends its inputs to "cuda" whatever there is; without a GPU that word is answered with the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from answer import Answer

WAYS = {"rewardbench --load_json": 8, "rewardbench --load_json --batch_size 1": 1}


def on_this_device() -> None:
    """Let "cuda" mean the CPU where there is no GPU."""
    if torch.cuda.is_available():
        return
    moved = transformers.BatchEncoding.to
    transformers.BatchEncoding.to = lambda self, device, **flags: moved(  # type: ignore[method-assign]
        self, "cpu" if device == "cuda" else device, **flags
    )


def run_command(folder: str, chats: list[Any], size: int) -> list[float]:
    """Scores of the pairs' responses by the command line."""
    from rewardbench.rewardbench import main as rewardbench

    pairs = zip(chats[::2], chats[1::2], strict=True)
    lines = [json.dumps({"chosen": chosen, "rejected": rejected}) for chosen, rejected in pairs]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "pairs.jsonl"
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        flags = {"model": folder, "dataset": data, "output_dir": scratch + "/", "batch_size": size}
        flags |= {"max_length": 2048, "torch_dtype": "float32"}
        given = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        sys.argv = ["rewardbench", *given, "--load_json", "--not_quantized"]
        rewardbench()
    # An absolute path of a model wins over the output folder: the scores lie beside the model.
    written = Path(folder + "_outputs.jsonl")
    rows = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    written.unlink()
    return [row[side] for row in rows for side in ("scores_chosen", "scores_rejected")]


def main() -> None:
    os.environ["WANDB_MODE"] = "disabled"
    answer = Answer("rewardbench", "transformers", "torch")
    on_this_device()
    for name, model in answer.models():
        for way, size in WAYS.items():
            answer.measure(
                name, way, lambda model=model, size=size: run_command(model["export"], answer.conversations(), size)
            )


if __name__ == "__main__":
    main()
