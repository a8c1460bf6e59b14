"""Figures of the scaling benchmark: rates, memory, a race of two arms, tables and the figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LAYOUTS = ("tree", "padded")


def summary(own: dict[str, Any], warmup: int) -> dict[str, float | None]:
    """Rates of an arm without its warm-up steps; medians, because a step may have been disturbed."""
    steps = own["steps"][warmup:] or own["steps"]
    seconds, cpu = (np.array([step[name] for step in steps]) for name in ("seconds", "cpu_seconds"))
    peaks = [step["peak_mib"] for step in steps if step["peak_mib"] is not None]
    tokens = {name: float(np.mean([s[name] for s in steps])) for name in ("slot_tokens", "computed_tokens")}
    return {
        "pairs_per_second": own["pairs"] / float(np.median(seconds)),
        "pairs_per_cpu_second": own["pairs"] / float(np.median(cpu)),
        "wait_ms": 1000 * float(np.median([step["wait"] for step in steps])),
        "step_ms": 1000 * float(np.median(seconds)),
        "step_cpu_ms": 1000 * float(np.median(cpu)),
        "step_peak_mib": max(peaks) if peaks else None,
        **tokens,
    }


def span(found: dict[str, Any], start: str, end: str) -> dict[str, float]:
    """Seconds and CPU-seconds between two marks of a run."""
    first, last = found["marks"][start], found["marks"][end]
    return {name: last[name] - first[name] for name in ("seconds", "cpu_seconds")}


def race(
    ones: list[dict[str, Any]], others: list[dict[str, Any]], warmup: int, resamples: int = 2000
) -> dict[str, Any]:
    """Pairs per second of one arm over those of another, by medians of steps, and the tokens that each computed.

    Args:
        ones, others: the runs of each arm, in turns.
        warmup: steps of each run that do not count.
        resamples: of the 95 % bootstrap over runs and steps within them.
    """
    rng = np.random.default_rng(0)
    sides = [[run["steps"][warmup:] for run in runs] for runs in (ones, others)]
    found: dict[str, Any] = {}
    for clock in ("seconds", "cpu_seconds"):
        times = [np.array([[step[clock] for step in steps] for steps in side]) for side in sides]
        one, other = times
        draws = np.array([_drawn(other, rng) / _drawn(one, rng) for _ in range(resamples)])
        low, high = np.quantile(draws, [0.025, 0.975])
        found[clock] = {"ratio": float(np.median(other) / np.median(one)), "low": float(low), "high": float(high)}
        found[clock]["medians_ms"] = [(1000 * np.median(side, axis=1)).round(2).tolist() for side in times]
    tokens = [np.mean([step["computed_tokens"] for steps in side for step in steps]) for side in sides]
    return found | {"tokens": float(tokens[0] / tokens[1])}


def _drawn(times: np.ndarray, rng: np.random.Generator) -> float:
    """The median of a bootstrap sample of runs and of steps within them; ``times`` is ``(runs, steps)``."""
    runs, steps = times.shape
    return float(np.median(times[rng.integers(0, runs, runs)[:, None], rng.integers(0, steps, (runs, steps))]))


def report(found: dict[str, Any]) -> str:
    """Markdown of all parts that were run."""
    lines: list[str] = []
    head = (
        "| pairs/s | pairs per CPU-second | CPU ms a step | wait, ms | tokens computed | of slots | step memory, MiB |"
    )

    def row(name: str, own: dict[str, Any]) -> str:
        s = own["summary"]
        peak = "" if s["step_peak_mib"] is None else f"{s['step_peak_mib']:.0f}"
        return (
            f"| {name} | {s['pairs_per_second']:.1f} | {s['pairs_per_cpu_second']:.1f} | {s['step_cpu_ms']:.0f} "
            f"| {s['wait_ms']:.2f} | {s['computed_tokens']:,.0f} | {s['slot_tokens']:,.0f} | {peak} |"
        )

    for part in ("pairs", "processes"):
        if part in found:
            lines += ["", f"| {part} {head}", "|---" * 8 + "|"]
            lines += [row(name, own["arms"]["run"]) for name, own in found[part].items()]
    for part in ("prompts", "responses", "loader"):
        if part in found:
            lines += ["", f"| {part} {head}", "|---" * 8 + "|"]
            lines += [row(name, own) for name, own in found[part]["arms"].items()]
    if "pairs" in found:
        lines += ["", "| pairs | data and trainer, MiB (of files) | peak beyond the model | first batch, s | CPU, s |"]
        lines += ["|---" * 5 + "|", *(_start_row(name, own) for name, own in found["pairs"].items())]
    if "loader" in found:
        lines += [
            "",
            f"stand-in for an accelerator, ms waited by ms of a step: {json.dumps(found['loader']['stand_in'])}",
        ]
    if "million" in found:
        own = found["million"]
        lines += [
            "",
            "| million | data and trainer, MiB (of files) | peak beyond the model | first batch, s | CPU, s |",
        ]
        lines += ["|---" * 5 + "|", _start_row("first", own["first"]), _start_row("cached", own["cached"])]
        lines += [f"reading and tokenising {own['file_mib']:.0f} MiB: {span(own['first'], 'model', 'data')}"]
        lines += [f"ratio of the speeds, a million over 10k pairs: {json.dumps(own['ratio'])}"]
    return "\n".join(lines[1:])


def beyond_the_model(own: dict[str, Any]) -> dict[str, float]:
    """MiB beyond the process with its model in memory: at the first batch, and at the peak of the whole run."""
    marks = own["marks"]
    if "VmRSS" not in marks["model"]:
        return {}
    base = marks["model"]["VmRSS"]
    steps = [step["peak_mib"] or 0.0 for arm in own["arms"].values() for step in arm["steps"]]
    first, end = marks["first batch"], marks["end"]
    # Where the memory of steps is measured, the kernel's own record is set back before each.
    highest = [mark["VmHWM"] for mark in marks.values()]
    return {
        "first_batch": first["VmRSS"] - base,
        "files": first["RssFile"] - marks["model"]["RssFile"],
        "peak": max(*highest, end["VmRSS"] + max(steps)) - base,
    }


def _start_row(name: str, own: dict[str, Any]) -> str:
    first, memory = own["marks"]["first batch"], beyond_the_model(own)
    return (
        f"| {name} | {memory.get('first_batch', float('nan')):.0f} ({memory.get('files', float('nan')):.0f}) "
        f"| {memory.get('peak', float('nan')):.0f} | {first['seconds']:.1f} | {first['cpu_seconds']:.1f} |"
    )


def draw(found: dict[str, Any], path: Path) -> None:
    """What was run, a panel each."""
    from odin_rm.reports.style import model_colours, model_markers, new_canvas, styled

    names = [*LAYOUTS, "0", "2", "of files"]
    colours, markers = model_colours(names), model_markers(names)

    def lines(axes: Any, curves: dict[str, tuple[list[float], list[float]]], title: str, x: str) -> None:
        for name, (where, values) in curves.items():
            axes.plot(where, values, color=colours.get(name), marker=markers.get(name, "o"), label=name)
        axes.set(title=title, xlabel=x, xscale="log")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        if len(curves) > 1:
            axes.legend()

    with styled():
        canvas, axes = new_canvas(2, 3, width=12, height=6.4)
        if "pairs" in found:
            sizes = [float(n) for n in found["pairs"]]
            arms = [own["arms"]["run"]["summary"]["pairs_per_cpu_second"] for own in found["pairs"].values()]
            memory = [beyond_the_model(own) for own in found["pairs"].values()]
            lines(axes[0], {"tree": (sizes, arms)}, "Pairs per CPU-second", "pairs of the data")
            curves = {
                "tree": (sizes, [m.get("first_batch", 0.0) for m in memory]),
                "of files": (sizes, [m.get("files", 0.0) for m in memory]),
            }
            lines(axes[3], curves, "Memory of data and trainer, MiB", "pairs of the data")
            axes[3].get_legend().texts[0].set_text("resident in all")
        for part, panel, x in (("prompts", 1, "tokens of a prompt"), ("responses", 2, "responses per prompt")):
            if part not in found:
                continue
            for key, place, title in (
                ("pairs_per_cpu_second", panel, "Pairs per CPU-second"),
                ("step_peak_mib", panel + 3, "Memory of a step, MiB"),
            ):
                curves = {}
                for name, own in found[part]["arms"].items():
                    size, layout = name.split()
                    where, values = curves.setdefault(layout, ([], []))
                    where.append(float(size))
                    values.append(own["summary"][key])
                lines(axes[place], curves, title, x)
                axes[place].set_xscale("log", base=2)
        canvas.savefig(path)
