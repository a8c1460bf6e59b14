"""Public preference sets of ``shared/data/public`` as rows of prompt, chosen, rejected.

Every reader takes a row as it is published and gives its pairs; a tie gives none. ``kind`` is what a figure may group
by: RM-Bench's level, an attribute of the counterfactual rewrites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from odin_rm.core.files import read_rows

Row = Mapping[str, Any]
Pairs = Iterator[dict[str, Any]]
STYLES = ("length", "structure", "jargon")
LEVELS = ("easy", "normal", "hard")


def pair(prompt: Any, chosen: Any, rejected: Any, **more: Any) -> dict[str, Any]:
    """One row; responses that are no text (PandaLM has booleans) become text."""
    return {"prompt": prompt, "chosen": str(chosen), "rejected": str(rejected), **more}


def _better_first(prompt: Any, first: str, second: str, first_wins: bool) -> dict[str, Any]:
    return pair(prompt, first, second) if first_wins else pair(prompt, second, first)


def _writers(row: Row) -> dict[str, Any]:
    return {side: row[side] for side in ("chosen_model", "rejected_model")}


def _rmb(row: Row) -> Pairs:
    yield pair(row["messages"], row["chosen"], row["rejected"], **_writers(row))


def _alpaca_eval(row: Row) -> Pairs:
    if row["chosen"] != row["rejected"]:
        yield pair(row["prompt"], row["chosen"], row["rejected"], **_writers(row))


def _qa_feedback(row: Row) -> Pairs:
    for (one, two), verdict in zip(combinations(range(4), 2), row["preference"], strict=True):
        if verdict:
            yield _better_first(row["question"], row["responses"][one], row["responses"][two], verdict == 1)


def _auto_j(row: Row) -> Pairs:
    if row["label"] != 2:
        yield _better_first(row["prompt"], row["response1"], row["response2"], row["label"] == 0)


def _panda_lm(row: Row) -> Pairs:
    if row["majority"]:
        prompt = "\n".join(text for text in (row["instruction"], row["input"]) if text)
        yield _better_first(prompt, row["response1"], row["response2"], row["majority"] == 1)


def _llmbar(row: Row) -> Pairs:
    yield _better_first(row["input"], row["output_1"], row["output_2"], row["label"] == 1)


def _judgebench(row: Row) -> Pairs:
    yield _better_first(row["question"], row["response_A"], row["response_B"], row["label"] == "A>B")


def _rm_bench(row: Row) -> Pairs:
    for i, chosen in enumerate(row["chosen"]):
        for j, rejected in enumerate(row["rejected"]):
            level = "normal" if i == j else "easy" if i > j else "hard"
            yield pair(row["prompt"], chosen, rejected, kind=level)


def _counterfactual(row: Row) -> Pairs:
    for style in STYLES:
        yield pair(row["query"], row[style]["more"], row[style]["less"], kind=style)


def _twins(row: Row) -> Pairs:
    yield pair(row["prompt"], row["longer"], row["shorter"])


SETS: dict[str, tuple[str, Callable[[Row], Pairs]]] = {
    "rmb_val": ("public/rmb_helpful_pairs_val.jsonl.gz", _rmb),
    "rmb_train": ("public/rmb_helpful_pairs_train.jsonl.gz", _rmb),
    "alpaca_train": ("alpaca_eval_preferences_train.jsonl.gz", _alpaca_eval),
    "alpaca_val": ("alpaca_eval_preferences_val.jsonl.gz", _alpaca_eval),
    "counterfactual": ("public/counterfactual_style_pairs.jsonl.gz", _counterfactual),
    "twins": ("verbosity_twins_alpaca7b.jsonl.gz", _twins),
    "qa_feedback": ("public/qa_feedback_dev.jsonl.gz", _qa_feedback),
    "llmbar": ("public/llmbar.jsonl.gz", _llmbar),
    "panda_lm": ("public/pandalm_human_test.jsonl.gz", _panda_lm),
    "hh_harmless": ("public/hh_harmless_test.jsonl.gz", lambda row: iter([dict(row)])),
    "auto_j": ("public/autoj_pairwise_test.jsonl.gz", _auto_j),
    "judgebench": ("public/judgebench_pairs.jsonl.gz", _judgebench),
    "rm_bench": ("public/rmbench.jsonl.gz", _rm_bench),
}
"""By name, a file and the reader of its rows. In counterfactuals and twins *chosen* is the side with more of it."""


def rows_of_set(data: Path, name: str) -> list[dict[str, Any]]:
    """All pairs of a set."""
    file, reader = SETS[name]
    return [one for _, row in read_rows(data / file) for one in reader(row)]
