"""What the examples start from: a tiny model, preference pairs and demonstrations, written where they are asked for."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from odin_rm.testbed.annotator import Annotator, make_preferences, make_sft
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World


def make_files(pairs: int = 400) -> Path:
    """A folder with ``model/``, ``train.jsonl``, ``held_out.jsonl`` and ``demonstrations.jsonl``."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="odin_rm_example_"))
    world = World()
    annotator = Annotator(world)
    save_tiny_model(folder / "model", 0, hidden=32, layers=1, overwrite=True)
    files = {
        "train": make_preferences(world, annotator, pairs, 0),
        "held_out": make_preferences(world, annotator, pairs // 2, 0, split="held_out"),
        "demonstrations": make_sft(world, pairs, 0),
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
