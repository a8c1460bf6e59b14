"""Reward training side by side with TRL's RewardTrainer on a CUDA GPU: about 0.5 B parameters, bfloat16.

    make bench-reward-cuda ARGS="--data FILE --output DIR"
    python -m benchmarks.reward_cuda --data FILE --output DIR --device cpu --hidden 64 --layers 2 --batch_pairs 8

One process, a random Qwen3 or Llama built from a config (nothing is downloaded), the same token ids, the same pairs in
each step, plain Bradley-Terry on both sides, AdamW, weights in float32 and passes in bfloat16 by autocast (the usual
way, and TRL's default), no gradient checkpointing. The parts, in the order that ``--parts`` names them; figures are
written after each of them:

* ``tune``: the micro-batch with which TRL is fastest;
* ``race``: TRL and ours step by step in turns: pairs/s, ratio, share of the measured matrix peak that the distinct
  tokens make (6 x parameters without embeddings, plus causal attention), padding, peak memory;
* ``equality``: losses, scores and gradients of a step by each layout in bfloat16, against padded float32;
* ``weights``: the race again with bfloat16 weights on both sides;
* ``grouped``: TRL with the pairs of all measured steps sorted by length, against ours in two passes;
* ``kernels``: ours with each kernel for prompt trees, packed, and padded;
* ``flex``: FlexAttention for prompt trees, speed and equality; late, because it is compiled first;
* ``peak``: ours with compiled layers and with bfloat16 weights, and with twice the pairs in a step: how near the matrix
  peak.

An arm that fails (out of memory, a kernel that is missing) is written down and the rest goes on. ``--budget_seconds``
ends the run early with what there is.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

from benchmarks.shared.relay import Baton, Relay
from benchmarks.shared.reward_arms import Arm, Work, grouped_by_length, train_ours, train_trl, tune
from benchmarks.shared.reward_flops import ModelSize, matrix_peak, need_of
from benchmarks.shared.reward_setup import make_tokenizer, quiet, save_models
from benchmarks.shared.reward_summary import ratio_of, summary_of, table
from odin_rm.core.files import atomic_write_json, environment_record, json_safe
from odin_rm.data.batching import plan_epoch
from odin_rm.data.load import load_preferences
from odin_rm.data.tokenise import EncodingSettings

PARTS = ("tune", "race", "equality", "weights", "grouped", "kernels", "flex", "peak")
LAYOUTS: dict[str, dict[str, Any]] = {
    "as it comes": {"microbatch_tokens": "auto"},
    "tree, varlen": {"batch_layout": "tree", "tree_attention": "varlen"},
    "tree, segments": {"batch_layout": "tree", "tree_attention": "segments"},
    "packed": {"batch_layout": "packed"},
    "padded": {"batch_layout": "padded"},
    "tree, dense": {"batch_layout": "tree", "tree_attention": "dense"},
}
FLEX: dict[str, dict[str, Any]] = {"tree, flex": {"batch_layout": "tree", "tree_attention": "flex"}}


class Session:
    """The state of a run: what is found so far, where it goes, when time is up."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.start = time.monotonic()
        self.deadline = self.start + options.budget_seconds
        self.found: dict[str, Any] = {"settings": vars(options) | {"data": Path(options.data).name, "output": None}}
        self.found["environment"] = environment_record()
        self.file = Path(options.output) / "reward_cuda.json"

    def say(self, line: str) -> None:
        """A line with the seconds since the start."""
        print(f"[{time.monotonic() - self.start:6.1f} s] {line}", flush=True)

    def keep(self, **figures: Any) -> None:
        """Add figures and write everything."""
        self.found |= figures
        self.found["seconds"] = time.monotonic() - self.start
        atomic_write_json(self.file, json_safe(self.found))

    def part(self, name: str, run: Callable[[], None]) -> None:
        """Run one part; what goes wrong in it is written down and does not end the others."""
        if time.monotonic() > self.deadline:
            self.say(f"{name}: left out")
            return
        try:
            run()
        except Exception as error:
            self.say(f"{name} failed: {type(error).__name__}: {error}")
            self.found.setdefault("errors", {})[name] = traceback.format_exc()
        self.clear()
        self.keep()

    def clear(self) -> None:
        """Hand back the device's memory."""
        gc.collect()
        if self.options.device == "cuda":
            torch.cuda.empty_cache()


class Bench(Session):
    """The parts of the run."""

    def prepare(self) -> None:
        """Peak of matrix products, tokens, plan, models."""
        options = self.options
        place = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        self.matrix_peak = matrix_peak(options.device, torch.bfloat16, 0 if options.device == "cuda" else 512)
        self.say(f"{place}: matrix product {self.matrix_peak / 1e12:.1f} TFLOP/s")
        tokenizer = make_tokenizer(options.data, options.vocabulary)
        settings = EncodingSettings(max_length=options.max_length, overlong="drop")
        cache = self.folder / "cache"
        data = load_preferences(options.data, tokenizer, settings, on_bad_row="skip", cache_dir=cache)
        planned = plan_epoch(data, options.batch_pairs, options.max_pairs_per_prompt, 0, 0)
        full = [batch for batch in planned if len(batch) == options.batch_pairs]
        plan = full[: options.warmup + options.steps]
        backbone, classifier = save_models(
            self.folder,
            tokenizer,
            options.layers,
            options.hidden,
            options.max_length,
            family=options.family,
            vocabulary=options.vocabulary,
            device=options.device,
        )
        self.work = Work(data, plan, tokenizer, backbone, classifier, device=options.device, bf16=True)
        shape = transformers.AutoModelForSequenceClassification.from_pretrained(classifier)
        self.size = ModelSize.of(shape)
        self.needs = [need_of(data, pairs) for pairs in plan]
        self.arms: list[Arm] = []
        self.trl_pairs = options.trl_pairs[0]
        per_step = sum(need.tokens for need in self.needs) / len(plan)
        self.say(f"{self.size.parameters / 1e6:.0f} M parameters without embeddings, {per_step:.0f} distinct tokens")
        self.keep(
            device=place, peak_flops=self.matrix_peak, model=asdict(self.size), needs=[asdict(n) for n in self.needs]
        )

    def measure(self, part: str, jobs: list[tuple[Arm, Callable[[Arm, Work, Baton], None], Work]]) -> list[Arm]:
        """Run arms in turns and write down what each did."""
        runs = {arm.name: (lambda baton, a=arm, t=train, w=work: t(a, w, baton)) for arm, train, work in jobs}
        errors = Relay(self.deadline).run(runs)
        arms = [arm for arm, _, _ in jobs]
        for arm in arms:
            arm.error = errors.get(arm.name, "")
            if arm.error:
                self.say(f"{arm.name}: {arm.error.splitlines()[0][:300]}")
        self.clear()
        self.arms += arms
        warmup = self.options.warmup
        rows = self.found.get("arms", {})
        for arm, _, work in jobs:
            same = len(work.plan) == len(self.needs)
            needs = self.needs if same else [need_of(work.data, pairs) for pairs in work.plan]
            summary = summary_of(arm, warmup, needs, self.size, self.matrix_peak)
            rows[f"{part}: {arm.name}"] = asdict(arm) | {"summary": summary}
        self.keep(arms=rows)
        print(table({arm.name: rows[f"{part}: {arm.name}"]["summary"] for arm in arms}), flush=True)
        return arms

    def one_pass(self) -> dict[str, Any]:
        return {"microbatch_tokens": self.options.microbatch_tokens}

    def two_passes(self) -> dict[str, Any]:
        return {"microbatch_tokens": self.options.small_microbatch_tokens, "single_pass_tokens": 0}

    def tune(self) -> None:
        """TRL's best micro-batch."""
        work = replace(self.work, plan=self.work.plan[:2])
        self.trl_pairs, seconds = tune(work, self.options.trl_pairs, say=self.say, deadline=self.deadline)
        self.keep(trl_pairs=self.trl_pairs, trl_tuning=seconds)

    def race(self, part: str = "race", work: Work | None = None) -> None:
        """TRL against ours as it comes."""
        work = work or self.work
        trl = Arm(f"TRL, {self.trl_pairs} pairs at a time", {"pairs": self.trl_pairs})
        ours = Arm("ours", self.one_pass())
        self.measure(part, [(trl, train_trl, work), (ours, train_ours, work)])
        if ours.error and not trl.error:
            self.measure(part, [(Arm("ours, two passes", self.two_passes()), train_ours, work)])
            return
        self.keep(**{f"{part}_ratio": ratio_of(ours, trl, self.options.warmup)})
        self.say(f"{part}: ratio {self.found[f'{part}_ratio']}")

    def grouped(self) -> None:
        """TRL with length grouping against ours in two passes."""
        plan = grouped_by_length(self.work.plan, self.work.data, self.options.warmup)
        trl = Arm(f"TRL, {self.trl_pairs} pairs at a time, grouped by length", {"pairs": self.trl_pairs})
        ours = Arm("ours, two passes", self.two_passes())
        self.measure("grouped", [(trl, train_trl, replace(self.work, plan=plan)), (ours, train_ours, self.work)])
        self.keep(grouped_ratio=ratio_of(ours, trl, self.options.warmup))

    def kernels(self, layouts: dict[str, dict[str, Any]] = LAYOUTS) -> None:
        """Every layout, one after the other."""
        for name, layout in layouts.items():
            if time.monotonic() < self.deadline:
                self.measure("kernels", [(Arm(name, self.one_pass() | layout), train_ours, self.work)])

    def flex(self) -> None:
        """The compiled kernel."""
        self.kernels(FLEX)
        self.equality(FLEX)

    def weights(self) -> None:
        """The race with bfloat16 weights."""
        self.race("weights", replace(self.work, dtype=torch.bfloat16, bf16=False))

    def peak(self) -> None:
        """How near the machine's peak, where launching kernels is not what takes the time."""
        bf16 = replace(self.work, dtype=torch.bfloat16, bf16=False)
        pairs = np.concatenate(self.work.plan)
        size = 2 * self.options.batch_pairs
        twice = [pairs[i : i + size] for i in range(0, len(pairs) - size + 1, size)]
        whole = {"microbatch_tokens": 4 * self.options.microbatch_tokens}
        compiled = whole | {"compile_layers": True}
        for name, settings, work in (
            ("compiled layers, bfloat16 weights", compiled, bf16),
            ("compiled layers, bfloat16 weights, twice the pairs", compiled, replace(bf16, plan=twice)),
            ("compiled layers", compiled, self.work),
            ("bfloat16 weights", whole, bf16),
        ):
            if time.monotonic() < self.deadline:
                self.measure("peak", [(Arm(name, settings), train_ours, work)])

    def equality(self, layouts: dict[str, dict[str, Any]] = LAYOUTS) -> None:
        """Loss, scores and gradients of one step by every layout, against padded float32."""
        pairs = self.work.plan[0][: self.options.equality_pairs]
        exact = replace(self.work, plan=[pairs], bf16=False)
        rounded = replace(self.work, plan=[pairs])
        budget = {"microbatch_tokens": self.options.small_microbatch_tokens}
        base = self.gradients(exact, budget | LAYOUTS["padded"]) or self.gradients(exact, budget)
        assert base is not None
        rows: dict[str, Any] = self.found.get("equality", {})
        names = {"padded, bfloat16": (rounded, budget | LAYOUTS["padded"])}
        names |= {f"{n}, float32": (exact, layout | budget) for n, layout in layouts.items() if "varlen" not in n}
        names |= {f"{n}, bfloat16": (rounded, layout | budget) for n, layout in layouts.items()}
        plain: tuple[Any, ...] | None = None
        for name, (work, settings) in sorted(names.items(), key=lambda item: "padded" not in item[0]):
            if time.monotonic() > self.deadline:
                break
            try:
                one = self.gradients(work, settings)
            except Exception as error:
                self.say(f"{name}: {type(error).__name__}: {str(error)[:200]}")
                rows[name] = {"error": str(error)[:500]}
                continue
            if one is None:
                continue
            rows[name] = differences(one, base)
            if name == "padded, bfloat16":
                plain = one
            elif plain is not None and name.endswith("bfloat16"):
                rows[name] |= {f"{k}_from_padded": v for k, v in differences(one, plain).items()}
            self.say(f"equality, {name}: " + ", ".join(f"{k} {v:.2e}" for k, v in rows[name].items()))
            del one
            self.clear()
        self.keep(equality=rows)

    def gradients(self, work: Work, settings: dict[str, Any]) -> tuple[float, torch.Tensor, torch.Tensor] | None:
        """Loss, scores by response, and all gradients end to end, of one step; ``None`` where there is no setting."""
        from benchmarks.shared.reward_arms import Unsupported, step_figures

        try:
            return step_figures(work, settings)
        except Unsupported as error:
            self.say(str(error))
            return None


def differences(found: tuple[float, torch.Tensor, torch.Tensor], base: tuple[Any, ...]) -> dict[str, float]:
    """Loss apart; scores apart relative to their deviation; gradients apart relative to their length."""
    loss, scores, gradient = found
    expected_loss, expected_scores, expected = base
    spread = float(expected_scores.std()) if len(expected_scores) > 1 else 1.0
    norm = float(expected.norm())
    return {
        "loss": abs(loss - expected_loss),
        "scores_max": float((scores - expected_scores).abs().max()) / spread,
        "scores_rms": float((scores - expected_scores).square().mean().sqrt()) / spread,
        "gradient": float((gradient - expected).norm()) / norm,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="preference file")
    parser.add_argument("--output", required=True, help="folder for reward_cuda.json")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--budget_seconds", type=float, default=240)
    parser.add_argument("--family", default="qwen3", choices=["qwen3", "llama"])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--batch_pairs", type=int, default=64)
    parser.add_argument("--max_pairs_per_prompt", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--trl_pairs", type=int, nargs="+", default=[8, 16, 4], help="micro-batches to try")
    parser.add_argument("--microbatch_tokens", type=int, default=32768, help="ours: a whole step")
    parser.add_argument("--small_microbatch_tokens", type=int, default=8192, help="ours: several micro-batches")
    parser.add_argument("--equality_pairs", type=int, default=16)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("reward_cuda: there is no CUDA GPU here; --device cpu with tiny sizes tries the script", file=sys.stderr)
        sys.exit(2)
    quiet()
    Path(options.output).mkdir(parents=True, exist_ok=True)
    # A call into a compiler or a kernel that hangs must not take the machine's time with it.
    alarm = threading.Timer(options.budget_seconds + 60, lambda: os._exit(3))
    alarm.daemon = True
    alarm.start()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options)
        bench.folder = Path(folder)
        bench.prepare()
        for name in options.parts:
            bench.part(name, getattr(bench, name))
        bench.say(f"figures in {bench.file}")
    sys.stdout.flush()
    os._exit(0)  # an arm that did not come back would keep the process alive


if __name__ == "__main__":
    main()
