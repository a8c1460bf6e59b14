"""Speed of scoring best-of-16 data: our engine against transformers' text-classification pipeline.

    make bench-scoring ARGS="--data DIR --output FILE.json"

One process, the same random Llama with one label, the same texts; both sides tokenise, batch and score, in turns, block
by block. The scores must agree (printed). The pipeline gets the batch size that is fastest on a part of the data, and
once more the texts sorted by length, which it does not do itself.

Data: ``alpaca`` (instructions of ``alpaca_eval_preferences_train`` with 16 different outputs of as many models) and
``dialogue`` (conversations of ``oasst_en_val`` with 16 responses each, drawn from that file: long prompts). ``DIR``
holds the two files.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.shared.memory import reset_peak
from benchmarks.shared.reward_arms import memory_or_none
from benchmarks.shared.reward_flops import ModelSize, Need, distinct_tokens, matrix_peak
from benchmarks.shared.reward_setup import VOCABULARY, make_tokenizer, quiet, save_models
from odin_rm.core.files import atomic_write_json, environment_record, json_safe, read_rows
from odin_rm.data.render import plain_prompt, plain_response
from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.model.scoring import Scorer, load_scorer, score_texts

FILES = {"alpaca": "alpaca_eval_preferences_train.jsonl.gz", "dialogue": "oasst_en_val.jsonl.gz"}
Block = tuple[list[str], list[str]]
"""Prompts and responses, prompt by prompt."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def blocks_of(name: str, options: argparse.Namespace, tokenizer: Any) -> list[Block]:
    """Blocks of ``--prompts`` prompts with ``--responses`` responses each that fit the window."""
    rng = np.random.default_rng(options.seed)
    rows = [row for _, row in read_rows(Path(options.data) / FILES[name])]
    own: dict[str, dict[str, None]] = {}
    for row in rows:
        own.setdefault(row["prompt"], {}).update({row["chosen"]: None, row["rejected"]: None})
    pool = [text for texts in own.values() for text in texts]
    settings = EncodingSettings(max_length=options.max_length)
    blocks: list[Block] = []
    prompts: list[str] = []
    responses: list[str] = []
    for prompt in rng.permutation(np.array(list(own), dtype=object)).tolist():
        if name == "dialogue":
            candidates = [pool[i] for i in rng.choice(len(pool), 2 * options.responses, replace=False)]
        else:
            candidates = list(own[prompt])
        encoded = encode_responses(tokenizer, [prompt] * len(candidates), candidates, settings)
        fitting = [text for text, one in zip(candidates, encoded, strict=True) if not one.dropped]
        if len(fitting) < options.responses:
            continue
        prompts += [prompt] * options.responses
        responses += fitting[: options.responses]
        if len(prompts) == options.prompts * options.responses:
            blocks.append((prompts, responses))
            prompts, responses = [], []
        if len(blocks) == options.blocks:
            return blocks
    raise SystemExit(f"{name}: {len(blocks)} blocks where {options.blocks} are wanted; give fewer --prompts")


class Counter:
    """Positions that a model's embedding sees, and the padding among them."""

    def __init__(self, model: Any, pad: int) -> None:
        self.positions = self.padding = 0

        def count(module: Any, args: Any, kwargs: Any) -> None:
            ids = args[0] if args else kwargs["input"]
            self.positions += ids.numel()
            self.padding += int((ids == pad).sum())

        model.get_input_embeddings().register_forward_pre_hook(count, with_kwargs=True)


class Side:
    """One arm: a function from a block to scores, with what it took.

    Args:
        name: of the arm.
        score: the function.
        counter: of its model.
    """

    def __init__(self, name: str, score: Callable[[Block], np.ndarray], counter: Counter) -> None:
        self.name, self.score, self.counter = name, score, counter
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peaks: list[float] = []
        self.positions = self.padding = 0

    def run(self, block: Block) -> np.ndarray:
        """Score a block, and measure it."""
        positions, padding = self.counter.positions, self.counter.padding
        before = reset_peak()
        started = time.perf_counter(), time.process_time()
        scores = self.score(block)
        self.seconds.append(time.perf_counter() - started[0])
        self.cpu_seconds.append(time.process_time() - started[1])
        peak = memory_or_none()
        if before is not None and peak is not None:
            self.peaks.append(peak - before)
        self.positions += self.counter.positions - positions
        self.padding += self.counter.padding - padding
        return scores


def pipeline_scores(pipe: Any, batch_size: int, *, by_length: bool) -> Callable[[Block], np.ndarray]:
    """The pipeline over a block's texts; with ``by_length`` sorted by us."""
    end = pipe.tokenizer.eos_token

    def score(block: Block) -> np.ndarray:
        texts = [plain_prompt(p) + plain_response(r) + end for p, r in zip(*block, strict=True)]
        order = np.argsort([-len(t) for t in texts], kind="stable") if by_length else np.arange(len(texts))
        found = pipe([texts[i] for i in order], batch_size=batch_size, function_to_apply="none")
        scores = np.empty(len(texts))
        scores[order] = [one["score"] for one in found]
        return scores

    return score


def tuned(pipe: Any, block: Block, options: argparse.Namespace, *, by_length: bool) -> tuple[int, dict[int, float]]:
    """The batch size with which the pipeline is fastest on some texts from all over a block."""
    count = min(options.tune_texts, len(block[0]))
    chosen = np.linspace(0, len(block[0]) - 1, count).astype(int)
    part = ([block[0][i] for i in chosen], [block[1][i] for i in chosen])
    found: dict[int, float] = {}
    for size in options.batch_sizes:
        start = time.perf_counter()
        pipeline_scores(pipe, size, by_length=by_length)(part)
        found[size] = time.perf_counter() - start
        say(f"pipeline, batches of {size}{', sorted' if by_length else ''}: {count / found[size]:.2f} responses/s")
    return min(found, key=lambda size: found[size]), found


def run(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All arms on one kind of data."""
    say(f"{name}:")
    tokenizer = make_tokenizer(Path(options.data) / FILES[name], options.vocabulary)
    blocks = blocks_of(name, options, tokenizer)
    _, classifier = save_models(folder, tokenizer, options.layers, options.hidden, options.max_length)
    torch.set_num_threads(options.threads)
    settings = EncodingSettings(max_length=options.max_length)
    scorer: Scorer = load_scorer(classifier, device="cpu", settings=settings)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32)
    pipe = transformers.pipeline("text-classification", model=stock, tokenizer=tokenizer, device="cpu")
    size = ModelSize.of(stock)
    peak = matrix_peak("cpu", torch.float32, options.matrix)
    budget = options.microbatch_tokens

    def ours(block: Block) -> np.ndarray:
        return score_texts(scorer, *block, microbatch_tokens=budget)[0]

    ours((blocks[0][0][:8], blocks[0][1][:8]))  # warm-up, and the engine's own check of the model
    plain, plain_times = tuned(pipe, blocks[0], options, by_length=False)
    sorted_, sorted_times = tuned(pipe, blocks[0], options, by_length=True)
    theirs, own = Counter(stock, tokenizer.pad_token_id), Counter(scorer.model.classifier, tokenizer.pad_token_id)
    sides = [
        Side(f"pipeline, batches of {plain}", pipeline_scores(pipe, plain, by_length=False), theirs),
        Side(f"pipeline, batches of {sorted_}, sorted by us", pipeline_scores(pipe, sorted_, by_length=True), theirs),
        Side("ours", ours, own),
    ]
    apart = 0.0
    for block in blocks:
        scores = [side.run(block) for side in sides]
        apart = max(apart, max(float(np.abs(s - scores[0]).max() / scores[0].std()) for s in scores))
    needs = []
    for block in blocks:
        sequences = [np.asarray(e.input_ids) for e in encode_responses(tokenizer, *block, settings)]
        total = sum(map(len, sequences))
        needs.append(Need(total, total, *distinct_tokens(sequences)))
    return {
        "sides": [figures(side, sides[0], blocks, needs, size, peak) for side in sides],
        "scores_apart_in_deviations": apart,
        "tuning": {"as given": plain_times, "sorted": sorted_times},
        "matrix_peak": peak,
        "settings": vars(options) | {"data": None, "output": None},
        "environment": environment_record(),
    }


def figures(
    side: Side, peer: Side, blocks: list[Block], needs: list[Need], size: ModelSize, peak: float
) -> dict[str, Any]:
    """Rates of a side, and its ratio to the first one over blocks (95 % bootstrap)."""
    seconds, theirs = np.array(side.seconds), np.array(peer.seconds)
    draws = np.random.default_rng(0).integers(0, len(seconds), (2000, len(seconds)))
    low, high = np.quantile(theirs[draws].sum(1) / seconds[draws].sum(1), [0.025, 0.975])
    tokens = sum(need.tokens for need in needs)
    return {
        "name": side.name,
        "responses_per_second": sum(len(b[0]) for b in blocks) / seconds.sum(),
        "ratio": float(theirs.sum() / seconds.sum()),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "ratio_by_cpu_time": sum(peer.cpu_seconds) / sum(side.cpu_seconds),
        "seconds": side.seconds,
        "distinct_tokens_per_second": tokens / seconds.sum(),
        "positions_per_distinct_token": side.positions / tokens,
        "padding_share": side.padding / side.positions,
        "useful_share_of_peak": sum(n.scoring_flops(size) for n in needs) / seconds.sum() / peak,
        "peak_mib": max(side.peaks) if side.peaks else None,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown, one line a side."""
    lines = [
        "| side | responses/s | ratio (95 %) | positions per distinct token | padding | of the peak | memory, MiB |",
        "|---" * 7 + "|",
    ]
    for row in found["sides"]:
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
        lines.append(
            f"| {row['name']} | {row['responses_per_second']:.2f} "
            f"| {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) "
            f"| {row['positions_per_distinct_token']:.2f} | {row['padding_share']:.1%} "
            f"| {row['useful_share_of_peak']:.1%} | {peak} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the preference files")
    parser.add_argument("--output", type=Path, help="JSON file; what it holds of other data stays")
    parser.add_argument("--scenarios", nargs="+", default=list(FILES), choices=FILES)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--prompts", type=int, default=4, help="of a block")
    parser.add_argument("--responses", type=int, default=16, help="of a prompt")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of the pipeline, to try")
    parser.add_argument("--tune_texts", type=int, default=32)
    parser.add_argument("--microbatch_tokens", type=int, default=4096, help="of our engine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matrix", type=int, default=2048, help="size of the matrix product that measures the peak")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    quiet()
    options = parse()
    found: dict[str, Any] = {}
    if options.output and options.output.exists():
        found = json.loads(options.output.read_text(encoding="utf-8"))
    for name in options.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = json_safe(run(name, options, Path(folder)))
        if options.output:
            atomic_write_json(options.output, found)
        print(f"\n{name}: scores apart by {found[name]['scores_apart_in_deviations']:.1e} standard deviations\n")
        print(table(found[name]), flush=True)


if __name__ == "__main__":
    main()
