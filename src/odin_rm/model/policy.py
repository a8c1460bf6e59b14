"""The policy: a causal language model, its log-probs of given responses, and its folder.

Prompts are padded on the left and responses on the right, so the border between them is one column of a batch and the
logits of all responses are its last ``T + 1`` columns: nothing of the size of the vocabulary is computed for prompts.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from transformers import AutoModelForCausalLM

from odin_rm.core.errors import ModelError, ShapeError
from odin_rm.fast import reads_left_to_right
from odin_rm.model.backbone import (
    check_model_folder,
    ensure_pad_token,
    load_config,
    quiet_loading,
    recompute_activations,
    switch_dropout_off,
)
from odin_rm.model.honest import check_adapter_loaded, check_layers, loading
from odin_rm.model.info import is_reward_model_folder
from odin_rm.model.lora import import_peft, with_adapter
from odin_rm.model.scoring import load_tokenizer
from odin_rm.model.storage import ADAPTER_WEIGHTS
from odin_rm.objectives.policy import gather_log_probs, token_entropy

ADAPTER_CONFIG = "adapter_config.json"

# ---- loading and saving ----------------------------------------------------------------------------------------------


def policy_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a policy alone, to look at rows before its weights are loaded.

    Raises:
        ModelError: there is none.
    """
    return load_tokenizer(_policy_folder(path), trust_remote_code=trust_remote_code)


def _policy_folder(path: str | Path) -> str | Path:
    inside = Path(path) / "policy"
    return inside if (inside / "config.json").is_file() or (inside / ADAPTER_CONFIG).is_file() else path


def load_policy(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    lora_r: int = 0,
    lora_alpha: int = 16,
    lora_target_modules: Sequence[str] | None = None,
    gradient_checkpointing: bool = False,
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, ready to be trained: dropout off, a pad token there.

    Args:
        path: model folder, run folder (its ``policy/`` is taken) or hub id; safetensors only. The folder of an adapter
            gives its base model with the adapter merged, which is then the policy to start from and the reference.
        dtype: of the weights; default float32.
        attn_implementation: attention of transformers.
        trust_remote_code: run code that comes with the model.
        lora_r: rank of a new LoRA adapter, drawn from torch's global seed; 0 trains all weights.
        lora_alpha: scale numerator of the adapter.
        lora_target_modules: names of linear layers for the adapter; default all but the language-model head.
        gradient_checkpointing: recompute activations in the backward pass.

    Returns:
        ``(model, tokenizer)``; the model is in evaluation mode, as transformers loads it.

    Raises:
        ModelError: nothing there to load, or it is no causal language model (an encoder, a reward model), or weights
            or tokenizer are missing.
        MissingExtraError: an adapter is asked for or found, and peft is not installed.
    """
    path = _policy_folder(path)
    kwargs: dict[str, Any] = {
        "dtype": dtype or torch.float32,
        "attn_implementation": attn_implementation,
        "trust_remote_code": trust_remote_code,
    }
    model = _merged_adapter(path, kwargs) if (Path(path) / ADAPTER_CONFIG).is_file() else _load_causal(path, **kwargs)
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    ensure_pad_token(tokenizer, model.config)
    if gradient_checkpointing:
        recompute_activations(model)
    if lora_r:
        head = model.get_output_embeddings()
        name = next(name for name, module in model.named_modules() if module is head)
        model.name_or_path = str(path)
        model = with_adapter(
            model, name, r=lora_r, alpha=lora_alpha, target_modules=lora_target_modules, task_type="CAUSAL_LM"
        )
    return model, tokenizer


def _load_causal(path: str | Path, *, trust_remote_code: bool, attn_implementation: str | None, dtype: Any) -> Any:
    fix = "Give a causal language model, such as the result of odin-rm sft."
    if is_reward_model_folder(path) or is_reward_model_folder(Path(path) / "model"):
        raise ModelError("is a reward model, not a policy", where=str(path), fix=fix)
    check_model_folder(path)
    config = load_config(path, trust_remote_code=trust_remote_code)
    kind = next(iter(config.architectures or ()), type(config).__name__)
    if "SequenceClassification" in kind:
        raise ModelError(f"is a classifier ({kind}), not a policy", where=str(path), fix=fix)
    known = type(config) in AutoModelForCausalLM._model_mapping or "AutoModelForCausalLM" in (
        getattr(config, "auto_map", None) or {}
    )
    if not known or config.is_encoder_decoder:
        raise ModelError(f"is no causal language model ({kind})", where=str(path), fix=fix)
    dropout = switch_dropout_off(config)
    kwargs: dict[str, Any] = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    with loading(path), quiet_loading():
        model, report = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, output_loading_info=True, **kwargs
        )
    check_layers(model, report, path)
    if missing := sorted(report["missing_keys"]):
        what = f"the model has no weights for {', '.join(missing[:3])}, so it cannot write"
        raise ModelError(what, where=str(path), fix=fix)
    if not reads_left_to_right(model):  # encoders have a causal class too
        raise ModelError(f"is an encoder ({kind}), not a causal language model", where=str(path), fix=fix)
    model.original_dropout = dropout
    return model


def _merged_adapter(path: str | Path, kwargs: dict[str, Any]) -> Any:
    peft = import_peft()
    if not (Path(path) / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"the adapter has no weights ({ADAPTER_WEIGHTS})", where=str(path), fix="Copy them there.")
    fix = "Copy the adapter's folder again."
    with loading(path, f"adapter's {ADAPTER_CONFIG}", fix):
        base = peft.PeftConfig.from_pretrained(str(path)).base_model_name_or_path
    try:
        model, _ = load_policy(str(base), **kwargs)
    except ModelError as error:
        raise ModelError(
            f"the adapter needs its base model, which cannot be loaded: {error.what}",
            where=f"{path} on {base}",
            fix=f"Put the base model back, or correct 'base_model_name_or_path' in {ADAPTER_CONFIG}.",
        ) from error
    dropout = model.original_dropout
    with loading(path, "adapter", fix):
        adapted = peft.PeftModel.from_pretrained(model, str(path))
        check_adapter_loaded(adapted, peft, Path(path) / ADAPTER_WEIGHTS)
        model = adapted.merge_and_unload()
    model.original_dropout = dropout
    return model


def save_policy(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    merged: bool = False,
) -> None:
    """Write model and tokenizer as a folder that transformers loads, with the original dropout rates in its config.

    Args:
        model: the policy, in whatever accelerate has wrapped it. A LoRA model is saved as its adapter.
        tokenizer: saved beside it.
        folder: created where missing; the caller makes it atomic (``odin_rm.core.files.atomic_folder``).
        state_dict: tensors of the unwrapped model that a distributed engine has gathered.
        merged: write a LoRA model as a whole model, the adapter merged (a copy; not with ``state_dict``).
    """
    policy = unwrap_policy(model)
    if merged and _is_lora(policy):
        if state_dict is not None:
            raise ValueError("merged: load the saved adapter again and save that instead of giving a state_dict")
        policy = copy.deepcopy(policy).merge_and_unload()
    causal = base_policy(policy)
    live, was_training = causal.config, causal.training
    stock = copy.deepcopy(live)
    for name, value in getattr(causal, "original_dropout", {}).items():
        setattr(stock, name, value)
    causal.config = stock
    try:
        with quiet_loading():
            policy.save_pretrained(folder, state_dict=None if state_dict is None else dict(state_dict))
    finally:
        causal.config = live
        policy.train(was_training)
    if _is_lora(policy):
        (Path(folder) / "README.md").unlink(missing_ok=True)  # peft's card, which says nothing
    tokenizer.save_pretrained(folder)


def end_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """The tokens at which the policy stops: those of its generation config and the tokenizer's.

    Raises:
        ModelError: there is none, so no response could ever end.
    """
    config = getattr(base_policy(model), "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    ends = {int(i) for i in (named if isinstance(named, (list, tuple)) else [named]) if i is not None}
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    if not ends:
        raise ModelError("neither model nor tokenizer names an end token", fix="Set tokenizer.eos_token and save it.")
    return ends


# ---- wrappers --------------------------------------------------------------------------------------------------------


def unwrap_policy(model: Any) -> Any:
    """The model inside what accelerate or torch.compile has put around it; a LoRA model stays one."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def base_policy(model: Any) -> Any:
    """The causal language model itself, without wrappers and without LoRA's (its layers carry the adapter on)."""
    policy = unwrap_policy(model)
    return policy.get_base_model() if _is_lora(policy) else policy


def _is_lora(policy: Any) -> bool:
    return hasattr(policy, "peft_config") and hasattr(policy, "disable_adapter")


@contextmanager
def adapter_disabled(model: Any) -> Iterator[None]:
    """Within the block a LoRA policy is its base model: the reference policy, at no memory.

    Raises:
        ModelError: the model has no adapter, so it would be its own reference.
    """
    policy = unwrap_policy(model)
    if not _is_lora(policy):
        raise ModelError("the policy has no LoRA adapter to switch off", fix="Load a reference policy of its own.")
    with policy.disable_adapter():
        yield


# ---- responses and their log-probs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResponseBatch:
    """``B`` prompts padded on the left and their responses padded on the right; ``S = P + T`` columns.

    Attributes:
        input_ids_BS: prompt and response ids.
        attention_mask_BS: 1 for real tokens.
        position_ids_BS: position of each token in its own row, from 0.
        response_mask_BT: float, 1 for real response tokens (the end token is one).
        response_ids_BT: the responses alone.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    position_ids_BS: Tensor
    response_mask_BT: Tensor
    response_ids_BT: Tensor

    def to(self, device: torch.device | str) -> ResponseBatch:
        """The same on a device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def collate_responses(
    prompt_ids: Sequence[Sequence[int]], response_ids: Sequence[Sequence[int]], pad_token_id: int
) -> ResponseBatch:
    """Put unpadded prompts and responses into one batch.

    Args:
        prompt_ids: ``B`` prompts, each of at least one token.
        response_ids: ``B`` responses; an empty one gives a row of padding.
        pad_token_id: what stands on padding.

    Raises:
        ShapeError: the lists differ in length, or a prompt is empty.
    """
    if len(prompt_ids) != len(response_ids) or not prompt_ids or not all(prompt_ids):
        raise ShapeError(f"{len(prompt_ids)} prompts (none may be empty) for {len(response_ids)} responses")
    rows, prompt = len(prompt_ids), max(map(len, prompt_ids))
    response = max(1, *map(len, response_ids))
    input_ids_BS = torch.full((rows, prompt + response), pad_token_id)
    attention_mask_BS = torch.zeros_like(input_ids_BS)
    for row, (asked, written) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        span = slice(prompt - len(asked), prompt + len(written))
        input_ids_BS[row, span] = torch.tensor([*asked, *written])
        attention_mask_BS[row, span] = 1
    position_ids_BS = (attention_mask_BS.cumsum(-1) - 1).clamp_min(0)
    mask_BT = attention_mask_BS[:, prompt:].float()
    return ResponseBatch(input_ids_BS, attention_mask_BS, position_ids_BS, mask_BT, input_ids_BS[:, prompt:])


def response_logits(model: Any, batch: ResponseBatch) -> Tensor:
    """``(B, T, V)`` logits that predict the response tokens: those of the token before each.

    Args:
        model: the policy, wrapped or not.
        batch: on the model's device.
    """
    tokens = batch.response_ids_BT.shape[1]
    kwargs: dict[str, Any] = {"use_cache": False, "logits_to_keep": tokens + 1}
    # Models without positions (ALiBi, state spaces) do not take them; the mask tells them all they need.
    if "position_ids" in inspect.signature(base_policy(model).forward).parameters:
        kwargs["position_ids"] = batch.position_ids_BS
    logits_BTV = model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, **kwargs).logits
    return logits_BTV[:, -tokens - 1 : -1]


def response_log_probs(model: Any, batch: ResponseBatch, temperature: float, *, with_entropy: bool = False) -> Any:
    """Log-probs of the response tokens under the distribution that they are sampled from.

    Args:
        model: the policy, wrapped or not.
        batch: on the model's device.
        temperature: the sampling temperature.
        with_entropy: give the entropy of each next-token distribution as well, without gradient.

    Returns:
        ``(B, T)`` nats, float32, 0 on padding; with entropy a pair of such tables.
    """
    logits_BTV = response_logits(model, batch)
    padding_BT = batch.response_mask_BT == 0
    log_probs_BT = gather_log_probs(logits_BTV, batch.response_ids_BT, temperature).masked_fill(padding_BT, 0.0)
    if not with_entropy:
        return log_probs_BT
    return log_probs_BT, token_entropy(logits_BTV, temperature).masked_fill(padding_BT, 0.0)
