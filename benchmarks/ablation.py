"""Ablation of ODIN's parts on the testbed: exact batch, head normalisation, orthogonality term; ``matched`` beside it.

    python benchmarks/ablation.py [--output runs/ablation] [--seeds 0 1 2] [--world linear]

Each variant trains on the quickstart's data with the quickstart's settings and is measured on its held-out pairs, whose
true quality is known. Writes ``ablation.json`` after each run (a second call goes on where the first stopped) and
prints a markdown table.

The wrong variants live here and not in the package:

- *micro-batch N* takes the length term over groups of N sequences (N / 2 pairs) and averages it, as accumulating losses
  of micro-batches does. Everything else, the ranking loss too, is the exact batch's. *By length*: the groups are
  sequences of like length, as a token budget with little padding makes them; else they are pairs in random order.
- *no head normalisation* uses the heads as they are, and ``|w_Q . w_L|`` of these raw vectors.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

from odin_rm.core.files import atomic_write_json
from odin_rm.core.types import RewardScores
from odin_rm.data.load import load_preferences
from odin_rm.evaluation.audit import point_figures
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.scoring import load_tokenizer
from odin_rm.objectives.association import pearson
from odin_rm.objectives.objective import Objective, ObjectiveValue, PairColumns, Progress, ranked
from odin_rm.objectives.odin import Odin
from odin_rm.objectives.registry import OdinSettings
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer
from odin_rm.testbed.experiment import TRUE_QUALITY, QuickstartConfig, reward_config, write_data
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.worlds import WORLDS
from odin_rm.workflows.reward.run import build_model, encoding_settings

VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla (Bradley-Terry)": {"arm": "vanilla"},
    "matched": {"arm": "vanilla", "objective": "matched"},
    "ODIN, exact batch (128 sequences)": {},
    "micro-batch 64": {"group": 64},
    "micro-batch 16": {"group": 16},
    "micro-batch 4": {"group": 4},
    "micro-batch 64, by length": {"group": 64, "by_length": True},
    "micro-batch 16, by length": {"group": 16, "by_length": True},
    "micro-batch 4, by length": {"group": 4, "by_length": True},
    "no orthogonality term": {"orthogonality_weight": 0.0},
    "no head normalisation": {"normalise_heads": False},
    "neither of the two": {"normalise_heads": False, "orthogonality_weight": 0.0},
}
COLUMNS = {
    "pearson": "Pearson with length",
    "absolute_pearson": "its absolute value",
    "spearman": "Spearman",
    "true_quality_agreement": "true-quality agreement",
    "information_beyond_length": "information beyond length, bits",
    "accuracy": "accuracy",
    "length_head_pearson": "length head with length",
    "absolute_cosine": "cosine of heads, absolute",
}


def slot_groups(batch: PairColumns, size: int, *, by_length: bool) -> list[Tensor]:
    """Positions of the batch's chosen and rejected slots in groups of ``size``: whole pairs, or like lengths."""
    if by_length:
        slots = torch.cat([batch.chosen_B, batch.rejected_B])
        return list(slots[batch.tokens_R[slots].argsort(stable=True)].split(size))
    pairs = size // 2
    return [torch.cat(pair) for pair in zip(batch.chosen_B.split(pairs), batch.rejected_B.split(pairs), strict=True)]


class Ablated(Odin):
    """The package's objective with the wrong turns that the table compares it with.

    Args:
        settings: the objective's options.
        group: sequences of a micro-batch, ``None`` for the exact batch.
        by_length: groups of sequences of like length.
        raw: whether the heads are not normalised.
    """

    def __init__(
        self, settings: OdinSettings, group: int | None = None, *, by_length: bool = False, raw: bool = False
    ) -> None:
        super().__init__(settings)
        self.group, self.by_length, self.raw = group, by_length, raw

    def value(self, scores: RewardScores, batch: PairColumns, progress: Progress) -> ObjectiveValue:
        """The exact objective, or the one that micro-batches of ``group`` sequences would give."""
        if self.group is None:
            return super().value(scores, batch, progress)
        assert scores.length is not None
        groups = slot_groups(batch, self.group, by_length=self.by_length)
        length = self.length_term(scores.quality, scores.length, batch.tokens_R, groups)
        return ranked(scores, batch).plus(self.settings.length_weight * length, length_loss=length)

    @staticmethod
    def length_term(quality_R: Tensor, length_R: Tensor, tokens_R: Tensor, groups: list[Tensor]) -> Tensor:
        """Mean over groups of slots of ``|rho(r_Q, L)| - rho(r_L, L)`` within the group."""
        terms = []
        for slots in groups:
            tokens = tokens_R[slots]
            terms.append(pearson(quality_R[slots], tokens).value.abs() - pearson(length_R[slots], tokens).value)
        return torch.stack(terms).mean()

    def head_term(self, heads: Any, progress: Progress) -> Tensor | None:
        """The orthogonality term; of heads as they are, ``|w_Q . w_L|`` of these."""
        if not self.raw or not self.settings.orthogonality_weight:
            return super().head_term(heads, progress)
        raw = heads.vectors["quality"] @ heads.vectors["length"]
        return self.settings.orthogonality_weight * raw.abs()


def objective_of(config: RewardConfig, group: int | None, *, by_length: bool) -> Objective | None:
    """The ablated objective of a run; ``None`` for the package's own, where it is not ODIN."""
    if config.objective != "odin":
        return None
    return Ablated(config.objective_settings, group, by_length=by_length, raw=not config.normalise_heads)


def measure(scored: ScoredPreferences, trainer: RewardTrainer, seed: int) -> dict[str, float | None]:
    """What the table shows of one run."""
    figures = point_figures(scored, seed=seed)
    pearson_value = figures["pearson"]
    cosine = trainer._reward_model().head_cosine()
    heads = trainer._reward_model().heads
    return {
        **{name: figures.get(name) for name in COLUMNS},
        "absolute_pearson": None if pearson_value is None else abs(pearson_value),
        "length_head_pearson": None
        if scored.length_reward is None
        else float(np.corrcoef(scored.length_reward, scored.response_tokens)[0, 1]),
        "absolute_cosine": None if cosine is None else abs(float(cosine)),
        **{f"{name}_head_norm": float(heads.effective(name).detach().norm()) for name in heads.names},
    }


def run_one(variant: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one variant with one seed and measures it."""
    settings = dict(VARIANTS[variant])
    arm, group = settings.pop("arm", "odin"), settings.pop("group", None)
    by_length = settings.pop("by_length", False)
    config = QuickstartConfig(
        output=str(folder),
        seed=seed,
        pairs=options.pairs,
        held_out_pairs=options.held_out_pairs,
        epochs=options.epochs,
        **WORLDS[options.world].writers,
        **WORLDS[options.world].bias,
    )
    if not (folder / "initial_model").exists():
        write_data(config, folder / "data")
        save_tiny_model(folder / "initial_model", seed)
    run = reward_config(config, folder, arm, disable_tqdm=True, logging_strategy="no", **settings)
    tokenizer = load_tokenizer(str(run.model))
    texts = encoding_settings(run)
    train = load_preferences(str(run.dataset), tokenizer, texts, cache_dir=run.cache_dir)
    held_out = load_preferences(
        str(folder / "data" / "held_out.jsonl"),
        tokenizer,
        texts,
        cache_dir=run.cache_dir,
        extra_columns=(TRUE_QUALITY,),
    )
    set_seed(seed)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        objective = objective_of(run, group, by_length=by_length)
        trainer = RewardTrainer(build_model(run, str(run.model)), run, train, tokenizer=tokenizer, objective=objective)
        trainer.train()
    seconds = time.perf_counter() - started
    return {"variant": variant, "seed": seed, **measure(trainer.score(held_out), trainer, seed), "seconds": seconds}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: one row per variant, mean and (from two seeds) standard deviation over seeds."""
    lines = ["| | seeds | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for variant in VARIANTS:
        rows = [run for run in runs if run["variant"] == variant]
        if rows:
            cells = [_cell([row[name] for row in rows if row[name] is not None]) for name in COLUMNS]
            lines.append(f"| {variant} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--held_out_pairs", type=int, default=2500)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--world", choices=list(WORLDS), default="linear")
    options = parser.parse_args()

    settings = {name: getattr(options, name) for name in ("pairs", "held_out_pairs", "epochs", "world")}
    path = options.output / "ablation.json"
    runs: list[dict[str, Any]] = []
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved["settings"] != settings:
            parser.error(f"{path} was made with other settings: {saved['settings']}")
        runs = saved["runs"]
    for seed in options.seeds:
        for variant in options.variants:
            if any(run["variant"] == variant and run["seed"] == seed for run in runs):
                continue
            runs.append(run_one(variant, seed, options.output / f"seed_{seed}", options))
            atomic_write_json(path, {"settings": settings, "runs": runs})
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in runs[-1].items()}
            print(json.dumps(shown), flush=True)
    print("\n" + table(runs))


if __name__ == "__main__":
    main()
