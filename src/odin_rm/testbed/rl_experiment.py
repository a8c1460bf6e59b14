"""The testbed's policies: a start that imitates the writers, one run per reward and setting, the truth of each.

Every run is one that ``odin-rm rl --config`` could repeat. Runs go two at a time, each in a process with one thread:
so small a model gains nothing from a second core, and one thread gives the same figures on every number of cores. A
finished run leaves ``result.json``; a sweep that is started again goes on with what is missing.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from odin_rm.core import console
from odin_rm.core.errors import NumericalError
from odin_rm.core.files import RowWriter, atomic_write_json, json_safe
from odin_rm.core.reading import read_json
from odin_rm.data.prompts import encode_prompts, load_prompts
from odin_rm.model.policy import end_token_ids, load_policy
from odin_rm.rl.config import RLConfig
from odin_rm.rl.records import Rollout, SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.testbed.rl_figures import Measured, Policies, PolicyResult
from odin_rm.testbed.sweep import REWARD_MODELS, PolicyRun, SweepSettings
from odin_rm.testbed.world import World, WorldSettings
from odin_rm.workflows.policy.dpo import DPORunConfig, train_dpo
from odin_rm.workflows.policy.sft import SFTRunConfig, train_sft
from odin_rm.workflows.rl.run import train_policy

START = "sft"
FOLDER = "policies"
RESULT = "result.json"
RESPONSES = "responses.jsonl"
PROMPT_TOKENS = 64
ROLLOUT_TOKENS = 65536
SHOWN_SAMPLES = 3
MINUTE = 60.0
MINIBATCH = {"ppo": 32, "remax": 64}
"""b: PPO learns twice from an experience, the second time from samples that are stale."""
CRITIC_LEARNING_RATE = 1e-3
PAIRS = 64
"""Pairs per step of DPO."""

Say = Callable[[str], None]
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PolicyTask:
    """What a process needs to know to train one policy and measure it.

    Attributes:
        folder: of the experiment, with ``data/``, the reward models and ``policies/sft``.
        run: which policy.
        settings: the sweep's knobs.
        world: whose truth measures it.
    """

    folder: Path
    run: PolicyRun
    settings: SweepSettings
    world: WorldSettings

    @property
    def place(self) -> Path:
        """The run folder."""
        return self.folder / FOLDER / self.run.name

    @property
    def asked(self) -> dict[str, Any]:
        """All that decides the result, as JSON gives it back."""
        knobs = {name: getattr(self.settings, name) for name in ("sft_steps", "policy_responses", "max_new_tokens")}
        return json_safe({"run": asdict(self.run), **knobs, "world": asdict(self.world)})

    def finished(self) -> PolicyResult | None:
        """The result of an earlier call with the same settings, if there is one."""
        saved = _read_result(self.place, self.asked)
        return PolicyResult(self.run, Measured(**saved["measured"])) if saved else None


def policy_config(task: PolicyTask) -> RLConfig:
    """The arguments of ``odin-rm rl`` for one run; a user could type the same."""
    run, settings = task.run, task.settings
    trained = run.reward_model in REWARD_MODELS
    return RLConfig(
        algorithm=run.algorithm,
        model=str(task.folder / FOLDER / START / "policy"),
        reward=str(task.folder / run.reward_model / "model") if trained else run.reward_model,
        prompts=str(task.folder / "data" / "train.jsonl"),
        output_dir=str(task.place),
        overwrite_output_dir=True,
        max_steps=settings.policy_responses // MINIBATCH[run.algorithm],
        experience_size=run.experience_size,
        clip_epsilon=run.clip_epsilon,
        minibatch_size=MINIBATCH[run.algorithm],
        learning_rate=run.learning_rate,
        # One unit for all rewards, also for those that store no statistics: deviations over the start's responses.
        standardise="reference",
        reward_clip=run.reward_clip,
        length_penalty=run.length_penalty,
        kl_coef=run.kl_coef,
        max_prompt_tokens=PROMPT_TOKENS,
        max_new_tokens=settings.max_new_tokens,
        seed=run.seed,
        watch_steps=0,
        sample_steps=0,
        save_steps=0,
        logging_steps=10,
        use_cpu=True,
        critic_learning_rate=CRITIC_LEARNING_RATE if run.algorithm == "ppo" else None,
    )


def start_config(folder: Path, settings: SweepSettings, seed: int) -> SFTRunConfig:
    """The arguments of ``odin-rm sft`` for the policy that every run starts from."""
    return SFTRunConfig(
        model=str(folder / "initial_model"),
        dataset=str(folder / "data" / "sft.jsonl"),
        output_dir=str(folder / FOLDER / START),
        overwrite_output_dir=True,
        max_steps=settings.sft_steps,
        per_device_train_batch_size=64,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
        use_cpu=True,
    )


def preference_config(task: PolicyTask) -> DPORunConfig:
    """The arguments of ``odin-rm dpo`` for a run without a reward model: as many pairs as other runs see responses."""
    run, settings = task.run, task.settings
    return DPORunConfig(
        model=str(task.folder / FOLDER / START / "policy"),
        dataset=str(task.folder / "data" / "train.jsonl"),
        output_dir=str(task.place),
        overwrite_output_dir=True,
        beta=run.kl_coef,
        max_steps=settings.policy_responses // PAIRS,
        per_device_train_batch_size=PAIRS,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
        seed=run.seed,
        use_cpu=True,
    )


def train_policies(
    folder: Path,
    runs: Sequence[PolicyRun],
    settings: SweepSettings,
    world: World,
    seed: int,
    say: Say = print,
    pool: Executor | None = None,
) -> Policies:
    """The starting policy and every run, measured on held-out prompts; what an earlier call has made is taken over.

    Args:
        folder: of the experiment, with its data and its reward models.
        runs: which policies.
        settings: the sweep's knobs.
        world: whose truth measures them.
        seed: of the starting policy.
        say: takes one line for each finished run.
        pool: where runs are trained; by default ``settings.workers`` processes of one thread each.
    """
    start = train_start(folder, settings, world, seed)
    tasks = [PolicyTask(folder, run, settings, world.settings) for run in runs]
    results = {task: result for task in tasks if (result := task.finished()) is not None}
    missing = [task for task in tasks if task not in results]
    say(f"Training {len(missing)} of {len(tasks)} policies, {settings.workers} at a time, from: {start.words()}.")
    left_out: dict[str, str] = {}
    started = time.perf_counter()
    with ExitStack() as stack:
        if missing and pool is None:
            pool = stack.enter_context(worker_pool(min(settings.workers, len(missing))))
        for number, (task, future) in enumerate(as_done(pool, run_task, missing), start=1):
            try:
                results[task] = future.result()
                words = results[task].measured.words()
            except NumericalError as error:  # of one run: a start too poor for its reward, a loss that blew up
                left_out[task.run.name] = str(error)
                words = f"left out. {error}"
            left = (time.perf_counter() - started) / number * (len(missing) - number) / MINUTE
            place = len(tasks) - len(missing) + number
            say(f"    {place}/{len(tasks)}, about {left:.0f} min left. {task.run.name}: {words}")
    return Policies(start, [results[task] for task in tasks if task in results], world.optimum_tokens(), left_out)


def train_start(folder: Path, settings: SweepSettings, world: World, seed: int) -> Measured:
    """The SFT policy with its responses to the held-out prompts, by whose true quality the others win or lose."""
    place = folder / FOLDER / START
    asked = json_safe({"sft_steps": settings.sft_steps, "max_new_tokens": settings.max_new_tokens, "seed": seed})
    saved = _read_result(place, asked)
    if saved is None:
        train_sft(start_config(folder, settings, seed))
        measured, quality = measure_policy(place / "policy", folder, settings, world, seed, None)
        saved = {"asked": asked, "measured": asdict(measured), "quality": quality.tolist()}
        atomic_write_json(place / RESULT, saved)
    return Measured(**saved["measured"])


def run_task(task: PolicyTask) -> PolicyResult:
    """Trains one policy and measures it; leaves its run folder with ``result.json``."""
    if task.run.algorithm == "dpo":
        train_dpo(preference_config(task))
    else:
        train_policy(policy_config(task))
    start = read_json(task.folder / FOLDER / START / RESULT)
    measured, _ = measure_policy(
        task.place / "policy", task.folder, task.settings, World(task.world), task.run.seed, np.array(start["quality"])
    )
    # State to go on from is of no use to a finished run, and a sweep has many of them.
    shutil.rmtree(task.place / "checkpoints", ignore_errors=True)
    atomic_write_json(task.place / RESULT, {"asked": task.asked, "measured": asdict(measured)})
    return PolicyResult(task.run, measured)


def measure_policy(
    policy: Path,
    folder: Path,
    settings: SweepSettings,
    world: World,
    seed: int,
    start_quality: np.ndarray | None,
) -> tuple[Measured, np.ndarray]:
    """Samples a response to each held-out prompt and judges it by the truth.

    Args:
        policy: the policy's folder.
        folder: of the experiment.
        settings: the sweep's knobs.
        world: whose truth.
        seed: of sampling; torch's global random state is left as it was.
        start_quality: ``(R,)`` true quality of the starting policy's responses; ``None`` for that policy itself.

    Returns:
        The measurement, and the ``(R,)`` true quality of each response. The responses are left in the policy's run
        folder.
    """
    prompts = [str(prompt) for prompt in load_prompts(str(folder / "data" / "prompts.jsonl")).prompts]
    rollouts = _write(policy, prompts, settings.max_new_tokens, seed)
    quality = np.array([world.true_quality(p, r.text) for p, r in zip(prompts, rollouts, strict=True)])
    gap = quality - (quality if start_quality is None else start_quality)
    with RowWriter(policy.parent / RESPONSES) as writer:
        for prompt, rollout, truth in zip(prompts, rollouts, quality.tolist(), strict=True):
            row = {"prompt": prompt, "response": rollout.text, "response_tokens": rollout.response_tokens}
            writer.write({**row, "ended": rollout.ended, "true_quality": truth})
    measured = Measured(
        mean_tokens=float(np.mean([r.response_tokens for r in rollouts])),
        true_quality=float(quality.mean()),
        win_score=float(50 + 100 * np.sign(gap).mean()),
        ended_share=float(np.mean([r.ended for r in rollouts])),
        samples=[r.text for r in rollouts[:SHOWN_SAMPLES]],
    )
    return measured, quality


def _write(policy: Path, prompts: list[str], max_new_tokens: int, seed: int) -> list[Rollout]:
    model, tokenizer = load_policy(str(policy))
    model.eval()
    prompt_ids, _ = encode_prompts(tokenizer, prompts, max_prompt_tokens=PROMPT_TOKENS)
    engine = TransformersEngine(
        model, tokenizer, rollout_tokens=ROLLOUT_TOKENS, end_token_ids=end_token_ids(model, tokenizer)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return engine.generate(prompt_ids, SamplingSettings(max_new_tokens=max_new_tokens))


def forget_results(folder: Path) -> None:
    """Makes the next :func:`train_policies` start anew: its reward models may be others now."""
    for result in (folder / FOLDER).glob(f"*/{RESULT}"):
        result.unlink()


def _read_result(place: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call left, if it was asked for the same."""
    try:
        saved = read_json(place / RESULT)
    except (OSError, ValueError):
        return None
    return saved if saved["asked"] == asked else None


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each, which end with this one, however it ends; an error in the block ends them at once.

    Args:
        workers: how many; they are started when there is work.
    """
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a copy of a process whose thread pools have run can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # a mere SIGTERM would end the step in hand and let the next task begin
        raise


def as_done(
    pool: Executor | None, work: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Future[Result]]]:
    """Hands all tasks to a pool and yields each one as it is done; without tasks no pool is needed."""
    futures: dict[Future[Result], Task] = {pool.submit(work, task): task for task in tasks} if pool else {}
    for future in as_completed(futures):
        yield futures[future], future


def _begin_worker() -> None:
    """One thread, silence, an end with the parent: one that is killed cannot end its workers, which would train on."""
    torch.set_num_threads(1)
    console.set_level(console.QUIET)  # several at a time, and the parent says a line for each
    if not sys.warnoptions:  # as the command itself does
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(accelerate|transformers|peft)\b")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
