"""Trackers that ``--report_to`` may name, and the package that each one needs.

transformers asks for the wrong one of two packages, and accelerate leaves a tracker out without a word.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec

from odin_rm.core.errors import ConfigError

PACKAGES = {
    "aim": "aim",
    "azure_ml": "azureml-mlflow",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "kubeflow",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
_MODULES = {"azure_ml": ("azureml",), "flyte": ("flytekit",), "tensorboard": ("tensorboard", "tensorboardX")}
BY_TRANSFORMERS = tuple(name for name in PACKAGES if name != "aim")
BY_ACCELERATE = (*("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"),)


def check_trackers(report_to: str | Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The trackers that ``--report_to`` names.

    Args:
        report_to: names, as a list or separated by commas; ``none`` and nothing are none.
        known: names that the library in charge has, ``all`` among them where it knows that word.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    words = report_to.split(",") if isinstance(report_to, str) else report_to or []
    names = [word.strip() for word in words if word.strip() not in ("", "none")]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"Did you mean {near[0]}?" if near else f"Use some of {', '.join(known)}, or none."
            raise ConfigError(f"there is no tracker '{name}'", where="--report_to", fix=fix)
        modules = _MODULES.get(name, (name,))
        if name != "all" and not any(find_spec(module) for module in modules):
            package = PACKAGES[name]
            what = f"{name} needs the package '{package}', which is not installed"
            raise ConfigError(what, where="--report_to", fix=f"Install it with: pip install {package}")
    return names
