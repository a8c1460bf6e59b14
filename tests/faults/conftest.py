"""Tiny models and data for the tries, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import arguments, room, shop  # noqa: F401
from tests.faults import kit

Commands = dict[str, tuple[list[str], tuple[str, ...]]]


@pytest.fixture(scope="session")
def commands(shop: Path) -> Commands:  # noqa: F811
    """Command lines that write ``out`` and work from every state, each with what of it must come out the same."""
    kit.warm()
    base, ours, pairs = str(shop / "base"), str(shop / "ours"), str(shop / "pairs.jsonl")
    rows = [{"prompt": f"question {k}", "response": f"good words {k}" * (k % 5 + 1)} for k in range(24)]
    (shop / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a", "b"):
        answers = [{"instruction": f"q {k}", "output": f"{name} {k} w", "generator": name} for k in range(8)]
        (shop / f"{name}.json").write_text(json.dumps(answers))
    judged = f"judge --candidate {shop / 'a.json'} --baseline {shop / 'b.json'} --judge {ours} --device cpu"
    train = f"--output out --use_cpu true --save_strategy steps --save_steps 1 --max_steps 3 --model {base}"
    lines = {
        "reward": (
            f"reward --dataset {pairs} {train} --batch_pairs 8 --resume_from_checkpoint auto",
            ("out/model", "out/metrics"),
        ),
        "rl": (
            f"rl --model {base} --reward {ours} --prompts {pairs} --output out --use_cpu true --max_steps 3 "
            "--minibatch_size 4 --max_new_tokens 4 --save_steps 1 --watch_steps 0 --resume_from_checkpoint auto",
            ("out/policy", "out/metrics"),
        ),
        "score": (f"score --model {ours} --input {shop / 'many.jsonl'} --output out/s.jsonl --chunk_rows 4", ("out",)),
        "audit": (
            f"audit --compare {ours} {shop / 'other'} --dataset {pairs} --output out --bootstrap_samples 10",
            ("out",),
        ),
        "export": (f"export --model {ours} --output out", ("out",)),
        "judge": (f"{judged} --output out", ("out/annotations",)),
        "study": (f"study --a {shop / 'a.json'} --b {shop / 'b.json'} --output out", ("out/config", "out/.odin")),
    }  # fmt: skip
    if not (shop / "other").exists():
        import shutil

        shutil.copytree(shop / "ours", shop / "other")
    return {name: (line.split(), same) for name, (line, same) in lines.items()}


@pytest.fixture(scope="session")
def work_of() -> Callable[[list[str]], Callable[[], int]]:
    """A command line as work for a child; a study is laid out and not served."""

    def make(argv: list[str]) -> Callable[[], int]:
        def work() -> int:
            from odin_rm.cli.main import main

            if argv[0] != "study":
                return main(argv)
            from odin_rm.cli.config import parse_config
            from odin_rm.serve.study.config import StudyConfig
            from odin_rm.serve.study.run import open_study

            store = open_study(parse_config(StudyConfig, argv[1:], "study"))
            return 0 if len(store.study.pairs) else 1

        return work

    return make
