"""The repeated layers of a backbone, compiled one by one: fewer and larger kernels, and the model stays as it is.

A whole model takes minutes to compile and loses its module names; a layer takes seconds, all layers share what was
compiled for the first, and weights, hooks and checkpoints see the modules that they know. Attention over tree rows
stays outside the compiled parts.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from odin_rm.core.errors import ConfigError


def compile_layers(model: Any) -> int:
    """Compile each layer of the backbone in place, for sequences of any length.

    Args:
        model: a :class:`RewardModel` or another wrapper with a transformers model as ``classifier``.

    Returns:
        How many layers.

    Raises:
        ConfigError: the backbone has no list of like layers.
    """
    layers = repeated_layers(model.classifier.base_model)
    if not layers:
        raise ConfigError("finds no repeated layers in this model", where="--compile_layers", fix="Leave it out.")
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The elements of the longest list of modules of one class (the last may be of one derived from it)."""
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    alike = [layers for layers in lists if len(layers) > 1 and all(isinstance(x, type(layers[0])) for x in layers)]
    return max(alike, key=len, default=[])
