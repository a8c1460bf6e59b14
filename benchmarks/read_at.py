"""Where to read a reward under a ChatML template: at the end-of-turn token, or at the line break behind it.

    make bench-read-at ARGS="--data DIR --output FILE.json"

Small Qwen3 decoders from scratch (a byte-level BPE of the texts at hand, a ChatML template) on pairs of AlpacaEval and
OpenAssistant, the same weights, pairs and order for both values of ``--read_at``. A third of the prompts is held out.
Printed: accuracy, length-balanced accuracy and correlation with length on the held-out pairs, the differences of the
two with intervals by a bootstrap over prompts that keeps all seeds of a prompt together, how far the rewards of a model
move when it is given texts with the other ending, and what the first half of a response earns, as cut and with an
ending.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy import stats

from benchmarks.shared.reward_setup import make_tokenizer, model_config, quiet
from odin_rm.core.files import RowWriter, atomic_write_json, environment_record, json_safe, read_rows
from odin_rm.data.load import load_preferences
from odin_rm.data.tokenise import encode_responses
from odin_rm.evaluation.audit import audit_preferences, point_figures
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.scoring import Scorer, load_scorer, score_encoded
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.scoring import score_preferences
from odin_rm.workflows.reward.run import train_reward_model

FILES = {
    "alpaca": ("alpaca_eval_preferences_train.jsonl.gz", "alpaca_eval_preferences_val.jsonl.gz"),
    "oasst": ("oasst_en_val.jsonl.gz",),
}
READINGS = ("end", "end_of_turn")
FIGURES = ("accuracy", "accuracy_length_balanced", "pearson")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RESAMPLES = 1000
HALVED = 300
"""How many held-out responses are halved."""


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The tokenizer, and training and held-out files of the pairs that fit the window."""
    rows = {
        name: [row for file in files for _, row in read_rows(options.data / file) if row["chosen"] != row["rejected"]]
        for name, files in FILES.items()
    }
    with RowWriter(folder / "texts.jsonl") as writer:
        for row in [*rows["alpaca"][:2000], *rows["oasst"]]:
            writer.write({name: row[name] for name in ("prompt", "chosen", "rejected")})
    tokenizer = make_tokenizer(str(folder / "texts.jsonl"), options.vocabulary)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHATML
    tokenizer.save_pretrained(folder / "tokenizer")
    room = options.max_length - 12  # what the template adds
    files = {name: folder / f"{name}.jsonl" for name in ("train", *FILES)}
    train: list[dict[str, Any]] = []
    for name, own in rows.items():
        texts = [f"{row['prompt']}{row[side]}" for row in own for side in ("chosen", "rejected")]
        lengths = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]]).reshape(-1, 2).max(1)
        fitting = [row for row, length in zip(own, lengths, strict=True) if length <= room]
        prompts = sorted({row["prompt"] for row in fitting})
        random.Random(0).shuffle(prompts)
        held = set(prompts[: len(prompts) // 3])
        train += [row for row in fitting if row["prompt"] not in held]
        with RowWriter(files[name]) as writer:
            for row in fitting:
                if row["prompt"] in held:
                    writer.write(row)
    with RowWriter(files["train"]) as writer:
        for row in train:
            writer.write(row)
    return files


def backbone(folder: Path, seed: int, options: argparse.Namespace) -> Path:
    """A random Qwen3 with the tokenizer; the same for both readings of a seed."""
    place = folder / f"backbone{seed}"
    if not place.exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
        config = model_config(tokenizer, options.layers, options.hidden, options.max_length, family="qwen3")
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        print(f"seed {seed}: {model.num_parameters():,} parameters", flush=True)
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return place


def train(folder: Path, files: dict[str, Path], seed: int, read_at: str, options: argparse.Namespace) -> Scorer:
    """One reward model."""
    config = RewardConfig(
        model=str(backbone(folder, seed, options)),
        dataset=str(files["train"]),
        output_dir=str(folder / f"{read_at}{seed}"),
        cache_dir=str(folder / "cache"),
        objective=options.objective,
        read_at=read_at,
        max_length=options.max_length,
        batch_pairs=32,
        microbatch_tokens=4096,
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        warmup_steps=0.06,
        save_strategy="no",
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run = train_reward_model(config)
    return load_scorer(run)


def held_out(scorer: Scorer, file: Path, read_at: str, folder: Path) -> ScoredPreferences:
    """Scores of a held-out file whose texts end as ``read_at`` says."""
    settings = replace(scorer.settings, read_at=read_at)  # type: ignore[arg-type]
    data = load_preferences(str(file), scorer.tokenizer, settings, cache_dir=str(folder / "cache"))
    return score_preferences(scorer, data, microbatch_tokens=4096)


def moved(own: ScoredPreferences, other: ScoredPreferences) -> dict[str, float]:
    """How far rewards are from those of the own ending, in deviations, and what becomes of the order."""
    change = np.abs(other.quality - own.quality) / own.quality.std()
    pairs = np.sign(own.quality[own.chosen] - own.quality[own.rejected])
    pairs_other = np.sign(other.quality[other.chosen] - other.quality[other.rejected])
    return {
        "mean": float(change.mean()),
        "largest": float(change.max()),
        "spearman": float(stats.spearmanr(own.quality, other.quality).statistic),
        "pairs_turned": float((pairs != pairs_other).mean()),
        **{f"{name}_other": float(point_figures(other)[name] or np.nan) for name in FIGURES},
    }


def cut_figures(scorer: Scorer, files: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Rewards of half responses less those of the whole ones, in deviations: means, standard errors, shares above 0."""
    rows = [row for name in FILES for _, row in read_rows(files[name])]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:HALVED]]
    prompts = [row["prompt"] for row in rows]
    whole = [row["chosen" if number % 2 else "rejected"] for number, row in enumerate(rows)]
    half = [text[: len(text) // 2] for text in whole]

    def quality(responses: list[str], *, ended: bool) -> np.ndarray:
        every = [ended] * len(responses)
        encoded = encode_responses(scorer.tokenizer, prompts, responses, scorer.settings, ended=every)
        return score_encoded(scorer, encoded, microbatch_tokens=4096)[0]

    full_R, closed_R, cut_R = quality(whole, ended=True), quality(half, ended=True), quality(half, ended=False)
    pairs = {"closed - whole": (closed_R, full_R), "cut - whole": (cut_R, full_R), "cut - closed": (cut_R, closed_R)}
    found = {}
    for name, (one_R, other_R) in pairs.items():
        change = (one_R - other_R) / full_R.std()
        error = float(change.std(ddof=1) / np.sqrt(len(change)))
        found[name] = {"mean": float(change.mean()), "standard_error": error, "above": float((change > 0).mean())}
    return found


def resampled(scored: ScoredPreferences, prompts: np.ndarray) -> ScoredPreferences:
    """The set made of these prompts, each as often as it is named."""
    responses = [np.flatnonzero(scored.prompt == p) for p in prompts]
    pairs = [np.flatnonzero(scored.prompt[scored.chosen] == p) for p in prompts]
    starts = np.cumsum([0, *(len(own) for own in responses)])
    place = np.zeros(len(scored.prompt), dtype=int)
    chosen, rejected = [], []
    for start, own, of in zip(starts[:-1], responses, pairs, strict=True):
        place[own] = start + np.arange(len(own))
        chosen.append(place[scored.chosen[of]])
        rejected.append(place[scored.rejected[of]])
    rows = np.concatenate(responses)
    number = np.repeat(np.arange(len(prompts)), [len(own) for own in responses])
    return replace(
        scored,
        quality=scored.quality[rows],
        response_tokens=scored.response_tokens[rows],
        prompt=number,
        chosen=np.concatenate(chosen),
        rejected=np.concatenate(rejected),
        length_reward=None,
    )


def quick_figures(scored: ScoredPreferences) -> dict[str, float]:
    """The three figures by their definitions; point_figures would cross-validate in each resample."""
    right = np.sign(scored.quality[scored.chosen] - scored.quality[scored.rejected]) / 2 + 0.5
    longer = np.sign(scored.response_tokens[scored.chosen] - scored.response_tokens[scored.rejected])
    parts = [right[longer == sign].mean() if (longer == sign).any() else np.nan for sign in (1, -1)]
    return {
        "accuracy": float(right.mean()),
        "accuracy_length_balanced": float(np.mean(parts)),
        "pearson": float(np.corrcoef(scored.quality, scored.response_tokens)[0, 1]),
    }


def differences(scored: dict[tuple[str, int], ScoredPreferences], seeds: list[int]) -> dict[str, dict[str, float]]:
    """``end_of_turn`` minus ``end``, mean over seeds, with intervals over prompts."""

    def difference(sets: dict[tuple[str, int], ScoredPreferences]) -> np.ndarray:
        table = [[quick_figures(sets[read_at, seed]) for seed in seeds] for read_at in READINGS]
        means = [[np.mean([one[name] for one in own]) for name in FIGURES] for own in table]
        return np.subtract(means[1], means[0])

    generator = np.random.default_rng(0)
    known = np.unique(next(iter(scored.values())).prompt)
    draws = []
    for _ in range(RESAMPLES):
        drawn = generator.choice(known, len(known))
        draws.append(difference({key: resampled(one, drawn) for key, one in scored.items()}))
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    point = difference(scored)
    return {
        name: {"value": float(point[i]), "low": float(low[i]), "high": float(high[i])} for i, name in enumerate(FIGURES)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the files of AlpacaEval and OpenAssistant"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--objective", choices=["bradley_terry", "odin"], default="bradley_terry")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=6144)
    parser.add_argument("--max_length", type=int, default=384)
    options = parser.parse_args()
    quiet()
    runs: list[dict[str, Any]] = []
    scored: dict[str, dict[tuple[str, int], ScoredPreferences]] = {name: {} for name in FILES}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = prepare(folder, options)
        for seed in options.seeds:
            for read_at in READINGS:
                scorer = train(folder, files, seed, read_at, options)
                run: dict[str, Any] = {"seed": seed, "read_at": read_at}
                for name in FILES:
                    sides = {r: held_out(scorer, files[name], r, folder) for r in READINGS}
                    own = scored[name][read_at, seed] = sides[read_at]
                    audit = audit_preferences(own)
                    run[name] = {f: audit[f].to_json() for f in FIGURES} | {"pairs": audit.pairs}
                    run[name]["other_ending"] = moved(own, next(s for r, s in sides.items() if r != read_at))
                run["half_responses"] = cut_figures(scorer, files)
                runs.append(run)
                print(run, flush=True)
    found = {name: differences(own, options.seeds) for name, own in scored.items()}
    for name, figures in found.items():
        for figure, value in figures.items():
            print(
                f"{name}, {figure}: end_of_turn minus end {value['value']:+.3f} "
                f"({value['low']:+.3f} to {value['high']:+.3f})"
            )
    if options.output:
        content = {"runs": runs, "differences": found, "settings": vars(options) | {"data": None, "output": None}}
        atomic_write_json(options.output, json_safe(content | {"environment": environment_record()}))


if __name__ == "__main__":
    main()
