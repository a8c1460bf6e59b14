"""The files of a saved classifier in the words that other tools read, beside those that transformers 5 writes.

transformers 5 writes one dictionary ``rope_parameters``, ``dtype``, and tokenizer classes of its own. transformers 4
(RewardBench, Infinity) knows none of them: it takes rotary positions of base 10000 without a word, or stops at the
tokenizer. transformers 5 reads a folder with both exactly as one with its own words.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from odin_rm.core.files import atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.core.types import QUALITY
from odin_rm.model.info import RewardModelInfo
from odin_rm.model.reading import set_pad_id, stock_skip_id
from odin_rm.model.rotary import LOCAL_AND_GLOBAL, NEOX

BIAS_FILE = "score_bias.safetensors"
"""Beside the weights where a loader that reads every safetensors file of a folder expects a bias (SGLang)."""

IDENTITY = "torch.nn.modules.linear.Identity"
_SCALED_BY_LAYER = {"full_attention", "sliding_attention"}
# Model types whose class in SGLang has a bias that no checkpoint of transformers holds.
_BIASED_ELSEWHERE = ("qwen2", "qwen3")
# Tokenizer classes that came with transformers 5; PreTrainedTokenizerFast reads the same tokenizer.json.
_ONLY_IN_FIVE = ("TokenizersBackend", "EsmcTokenizer", "LasrTokenizer", "Qwen3_5Tokenizer", "VideoPrismTokenizer")
_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def one_label_config(config: Any, architecture: str, dropout: Mapping[str, float]) -> Any:
    """A copy of a backbone's config as that of a classifier with the one label ``quality``.

    Args:
        config: the backbone's config.
        architecture: name of the classifier's class.
        dropout: rates that were set to 0 for training, to be put back.
    """
    config = copy.deepcopy(config)
    config.num_labels = 1
    config.id2label, config.label2id = {0: QUALITY}, {QUALITY: 0}
    # transformers' pipeline and vLLM then give the raw score; for one label they squash it by default.
    config.problem_type = "regression"
    config.architectures = [architecture]
    for name, value in dropout.items():
        setattr(config, name, value)
    if (pad := stock_skip_id(config)) is not None:
        set_pad_id(config, pad)  # tools ask the outer config or the one for text
    return config


def complete_config(folder: Path, info: RewardModelInfo) -> None:
    """Add to ``config.json`` what other tools read; nothing that is there is changed.

    Args:
        folder: a classifier's folder as ``save_pretrained`` wrote it.
        info: the reward model's description, for mean and deviation of the reward.
    """
    path = folder / "config.json"
    content = read_json(path)
    add_rotary_fields(content)
    if "dtype" in content:
        content["torch_dtype"] = content["dtype"]
    # One label is squashed by a sigmoid elsewhere; sentence-transformers and vLLM read this.
    content["sentence_transformers"] = {"activation_fn": IDENTITY}
    for name in ("mean", "std"):  # of an earlier export that was trained on
        content.pop(name, None)
    if info.reward_mean is not None and info.reward_std:
        content |= {"mean": info.reward_mean, "std": info.reward_std}  # OpenRLHF's normalize_enable
    atomic_write_json(path, content)


def add_rotary_fields(config: dict[str, Any]) -> None:
    """Write rotary positions by transformers 4's names beside ``rope_parameters``, in nested configs too.

    Args:
        config: the content of a ``config.json``; changed in place.
    """
    for nested in config.values():
        if isinstance(nested, dict) and "model_type" in nested:
            add_rotary_fields(nested)
    if "_sliding_window_pattern" in config:
        config["sliding_window_pattern"] = config["_sliding_window_pattern"]
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return
    kind = config.get("model_type")
    if "rope_theta" in parameters:
        config |= _flat_fields(config, parameters)
    elif set(parameters) == _SCALED_BY_LAYER and all(isinstance(p, dict) for p in parameters.values()):
        whole, local = parameters["full_attention"], parameters["sliding_attention"]
        if kind in LOCAL_AND_GLOBAL:
            config |= {"global_rope_theta": whole["rope_theta"], "local_rope_theta": local["rope_theta"]}
        else:
            config |= _flat_fields(config, whole) | {"rope_local_base_freq": local["rope_theta"]}


def _flat_fields(config: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Base, scaling and rotated part of one set of rotary positions, by the names of transformers 4."""
    fields: dict[str, Any] = {"rope_theta": parameters["rope_theta"]}
    part = parameters.get("partial_rotary_factor")
    if part is not None:
        fields["partial_rotary_factor"] = part
    if config.get("model_type") in NEOX:
        fields |= {"rotary_emb_base": parameters["rope_theta"]} | ({} if part is None else {"rotary_pct": part})
    scaling = {k: v for k, v in parameters.items() if k not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type", "default") == "longrope":
        window: Any = scaling.get("original_max_position_embeddings", config.get("max_position_embeddings"))
        fields["original_max_position_embeddings"] = window
        if config.get("model_type") == "phi3":  # which takes these three names and no others
            scaling = {"type": "longrope"} | {k: scaling[k] for k in ("short_factor", "long_factor")}
        elif scaling.get("attention_factor") is None:  # transformers 4 asks the windows before the factor
            factor = scaling.get("factor") or config["max_position_embeddings"] / window
            grown = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(window))
            scaling = scaling | {"attention_factor": grown}
    if scaling != {"rope_type": "default"}:
        fields["rope_scaling"] = scaling
    return fields


def complete_tokenizer(folder: Path, classifier: Any) -> None:
    """Make ``tokenizer_config.json`` name a class that transformers 4 has, and only inputs that the model takes.

    Args:
        folder: where the tokenizer was saved.
        classifier: the sequence classifier that it feeds.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    content = read_json(path)
    if content.get("tokenizer_class") in _ONLY_IN_FIVE and (folder / "tokenizer.json").is_file():
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(content.get("extra_special_tokens"), list):  # transformers 4 has a dictionary by that name
        content["additional_special_tokens"] = content.pop("extra_special_tokens")
    taken = inspect.signature(classifier.forward).parameters
    given = content.get("model_input_names") or ["input_ids", "attention_mask"]
    content["model_input_names"] = [name for name in _INPUTS if name in taken and name in given]
    atomic_write_json(path, content)


def write_neutral_bias(folder: Path, config: Any, dtype: torch.dtype) -> bool:
    """Write a zero bias of the last layer into a file of its own, where SGLang would draw one at random.

    transformers reads ``model.safetensors`` alone, so it never sees a name that it does not know. Weights in several
    files come with an index that names them all; nothing is written then.

    Returns:
        Whether the file was written.
    """
    if config.model_type not in _BIASED_ELSEWHERE or not (folder / "model.safetensors").is_file():
        return False
    save_file({"score.bias": torch.zeros(1, dtype=dtype)}, folder / BIAS_FILE, metadata={"format": "pt"})
    return True
