"""The commands that train: each says on the console what it remarks on itself, then where its model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_rm.cli.log_lines import shown_log
from odin_rm.core.console import say
from odin_rm.core.hub import quiet_transformers
from odin_rm.core.ranks import end_processes, is_main_process

if TYPE_CHECKING:
    from odin_rm.reward.config import RewardConfig
    from odin_rm.rl.config import RLConfig
    from odin_rm.workflows.policy.dpo import DPORunConfig
    from odin_rm.workflows.policy.sft import SFTRunConfig
    from odin_rm.workflows.reward.plan import RewardPlan


def run_reward(config: RewardConfig) -> None:
    """Train a reward model, or print the plan."""
    from odin_rm.workflows.reward.run import plan_run, train_reward_model

    if not config.dry_run:
        _train(train_reward_model, config, "Reward model", "model")
        return
    plan = plan_run(config)
    if is_main_process():
        print_plan(plan)
    end_processes()


def run_sft(config: SFTRunConfig) -> None:
    """Train a policy on demonstrations."""
    from odin_rm.workflows.policy.sft import train_sft

    _train(train_sft, config, "Policy", "policy")


def run_dpo(config: DPORunConfig) -> None:
    """Train a policy on preferences."""
    from odin_rm.workflows.policy.dpo import train_dpo

    _train(train_dpo, config, "Policy", "policy")


def run_rl(config: RLConfig) -> None:
    """Train a policy on rewards."""
    quiet_transformers()
    from odin_rm.workflows.rl.run import train_policy

    _train(train_policy, config, "Policy", "policy")


def _train(train: Callable[[Any], Path], config: Any, what: str, inside: str) -> None:
    with shown_log():
        folder = train(config)
    if is_main_process():
        say(f"{what} written to {folder / inside}")
    end_processes()


def print_plan(plan: RewardPlan) -> None:
    """The plan as a table."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    table = Table(title="Plan of the run", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in plan_rows(plan):
        table.add_row(name, value)
    console = PlainConsole()
    console.print(table)
    for line in plan.data:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Batch layout {plan.layout}: {plan.why}.", markup=False, highlight=False)
    console.print("Memory is an estimate from the model's config. Nothing was trained or written.", highlight=False)


def plan_rows(plan: RewardPlan) -> list[tuple[str, str]]:
    """Names and values of the plan, ready to print."""
    tokens = plan.tokens
    steps = max(1, plan.planned_steps)
    return [
        ("prompts (groups)", f"{plan.prompts:,}"),
        ("pairs", f"{plan.pairs:,}"),
        ("distinct responses", f"{plan.responses:,}"),
        ("response slots", f"{plan.slots:,}"),
        ("steps an epoch", f"{plan.steps_per_epoch:,}"),
        ("steps in all", f"{plan.steps:,}"),
        ("tokens a step: all slots, prompts too", f"{tokens.slots / steps:,.0f}"),
        ("tokens a step: distinct responses", f"{tokens.responses / steps:,.0f}"),
        (f"tokens a step: computed ({plan.layout})", f"{tokens.computed / steps:,.0f}"),
        ("token reuse (slots / computed)", f"{tokens.reuse:.2f}"),
        ("padding share", f"{tokens.padding_share:.1%}"),
        ("padding share of padded batches", f"{tokens.padding_share_padded:.1%}"),
        ("tokens of a micro-batch, at most", f"{plan.budget.tokens:,} ({plan.budget.why})"),
        ("tokens of the largest micro-batch", f"{plan.largest:,}"),
        ("micro-batches a step and process", f"{plan.micro_batches:.1f}"),
        ("tokens with a second forward pass", f"{plan.second_pass:.0%}"),
        ("processes", str(plan.devices)),
        ("weights (trained)", f"{plan.parameters:,} ({plan.trained:,})"),
        *((f"memory: {name}", _size(size)) for name, size in plan.memory.items()),
        ("memory in all, a process", _size(sum(plan.memory.values()))),
    ]


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
