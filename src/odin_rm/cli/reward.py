"""Train a reward model that does not pay for length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from odin_rm.cli.config import parse_config, quiet_transformers
from odin_rm.cli.log_lines import shown_log
from odin_rm.core.ranks import end_processes, is_main_process

if TYPE_CHECKING:
    from odin_rm.workflows.reward_plan import RewardPlan


def run(argv: Sequence[str]) -> int:
    """Parse, train, say where the model is; or print the plan."""
    quiet_transformers()
    from odin_rm.reward.config import RewardConfig
    from odin_rm.workflows.train import plan_run, train_reward_model

    config = parse_config(RewardConfig, list(argv), "reward")
    if config.dry_run:
        plan = plan_run(config)
        if is_main_process():
            print_plan(plan)
    else:
        with shown_log():
            folder = train_reward_model(config)
        if is_main_process():
            print(f"Reward model written to {folder / 'model'}")
    end_processes()
    return 0


def print_plan(plan: RewardPlan) -> None:
    """The plan as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Plan of the run", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in plan_rows(plan):
        table.add_row(name, value)
    console = Console()
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
