"""The full-size study as files: a config for each command, a script that runs them in order, a page that explains them.

Values are the paper's (arXiv 2402.07319) where it gives them; what is ours is said in the files. Nothing here loads a
model or asks a hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

MODEL = "models/vicuna-7b-v1.5"
TRAIN, VALIDATION = "data/openassistant_train.jsonl.gz", "data/openassistant_validation.jsonl.gz"
PROMPTS = "data/lima_test_prompts.jsonl.gz"
JUDGE = "gpt-4"
SAMPLES = 36
"""Runs of each arm: ReMax's whole space has as many points."""
STEPS = 688
"""One pass over the prompts of 22,000 pairs, 32 a step; a multiple of every N / b."""
ARMS = ("vanilla", "penalty", "odin")
STEPS_IN_ORDER = (
    *("check", "rewards", "audit", "start", "sweeps", "dpo", "generate", "judge", "win_rates", "pareto", "retention"),
    "report",
)


@dataclass(frozen=True)
class PaperFile:
    """A file of the study.

    Attributes:
        place: where, below the study's folder.
        text: its content.
        command: the command of ``odin-rm`` whose ``--config`` it is; ``None`` for other files.
    """

    place: str
    text: str
    command: str | None = None


def paper_files(seed: int) -> list[PaperFile]:
    """Every file of the study.

    Args:
        seed: of training, sampling and the draws of the sweeps.
    """
    environment = Environment(
        loader=PackageLoader("odin_rm.testbed", "paper"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    shared: dict[str, Any] = {
        "model": MODEL, "train": TRAIN, "validation": VALIDATION, "prompts": PROMPTS, "judge": JUDGE, "seed": seed,
        "samples": SAMPLES, "steps": STEPS,
    }  # fmt: skip

    def render(template: str, **values: Any) -> str:
        return environment.get_template(f"{template}.j2").render(**shared, **values)

    def config(name: str, command: str | None, template: str = "", **values: Any) -> PaperFile:
        return PaperFile(f"configs/{name}.yaml", render(f"{template or name}.yaml", name=name, **values), command)

    files = [
        config(f"reward_{name}", "reward", "reward", objective=objective)
        for name, objective in (("vanilla", "bradley_terry"), ("odin", "odin"))
    ]
    files += [config("audit", "audit"), config("sft", "sft")]
    sweeps = [f"{algorithm}_{arm}" for algorithm in ("ppo", "remax") for arm in ARMS]
    for name in sweeps:
        algorithm, arm = name.split("_")
        whose = {"algorithm": algorithm, "reward_model": "odin" if arm == "odin" else "vanilla"}
        files.append(
            config(f"sweep_{name}", "sweep", "sweep", clip=arm == "vanilla", penalty=arm == "penalty", **whose)
        )
        if arm != "penalty":
            files.append(config(f"rl_all_weights_{name}", "rl", "rl_all_weights", **whose))
    files += [config(name, command) for name, command in _LATER]
    files.append(config("accelerate", None))
    files.append(PaperFile("run.sh", render("run.sh", steps_in_order=STEPS_IN_ORDER)))
    files.append(PaperFile("README.md", render("README.md", sweeps=sweeps)))
    return files


_LATER = (
    ("dpo", "dpo"),
    ("generate", "generate"),
    ("judge", "judge"),
    ("win_rate", "win-rate"),
    ("pareto", "pareto"),
    ("effects", "pareto"),
    ("retention", "retention"),
    ("report", "report"),
)
