"""The critic: a causal backbone with one linear read-out at every token, the value of the state there.

It starts from the policy's backbone with values of 0, or from a reward model: then its value of a whole response is the
quality reward, standardised as the policy's reward is. It shares no tensor with what it starts from.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from odin_rm.core.errors import ModelError
from odin_rm.core.types import QUALITY
from odin_rm.fast import reads_left_to_right
from odin_rm.model.backbone import (
    find_output_layer,
    load_classifier,
    load_config,
    quiet_loading,
    recompute_activations,
    switch_dropout_off,
)
from odin_rm.model.honest import loading
from odin_rm.model.info import is_reward_model_folder
from odin_rm.model.policy import load_policy
from odin_rm.model.reward_model import RewardModel

HEAD_FILE = "value_head.safetensors"


class Critic(nn.Module):
    """A causal backbone and a value head.

    Args:
        backbone: a causal base model (without a language-model head), dropout off.
        weight_D: the head's weights.
        bias: the head's bias.
        dropout: dropout rates that the backbone's config had before they were set to 0.
    """

    def __init__(
        self,
        backbone: nn.Module,
        weight_D: Tensor,
        bias: float = 0.0,
        dropout: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        device = next(backbone.parameters()).device
        self.head = nn.Linear(len(weight_D), 1, device=device, dtype=torch.float32)
        with torch.no_grad():
            self.head.weight.copy_(weight_D[None])
            self.head.bias.fill_(bias)
        self._dropout = dict(dropout or {})
        self._takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters

    @classmethod
    def from_policy(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
    ) -> Critic:
        """A critic on the backbone of a causal language model, all values 0.

        Raises:
            ModelError: nothing there to load (see :func:`odin_rm.model.policy.load_policy`).
        """
        model, _ = load_policy(
            path,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
        )
        size = model.get_output_embeddings().in_features
        return cls(model.base_model, torch.zeros(size), dropout=model.original_dropout)

    @classmethod
    def from_reward_model(
        cls,
        path: str | Path,
        *,
        mean: float | None = None,
        std: float | None = None,
        column: int = 0,
        dtype: torch.dtype | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
    ) -> Critic:
        """A critic on the backbone of a reward model, with its quality head as value head.

        The value after the whole response is ``(quality - mean) / std``, the standardised quality reward.

        Args:
            path: a reward model of ours (or the run folder that holds it; a LoRA adapter is merged), or any causal
                sequence classifier. It must read the policy's token ids; the caller checks that.
            mean, std: what the reward is standardised with; by default not at all.
            column: which label of a classifier of others.
            dtype, attn_implementation, trust_remote_code, gradient_checkpointing: as for the policy.

        Raises:
            ModelError: nothing there to load, or the model reads no token's state alone (an encoder, mean pooling,
                layers between backbone and head).
        """
        kwargs: dict[str, Any] = {
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
        }
        if is_reward_model_folder(Path(path) / "model"):
            path = Path(path) / "model"
        if is_reward_model_folder(path):
            model = RewardModel.from_pretrained(path, **kwargs).merged()
            classifier, dropout, pooling = model.classifier, model._dropout, model.info.pooling
            layer, weight_D, bias = model.output_layer, model.heads.effective(QUALITY), 0.0
        else:
            config = load_config(path, trust_remote_code=trust_remote_code)
            dropout, pooling = switch_dropout_off(config), "backbone"
            classifier = load_classifier(path, config=config, **kwargs)
            layer = find_output_layer(classifier, int(config.num_labels))
            linear: Any = classifier.get_submodule(layer)
            weight_D = linear.weight[column].float()
            bias = 0.0 if linear.bias is None else float(linear.bias[column])
        _check_causal(classifier, layer, pooling, path)
        scale = 1.0 if std is None else 1.0 / std
        backbone = classifier.base_model
        if gradient_checkpointing:
            recompute_activations(backbone)
        value_bias = (bias - (mean or 0.0)) * scale
        return cls(backbone.requires_grad_(True), weight_D.detach() * scale, value_bias, dropout)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> Critic:
        """Load what :meth:`save_pretrained` wrote; ``kwargs`` as of :meth:`from_policy`.

        Raises:
            ModelError: a part of it is missing or broken.
        """
        from transformers import AutoModel

        with loading(folder, "critic", "Copy it again."), quiet_loading():
            config = load_config(folder)
            dropout = switch_dropout_off(config)
            backbone = AutoModel.from_pretrained(folder, config=config, use_safetensors=True, **kwargs)
            head = load_file(Path(folder) / HEAD_FILE)
        return cls(backbone, head["weight"][0], float(head["bias"]), dropout)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write backbone and head as safetensors; the caller makes the folder atomic.

        Args:
            folder: created where missing.
            state_dict: this module's tensors where a distributed engine has gathered them; default the live ones.
        """
        state = dict(self.state_dict() if state_dict is None else state_dict)
        tensors = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        backbone: Any = self.backbone
        live = backbone.config
        backbone.config = copy.deepcopy(live)
        for name, value in self._dropout.items():
            setattr(backbone.config, name, value)
        try:
            with quiet_loading():
                backbone.save_pretrained(folder, state_dict=tensors)
        finally:
            backbone.config = live
        head = {k: state[f"head.{k}"].detach().float().cpu().contiguous() for k in ("weight", "bias")}
        save_file(head, Path(folder) / HEAD_FILE, metadata={"format": "pt"})

    def forward(
        self, input_ids_BS: Tensor, attention_mask_BS: Tensor, position_ids_BS: Tensor, response_length: int
    ) -> Tensor:
        """Values of the states before each response token.

        Args:
            input_ids_BS, attention_mask_BS, position_ids_BS: of a :class:`odin_rm.model.policy.ResponseBatch`.
            response_length: its ``T``.

        Returns:
            ``(B, T)`` float32 values in the units of the standardised reward, at the positions that
            :func:`odin_rm.model.policy.response_logits` reads. On padding they mean nothing.
        """
        kwargs = {"position_ids": position_ids_BS} if self._takes_positions else {}
        out = self.backbone(input_ids=input_ids_BS, attention_mask=attention_mask_BS, use_cache=False, **kwargs)
        hidden_BTD = out.last_hidden_state[:, -response_length - 1 : -1]
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            return self.head(hidden_BTD.float()).squeeze(-1).clone()  # FSDP hooks on to outputs, not safely to views


def _check_causal(classifier: Any, layer: str, pooling: str, path: str | Path) -> None:
    prefix = classifier.base_model_prefix + "."
    between = [
        name
        for name, module in classifier.named_modules()
        if not name.startswith(prefix) and f"{name}." != prefix and name and not (name + ".").startswith(layer + ".")
        if any(True for _ in module.parameters(recurse=False))
    ]
    if pooling != "backbone" or between or not reads_left_to_right(classifier):
        raise ModelError(
            "the reward model does not read the state of one token of a causal backbone, so it gives no values",
            where=str(path),
            fix="Use --critic_init policy.",
        )
