"""Calibrate a reward: how much of its curve of length is taken off, and what that does beside other repairs."""

from __future__ import annotations

from typing import Any

from odin_rm.core.console import say
from odin_rm.workflows.calibrate.config import CalibrateConfig

_WORDS = {
    "none": "as it is",
    "dial": "dial",
    "zero": "dial, zero",
    "loess": "pooled LOESS",
    "penalty": "length penalty",
    "fold": "folded head",
}


def run(config: CalibrateConfig) -> None:
    """Calibrate, say what was found."""
    from odin_rm.workflows.calibrate.run import run_calibrate

    for path, content in run_calibrate(config).items():
        if "kappa" in content:
            of = " and ".join(name.replace("_", " ") for name in content["range"])
            share = "" if content["kappa"]["low"] is None else f" times {_shown(content['kappa'], 2)}"
            name = content["model"]["name"]
            say(f"{name}: the curve of {of} within prompts{share} is taken off ({content['anchor']})")
        else:
            lost = content["share_of_the_weight_taken_out"]
            say(f"{content['model']['name']}: the effect of {', '.join(content['kinds'])} is out of the head "
                f"({lost:.0%} of its weight)")  # fmt: skip
        for line in table(content):
            say(line)
        for warning in content.get("warnings", ()):
            say(f"warning: {warning}", error=True)
        say(f"Written to {path}")


def table(content: dict[str, Any]) -> list[str]:
    """What each method does to responses that it was not fitted on, a line each."""
    held_out = content["held_out"]
    if "methods" not in held_out:
        return [f"No figures on held-out prompts: {held_out['why']}"]
    rows = [["held-out prompts", "within", "pooled", "pairs won", "bits", "accuracy"]]
    for name, figures in held_out["methods"].items():
        won = figures.get("more_wins", {}).get("all")
        rows.append(
            [
                _WORDS[name] + (" (flips the sign)" if figures["flips_sign"] else ""),
                _shown(figures["within"], 2),
                _shown(figures["pooled"], 2),
                "-" if won is None else _shown(won, 3),
                _shown(figures.get("bits"), 3),
                _shown(figures.get("accuracy"), 3),
            ]
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _shown(figure: dict[str, Any] | None, digits: int) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.{digits}f}"
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"
