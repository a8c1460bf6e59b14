"""The model card: what the model is, how it was trained, what the audit measured. Written beside every saved model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from odin_rm.core.files import atomic_write_text
from odin_rm.core.untrusted import markdown_text
from odin_rm.model.info import RewardModelInfo
from odin_rm.objectives.registry import card_of

# The figures of audit.json that a reader of the card wants first.
CARD_FIGURES = (
    "accuracy",
    "accuracy_chosen_longer",
    "accuracy_chosen_shorter",
    "accuracy_length_balanced",
    "pearson",
    "spearman",
    "kendall",
    "pearson_within_prompt",
    "information_beyond_length",
)

FIGURES = "card_figures.md.j2"


def write_model_card(folder: Path, info: RewardModelInfo) -> None:
    """Write ``README.md`` with front matter that the hub reads.

    Args:
        folder: the model folder.
        info: the model's description with audit and training figures.
    """
    write_card(folder, info, ["model_card.md.j2", FIGURES])


def write_card(folder: Path, info: RewardModelInfo, templates: Sequence[str], **values: Any) -> None:
    """Write ``README.md`` from templates of this package, one after the other, with front matter that the hub reads.

    Args:
        folder: the model folder.
        info: the model's description with audit and training figures.
        templates: file names in ``templates/``.
        **values: what they need besides.
    """
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "odin-rm", info.objective],
    }
    base = info.base_model or info.training.get("model")
    if base and "/" in str(base) and not Path(base).exists():  # a hub id; a folder means nothing to others
        front["base_model"] = base
    header = yaml.safe_dump(front, sort_keys=False)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("odin_rm.model"), keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda value: markdown_text(str(value))
    told = {"trained": card_of(info.objective, info.heads)}
    told["exported"] = card_of(info.objective, info.heads, exported=True)
    shared = {"front_matter": header, "info": info, "figures": CARD_FIGURES, "row": _row, "numbers": _numbers, **told}
    text = "".join(environment.get_template(name).render(**shared, **values) for name in templates)
    atomic_write_text(folder / "README.md", text)


def _row(name: str, figure: dict[str, float | None]) -> str:
    return f"{name.replace('_', ' ')} | {_numbers(figure)}"


def _numbers(figure: dict[str, float | None]) -> str:
    parts = ("value", "low", "high")
    return " | ".join("-" if figure.get(part) is None else f"{figure[part]:.3f}" for part in parts)
