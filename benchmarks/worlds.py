"""Agreement with the truth in the testbed's named worlds, by objective (docs/evidence.md, item 34).

    python -m benchmarks.worlds [--seeds 0 1 2 3 4] [--output DIR]                      # make bench-worlds
    python -m benchmarks.worlds --fine_tune --worlds linear good_writers_write_more --seeds 0

Every arm sees the same pairs in the same order; held out are other prompts. By default the heads are linear on a bag
of words and pairs of words (each counts once), trained by ``odin_rm.reward.head_training.train_heads``: seconds a run.
``--fine_tune`` trains the quickstart's tiny Llama instead. The figure is the share of held-out pairs of different true
quality that the reward orders rightly, and beside it Pearson with length. ``vanilla + dial`` takes off the share of the
plain reward's own curve of length that makes an answer with two fillers more worth as much as without; fillers are
worthless by definition.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from odin_rm.core.files import atomic_write_json
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.trainer import RewardTrainer
from odin_rm.testbed.annotator import make_preferences
from odin_rm.testbed.linear_worlds import HELD_OUT, PAIRS, Bag, Score, as_data, dial, linear_scores
from odin_rm.testbed.tiny import build_tokenizer, save_tiny_model
from odin_rm.testbed.worlds import WORLDS, NamedWorld
from odin_rm.workflows.reward.run import build_model

STYLED = ("lists_and_flattery", "lists_and_good_writers")
ALL_ATTRIBUTES = "matched, all attributes"
DIALLED = ("vanilla", "matched", "matched, no curve")
ARMS: dict[str, dict[str, Any]] = {
    "vanilla": {"objective": "bradley_terry"},
    "odin": {"objective": "odin"},
    "matched": {"objective": "matched"},
    ALL_ATTRIBUTES: {
        "objective": "matched",
        "settings": {"match_attributes": "response_tokens,list_items,flattery"},
    },
    "matched, no curve": {"objective": "matched", "settings": {"match_curve": "none"}},
    "matched, no curve, tau 0.15": {"objective": "matched", "settings": {"match_curve": "none", "match_tau": 0.15}},
    "joint expert": {"objective": "matched", "settings": {"match_tau": float("inf")}},
    "fixed expert": {"objective": "matched", "settings": {"match_tau": float("inf"), "match_curve": "fixed"}},
}


def agreement(quality_R: np.ndarray, truth_R: np.ndarray) -> float:
    """Share of the pairs of different truth that the reward orders rightly, ties half."""
    gap, true = quality_R[::2] - quality_R[1::2], truth_R[::2] - truth_R[1::2]
    differ = true != 0
    return float((0.5 * (1 + np.sign(gap[differ] * true[differ]))).mean())


def bag_scores(arm: str, data: TokenisedPreferences, texts: list[str], seed: int) -> Score:
    """A function of texts: the reward of heads on bags of words."""
    options, bag = ARMS[arm], Bag(texts)
    return linear_scores(
        options["objective"],
        data,
        bag,
        bag(texts),
        seed,
        settings=options.get("settings"),
        head_scale=options.get("scale", 1.0),
    )


def tuned_scores(
    arm: str, data: TokenisedPreferences, seed: int, folder: Path, held: TokenisedPreferences
) -> np.ndarray:
    """Rewards of held-out responses by the quickstart's tiny Llama, fine-tuned."""
    if not folder.exists():
        save_tiny_model(folder, seed)
    options = ARMS[arm]
    config = RewardConfig(
        output_dir=str(folder.parent / "run"),
        model=str(folder),
        objective=options["objective"],
        batch_pairs=64,
        num_train_epochs=3,
        learning_rate=1e-3,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=seed,
        **options.get("settings", {}),
    )
    set_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = RewardTrainer(build_model(config, str(folder)), config, data, tokenizer=build_tokenizer())
        trainer.train()
    return trainer._columns(held)["quality"]


def run(named: NamedWorld, seed: int, arms: list[str], output: Path, *, fine_tune: bool) -> dict[str, dict[str, float]]:
    """Figures of each arm in one world with one seed."""
    tokenizer = build_tokenizer() if fine_tune else None
    data, texts, _ = as_data(make_preferences(named.world, named.annotator, PAIRS, seed), tokenizer)
    rows = make_preferences(named.world, named.annotator, HELD_OUT, seed, split="test")
    held, held_texts, truth_R = as_data(rows, tokenizer)
    length_R = np.asarray(held.response_tokens, dtype=float)
    found = {"the truth": {"agreement": 1.0, "pearson": float(np.corrcoef(truth_R, length_R)[0, 1])}}

    def note(arm: str, quality_R: np.ndarray) -> None:
        rho = float(np.corrcoef(quality_R, length_R)[0, 1])
        found[arm] = {"agreement": agreement(quality_R, truth_R), "pearson": rho}

    for arm in arms:
        if fine_tune:
            note(arm, tuned_scores(arm, data, seed, output / f"model_{seed}", held))
            continue
        score = bag_scores(arm, data, texts, seed)
        note(arm, score(held_texts))
        if arm in DIALLED:
            note(f"{arm} + dial", dial(score, held_texts, seed))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/worlds"))
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["vanilla", "odin", "matched", ALL_ATTRIBUTES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fine_tune", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / ("fine_tuned.json" if options.fine_tune else "heads.json")
    results: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for seed in options.seeds:
        for world in options.worlds:
            key = f"{world}/{seed}"
            asked = [arm for arm in options.arms if arm != ALL_ATTRIBUTES or world in STYLED]
            missing = [arm for arm in asked if arm not in results.get(key, {})]
            if missing:
                figures = run(WORLDS[world], seed, missing, options.output, fine_tune=options.fine_tune)
                results[key] = {**results.get(key, {}), **figures}
                atomic_write_json(path, results)
                print(key, {arm: round(row["agreement"], 3) for arm, row in results[key].items()}, flush=True)
    arms = list(dict.fromkeys(arm for row in results.values() for arm in row))
    print("\n| world | " + " | ".join(arms) + " |\n|" + "---|" * (len(arms) + 1))
    for world in options.worlds:
        cells = []
        for arm in arms:
            rows = [row[arm] for key, row in results.items() if key.startswith(f"{world}/") and arm in row]
            if not rows:
                cells.append("")
                continue
            share, rho = ([row[name] for row in rows] for name in ("agreement", "pearson"))
            spread = f" ± {np.std(share, ddof=1):.3f}" if len(share) > 1 else ""
            cells.append(f"{np.mean(share):.3f}{spread} / {np.mean(rho):.2f}")
        print(f"| {world} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
