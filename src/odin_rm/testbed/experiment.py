"""The testbed's story: make the data, train a plain and an ODIN reward model, audit both against the truth.

Both arms start from the same backbone weights, see the same pairs in the same order and differ in ``--objective`` only.
They are trained by the workflow that ``odin-rm reward`` runs and audited by the one behind ``odin-rm audit``; the only
thing special to the testbed is that the true quality of each response is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import ConfigError, RunInterrupted
from odin_rm.core.files import (
    RowWriter,
    atomic_write_json,
    atomic_write_text,
    claim_run_folder,
    environment_record,
    read_rows,
)
from odin_rm.data.load import load_preferences
from odin_rm.evaluation.audit import AuditResult, audit_preferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.model.scoring import load_scorer
from odin_rm.reward.config import RewardConfig
from odin_rm.reward.scoring import score_preferences
from odin_rm.testbed.annotator import (
    Annotator,
    AnnotatorSettings,
    Row,
    describe_preferences,
    make_preferences,
    make_prompts,
    make_ranked_lists,
    make_sft,
)
from odin_rm.testbed.story import write_story
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, WorldSettings, knob
from odin_rm.workflows.train import train_reward_model

ARMS = {"vanilla": "bradley_terry", "odin": "odin"}
SMALLEST_HELD_OUT = 10
TRUE_QUALITY = "true_quality"

Say = Callable[[str], None]


@dataclass(frozen=True)
class _RunSettings:
    output: str = knob("", "folder for data, both reward models, summary.json, figures and report.html")
    seed: int = knob(0, "decides data, first weights and order of the batches")
    pairs: int = knob(4000, "preference pairs to train on")
    held_out_pairs: int = knob(2500, "preference pairs to audit on, on prompts that training never sees")
    epochs: float = knob(3.0, "passes over the training pairs")
    batch_pairs: int = knob(64, "pairs per optimiser step")
    learning_rate: float = knob(1e-3, "peak learning rate")
    hidden: int = knob(96, "width of the tiny Llama")
    layers: int = knob(2, "depth of the tiny Llama")
    bootstrap_samples: int = knob(1000, "resamples behind each 95 % interval of the audits")
    overwrite_output_dir: bool = knob(False, "replace another run in --output instead of refusing")


@dataclass(frozen=True)
class QuickstartConfig(AnnotatorSettings, WorldSettings, _RunSettings):
    """Everything that ``odin-rm quickstart`` takes: the run, the world's knobs and the annotator's."""

    def __post_init__(self) -> None:
        WorldSettings.__post_init__(self)
        AnnotatorSettings.__post_init__(self)
        if not self.output:
            raise ConfigError("is required", where="--output", fix="Name a folder, for example: --output quickstart")
        least = {"seed": 0, "pairs": 1, "held_out_pairs": SMALLEST_HELD_OUT, "batch_pairs": 1, "layers": 1}
        for name, low in (least | {"bootstrap_samples": 10, "hidden": 8}).items():
            if getattr(self, name) < low:
                raise ConfigError(f"must be at least {low}, it is {getattr(self, name)}", where=f"--{name}")
        for name in ("epochs", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"must be positive, it is {getattr(self, name)}", where=f"--{name}")
        if self.hidden % 8:
            raise ConfigError(f"must be a multiple of 8, it is {self.hidden}", where="--hidden")

    @property
    def world(self) -> World:
        """The world that the knobs describe."""
        return World(WorldSettings(**{f.name: getattr(self, f.name) for f in fields(WorldSettings)}))

    @property
    def annotator(self) -> Annotator:
        """The annotator that the knobs describe."""
        knobs = AnnotatorSettings(**{f.name: getattr(self, f.name) for f in fields(AnnotatorSettings)})
        return Annotator(self.world, knobs)


@dataclass(frozen=True)
class Arm:
    """One reward model of the experiment: its run folder, the held-out scores and what their audit says."""

    run: Path
    scored: ScoredPreferences
    audit: AuditResult


def run_quickstart(config: QuickstartConfig, say: Say = print) -> dict[str, Arm]:
    """Data, two reward models, two audits, one report.

    Args:
        config: the settings.
        say: takes one line for each stage.

    Returns:
        The arms by name, ``vanilla`` and ``odin``.

    Raises:
        OutputError: the folder holds another run and ``overwrite_output_dir`` is not set.
        RunInterrupted: a signal came while a model was trained.
    """
    started = time.perf_counter()
    folder = claim_run_folder(config.output, overwrite=config.overwrite_output_dir, resume=False)
    atomic_write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    atomic_write_json(folder / "environment.json", environment_record())

    say(f"1/4 Writing {config.pairs} training pairs and {config.held_out_pairs} held-out pairs of a world whose truth")
    say("    is known, judged by an annotator who likes length.")
    facts = write_data(config, folder / "data")
    save_tiny_model(folder / "initial_model", config.seed, hidden=config.hidden, layers=config.layers, overwrite=True)

    arms = {}
    for number, (name, objective) in enumerate(ARMS.items(), start=2):
        say(f"{number}/4 Training and auditing the {name} reward model (--objective {objective}).")
        try:
            run = train_reward_model(reward_config(config, folder, name))
        except RunInterrupted as error:
            fix = "Run it again with --overwrite_output_dir; it starts anew."
            raise RunInterrupted(error.what, where=error.where, fix=fix) from error
        arms[name] = audit_arm(config, folder, run, name)

    say("4/4 Drawing the figures and writing the report.")
    write_story(
        [arm.audit for arm in arms.values()],
        [arm.scored for arm in arms.values()],
        config.annotator,
        facts,
        (row for _, row in read_rows(folder / "data" / "held_out.jsonl")),
        folder,
    )
    seconds = time.perf_counter() - started
    atomic_write_json(folder / "summary.json", summary(config, arms, facts, seconds))
    return arms


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
    config: QuickstartConfig, arms: dict[str, Arm], facts: dict[str, dict[str, float]], seconds: float
) -> dict[str, Any]:
    """The content of ``summary.json``; ``runs`` (of policies) is for the reinforcement-learning stage."""
    return {
        "reward_models": {name: arm.audit.to_json() for name, arm in arms.items()},
        "runs": [],
        "seed": config.seed,
        "seconds": round(seconds, 2),
        "data": facts,
        "settings": {name: value for name, value in asdict(config).items() if name != "output"},
    }
