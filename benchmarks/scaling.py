"""Reward training at scale: pairs/s and memory by size of the data, processes, length of prompts, responses.

    make bench-scaling ARGS="--output FILE.json --figure FILE.png"
    python -m benchmarks.scaling --parts million --output FILE.json

A tiny random Llama trains the ODIN objective on generated preferences, a few steps each. The parts:

* ``pairs``: 1,000 to 1,000,000 pairs, a fresh process each: pairs/s, resident memory, start-up;
* ``processes``: one and two processes (data parallel over gloo) on one batch;
* ``prompts``: prompts of 64 to 4,096 tokens, two responses each, with prompt trees and padded, in turns;
* ``responses``: 2 to 16 responses per prompt, all pairs of a ranking, with prompt trees and padded, in turns;
* ``loader``: how long a step waits for its batch, with 0 (a thread) and with 2 loader workers: while training on the
  CPU, and in front of a stand-in for an accelerator that takes ``--device_ms`` per step and no time of the CPU;
* ``million``: a file of a million pairs on disk: reading and tokenising it; then, in a fresh process, the time from the
  start of the program to the first batch from the cache, and memory; then, in turns, fresh processes on it and on a
  file of 10,000 pairs.

Times are given as wall clock and as CPU time of the process: on a machine that is not idle the latter is the one to
look at. ``--output`` is added to, so parts can run one by one; ``--figure`` draws all of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.scale_data import write_pairs
from benchmarks.shared.scale_run import Arm, Job
from benchmarks.shared.scale_summary import LAYOUTS, draw, race, report, span, summary

PARTS = ("pairs", "processes", "prompts", "responses", "loader", "million")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
PROMPTS = (64, 256, 1024, 4096)
RESPONSES = (2, 4, 8, 16)
ANSWER = (32, 96)
MIB = 2**20
# glibc adapts its thresholds to the largest block that was freed: without this, the larger the arrays that data were
# loaded through, the faster the steps (by 7 % between 10,000 and a million pairs).
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Bench:
    """The parts of the run.

    Args:
        options: of the command.
        folder: scratch folder.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.steps = options.warmup + options.steps
        self.backbone = ""

    def prepare(self) -> None:
        """A tokenizer of the made-up words, and a random model."""
        import transformers

        from benchmarks.shared.reward_setup import make_tokenizer, save_models
        from odin_rm.core.files import read_rows

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        sample = self.folder / "sample.jsonl"
        write_pairs(sample, 4_000, self.options.seed)
        rows = [row for _, row in itertools.islice(read_rows(sample), 2_000)]
        tokenizer = make_tokenizer(rows, self.options.vocabulary)
        positions = max(self.options.prompts) + ANSWER[1]
        vocabulary = self.options.vocabulary
        save_models(self.folder, tokenizer, self.options.layers, self.options.hidden, positions, vocabulary=vocabulary)
        self.backbone = str(self.folder / "backbone")

    def columns(self, name: str, prompts: int, responses: int, **shape: Any) -> str:
        """A folder of generated tokenised columns."""
        from benchmarks.shared.reward_data import generated
        from odin_rm.data.cache import write_columns

        folder = self.folder / name
        folder.mkdir()
        data = generated(prompts, responses, vocabulary=self.options.vocabulary, seed=self.options.seed, **shape)
        write_columns(folder, data)
        return str(folder)

    def arm(self, name: str, data: str, **settings: Any) -> Arm:
        """An arm with the settings that all have."""
        shared = {"batch_pairs": self.options.batch_pairs, "microbatch_tokens": self.options.microbatch_tokens}
        return Arm(name, data, shared | settings)

    def run(
        self, arms: list[Arm], *, processes: int = 1, steps: int = 0, variables: Any = (), **more: Any
    ) -> dict[str, Any]:
        """Arms in a process of their own (or in several), with further environment variables."""
        job = Job(self.backbone, arms, steps or self.steps, seed=self.options.seed, **more, launched=time.time())
        module = ["-m", "benchmarks.shared.scale_run", json.dumps(asdict(job))]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            module = [*launcher, *module]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.options.threads), "TOKENIZERS_PARALLELISM": "false"}
        environment |= dict(variables)
        done = subprocess.run([sys.executable, *module], stdout=subprocess.PIPE, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"a run ended with {done.returncode}: {', '.join(arm.name for arm in arms)}")
        found = json.loads(done.stdout.splitlines()[-1])
        for own in found["arms"].values():
            own["summary"] = summary(own, self.options.warmup)
        return found

    def pairs(self) -> dict[str, Any]:
        """A fresh process for each size of the data."""
        found = {}
        for size in self.options.sizes:
            data = self.columns(f"pairs-{size}", size // 4, 4, **SHORT)
            found[str(size)] = self.run([self.arm("run", data)])
            shutil.rmtree(data)
        return found

    def processes(self) -> dict[str, Any]:
        """The same steps in one process and in two; large ones, for a process has work of its own in each."""
        data = self.columns("processes", 2_500, 4, **SHORT)
        arm = self.arm("run", data, batch_pairs=8 * self.options.batch_pairs)
        return {str(n): self.run([arm], processes=n) for n in (1, 2)}

    def prompts(self) -> dict[str, Any]:
        """Prompts of several lengths; about as many tokens in each step; a group fits a micro-batch."""
        arms = []
        room = max(self.options.microbatch_tokens, max(self.options.prompts) + 2 * ANSWER[1])
        for length in self.options.prompts:
            pairs = max(2, self.options.step_tokens // (length + 2 * ANSWER[1]))
            count = pairs * self.steps
            data = self.columns(f"prompts-{length}", count, 2, prompt_tokens=length, response_tokens=ANSWER)
            own = {"batch_pairs": pairs, "microbatch_tokens": room}
            arms += [self.arm(f"{length} {x}", data, batch_layout=x, **own) for x in LAYOUTS]
        return self.run(arms, step_memory=True)

    def responses(self) -> dict[str, Any]:
        """Ranked lists of several lengths, all pairs of each."""
        arms = []
        for responses in self.options.responses:
            each = responses * (responses - 1) // 2
            count = max(self.options.batch_pairs, -(-self.options.batch_pairs * self.steps // each))
            data = self.columns(f"responses-{responses}", count, responses, prompt_tokens=256, response_tokens=ANSWER)
            arms += [self.arm(f"{responses} {x}", data, batch_layout=x) for x in LAYOUTS]
        return self.run(arms, step_memory=True)

    def loader(self) -> dict[str, Any]:
        """Waiting for batches of 64 pairs with prompts of 256 tokens and responses of 32 to 480."""
        data = self.columns("loader", 2_000, 4, prompt_tokens=256, response_tokens=(32, 480), pairs_per_prompt=4)
        arms = [self.arm(f"{n} workers", data, batch_pairs=64, dataloader_num_workers=n) for n in (0, 2)]
        found = self.run(arms, steps=self.options.warmup + 3)
        return found | {"stand_in": stand_in(data, self.options)}

    def million(self) -> dict[str, Any]:
        """The file of a million pairs, and the one of 10,000."""
        large, small = self.folder / "large.jsonl", self.folder / "small.jsonl"
        begun = time.process_time()
        write_pairs(large, self.options.million_pairs, self.options.seed)
        write_pairs(small, 10_000, self.options.seed + 1)
        say(f"million: {large.stat().st_size / MIB:.0f} MiB written in {time.process_time() - begun:.0f} CPU-s")
        cache = str(self.folder / "cache")
        both = [self.arm("10k", str(small)), self.arm("million", str(large))]
        first = self.run([both[1]], steps=1, cache=cache, num_proc=self.options.num_proc)
        say(f"million: first load {span(first, 'model', 'data')}")
        again = self.run([both[1]], cache=cache)
        say(f"million: first batch from the cache {again['marks']['first batch']}")
        # Fresh processes in turns: two arms within one process differ by some per cent even on the same data.
        rounds: dict[str, list[dict[str, Any]]] = {"10k": [], "million": []}
        for number in range(self.options.rounds):
            for arm in both if number % 2 else both[::-1]:
                steps = self.options.warmup + self.options.race_steps
                found = self.run([arm], cache=cache, steps=steps, variables=ALLOCATOR)
                rounds[arm.name].append(found["arms"][arm.name])
        ratio = race(rounds["million"], rounds["10k"], self.options.warmup)
        megabytes = large.stat().st_size / MIB
        return {"file_mib": megabytes, "first": first, "cached": again, "rounds": rounds, "ratio": ratio}


SHORT: dict[str, Any] = {"prompt_tokens": 28, "response_tokens": (20, 60), "pairs_per_prompt": 4}
"""About the lengths of the generated texts."""


def stand_in(data: str, options: argparse.Namespace, steps: int = 12) -> dict[str, dict[str, float]]:
    """Milliseconds that an accelerator waits for a batch when a step takes it so long, by workers."""
    from odin_rm.data.cache import read_columns
    from odin_rm.reward.loader import PlannedBatches, make_loader

    columns = read_columns(Path(data))
    assert columns is not None
    batches = PlannedBatches(
        columns,
        batch_pairs=64,
        max_pairs_per_prompt=8,
        microbatch_tokens=options.microbatch_tokens,
        pad_token_id=0,
        seed=options.seed,
        layout="tree",
    )
    begun = time.process_time()
    for i in range(steps):
        batches[i]
    found: dict[str, dict[str, float]] = {"build_cpu_ms": {"step": 1000 * (time.process_time() - begun) / steps}}
    for device_ms in options.device_ms:
        found[str(device_ms)] = {}
        for name, workers in (("in the step", 0), ("thread", 0), ("2 workers", 2)):
            more = {"prefetch_factor": 2} if workers else {}
            loader = make_loader(batches, num_workers=workers, **more)
            source = (batches[i] for i in itertools.count()) if name == "in the step" else iter(loader)
            next(source)
            waits = []
            for _ in range(steps):
                time.sleep(device_ms / 1000)
                start = time.perf_counter()
                next(source)
                waits.append(time.perf_counter() - start)
            found[str(device_ms)][name] = 1000 * float(np.median(waits))
            del source, loader
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--output", type=Path, help="JSON file; parts that it holds already stay")
    parser.add_argument("--figure", type=Path, help="PNG of all parts in --output")
    parser.add_argument("--scratch", type=Path, help="folder for the generated data (default: a temporary one)")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batch_pairs", type=int, default=32)
    parser.add_argument("--step_tokens", type=int, default=8192, help="distinct tokens of a step of the part prompts")
    parser.add_argument("--microbatch_tokens", type=int, default=4096)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--race_steps", type=int, default=40, help="of each process in turns of the part million")
    parser.add_argument("--rounds", type=int, default=4, help="of the two processes in turns")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="pairs of the part pairs")
    parser.add_argument("--prompts", type=int, nargs="+", default=list(PROMPTS))
    parser.add_argument("--responses", type=int, nargs="+", default=list(RESPONSES))
    parser.add_argument("--million_pairs", type=int, default=1_000_000)
    parser.add_argument("--num_proc", type=int, help="processes that tokenise the million pairs")
    parser.add_argument("--device_ms", type=int, nargs="+", default=[50, 200], help="of the part loader")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each process")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    from odin_rm.core.files import atomic_write_json, environment_record, json_safe

    options = parse()
    found: dict[str, Any] = {}
    if options.output and options.output.exists():
        found = json.loads(options.output.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        bench = Bench(options, Path(folder))
        bench.prepare()
        for part in options.parts:
            say(f"{part}:")
            settings = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
            found[part] = json_safe(getattr(bench, part)())
            found.setdefault("settings", {})[part] = settings
            found["environment"] = environment_record()
            if options.output:
                atomic_write_json(options.output, found)
            print(report({part: found[part]}), flush=True)
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
