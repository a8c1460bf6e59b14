"""Win rate, win score and length-controlled win rates from annotation files."""

from __future__ import annotations

from typing import Any

from odin_rm.core.console import say
from odin_rm.workflows.win_rate.config import WinRateConfig


def run(config: WinRateConfig) -> None:
    """Compute, print the table."""
    from odin_rm.workflows.win_rate.run import run_win_rate

    content = run_win_rate(config)
    if "battles" not in content:
        print_table(content)
    print_style(content)
    say(f"Written to {config.output}")


def print_table(content: dict[str, Any]) -> None:
    """One row per system with standard errors, then what was left out."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    systems = content.get("systems", [content])
    title = f"Against {systems[0]['baseline']} (± standard error; intervals are in the file)"
    table = Table(title=title, title_justify="left")
    unit = content["settings"]["token_unit"]
    names = ("system", "n", "win rate", "win score", "LC length only", "LC joint")
    orders = any("order_disagreement" in system for system in systems)
    for name in (*names, "words" if unit == "words" else "tokens", *(["orders differ"] if orders else [])):
        table.add_column(name, justify="left" if name == "system" else "right")
    for system in systems:
        controlled = system["lc_win_rate"]
        figures = [system["win_rate"], system["win_score"], controlled["length_only"], controlled["joint"]]
        cells = [f"{system['n']:,}", *map(_cell, figures), f"{system['mean_tokens']['value']:,.0f}"]
        if orders:
            differ = system.get("order_disagreement")
            cells.append("-" if differ is None else f"{differ['value']:.1f} %")
        table.add_row(system["generator"], *cells)
    PlainConsole().print(table)
    if content["left_out"]:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in content["left_out"].items())
        say(f"Rows left out: {reasons}")


def print_style(content: dict[str, Any]) -> None:
    """Win rates and ratings with style controlled, models in the order of the win rate."""
    from rich.table import Table

    from odin_rm.cli.console import PlainConsole

    for part, names in (("style_control", ("win_rate", "controlled_win_rate")), ("ratings", ("rating",
                        "controlled_rating"))):  # fmt: skip
        if part not in content:
            continue
        models = sorted(content[part]["models"], key=lambda one: -(one[names[0]]["value"] or 0))
        held = [name for name in names if name in models[0]]
        against = f" against {content[part]['baseline']}" if "baseline" in content[part] else ""
        title = f"{part.replace('_', ' ').capitalize()}{against} ({content[part]['form']}; 95 % intervals)"
        table = Table(title=title, title_justify="left")
        table.add_column("model")
        for name in held:
            table.add_column(name.replace("_", " "), justify="right")
        for one in models:
            table.add_row(one["model"], *(_interval(one[name]) for name in held))
        PlainConsole().print(table)


def _interval(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    ends = "" if figure.get("low") is None else f" ({figure['low']:.1f} to {figure['high']:.1f})"
    return f"{figure['value']:.1f}{ends}"


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    error = "" if figure["standard_error"] is None else f" ± {figure['standard_error']:.2f}"
    return f"{figure['value']:.2f}{error}"
