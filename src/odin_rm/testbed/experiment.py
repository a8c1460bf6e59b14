"""The testbed's story: data, a plain and an ODIN reward model, their audits, and what policies make of their rewards.

Both arms start from the same backbone weights, see the same pairs in the same order and differ in ``--objective`` only.
They are trained by the workflow that ``odin-rm reward`` runs and audited by the one behind ``odin-rm audit``; the only
thing special to the testbed is that the true quality of each response is known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import RunInterrupted
from odin_rm.core.files import RowWriter, atomic_write_json, atomic_write_text, environment_record, read_rows
from odin_rm.data.load import load_preferences
from odin_rm.evaluation.audit import AuditResult, audit_preferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.scoring import load_scorer
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.scoring import score_preferences
from odin_rm.runs.output_folder import OutputFolder
from odin_rm.testbed.annotator import (
    Row,
    describe_preferences,
    make_preferences,
    make_prompts,
    make_ranked_lists,
    make_sft,
)
from odin_rm.testbed.linear_worlds import RESAMPLES, audit_world
from odin_rm.testbed.quickstart_config import QuickstartConfig
from odin_rm.testbed.rl_experiment import Say, forget_results, train_policies
from odin_rm.testbed.rl_figures import ArmFigures, Policies, arm_figures
from odin_rm.testbed.story import write_story
from odin_rm.testbed.sweep import sweep_runs
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world_story import LONGER_IS_BETTER, WorldFigures, as_json, figures_of
from odin_rm.testbed.worlds import WORLDS
from odin_rm.workflows.reward.run import train_reward_model

ARMS = {"vanilla": "bradley_terry", "odin": "odin"}
TRUE_QUALITY = "true_quality"


@dataclass(frozen=True)
class Arm:
    """One reward model of the experiment: its run folder, the held-out scores and what their audit says."""

    run: Path
    scored: ScoredPreferences
    audit: AuditResult


@dataclass(frozen=True)
class Story:
    """What the quickstart found.

    Attributes:
        arms: the reward models by name, ``vanilla`` and ``odin``.
        policies: the sweep of policies, ``None`` where none were asked for.
        figures: of each arm of policies.
        longer_is_better: linear reward models in the world where good answers are longer.
    """

    arms: dict[str, Arm]
    policies: Policies | None
    figures: dict[str, ArmFigures]
    longer_is_better: WorldFigures


def run_quickstart(config: QuickstartConfig, say: Say = print) -> Story:
    """Data, two reward models, two audits, a sweep of policies, one report.

    Args:
        config: the settings.
        say: takes one line for each stage.

    Raises:
        OutputError: the folder holds another run and ``overwrite_output_dir`` is not set.
        RunInterrupted: a signal came while a model was trained.
    """
    with OutputFolder(config.output, "quickstart", overwrite=config.overwrite_output_dir) as output:
        output.claim()
        story = _run_quickstart(config, output.path, say)
        output.complete()
    return story


def _run_quickstart(config: QuickstartConfig, folder: Path, say: Say) -> Story:
    started = time.perf_counter()
    atomic_write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    atomic_write_json(folder / "environment.json", environment_record())

    runs = sweep_runs(config.sweep, config.seed)
    if not config.world.truth_is_default:
        runs = [run for run in runs if run.reward_model != "gold"]  # whose truth is the default world's
    last = 6 if runs else 5
    say(f"1/{last} Writing {config.pairs} training pairs and {config.held_out_pairs} held-out pairs of a world whose")
    say("    truth is known, judged by an annotator who likes length.")
    facts = write_inputs(config, folder)

    arms, policies = {}, None
    with _starts_anew():
        for number, (name, objective) in enumerate(ARMS.items(), start=2):
            say(f"{number}/{last} Training and auditing the {name} reward model (--objective {objective}).")
            arms[name] = train_arm(config, folder, name)
        say(f"4/{last} Training linear reward models where good answers are longer, for another section.")
        other = audit_linear(config, LONGER_IS_BETTER)
        if runs:
            say(f"5/{last} What policies make of these rewards.")
            forget_results(folder)
            policies = train_policies(folder, runs, config.policies, config.world, config.seed, say)
    figures = arm_figures(policies, samples=config.bootstrap_samples, seed=config.seed) if policies else {}

    say(f"{last}/{last} Drawing the figures and writing the report.")
    write_story(
        [arm.audit for arm in arms.values()],
        [arm.scored for arm in arms.values()],
        config.annotator,
        facts,
        (row for _, row in read_rows(folder / "data" / "held_out.jsonl")),
        folder,
        policies,
        figures,
        other,
    )
    story = Story(arms, policies, figures, other)
    atomic_write_json(folder / "summary.json", summary(config, story, facts, time.perf_counter() - started))
    return story


@contextmanager
def _starts_anew() -> Iterator[None]:
    """A stopped stage cannot be continued by its own command's advice: the quickstart is one run."""
    try:
        yield
    except RunInterrupted as error:
        fix = "Run it again with --overwrite; it starts anew."
        raise RunInterrupted(error.what, where=error.where, fix=fix) from error


def audit_linear(config: QuickstartConfig, world: str) -> WorldFigures:
    """The figures of linear reward models in a named world, of as many pairs as the experiment has."""
    audits = audit_world(
        WORLDS[world],
        config.seed,
        pairs=config.pairs,
        held_out=config.held_out_pairs,
        bootstrap_samples=min(config.bootstrap_samples, RESAMPLES),
    )
    return figures_of(audits)


def write_inputs(config: QuickstartConfig, folder: Path) -> dict[str, dict[str, float]]:
    """What every part of an experiment needs: ``initial_model/`` and ``data/``, whose facts come last and are returned.

    The quickstart and ``odin-rm reproduce`` are made of the same parts: this one, :func:`train_arm` for each reward
    model and ``rl_experiment.train_policies``. They differ in which policies, in the page, and in going on.
    """
    save_tiny_model(folder / "initial_model", config.seed, hidden=config.hidden, layers=config.layers, overwrite=True)
    return write_data(config, folder / "data")


def train_arm(config: QuickstartConfig, folder: Path, name: str) -> Arm:
    """A reward model of the experiment, trained and audited."""
    return audit_arm(config, folder, train_reward_model(reward_config(config, folder, name)), name)


def write_data(config: QuickstartConfig, folder: Path) -> dict[str, dict[str, float]]:
    """Writes every data file of the testbed and returns facts about the preference sets.

    ``train.jsonl`` and ``held_out.jsonl`` are what the reward models need; ``ranked.jsonl``, ``sft.jsonl`` and
    ``prompts.jsonl`` are for whoever plays with the other commands.
    """
    world, annotator, seed = config.world, config.annotator, config.seed
    train = make_preferences(world, annotator, config.pairs, seed)
    held_out = make_preferences(world, annotator, config.held_out_pairs, seed, split="held_out")
    small = max(1, config.pairs // 10)
    files: dict[str, list[Row]] = {
        "train": train,
        "held_out": held_out,
        "ranked": make_ranked_lists(world, annotator, small, 4, seed),
        "sft": make_sft(world, config.pairs, seed),
        "prompts": make_prompts(world, small, seed, split="held_out"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        with RowWriter(folder / f"{name}.jsonl") as writer:
            for row in rows:
                writer.write(row)
    facts = {"train": describe_preferences(train), "held_out": describe_preferences(held_out)}
    atomic_write_json(folder / "facts.json", facts | {"optimum_tokens": world.optimum_tokens()})
    return facts


def reward_config(config: QuickstartConfig, folder: Path, name: str, **changes: Any) -> RewardConfig:
    """The arguments of ``odin-rm reward`` for one arm; a user could type the same.

    Args:
        config: the experiment's settings.
        folder: where data and initial model are.
        name: the arm.
        changes: fields to set otherwise (for benchmarks).
    """
    values: dict[str, Any] = {
        "model": str(folder / "initial_model"),
        "dataset": str(folder / "data" / "train.jsonl"),
        "output_dir": str(folder / name),
        "overwrite_output_dir": config.overwrite_output_dir,
        "objective": ARMS[name],
        "batch_pairs": config.batch_pairs,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "warmup_steps": 0.1,
        # Small micro-batches have little padding, and the graphs of a whole batch of this model fit anywhere.
        "microbatch_tokens": 2048,
        "single_pass_tokens": 1_000_000,
        "max_length": 256,
        "cache_dir": str(folder / "data" / "tokenised"),
        "logging_steps": 10,
        "save_strategy": "no",
        "seed": config.seed,
        # So small a model is no faster on an accelerator, and the CPU gives the same figures everywhere.
        "use_cpu": True,
    }
    return RewardConfig(**(values | changes))


def audit_arm(config: QuickstartConfig, folder: Path, run: Path, name: str) -> Arm:
    """Scores the held-out pairs with a trained reward model, and audits it on them and on the true quality."""
    scorer = load_scorer(run / "model", device="cpu")
    data = load_preferences(
        str(folder / "data" / "held_out.jsonl"),
        scorer.tokenizer,
        scorer.settings,
        cache_dir=folder / "data" / "tokenised",
        extra_columns=(TRUE_QUALITY,),
    )
    scored = score_preferences(scorer, data, name=name)
    audit = audit_preferences(scored, bootstrap_samples=config.bootstrap_samples, seed=config.seed)
    atomic_write_json(run / "audit.json", audit.to_json())
    return Arm(run, scored, audit)


def summary(
    config: QuickstartConfig, story: Story, facts: dict[str, dict[str, float]], seconds: float
) -> dict[str, Any]:
    """The content of ``summary.json``."""
    policies = story.policies
    return {
        "reward_models": {name: arm.audit.to_json() for name, arm in story.arms.items()},
        "runs": [result.to_json() for result in policies.results] if policies else [],
        "policies": story.figures,
        "worlds": {LONGER_IS_BETTER: as_json(story.longer_is_better)},
        "left_out": policies.left_out if policies else {},
        "start": policies.start if policies else None,
        "seed": config.seed,
        "seconds": round(seconds, 2),
        "data": facts,
        "settings": {name: value for name, value in asdict(config).items() if name != "output"},
    }
