"""Reward-model benchmarks as they are published: their rows, and their figures computed by their own rules.

Each benchmark is a reader (a row to an :class:`Item`: one prompt, its candidates by label, which of them are right) and
a function from scores to figures. Ties count as the benchmark's own code counts them:

* JudgeBench: A wins only if it scores strictly higher, so a tie is the verdict "B>A";
* RM-Bench: the chosen must score strictly higher;
* LLMBar, EvalBiasBench, RMB: a tie is one half;
* RewardBench, RewardBench 2, PPE: :mod:`odin_rm.evaluation.reward_bench`.

Figures are in percent. An item with a candidate that has no score is left out of them and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odin_rm.core.errors import RowError
from odin_rm.evaluation.benchmark_items import Benchmark, Item, Scores, grouped, scored_items
from odin_rm.evaluation.reward_bench import PPE, REWARD_BENCH, REWARD_BENCH_2


def _pair(key: str, prompt: Any, first: Any, second: Any, names: tuple[str, str], right: str, *groups: str) -> Item:
    candidates = dict(zip(names, (first, second), strict=True))
    if right not in candidates:
        raise RowError(f"says that '{right}' is right, which is none of {', '.join(names)}", fix="Check the label.")
    return Item(key, prompt, candidates, frozenset([right]), groups)


# ---- readers ---------------------------------------------------------------------------------------------------------

_JUDGEBENCH_PARTS = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def _judgebench(row: Mapping[str, Any]) -> Item:
    part = next((words for start, words in _JUDGEBENCH_PARTS.items() if row["source"].startswith(start)), "other")
    right = {"A>B": "A", "B>A": "B"}.get(row["label"], str(row["label"]))
    return _pair(
        str(row["pair_id"]), row["question"], row["response_A"], row["response_B"], ("A", "B"), right, part, "overall"
    )


def _rm_bench(row: Mapping[str, Any]) -> Item:
    domain = str(row.get("domain") or row["file"])
    sides = {f"{side}_{k + 1}": text for side in ("chosen", "rejected") for k, text in enumerate(row[side])}
    if len(sides) != 6:
        raise RowError("has not three chosen and three rejected responses", fix="Give RM-Bench's own rows.")
    right = frozenset(name for name in sides if name.startswith("chosen"))
    return Item(f"{row.get('file') or domain}/{row['id']}", row["prompt"], sides, right, (domain,))


def _evalbiasbench(row: Mapping[str, Any]) -> Item:
    return _pair(
        str(row["id"]), row["instruction"], row["response1"], row["response2"], ("1", "2"), str(row["label"]),
        str(row["bias"]), "overall",
    )  # fmt: skip


def _llmbar(row: Mapping[str, Any]) -> Item:
    subset = str(row.get("subset") or str(row["id"]).rsplit("-", 1)[0])
    return _pair(
        str(row["id"]), row["input"], row["output_1"], row["output_2"], ("1", "2"), str(row["label"]), subset, "overall"
    )


def _rmb(row: Mapping[str, Any]) -> Item:
    category = str(row["category"])
    part = category.split("/", 1)[0]
    groups = (part, category, "overall") if category != part else (part, "overall")
    sides = ("chosen", "rejected")
    return _pair(str(row["pair_uid"]), row["messages"], row["chosen"], row["rejected"], sides, "chosen", *groups)


# ---- figures ---------------------------------------------------------------------------------------------------------


def _judgebench_figures(items: Sequence[Item], scores: Scores) -> dict[str, Any]:
    def verdict(item: Item, own: Mapping[str, float]) -> float:
        return float(("A" if own["A"] > own["B"] else "B") in item.right)

    return grouped((item, verdict(item, own)) for item, own in scored_items(items, scores))


def _half_tie_figures(items: Sequence[Item], scores: Scores) -> dict[str, Any]:
    def verdict(item: Item, own: Mapping[str, float]) -> float:
        (right,) = item.right
        (wrong,) = set(own) - item.right
        return (np.sign(own[right] - own[wrong]) + 1) / 2

    return grouped((item, float(verdict(item, own))) for item, own in scored_items(items, scores))


def _rm_bench_figures(items: Sequence[Item], scores: Scores) -> dict[str, Any]:
    """Easy, normal and hard of each domain: style of the chosen richer than, equal to, plainer than the rejected's."""
    wins: dict[str, list[np.ndarray]] = {}
    for item, own in scored_items(items, scores):
        chosen, rejected = (np.array([own[f"{side}_{k}"] for k in (1, 2, 3)]) for side in ("chosen", "rejected"))
        wins.setdefault(item.groups[0], []).append(chosen[:, None] > rejected[None, :])
    found: dict[str, Any] = {}
    for domain, tables in sorted(wins.items()):
        matrix = 100 * np.mean(tables, axis=0)
        easy, normal, hard = matrix[np.tril_indices(3, -1)], np.diag(matrix), matrix[np.triu_indices(3, 1)]
        found[domain] = {
            "easy": float(easy.mean()),
            "normal": float(normal.mean()),
            "hard": float(hard.mean()),
            "matrix": matrix.tolist(),
            "n": len(tables),
        }
    return _with_safety(found)


def _with_safety(found: dict[str, Any]) -> dict[str, Any]:
    """RM-Bench's safety is the mean of its two halves; the total is the mean of the domains."""
    halves = [found[name] for name in ("safety-refuse", "safety-response") if name in found]
    domains = {name: content for name, content in found.items() if not name.startswith("safety-")}
    levels = ("easy", "normal", "hard")
    if len(halves) == 2:
        found["safety"] = domains["safety"] = {name: (halves[0][name] + halves[1][name]) / 2 for name in levels}
    if domains:
        means = {name: float(np.mean([content[name] for content in domains.values()])) for name in levels}
        found["mean_of_domains"] = {**means, "average": float(np.mean(list(means.values())))}
    return found


BENCHMARKS: dict[str, Benchmark] = {
    "judgebench": Benchmark(_judgebench, _judgebench_figures, ("pair_id", "id")),
    "rm-bench": Benchmark(_rm_bench, _rm_bench_figures, ("id",)),
    "evalbiasbench": Benchmark(_evalbiasbench, _half_tie_figures, ("id",)),
    "llmbar": Benchmark(_llmbar, _half_tie_figures, ("id",)),
    "rewardbench": REWARD_BENCH,
    "rewardbench2": REWARD_BENCH_2,
    "ppe": PPE,
    "rmb": Benchmark(_rmb, _half_tie_figures, ("pair_uid", "id")),
}
