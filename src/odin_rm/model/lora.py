"""LoRA adapters under reward heads and language-model heads (peft, an optional extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from odin_rm.core.errors import MissingExtraError, ModelError


def import_peft() -> Any:
    """The peft module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "peft") from error
    return peft


def with_adapter(
    classifier: PreTrainedModel,
    output_layer: str,
    *,
    r: int,
    alpha: int,
    target_modules: Sequence[str] | str | None = None,
    task_type: str | None = None,
) -> Any:
    """A ``PeftModel`` around a classifier or causal model; other linear layers outside the base model stay trained.

    Args:
        classifier: the sequence classifier with the reward heads in place of its last linear layer, or a causal model.
        output_layer: dotted name of the heads or of the language-model head; what lies inside is left to the caller.
        r: rank.
        alpha: scale numerator; the update is ``alpha / r * B A``.
        target_modules: names of linear layers; by default every linear layer of the base model.
        task_type: peft's name of the task, so that other tools know which class to load.

    Raises:
        MissingExtraError: peft is not installed.
        ModelError: no layer has the names asked for.
    """
    peft = import_peft()
    prefix = classifier.base_model_prefix + "."
    if target_modules is None:
        modules = dict(classifier.named_modules())
        target_modules = [n for n, m in modules.items() if n.startswith(prefix) and _is_linear(m)]
    outside = sorted(
        n
        for n, m in classifier.named_modules()
        if _is_linear(m) and not n.startswith(prefix) and n != output_layer and not n.startswith(output_layer + ".")
    )
    lora = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=target_modules,
        modules_to_save=outside or None,
        task_type=task_type,
    )
    try:
        return peft.get_peft_model(classifier, lora)
    except ValueError as error:
        raise ModelError(f"LoRA cannot be added ({error})", fix="Check --lora_target_modules.") from error


def _is_linear(module: nn.Module) -> bool:
    # GPT-2's Conv1D is a linear layer by another name.
    return isinstance(module, (nn.Linear, Conv1D))
