"""Loading any sequence-classification backbone and finding its last linear layer by structure.

The feature of a reward model is the input of the backbone's own last linear layer (``score``, ``classifier``,
``classifier.out_proj``, ...): the module outside the base model whose output size is the number of labels. Putting the
heads in its place leaves pooling and the choice of the read-out token to the architecture's own code, so the stock
one-label model of the same weights gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as hf_logging

from odin_rm.core.errors import ModelError
from odin_rm.core.hub import check_hub
from odin_rm.model.honest import check_config_file, check_index, check_layers, loading

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def check_model_folder(path: str | Path, *, extra_weight_files: tuple[str, ...] = ()) -> None:
    """Refuse a local folder that cannot be a model, with a reason; hub ids pass where the hub can be asked.

    Raises:
        ModelError: the folder is missing (for a path-like name, or without network), has no ``config.json``, no
            weights, or a pickle only.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists() or str(path).startswith((".", "/", "~")) or str(path).count("/") > 1:
            raise ModelError("there is no such model folder", where=str(path), fix="Give a model folder or a hub id.")
        check_hub(path, ModelError, "model folder")
        return
    if any((folder / name).is_file() for name in extra_weight_files):
        return
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        fix = "Merge it into its base model with peft (merge_and_unload), save that, and give that folder."
        raise ModelError("is a LoRA adapter without its base model", where=str(path), fix=fix)
    if not (folder / "config.json").is_file():
        raise ModelError(
            "the folder has no config.json, so it is not a transformers model",
            where=str(path),
            fix="Give the folder that save_pretrained wrote (for a run folder that is its model/ folder).",
        )
    check_config_file(folder)
    check_index(folder)
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        return
    if any((folder / name).is_file() for name in PICKLE_FILES):
        raise ModelError(
            "the folder holds its weights as a pickle only, which could run code when it is loaded",
            where=str(path),
            fix="Convert it to safetensors: load it with transformers and call save_pretrained.",
        )
    raise ModelError(
        "the folder has no weights (model.safetensors)", where=str(path), fix="Copy the weights beside config.json."
    )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' report of a missing classifier, where one is about to be put in, and its small bars."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def load_config(path: str | Path, *, trust_remote_code: bool = False, **overrides: Any) -> Any:
    """``AutoConfig`` of a folder or hub id with load errors turned into one line.

    Raises:
        ModelError: the config cannot be read.
    """
    check_hub(path, ModelError, "model folder")
    with loading(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **overrides)


def load_classifier(
    path: str | Path,
    *,
    config: Any = None,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> PreTrainedModel:
    """The sequence classifier of a folder or hub id, safetensors only.

    ``quiet`` is for callers that put the missing weights in themselves: transformers' report of them is left out, and
    they are no error.

    Raises:
        ModelError: nothing there to load, the architecture has no sequence classifier, or (unless ``quiet``) weights
            are missing: a classifier drawn at random would give scores that mean nothing.
    """
    check_model_folder(path)
    kwargs: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": trust_remote_code}
    kwargs["dtype"] = dtype or torch.float32
    kwargs["ignore_mismatched_sizes"] = quiet
    if config is not None:
        kwargs["config"] = config
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    with loading(path), quiet_loading():
        model, report = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True, **kwargs)
    _check_counted_positions(model, path)
    check_layers(model, report, path)
    if quiet:  # another classifier's last layer may have any number of labels, for it is replaced
        layer = find_output_layer(model, int(model.config.num_labels))
        other = sorted(str(k[0]) for k in report["mismatched_keys"] if not str(k[0]).startswith(layer + "."))
        if other:
            raise ModelError(f"the weights of {other[0]} do not have the shape that the config asks", where=str(path))
    missing = sorted(report["missing_keys"])
    if missing and not quiet:
        raise ModelError(
            f"the model has no weights for {', '.join(missing[:3])}, so it is not a trained sequence classifier",
            where=str(path),
            fix="Give a reward model; train one from this model with odin-rm reward.",
        )
    return model


def find_output_layer(model: nn.Module, labels: int) -> str:
    """Dotted name of the last linear layer: the last ``nn.Linear`` outside the base model with ``labels`` outputs.

    Raises:
        ModelError: there is none.
    """
    base_prefix = getattr(model, "base_model_prefix", "")
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == labels
        and not (base_prefix and name.startswith(base_prefix + "."))
    ]
    if not found:
        raise ModelError(
            f"no linear output layer with {labels} label(s) in {type(model).__name__}",
            fix="Use an architecture whose classifier ends in a linear layer.",
        )
    return found[-1]


def recompute_activations(model: Any) -> None:
    """Recompute a transformers model's activations in its backward pass, to save memory."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:  # the name of older releases
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def position_table(model: nn.Module) -> int | None:
    """How many tokens a table of learnt positions allows; ``None`` where positions are computed (rotary, relative).

    RoBERTa's kind counts positions from after its padding index, OPT's has an offset of 2.
    """
    sizes = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and last in ("position_embeddings", "embed_positions", "wpe"):
            taken = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            sizes.append(module.num_embeddings - int(taken))
    return min(sizes, default=None)


def _check_counted_positions(model: nn.Module, path: str | Path) -> None:
    """Refuse an encoder of RoBERTa's kind whose config has no pad id: it counts positions from behind that id."""
    for module in model.modules():
        if hasattr(module, "position_embeddings") and vars(module).get("padding_idx", 0) is None:
            what = "its config has no pad_token_id, and this architecture counts its positions from that id"
            fix = "Write the tokenizer's pad_token_id into config.json (1 for RoBERTa's own vocabulary)."
            raise ModelError(what, where=str(path), fix=fix)


def embedding_rows(model: Any) -> int | None:
    """How many ids the embedding of tokens has rows for; ``None`` where there is no such table (Canine hashes)."""
    try:
        return int(model.get_input_embeddings().num_embeddings)
    except (NotImplementedError, AttributeError):
        return None


def check_token_ids(model: Any, sequences: Iterable[np.ndarray], *, where: str = "") -> None:
    """Refuse token ids that the embedding has no row for: a pass would end in the middle, on CUDA with the process.

    Args:
        model: the classifier.
        sequences: arrays of token ids.
        where: what the error names.

    Raises:
        ModelError: there is such an id.
    """
    rows = embedding_rows(model)
    largest = max((int(np.max(ids)) for ids in sequences if len(ids)), default=-1)
    if rows is not None and largest >= rows:
        raise ModelError(
            f"the tokenizer gives a text the token {largest}, and the model's embedding has {rows} rows",
            where=where,
            fix="Give the model its own tokenizer, or resize the model's embedding to it and save both.",
        )


def model_window(model: nn.Module, tokenizer: Any) -> int | None:
    """The longest input in tokens by what tokenizer, config and position table say; ``None`` where none says it."""
    config = next((m.config for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    limits = [
        getattr(tokenizer, "model_max_length", None),
        getattr(config, "max_position_embeddings", None),
        position_table(model),
    ]
    # Tokenizers without a limit say 1e30; configs without one say -1.
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < 2**31), default=None)


def switch_dropout_off(config: Any) -> dict[str, float]:
    """Set every dropout rate of a config to 0 and give the old values back, for the two passes of a step must agree.

    Returns:
        ``{name: old value}`` of the rates that were not 0.
    """
    old = {}
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float) and value > 0:
            old[name] = value
            setattr(config, name, 0.0)
    return old


def pad_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of each row to its end; rows padded on the right already come back unchanged.

    Encoders read their first column and absolute positions count columns, so left padding would change what a stock
    classifier reads.

    Args:
        input_ids: ``(R, T)`` token ids.
        attention_mask: ``(R, T)`` 1 for real tokens.
    """
    columns_T = torch.arange(input_ids.shape[1], device=input_ids.device)
    first_R = attention_mask.argmax(-1)
    source_RT = (columns_T + first_R[:, None]) % input_ids.shape[1]
    return input_ids.gather(1, source_RT), attention_mask.gather(1, source_RT)


def mean_pool(hidden_RTD: Tensor, attention_mask: Tensor) -> Tensor:
    """``(R, D)`` mean of the hidden states of the real tokens, in float32."""
    weight_RT1 = attention_mask.unsqueeze(-1).float()
    return (hidden_RTD.float() * weight_RT1).sum(1) / weight_RT1.sum(1).clamp_min(1.0)


def freeze_unread(classifier: PreTrainedModel, output_layer: str) -> None:
    """Stop training what mean pooling does not read: the pooler and everything outside the base model but the heads.

    Data-parallel engines wait for the gradient of every trained parameter, and these get none.
    """
    prefix = classifier.base_model_prefix + "."
    for name, parameter in classifier.named_parameters():
        outside = not name.startswith(prefix) and not name.startswith(output_layer + ".")
        if outside or ".pooler." in name:
            parameter.requires_grad_(False)


def ensure_pad_token(tokenizer: Any, model_config: Any) -> int:
    """Give the tokenizer a pad token where it has none (its end token) and the config the same id.

    Returns:
        The pad token id.

    Raises:
        ModelError: the tokenizer has neither pad nor end nor unknown token.
    """
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ModelError(
                "the tokenizer has no pad, end or unknown token", fix="Set tokenizer.pad_token and save it."
            )
        tokenizer.pad_token = substitute
    model_config.pad_token_id = tokenizer.pad_token_id
    return int(tokenizer.pad_token_id)
