"""Rotary frequencies as transformers 4 computes them from a ``config.json``, against those of a loaded model.

Written from the definitions (RoFormer, position interpolation, NTK scaling, YaRN, LongRoPE, Llama 3.1), in float64 and
without transformers, so that a wrong or missing field shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

# Model types whose fields have names of their own in transformers 4.
LOCAL_AND_GLOBAL = ("modernbert", "modernbert-decoder")
NEOX = ("gpt_neox", "gpt_neox_japanese")

# They hold two sets of positions, and transformers 4 takes the base of one for all layers.
_ONE_BASE = ("olmo3", "modernbert-decoder")

Frequencies = tuple[np.ndarray, float]


class NotInFourError(ValueError):
    """transformers 4 has no words for these rotary positions."""


def frequencies_in_four(config: dict[str, Any], layer_type: str | None = None) -> Frequencies:
    """What transformers 4 computes for one model (or one kind of layer) from the content of its ``config.json``.

    Args:
        config: the content; only names that transformers 4 knows are read.
        layer_type: ``full_attention`` or ``sliding_attention`` where the model keeps two sets, else ``None``.

    Returns:
        ``(D / 2,)`` inverse frequencies in radians per token, as for a short text, and the factor on cosine and sine.

    Raises:
        NotInFourError: there is no such kind of scaling there.
    """
    kind = config.get("model_type")
    scaling: dict[str, Any] = config.get("rope_scaling") or {}
    base = float(config.get("rope_theta", 10_000.0))
    part = float(config.get("partial_rotary_factor", 1.0))
    if kind in NEOX:
        base, part = float(config.get("rotary_emb_base", 10_000.0)), float(config.get("rotary_pct", 0.25))
    elif kind in LOCAL_AND_GLOBAL:
        whole = layer_type == "full_attention" or kind == "modernbert-decoder"
        base = float(config.get("global_rope_theta", 160_000.0) if whole else config.get("local_rope_theta", 10_000.0))
        scaling = {}
    elif layer_type == "sliding_attention":
        scaling = {}
        base = base if kind == "olmo3" else float(config.get("rope_local_base_freq", 10_000.0))
    name = str(scaling.get("rope_type", scaling.get("type", "default")))
    if name not in _KINDS:
        raise NotInFourError(f"the kind {name} is unknown there")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    size = int(head * part)
    return _KINDS[name](base, size, scaling, config)


def rotary_difference(model: nn.Module, content: dict[str, Any]) -> float | None:
    """Largest relative difference of a model's frequencies (and factors) to those of transformers 4.

    Args:
        model: the model as transformers 5 loaded it.
        content: its written ``config.json``.

    Returns:
        The difference; ``None`` for a model without rotary positions.

    Raises:
        NotInFourError: transformers 4 has no words for them, or the model's are not found to be compared.
    """
    configs = {c["model_type"]: c for c in _configs(content)}
    rotary = [c for c in configs.values() if "rope_parameters" in c]
    if not rotary:
        return None
    for content_of_one in rotary:
        _check_words(content_of_one)
    worst: list[float] = []
    for module in model.modules():
        config = getattr(module, "config", None)
        own = configs.get(getattr(config, "model_type", None))
        if own is None or "rope_parameters" not in own:
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or "original" in name:
                continue
            layer_type = name.removesuffix("inv_freq").rstrip("_") or None
            original = getattr(module, name.replace("inv_freq", "original_inv_freq"), buffer)
            wanted, factor = frequencies_in_four(own, layer_type)
            found = original.detach().double().cpu().numpy()
            if found.shape != wanted.shape:
                worst.append(math.inf)
                continue
            scale = getattr(module, name.replace("inv_freq", "attention_scaling"), 1.0)
            worst.append(max(float(np.abs(found / wanted - 1).max()), abs(float(scale) / factor - 1)))
    if not worst:
        raise NotInFourError("not compared, the model keeps its own elsewhere")
    return max(worst)


def _check_words(config: dict[str, Any]) -> None:
    """Raise where a config has two sets of positions that transformers 4 cannot tell apart."""
    parameters = config["rope_parameters"]
    if not isinstance(parameters, dict) or "rope_theta" in parameters:
        return
    kind = config.get("model_type")
    local: Any = parameters.get("sliding_attention")
    plain = all(p.get("rope_type", "default") == "default" for p in parameters.values() if isinstance(p, dict))
    known = set(parameters) == {"full_attention", "sliding_attention"} and isinstance(local, dict)
    if not known or not isinstance(parameters["full_attention"], dict):
        raise NotInFourError(f"no words for sets by {', '.join(parameters)}")
    if local.get("rope_type", "default") != "default" or (kind in LOCAL_AND_GLOBAL and not plain):
        raise NotInFourError("those of local layers cannot be scaled")
    if kind in _ONE_BASE and local["rope_theta"] != parameters["full_attention"]["rope_theta"]:
        raise NotInFourError("one base for all layers of this kind of model")


def _configs(content: dict[str, Any]) -> list[dict[str, Any]]:
    nested = [c for v in content.values() if isinstance(v, dict) and "model_type" in v for c in _configs(v)]
    return [content, *nested]


def _plain(base: float, size: int) -> np.ndarray:
    return base ** (-np.arange(0, size, 2) / size)


def _default(base: float, size: int, scaling: dict[str, Any], config: dict[str, Any]) -> Frequencies:
    return _plain(base, size), 1.0


def _linear(base: float, size: int, scaling: dict[str, Any], config: dict[str, Any]) -> Frequencies:
    return _plain(base, size) / scaling["factor"], 1.0


def _llama3(base: float, size: int, scaling: dict[str, Any], config: dict[str, Any]) -> Frequencies:
    """Long waves are stretched by the factor, short ones not, in between a share that is linear in turns per window."""
    plain = _plain(base, size)
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return plain * (kept + (1 - kept) / scaling["factor"]), 1.0


def _yarn(base: float, size: int, scaling: dict[str, Any], config: dict[str, Any]) -> Frequencies:
    """Stretched below ``beta_slow`` turns per window, kept above ``beta_fast``, a ramp over dimensions between."""
    factor = scaling["factor"]
    window = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]

    def dimension(turns: float) -> float:
        return size * math.log(window / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / ((high - low) or 0.001), 0.0, 1.0)
    plain = _plain(base, size)
    frequencies = plain * (1 - ramp) + plain / factor * ramp

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention = scaling.get("attention_factor")
    if attention is None:
        weights = scaling.get("mscale"), scaling.get("mscale_all_dim")
        attention = magnitude(weights[0]) / magnitude(weights[1]) if all(weights) else magnitude(1.0)  # type: ignore[arg-type]
    return frequencies, float(attention)


def _longrope(base: float, size: int, scaling: dict[str, Any], config: dict[str, Any]) -> Frequencies:
    """Each frequency divided by its own short factor; long factors are for texts over the original window."""
    window = config.get("original_max_position_embeddings")
    factor = scaling.get("factor") if window is None else config["max_position_embeddings"] / window
    attention = scaling.get("attention_factor")
    if attention is None:
        if factor is None:
            raise NotInFourError("longrope without factor or original_max_position_embeddings")
        window = window or config["max_position_embeddings"]
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(window))
    return _plain(base, size) / np.asarray(scaling["short_factor"], dtype=float), float(attention)


_KINDS: dict[str, Callable[[float, int, dict[str, Any], dict[str, Any]], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,  # its base grows only past the window
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
