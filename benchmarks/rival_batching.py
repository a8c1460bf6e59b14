"""How far is the gradient of the authors' own batching from that of the whole batch? (docs/evidence.md, item 37)

    python -m benchmarks.rival_batching --data DIR [--output FILE.json] [--batches 20] [--pairs 128]

A batch of 128 pairs of AlpacaEval outputs is differentiated twice with respect to the same weights, a linear layer on
MiniLM's features (the identity) in front of a trained reward head: once as a whole, and once in the way that an
objective's own code has it. ``dir``: 8 devices with one pair each gather 8 pairs, 16 times, and the backward pass of
the gather keeps a device's own part, so that averaging over devices divides the term by 8. ``bsr``: the square of the
mean reward of each device's 16 pairs, times 16. ``fimi`` and ``crm``: their terms of micro-batches of 8, 16 or 32
pairs, averaged, as any accumulation does. Printed are the relative error ``|g' - g| / |g|`` and the cosine of both
gradients, for the objective's term alone and with the ranking loss; means and deviations over batches.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.real_preferences import TRAIN, encoder_folder
from odin_rm.core.types import RewardScores
from odin_rm.data.batching import build_optimiser_batch, plan_epoch
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.objectives.objective import Objective, PairColumns, Progress
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.head_training import train_heads
from odin_rm.reward.loader import pair_columns
from odin_rm.workflows.rivals.config import RivalsConfig
from odin_rm.workflows.rivals.features import Backbone

# Objective, pairs of a part, and what the code multiplies its term with there.
WAYS: dict[str, tuple[str, int, float, dict[str, Any]]] = {
    "dir, 8 devices x 1 pair, part of the gather's gradient": ("dir", 8, 1 / 8, {}),
    "dir, 8 pairs, whole gradient": ("dir", 8, 1.0, {}),
    "bsr, 16 pairs of a device": ("bsr", 16, 1.0, {"penalty_weight": 0.001}),
    "fimi, 8 pairs": ("fimi", 8, 1.0, {}),
    "fimi, 16 pairs": ("fimi", 16, 1.0, {}),
    "fimi, 32 pairs": ("fimi", 32, 1.0, {}),
    "crm, 8 pairs": ("crm", 8, 1.0, {"penalty_weight": 1.0}),
    "crm, 16 pairs": ("crm", 16, 1.0, {"penalty_weight": 1.0}),
    "crm, 32 pairs": ("crm", 32, 1.0, {"penalty_weight": 1.0}),
    "odin, 16 pairs": ("odin", 16, 1.0, {}),
}
LATE = Progress(10, 10)


def gradients_of(
    objective: Objective, heads: Any, feature_RD: Tensor, columns: PairColumns, factor: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the objective's term (times a factor) and of term and ranking loss, by the layer in front."""
    layer = torch.eye(feature_RD.shape[1], dtype=torch.float64).requires_grad_(True)
    read_RD = feature_RD @ layer.T
    scores = RewardScores(
        heads={name: read_RD @ heads.effective(name).detach().double() for name in heads.names}, feature=read_RD
    )
    total = objective.value(scores, columns, LATE).total
    ranking = torch.nn.functional.softplus(
        -(scores.total()[columns.chosen_B] - scores.total()[columns.rejected_B] - columns.margin_B)
    ).mean()
    (of_ranking,) = torch.autograd.grad(ranking, layer, retain_graph=True)
    (of_term,) = torch.autograd.grad(total - ranking, layer)
    return factor * of_term, factor * of_term + of_ranking


def compare(
    data: TokenisedPreferences, table: Tensor, way: tuple[str, int, float, dict[str, Any]], arguments: Any
) -> dict[str, list[float]]:
    """Relative errors and cosines by batch."""
    name, part, factor, options = way
    trained = train_heads(
        table.numpy(), data, name, settings=OBJECTIVES[name].settings(**options),
        batch_pairs=arguments.pairs, max_pairs_per_prompt=4, learning_rate=0.01, epochs=1,
    )  # fmt: skip
    found: dict[str, list[float]] = {key: [] for key in ("term error", "term cosine", "whole error", "whole cosine")}
    for numbers in plan_epoch(data, arguments.pairs, 4, 1, 0)[: arguments.batches]:

        def taken(pairs: np.ndarray, factor: float) -> tuple[Tensor, Tensor]:
            batch = build_optimiser_batch(data, pairs, ())
            feature = table[torch.from_numpy(batch.responses)].double()
            return gradients_of(trained.objective, trained.heads, feature, pair_columns(data, batch), factor)

        exact = taken(numbers, 1.0)
        parts = [taken(numbers[first : first + part], factor) for first in range(0, len(numbers), part)]
        theirs = [torch.stack([one[k] for one in parts]).mean(0) for k in (0, 1)]
        for k, what in enumerate(("term", "whole")):
            found[f"{what} error"].append(float((theirs[k] - exact[k]).norm() / exact[k].norm()))
            cosine = (theirs[k] * exact[k]).sum() / (theirs[k].norm() * exact[k].norm())
            found[f"{what} cosine"].append(float(cosine))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--train", default=TRAIN, help="file of preference rows in --data")
    parser.add_argument("--cache_dir")
    arguments = parser.parse_args()
    source = str(arguments.data / arguments.train)
    config = RivalsConfig(
        model=encoder_folder(), datasets=[source], output="", max_length=arguments.max_length, on_bad_row="skip",
        cache_dir=arguments.cache_dir,
    )  # fmt: skip
    backbone = Backbone(config)
    from odin_rm.data.load import load_preferences

    data = load_preferences(
        source, backbone.tokenizer, backbone.settings, on_bad_row="skip", cache_dir=arguments.cache_dir
    )
    data = replace(data, variants={})
    table = torch.as_tensor(np.array(backbone.features(data, arguments.train)))
    results = {}
    print("| way | term: relative error | cosine | with ranking loss: relative error | cosine |")
    print("|---|---|---|---|---|")
    for name, way in WAYS.items():
        found = compare(data, table, way, arguments)
        results[name] = {key: [float(np.mean(one)), float(np.std(one, ddof=1))] for key, one in found.items()}
        cells = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in results[name].values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
