"""The paper's figures in kind on the testbed, by one command: reward models, every policy, fronts, conclusions, a page.

The folder is that of ``odin-rm quickstart``: ``data/``, ``initial_model/``, ``vanilla/`` and ``odin/`` (reward models,
trained once for all runs), ``policies/`` (a run folder each). Each part that is done leaves a file that says so, and
the same command goes on with what is missing. Parts run in worker processes of one thread, which give the same figures
whatever the number of cores.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor as Executor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import DataError, OutputError, RunInterrupted
from odin_rm.core.files import RowWriter, atomic_write_json, atomic_write_text, environment_record, json_safe
from odin_rm.core.lock import file_lock
from odin_rm.core.reading import read_json, read_yaml
from odin_rm.core.settings import at_least
from odin_rm.runs.output_folder import OutputFolder
from odin_rm.testbed.experiment import ARMS as REWARD_ARMS
from odin_rm.testbed.experiment import QuickstartConfig, audit_linear, train_arm, write_inputs
from odin_rm.testbed.reproduce_plan import FULL, MINIATURE, Plan
from odin_rm.testbed.reproduce_points import Point, make_point, read_answers
from odin_rm.testbed.reproduce_story import Study, write_study
from odin_rm.testbed.rl_experiment import (
    FOLDER,
    RESULT,
    START,
    as_done,
    forget_results,
    train_policies,
    train_start,
    worker_pool,
)
from odin_rm.testbed.sweep import PolicyRun
from odin_rm.testbed.world_story import as_json, from_json
from odin_rm.testbed.worlds import WORLDS

DATA_READY, MODEL_READY, SCORED = "data/facts.json", "audit.json", "scored.jsonl"
LOCK = ".reproduce.lock"
OTHER_WORLDS = "worlds"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How large a preset is.

    Attributes:
        plan: which policies.
        settings: of ``odin-rm quickstart``, where they differ from its defaults.
        samples: resamples behind each interval.
    """

    plan: Plan
    settings: dict[str, Any] = field(default_factory=dict)
    samples: int = 2000


PRESETS = {
    "testbed": Size(FULL),
    "miniature": Size(
        MINIATURE,
        {
            "pairs": 200, "held_out_pairs": 60, "epochs": 1.0, "hidden": 32, "layers": 1, "bootstrap_samples": 50,
            "sft_steps": 20, "policy_responses": 64, "max_new_tokens": 24,
        },
        samples=50,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ModelTask:
    """What a process needs to know to make a reward model, or the starting policy.

    Attributes:
        config: settings and folder.
        name: ``vanilla``, ``odin`` or ``sft``.
    """

    config: QuickstartConfig
    name: str

    @property
    def done(self) -> bool:
        """Whether an earlier call has made it."""
        folder = Path(self.config.output)
        last = f"{FOLDER}/{START}/{RESULT}" if self.name == START else f"{self.name}/{SCORED}"
        return (folder / last).is_file()


def run_reproduce(
    preset: str, output: str, *, seed: int = 0, workers: int = 2, overwrite: bool = False, say: Say = print
) -> dict[str, Any]:
    """Trains what is missing and draws everything.

    Args:
        preset: one of :data:`PRESETS`.
        output: the folder.
        seed: decides data, weights and sampling.
        workers: processes, of one thread each.
        overwrite: replace another run there.
        say: takes one line for each part that is done.

    Returns:
        The content of ``summary.json``.

    Raises:
        OutputError: the folder holds something else, or a study with other settings.
        RunInterrupted: stopped by a signal; what is done is kept.
    """
    at_least("seed", seed, 0)
    at_least("workers", workers, 1)
    size = PRESETS[preset]
    config = QuickstartConfig(
        output=output, seed=seed, sweep="none", workers=workers, overwrite_output_dir=True, **size.settings
    )
    runs = size.plan.runs(seed)
    folder = Path(output)
    claim(folder, preset, config, runs, overwrite=overwrite)
    with file_lock(folder / LOCK) as mine:
        if not mine:
            raise OutputError("is being worked on by another process", where=output, fix="Wait for it, or end it.")
        with _kept(folder, runs):
            started = time.perf_counter()
            with worker_pool(workers) as pool:
                prepare(config, pool, say)
                audit_worlds(config, pool, say)
                left_out = train_policies(folder, runs, config.policies, config.world, config.seed, say, pool).left_out
            say("Judging the responses and drawing the figures.")
            study = gather(config, size, runs, left_out)
            seconds = worked_before(folder) + time.perf_counter() - started
            return write_study(study, folder, preset, seconds)


def claim(folder: Path, preset: str, config: QuickstartConfig, runs: Sequence[PolicyRun], *, overwrite: bool) -> None:
    """Takes a new folder, or goes on in one that the same settings have begun.

    Raises:
        OutputError: it holds something else and may not be replaced.
    """
    where = ("output", "workers", "overwrite_output_dir")
    settings = {name: value for name, value in asdict(config).items() if name not in where}
    asked = {"preset": preset, **json_safe(settings), "policies": [run.name for run in runs]}
    if _begun(folder) == asked and not overwrite:
        return
    if _begun(folder) is not None and not overwrite:
        fix = "Give its settings again to go on, choose another folder, or pass --overwrite true."
        raise OutputError("holds a study with other settings", where=str(folder), fix=fix)
    with OutputFolder(folder, "reproduce", overwrite=overwrite) as output:
        output.claim()
        output.complete()
    forget_results(folder)
    worlds = (folder / OTHER_WORLDS).glob("*.json")
    for stale in [folder / DATA_READY, *(folder / name / SCORED for name in REWARD_ARMS), *worlds]:
        stale.unlink(missing_ok=True)
    atomic_write_json(folder / "environment.json", environment_record())
    atomic_write_text(folder / "config.yaml", yaml.safe_dump(asked, sort_keys=False))


def _begun(folder: Path) -> dict[str, Any] | None:
    """The settings of the study in a folder, if there is one."""
    try:
        asked = read_yaml(folder / "config.yaml")
    except DataError:
        return None
    return asked if isinstance(asked, dict) and "policies" in asked else None


@contextlib.contextmanager
def _kept(folder: Path, runs: Sequence[PolicyRun]) -> Iterator[None]:
    """A stop by a signal says what is kept, and leaves the time that was spent."""
    started = time.perf_counter()
    try:
        yield
    except (KeyboardInterrupt, RunInterrupted) as stop:
        done = sum((folder / FOLDER / run.name / RESULT).is_file() for run in runs)
        what = f"{done} of {len(runs)} policies are done and kept"
        raise RunInterrupted(what, where=str(folder), fix="Run the same command again to go on.") from stop
    finally:
        spent = worked_before(folder) + time.perf_counter() - started
        atomic_write_json(folder / "seconds.json", {"seconds": round(spent, 2)})


def worked_before(folder: Path) -> float:
    """Seconds of earlier calls of the same study, as far as they could note them."""
    try:
        return float(read_json(folder / "seconds.json")["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0


def prepare(config: QuickstartConfig, pool: Executor, say: Say) -> None:
    """Data, first weights, both reward models and the starting policy; what is there is not made again."""
    folder = Path(config.output)
    if not (folder / DATA_READY).is_file():
        say(f"Writing {config.pairs:,} training pairs and {config.held_out_pairs:,} held-out pairs.")
        write_inputs(config, folder)  # the facts come last, and say that all is there
    tasks = [task for name in (*REWARD_ARMS, START) if not (task := ModelTask(config, name)).done]
    for _, future in as_done(pool, make_model, tasks):
        say(future.result())


def make_model(task: ModelTask) -> str:
    """Trains a reward model and audits it, or trains the starting policy; returns a line about it."""
    config, folder = task.config, Path(task.config.output)
    if task.name == START:
        measured = train_start(folder, config.policies, config.world, config.seed)
        return f"SFT policy: {measured.words()}"
    # metrics.jsonl has what the trainer prints; two processes at a time would print it in a jumble.
    with contextlib.redirect_stdout(io.StringIO()):
        arm = train_arm(config, folder, task.name)
    names = ("prompt", "quality", "length_reward", "response_tokens")
    columns = {name: getattr(arm.scored, name) for name in names}
    with RowWriter(arm.run / SCORED) as writer:
        for place in range(len(arm.scored.quality)):
            writer.write({name: None if values is None else values[place].item() for name, values in columns.items()})
    return f"Reward model {task.name}: Pearson with length {arm.audit['pearson'].value:.3f}"


@dataclass(frozen=True)
class WorldTask:
    """What a process needs to know to train linear reward models in a named world."""

    config: QuickstartConfig
    world: str

    @property
    def result(self) -> Path:
        """Their figures, once they are there."""
        return Path(self.config.output) / OTHER_WORLDS / f"{self.world}.json"


def audit_worlds(config: QuickstartConfig, pool: Executor, say: Say) -> None:
    """Linear reward models in every named world; what is there is not made again."""
    tasks = [task for world in WORLDS if not (task := WorldTask(config, world)).result.is_file()]
    if tasks:
        say(f"Training linear reward models in {len(tasks)} worlds.")
    for _, future in as_done(pool, make_world, tasks):
        future.result()


def make_world(task: WorldTask) -> None:
    """Trains and audits in one world; leaves the figures."""
    task.result.parent.mkdir(exist_ok=True)
    atomic_write_json(task.result, as_json(audit_linear(task.config, task.world)))


def gather(config: QuickstartConfig, size: Size, runs: Sequence[PolicyRun], left_out: dict[str, str]) -> Study:
    """All that the page tells, read from the folder."""
    folder = Path(config.output)
    start = read_answers(folder / FOLDER / START)

    def point(run: PolicyRun | None) -> Point:
        name = run.name if run else START
        answers = read_answers(folder / FOLDER / name)
        return make_point(run, name, answers, start, config.annotator, samples=size.samples, seed=config.seed)

    return Study(
        start=point(None),
        points=[point(run) for run in runs if run.name not in left_out],
        left_out=left_out,
        audits={name: read_json(folder / name / MODEL_READY) for name in REWARD_ARMS},
        scored={name: folder / name / SCORED for name in REWARD_ARMS},
        facts=read_json(folder / DATA_READY),
        plan=size.plan,
        seed=config.seed,
        optimum_tokens=config.world.optimum_tokens(),
        samples=size.samples,
        settings=json_safe(asdict(config)),
        worlds={world: from_json(read_json(WorldTask(config, world).result)) for world in WORLDS},
    )
