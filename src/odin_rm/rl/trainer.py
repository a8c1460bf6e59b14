"""The loop of PPO and ReMax: collect, learn, log, watch, save. One pass of ``while`` in :meth:`RLTrainer.train` is one
optimiser step; everything that decides the next one is in :class:`RunState`, the buffer and the random states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import OdinError, RunInterrupted
from odin_rm.core.files import append_jsonl
from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.core.signals import StopFlag
from odin_rm.objectives.kl import adapt_kl_coef
from odin_rm.rl.checkpoint import (
    RunState,
    delete_old_checkpoints,
    load_checkpoint,
    load_weights,
    random_states,
    save_checkpoint,
    set_random_states,
)
from odin_rm.rl.collect import Collector
from odin_rm.rl.config import RLConfig
from odin_rm.rl.experience import Experience
from odin_rm.rl.learn import Learner
from odin_rm.rl.ranks import Ranks
from odin_rm.rl.request import SAMPLES, training_row
from odin_rm.rl.shaping import reference_statistics
from odin_rm.rl.watch import WATCH_FILE, Alarm, HackingWatch, WatchRecord, look_row, metrics_row
from odin_rm.runs.checkpoints import BEST
from odin_rm.runs.run_folder import keep_lines
from odin_rm.runs.talk import RunTalk

Look = Callable[[int], tuple[WatchRecord, list[dict[str, Any]]]]
LOGS = ("metrics.jsonl", "samples.jsonl", WATCH_FILE)
NOT_AVERAGED = ("step", "samples_seen", "learning_rate", "kl_coef")


@dataclass
class RLTrainer:
    """A run of PPO or ReMax, ready to go; :func:`odin_rm.workflows.rl.run.train_policy` puts it together.

    Attributes:
        look: writes and judges the watch's prompts with the policy as it is; ``None`` without a watch.
        say: takes one line for each alarm.
    """

    config: RLConfig
    run: Path
    accelerator: Any
    ranks: Ranks
    collector: Collector
    learner: Learner
    watch: HackingWatch
    look: Look | None
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.state = RunState(kl_coef=self.config.kl_coef, closed=0, written=dict.fromkeys(LOGS, 0))
        self.buffer: list[Experience] = []

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def train(self, checkpoint: Path | None = None) -> str | None:
        """Run to the last step.

        Args:
            checkpoint: where to go on from.

        Returns:
            The kind of alarm that ended the run early, or ``None``.

        Raises:
            RunInterrupted: a signal came; a checkpoint is saved.
            OdinError: a step failed; the checkpoint is of the state before it.
        """
        if checkpoint is not None:
            self._resume(checkpoint)
        talk = RunTalk(self.config.max_steps, self.state.step)
        try:
            stopped_by = self._loop(talk)
        except BaseException:
            talk.close(finished=False)
            raise
        talk.close(finished=True)
        return stopped_by

    def _loop(self, talk: RunTalk) -> str | None:
        with StopFlag() as stop:
            self._begin()
            while True:
                if self.state.closed != self.state.step:
                    alarms = self._close_step(talk)
                    if alarms and self.config.watch_action != "warn":
                        return self._give_up(alarms[0])
                    self.state.closed = self.state.step
                    signal_name = self.ranks.some(stop.name)
                    if signal_name is not None:
                        self.save()
                        raise self._interrupted(signal_name)
                    if self._due(self.config.save_steps) and self.state.step < self.config.max_steps:
                        self.save()
                if self.state.step >= self.config.max_steps:
                    break
                self._guarded(self._step)
        self.save()
        return None

    def _close_step(self, talk: RunTalk) -> list[Alarm]:
        """Do what is due after a step: the log, the look, and the writing of both. What fails stays due.

        Returns:
            The alarms that begin with the look at this step.
        """
        if record := self._log():
            talk.log(record)
        self._guarded(self._write)
        talk.step(self.state.step)
        return self._guarded(self._look_at_step) if self._due(self.config.watch_steps) else []

    def _step(self) -> None:
        if not self.state.plan:
            self._collect()
        minibatch = [self.buffer[position] for position in self.state.plan[0]]
        policy_learns = self.state.step >= self.config.critic_warmup_steps
        learning_rate = self.learner.scheduler.get_last_lr()[0] if policy_learns else 0.0
        began = time.perf_counter()
        parts = self.learner.step(minibatch, self.state.kl_coef, policy_learns=policy_learns)
        self.state.plan.pop(0)
        self.state.step += 1
        self._account(minibatch, parts | {"learning_rate": learning_rate, "seconds_learn": time.perf_counter() - began})

    def _collect(self) -> None:
        """Fill the buffer with ``N`` responses of the current policy, and plan the minibatches."""
        config, state = self.config, self.state
        n = config.responses_per_collection
        prompts = n // config.responses_per_prompt
        positions = prompt_positions(len(self.collector.prompt_ids), config.seed, state.prompts_used, prompts)
        self.collector.engine.update_weights(self.learner.plain_model.policy)
        collected = self.collector.collect(list(self.ranks.share(positions)), state.kl_coef, state.step)
        # Nothing of the state changes before this line, so a collection that fails can be tried again.
        self.buffer = collected.experiences
        state.collected = collected.log | {f"seconds_{name}": value for name, value in collected.seconds.items()}
        state.plan = minibatch_plan(
            len(self.buffer),
            config.minibatch_size // self.ranks.size,
            config.optimiser_steps_per_collection // (n // config.minibatch_size),
            [config.seed, state.prompts_used, self.ranks.rank],
        )
        state.prompts_used += prompts
        if config.kl_target is not None:
            state.kl_coef = adapt_kl_coef(
                state.kl_coef, self._mean_kl(), target=config.kl_target, horizon=config.kl_horizon, responses=n
            )

    def _begin(self) -> None:
        """Before the first step: measure the reference policy where that is asked for, and take the first look."""
        if self.config.standardise == "reference":
            if self.state.shaping is None:
                mean, std = reference_statistics(self._reference_quality())
                self.state.shaping = {"mean": mean, "std": std}
            self.collector.shaping = replace(self.collector.shaping, **dict[str, Any](self.state.shaping))
        if self.look is not None and not self.watch.records:
            self._look_at_step()

    def _reference_quality(self) -> np.ndarray:
        count = self.config.standardise_responses
        positions = prompt_positions(len(self.collector.prompt_ids), self.config.seed, 0, count)
        rollouts = self.collector.engine.generate(
            [self.collector.prompt_ids[p] for p in positions], self.collector.sampling
        )
        quality, _ = self.collector.judge(positions, rollouts, 0)
        return quality[np.isfinite(quality)]

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Work after whose failure there is a checkpoint to go on from, of the last step that was done.

        All ranks fail together: what only one of them does is in a block of :func:`together`.
        """
        before, step = random_states(self.collector.device), self.state.step
        try:
            return work()
        except OdinError as error:
            if self.state.step == step:  # else only the log of the step failed
                set_random_states(before, self.collector.device)
            self.save()
            note = f"{error.fix} The state before step {self.state.step + 1} is saved in {self.run / 'checkpoints'}."
            error.fix = note.strip()
            error.raised_on_every_rank = True
            raise

    def _interrupted(self, name: str) -> RunInterrupted:
        interrupted = RunInterrupted(
            f"stopped by {name} after step {self.state.step}, the state is saved",
            where=str(self.run),
            fix=f"Go on with --resume_from_checkpoint true --output {self.run}",
        )
        interrupted.raised_on_every_rank = True
        return interrupted

    # ---- the log -----------------------------------------------------------------------------------------------------

    def _account(self, minibatch: list[Experience], parts: dict[str, float]) -> None:
        usable = [e for e in minibatch if e.usable]
        sums = {
            "responses": float(len(usable)),
            "mean_response_tokens": float(sum(e.rollout.response_tokens for e in usable)),
            "mean_quality_reward": sum(e.quality for e in usable),
            "mean_length_reward": sum(e.length_for_log for e in usable),
            "kl_to_reference": sum(float((e.old_log_probs - e.reference_log_probs).sum()) for e in usable),
            "ended_share": float(sum(e.rollout.ended for e in usable)),
        }
        sums = self.ranks.sums(sums)
        responses = sums.pop("responses")
        means = {name: value / max(1.0, responses) for name, value in sums.items()}
        self.state.samples += len(minibatch) * self.ranks.size
        row: dict[str, float] = {"step": self.state.step, "samples_seen": self.state.samples}
        row |= means | {"kl_coef": self.state.kl_coef} | parts
        row |= self.state.collected or {}
        self.state.collected = None
        self.state.open_rows.append(row)
        if self._due(self.config.sample_steps):
            self._append("samples.jsonl", [self._sample(experience) for experience in minibatch[:SAMPLES]])

    def _log(self) -> dict[str, float]:
        """The means since the last log, where one is due and was not made before."""
        rows = self.state.open_rows
        if not rows or not (self._due(self.config.logging_steps) or self.state.step >= self.config.max_steps):
            return {}
        names = {name: None for row in rows for name in row}
        last = rows[-1]
        record = {n: last[n] if n in NOT_AVERAGED else _mean(n, rows) for n in names}
        self.state.open_rows = []
        self._append("metrics.jsonl", [record])
        numbers = {name: value for name, value in record.items() if value == value and name != "step"}
        self.accelerator.log(numbers, step=self.state.step)
        return record

    def _append(self, file: str, rows: Sequence[dict[str, Any]]) -> None:
        """Put rows down to be written. A checkpoint carries them until they are, so that no log lacks a step."""
        if self._main():
            self.state.unwritten += [(file, row) for row in rows]

    def _write(self) -> None:
        with fail_on_all_ranks():
            while self.state.unwritten:
                file, row = self.state.unwritten[0]
                append_jsonl(self.run / file, row)
                self.state.unwritten.pop(0)
                self.state.written[file] = self.state.written.get(file, 0) + 1

    def _sample(self, experience: Experience) -> dict[str, Any]:
        return training_row(
            self.state.step,
            self.collector.prompts.prompts[experience.prompt],
            experience.rollout,
            quality=experience.quality,
            length_reward=experience.length_for_log,
            sequence_reward=experience.sequence_reward,
        )

    # ---- the watch ---------------------------------------------------------------------------------------------------

    def _look_at_step(self) -> list[Alarm]:
        """Look at the policy unless this step has been looked at; the alarms that begin with it."""
        if not self.watch.records or self.watch.records[-1].step != self.state.step:
            self._watch()
        self._write()
        alarms = self.watch.newest_alarms()
        for alarm in alarms:
            if self._main():
                self.say(alarm.message)
        if self.config.watch_action == "rollback" and self.watch.best_step == self.state.step:
            self._save_to(self.run / "checkpoints" / BEST)
        return alarms

    def _watch(self) -> None:
        assert self.look is not None
        self.collector.engine.update_weights(self.learner.plain_model.policy)
        record, samples = self.ranks.first(self.look(self.state.step))
        alarms = self.watch.observe(record)
        self.state.watch = self.watch.state()
        self._append(WATCH_FILE, [look_row(record, alarms)])
        self._append("metrics.jsonl", [metrics_row(record, alarms)])
        self._append("samples.jsonl", samples)

    def _give_up(self, alarm: Alarm) -> str:
        """End the run at an alarm, with the policy as it is or with the best one that the watch has seen.

        The checkpoint leaves the step open: a run that is killed from here on comes to the same end when it goes on.
        """
        self.save()
        best = self.run / "checkpoints" / BEST
        back_to = None
        if self.config.watch_action == "rollback" and best.is_dir():
            load_weights(best, self.learner)
            back_to = self.watch.best_step
        row = {"step": self.state.step, "stopped_by": alarm.kind, "rolled_back_to": back_to}
        self._append("metrics.jsonl", [row])
        self._write()
        return alarm.kind

    # ---- state -------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of the state as it is, and delete the oldest ones."""
        folder = self.run / "checkpoints"
        self._save_to(folder / f"checkpoint-{self.state.step}")
        if self._main():
            delete_old_checkpoints(folder, self.config.save_total_limit)

    def _save_to(self, folder: Path) -> None:
        settings = self.config.trajectory()
        random_state = random_states(self.collector.device)
        save_checkpoint(folder, self.learner, self.ranks, self.state, self.buffer, random_state, settings)

    def _resume(self, checkpoint: Path) -> None:
        with fail_on_all_ranks():
            self.state, self.buffer = load_checkpoint(
                checkpoint, self.learner, self.ranks, self.config.trajectory(), self.collector.device
            )
            if self._main():
                for file in LOGS:
                    self.state.written[file] = keep_lines(self.run / file, self.state.written.get(file))
        if self.state.watch is not None:
            self.watch.load(self.state.watch)

    # ---- small things ------------------------------------------------------------------------------------------------

    def _mean_kl(self) -> float:
        sums = {
            "kl": sum(float((e.old_log_probs - e.reference_log_probs).sum()) for e in self.buffer if e.usable),
            "count": float(sum(e.usable for e in self.buffer)),
        }
        sums = self.ranks.sums(sums)
        return sums["kl"] / max(1.0, sums["count"])

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _main(self) -> bool:
        return self.ranks.rank == 0


def prompt_positions(prompts: int, seed: int, start: int, count: int) -> list[int]:
    """``count`` positions from the ``start``-th on, in the order of one shuffle of all prompts after another."""
    positions: list[int] = []
    while len(positions) < count:
        epoch, offset = divmod(start + len(positions), prompts)
        order = np.random.default_rng([seed, 1, epoch]).permutation(prompts)
        positions += order[offset : offset + count - len(positions)].tolist()
    return positions


def minibatch_plan(size: int, minibatch: int, epochs: int, seed: list[int]) -> list[list[int]]:
    """Positions of each minibatch: every response once per epoch, newly shuffled each time."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(size) for _ in range(epochs)]
    return [order[i : i + minibatch].tolist() for order in orders for i in range(0, size, minibatch)]


def _mean(name: str, rows: list[dict[str, float]]) -> float:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values)
