"""One run of the scaling benchmark in a process of its own: start-up, memory, and steps in turns.

    python -m benchmarks.shared.scale_run JSON

``JSON`` holds the fields of :class:`Job`. Several arms take turns step by step within the process. The last line that
is printed is the result as JSON; of several processes (torch.distributed.run) the first one prints it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared.memory import memory_mib, reset_peak

SETTINGS: dict[str, Any] = {
    "objective": "odin",
    "learning_rate": 1e-4,
    "save_strategy": "no",
    "logging_strategy": "steps",
    "logging_steps": 10,
    "report_to": "none",
    "disable_tqdm": True,
}


@dataclass
class Arm:
    """One data set and how it is trained on.

    Attributes:
        name: of the arm.
        data: a preference file, or a folder of tokenised columns.
        settings: of ``odin-rm reward``, on top of :data:`SETTINGS`.
    """

    name: str
    data: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """What a process is to do.

    Attributes:
        backbone: model folder with its tokenizer.
        arms: each with its data.
        steps: of each arm.
        max_length: of texts.
        cache: folder of tokenised data.
        num_proc: processes that tokenise.
        step_memory: measure how far each step drives the peak of memory. The heap is then trimmed between steps, which
            costs time of the next one.
        seed: of everything random.
        launched: seconds since the epoch when the process was started.
    """

    backbone: str
    arms: list[Arm]
    steps: int
    max_length: int = 256
    cache: str = ""
    num_proc: int | None = None
    step_memory: bool = False
    seed: int = 0
    launched: float = 0.0


def resident() -> dict[str, float]:
    """Resident memory of this process in MiB: in all, its own, and of files (which the kernel can take back)."""
    try:
        return {key: memory_mib(key) for key in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}
    except (OSError, ValueError):
        return {}


class Clock:
    """Seconds since the start of the process, of the wall clock and of the processor (with processes that have ended),
    and memory, by name.

    Args:
        launched: when the process was started.
    """

    def __init__(self, launched: float) -> None:
        self.launched = launched or time.time()
        self.marks: dict[str, dict[str, float]] = {}

    def mark(self, name: str) -> None:
        """Note where the run is; a second note of one name is left out."""
        if name not in self.marks:
            now = {"seconds": time.time() - self.launched, "cpu_seconds": sum(os.times()[:4])}
            self.marks[name] = now | resident()


def load(arm: Arm, job: Job, tokenizer: Any) -> Any:
    """The tokenised preferences of an arm."""
    from odin_rm.data.cache import read_columns
    from odin_rm.data.load import load_preferences
    from odin_rm.data.tokenise import EncodingSettings

    if Path(arm.data).is_dir():
        data = read_columns(Path(arm.data))
        assert data is not None
        return data
    settings = EncodingSettings(max_length=job.max_length)
    return load_preferences(arm.data, tokenizer, settings, cache_dir=job.cache or None, num_proc=job.num_proc)


def train(arm: Arm, job: Job, clock: Clock, folder: Path, found: dict[str, Any], baton: Any = None) -> None:
    """Train an arm and write down its steps."""
    import torch
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback, set_seed

    from odin_rm.model.reward_model import RewardModel
    from odin_rm.reward.config import RewardConfig
    from odin_rm.reward.trainer import RewardTrainer

    set_seed(job.seed)
    given = (
        SETTINGS | {"use_cpu": not torch.cuda.is_available(), "max_steps": job.steps, "seed": job.seed} | arm.settings
    )
    config = RewardConfig(output_dir=str(folder / "run"), **given)
    tokenizer = AutoTokenizer.from_pretrained(job.backbone)
    model = RewardModel.from_backbone(job.backbone, heads=config.heads, normalise_heads=bool(config.normalise_heads))
    clock.mark("model")
    data = load(arm, job, tokenizer)
    clock.mark("data")
    steps: list[dict[str, float]] = []
    waited: list[float] = []
    running: list[tuple[float, float]] = []
    before: list[float | None] = []

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Note the step; the next one starts when it is this arm's turn again."""
            seconds, cpu_seconds = time.perf_counter() - running[-1][0], time.process_time() - running[-1][1]
            peak = resident().get("VmHWM")
            above = None if peak is None or before[-1] is None else peak - before[-1]
            steps.append({"seconds": seconds, "cpu_seconds": cpu_seconds, "wait": waited[-1], "peak_mib": above})
            if baton is not None:
                baton.hand_over()
            start()

    def start() -> None:
        before.append(reset_peak() if job.step_memory else None)
        running.append((time.perf_counter(), time.process_time()))

    trainer = RewardTrainer(model, config, data, tokenizer=tokenizer, callbacks=[Steps()])
    trainer.remove_callback(PrinterCallback)
    clock.mark("trainer")
    fetch, step = trainer.get_batch_samples, trainer.training_step
    sizes: list[Any] = []

    def fetched(*given: Any, **named: Any) -> Any:
        if not running:
            start()
        begun = time.perf_counter()
        batch = fetch(*given, **named)
        waited.append(time.perf_counter() - begun)
        return batch

    def stepped(model: Any, batch: Any, *given: Any, **named: Any) -> Any:
        clock.mark("first batch")
        sizes.append(batch.sizes)
        return step(model, batch, *given, **named)

    trainer.get_batch_samples, trainer.training_step = fetched, stepped
    trainer.train()
    clock.mark("end")
    for own, size in zip(steps, sizes, strict=False):
        own |= {name: getattr(size, name) for name in ("slot_tokens", "distinct_tokens", "computed_tokens")}
    found[arm.name] = {
        "steps": steps,
        "pairs": config.batch_pairs,
        "data": {"pairs": data.num_pairs, "responses": data.num_responses, "tokens": int(data.offsets[-1])},
        "layout": trainer.layout.layout,
    }


def run(job: Job) -> dict[str, Any]:
    """All arms, in turns where there are several.

    Raises:
        SystemExit: an arm failed.
    """
    clock = Clock(job.launched)
    import torch
    import transformers

    import odin_rm.reward.trainer

    assert odin_rm.reward.trainer
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    clock.mark("imports")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if len(job.arms) == 1:
            train(job.arms[0], job, clock, Path(folder), found)
        else:
            from benchmarks.shared.relay import Relay

            runs = {
                arm.name: partial(_in_turn, arm, job, clock, Path(folder) / str(i), found)
                for i, arm in enumerate(job.arms)
            }
            errors = Relay().run(runs)
            if errors:
                raise SystemExit("\n".join(f"{name}: {error}" for name, error in errors.items()))
    return {"marks": clock.marks, "arms": found, "torch_threads": torch.get_num_threads()}


def _in_turn(arm: Arm, job: Job, clock: Clock, folder: Path, found: dict[str, Any], baton: Any) -> None:
    train(arm, job, clock, folder, found, baton)


def main() -> None:
    given = json.loads(sys.argv[1])
    job = Job(**given | {"arms": [Arm(**arm) for arm in given["arms"]]})
    result = run(job)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
