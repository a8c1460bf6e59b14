"""The reward model: any sequence-classification backbone with named heads in place of its last linear layer.

The saved folder is at the same time a stock one-label classifier whose single label is the quality head, so a tool that
knows nothing of odin-rm ranks by quality and never by length. The heads by name are in ``reward_heads.safetensors``.

With ``pooling="mean"`` (encoders trained as sentence embedders) the heads read the mean of the last hidden states. No
stock classifier does that, so such a folder has no classifier weight and such a model cannot be exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from odin_rm.core.errors import ModelError
from odin_rm.core.types import LENGTH, QUALITY, RewardScores
from odin_rm.fast import score_row, use_fast_products
from odin_rm.model.backbone import (
    check_model_folder,
    embedding_rows,
    find_output_layer,
    freeze_unread,
    load_classifier,
    load_config,
    mean_pool,
    pad_right,
    quiet_loading,
    switch_dropout_off,
)
from odin_rm.model.heads import RewardHeads, effective_head
from odin_rm.model.honest import check_adapter_loaded, loading
from odin_rm.model.info import RewardModelInfo
from odin_rm.model.lora import import_peft, with_adapter
from odin_rm.model.reading import forget_earlier, padded_logits
from odin_rm.model.stock_config import complete_config, complete_tokenizer, one_label_config
from odin_rm.model.storage import ADAPTER_WEIGHTS, HEADS_FILE, local_folder, read_heads, upload_folder

__all__ = ["HEADS_FILE", "RewardModel"]


class RewardModel(nn.Module):
    """A backbone whose last linear layer is a :class:`RewardHeads`.

    Args:
        backbone: a sequence classifier (or a ``PeftModel`` around one) that already carries the heads.
        output_layer: dotted name of the heads within the unwrapped backbone.
        info: description that is saved beside the weights.
        dropout: dropout rates that the backbone's config had before they were set to 0.

    Attributes:
        tree_kernel: attention kernel for rows that hold trees (:mod:`odin_rm.fast.tree_attention`).
    """

    def __init__(
        self,
        backbone: nn.Module,
        output_layer: str,
        info: RewardModelInfo,
        dropout: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.output_layer = output_layer
        self.info = info
        self._dropout = dict(dropout or {})
        self._decoder = hasattr(self.config, "use_cache")
        self.tree_kernel = "auto"
        use_fast_products(backbone)

    # ---- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(
        cls,
        path: str | Path,
        *,
        heads: Sequence[str] = (QUALITY, LENGTH),
        normalise_heads: bool = True,
        head_scale: float = 1.0,
        pooling: str = "backbone",
        dtype: torch.dtype | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
    ) -> RewardModel:
        """A new reward model on a pretrained causal or encoder model; the heads are drawn from torch's global seed.

        Raises:
            ModelError: nothing there to load, or no linear output layer.
        """
        check_model_folder(path)
        config = load_config(path, trust_remote_code=trust_remote_code, num_labels=1)
        dropout = switch_dropout_off(config)
        backbone = load_classifier(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            quiet=True,
        )
        name = find_output_layer(backbone, 1)
        size = int(backbone.get_submodule(name).in_features)  # type: ignore[arg-type]
        _set_submodule(backbone, name, RewardHeads(size, heads, normalise=normalise_heads, scale=head_scale))
        if pooling == "mean":
            freeze_unread(backbone, name)
        return cls(backbone, name, RewardModelInfo(tuple(heads), normalise_heads, head_scale, pooling), dropout)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        trainable: bool = False,
    ) -> RewardModel:
        """Load what :meth:`save_pretrained` wrote (a folder, or a hub id that is downloaded first).

        Args:
            path: folder or hub id.
            dtype: dtype of the backbone; the heads stay in float32.
            attn_implementation: attention implementation of transformers.
            trust_remote_code: run code that comes with the model.
            trainable: keep a LoRA adapter trainable (training goes on from this model).

        Raises:
            ModelError: the folder is not a saved reward model, or a part of it is missing.
        """
        folder = local_folder(path)
        info = RewardModelInfo.load(folder)
        kwargs: dict[str, Any] = {
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
        }
        source: str | Path = info.base_model if info.base_model is not None else folder
        heads: dict[str, Any] = {
            "normalise_heads": info.normalise_heads,
            "head_scale": info.head_scale,
            "pooling": info.pooling,
        }
        try:
            with loading(source):
                model = cls.from_backbone(source, heads=info.heads, **heads, **kwargs)
        except ModelError as error:
            if info.base_model is None:
                raise
            raise ModelError(
                f"the adapter needs its base model, which cannot be loaded: {error.what}",
                where=f"{path} on {info.base_model}",
                fix="Put the base model back, or correct 'base_model' in odin_rm.json.",
            ) from error
        if info.vocabulary is not None:
            model.grow_vocabulary(info.vocabulary)  # a LoRA model's base has the rows it always had
        model.info = info
        if info.base_model is not None:
            peft = import_peft()
            with loading(folder, "adapter", "Copy the whole model folder again."):
                model.backbone = peft.PeftModel.from_pretrained(model.backbone, folder, is_trainable=trainable)
            check_adapter_loaded(model.backbone, peft, folder / ADAPTER_WEIGHTS)
            # peft freezes all that is not an adapter, the heads too.
            model.heads.requires_grad_(trainable)
        model.load_heads(folder)
        return model

    # ---- parts -------------------------------------------------------------------------------------------------------

    @property
    def classifier(self) -> PreTrainedModel:
        """The sequence classifier itself, without a LoRA wrapper."""
        backbone: Any = self.backbone
        return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone

    @property
    def config(self) -> Any:
        """The backbone's config."""
        return self.classifier.config

    @property
    def heads(self) -> RewardHeads:
        """The heads in place of the backbone's last linear layer."""
        module = self.classifier.get_submodule(self.output_layer)
        assert isinstance(module, RewardHeads)
        return module

    def set_head_scale(self, scale: float) -> None:
        """Multiply normalised heads by another constant."""
        self.heads.scale = scale
        self.info = self.info.with_(head_scale=scale)

    @property
    def has_length_head(self) -> bool:
        """Whether there is a length head beside the quality head."""
        return LENGTH in self.heads.names

    @property
    def reads_feature(self) -> bool:
        """Whether scores come with the feature that the heads read; can be switched."""
        return self.heads.with_feature

    @reads_feature.setter
    def reads_feature(self, wanted: bool) -> None:
        self.heads.with_feature = wanted

    @property
    def is_lora(self) -> bool:
        """Whether the backbone carries a LoRA adapter."""
        return self.classifier is not self.backbone

    # ---- computation -------------------------------------------------------------------------------------------------

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **row: Tensor) -> RewardScores:
        """Rewards of ``R`` padded sequences of ``T`` tokens, or of the ``R`` sequences in a row of ``T`` tokens.

        Args:
            input_ids: ``(R, T)`` token ids, padded on either side with any token; or ``(1, T)``.
            attention_mask: ``(R, T)`` 1 for real tokens; left out for a row.
            **row: the other tensors of a row (:func:`odin_rm.data.trees.tree_tensors`).

        Returns:
            :class:`RewardScores` with ``(R,)`` float32 rewards per head. A causal model is read at the last token that
            is no padding, whatever its id (:mod:`odin_rm.model.reading`); the padding side changes nothing.
        """
        if attention_mask is None:
            return self._scores(self._score_row({"input_ids": input_ids, **row}))
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        if self.info.pooling == "mean":
            kwargs: dict[str, Any] = {"use_cache": False} if self._decoder else {}
            base = self.classifier.base_model
            forget_earlier(base)
            hidden_RTD = base(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
            rewards_RH = self.heads(mean_pool(hidden_RTD, attention_mask))
        else:
            rewards_RH = padded_logits(self.classifier, self.backbone, input_ids, attention_mask)
        return self._scores(rewards_RH)

    def head_cosine(self) -> Tensor | None:
        """``()`` cosine between the quality and the length head, or ``None`` without a length head."""
        return self.heads.cosine(QUALITY, LENGTH) if self.has_length_head else None

    # ---- what transformers.Trainer calls -----------------------------------------------------------------------------

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass to save memory (transformers' own implementation)."""
        backbone: Any = self.classifier
        if hasattr(backbone, "activation_checkpointing_enable"):
            backbone.activation_checkpointing_enable(**kwargs)
        else:
            backbone.gradient_checkpointing_enable(kwargs.get("activation_checkpointing_kwargs"))
        if self.is_lora:
            # The frozen embedding's output has no gradient, and reentrant checkpoints would then drop the adapters'.
            backbone.enable_input_require_grads()

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """The name that older transformers releases call."""
        self.activation_checkpointing_enable(activation_checkpointing_kwargs=gradient_checkpointing_kwargs)

    # ---- vocabulary --------------------------------------------------------------------------------------------------

    def grow_vocabulary(self, rows: int) -> None:
        """Give the embedding at least ``rows`` rows; new ones are zeros and draw nothing from a seed.

        Args:
            rows: the largest id that a text or its padding holds, plus one.
        """
        classifier, old = self.classifier, embedding_rows(self.classifier)
        if old is None or old >= rows:
            return
        with torch.random.fork_rng(), quiet_loading():
            classifier.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            classifier.get_input_embeddings().weight[old:] = 0
        self.info = self.info.with_(vocabulary=rows)

    # ---- LoRA --------------------------------------------------------------------------------------------------------

    def add_lora(
        self, base_model: str, *, r: int, alpha: int, target_modules: Sequence[str] | str | None = None
    ) -> None:
        """Freeze the backbone under a LoRA adapter; the heads and what lies outside the base model stay trained.

        Args:
            base_model: folder or hub id to record, from which the frozen weights are loaded again.
            r: rank.
            alpha: scale numerator; the update is ``alpha / r * B A``.
            target_modules: names of linear layers; by default every linear layer of the base model.

        Raises:
            MissingExtraError: peft is not installed.
            ModelError: no layer has the names asked for.
        """
        classifier = self.classifier
        self.backbone = with_adapter(classifier, self.output_layer, r=r, alpha=alpha, target_modules=target_modules)
        if self.info.pooling == "mean":
            freeze_unread(classifier, self.output_layer)
        self.heads.requires_grad_(True)
        self.info = self.info.with_(base_model=base_model)

    # ---- saving ------------------------------------------------------------------------------------------------------

    def quality_state_dict(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors of the stock one-label classifier: the backbone's own names, the quality head as its last layer.

        Args:
            state_dict: this module's state dict where a distributed engine has gathered it; default the live one.
        """
        state = dict(self.state_dict() if state_dict is None else state_dict)
        backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        vectors = self.output_layer + ".vectors."
        stock = {k: v for k, v in backbone.items() if not k.startswith(vectors)}
        if self.info.pooling != "backbone":
            # A stock classifier reads another token: it must find no classifier here rather than a wrong one.
            return {k: v.detach().contiguous() for k, v in stock.items()}
        dtype = next((v.dtype for v in stock.values() if v.is_floating_point()), torch.float32)
        weight = self._effective(backbone[vectors + QUALITY]).to(dtype)[None]
        stock[self.output_layer + ".weight"] = weight
        if self._stock_layer_has_bias():
            stock[self.output_layer + ".bias"] = torch.zeros(1, dtype=dtype)
        return {k: v.detach().contiguous() for k, v in stock.items()}

    def save_pretrained(
        self, folder: str | Path, *, tokenizer: Any = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the model folder: backbone (or adapter), heads by name, description, tokenizer, model card.

        Args:
            folder: created where missing; the caller makes it atomic (``odin_rm.core.files.atomic_folder``).
            tokenizer: saved beside the model where given.
            state_dict: gathered tensors from a distributed engine.
        """
        from odin_rm.model.card import write_model_card

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = dict(self.state_dict() if state_dict is None else state_dict)
        marker = self.output_layer + ".vectors."
        vectors = {k.split(marker)[1]: v.detach().float().cpu().contiguous() for k, v in state.items() if marker in k}
        save_file(vectors, folder / HEADS_FILE, metadata={"format": "pt"})
        if self.is_lora:
            backbone: Any = self.backbone
            backbone.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)
        else:
            self._save_stock(folder, self.quality_state_dict(state))
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
            complete_tokenizer(folder, self.classifier)
        self.info.save(folder)
        write_model_card(folder, self.info)

    def load_heads(self, folder: str | Path) -> None:
        """Read the heads by name from ``reward_heads.safetensors``.

        Raises:
            ModelError: the file is missing or holds other heads.
        """
        tensors = read_heads(folder, self.heads.names)
        with torch.no_grad():
            for name, parameter in self.heads.vectors.items():
                if tensors[name].shape != parameter.shape:
                    shapes = f"{list(tensors[name].shape)}, the model reads {list(parameter.shape)}"
                    what = f"the {name} head has the shape {shapes}"
                    raise ModelError(what, where=str(Path(folder) / HEADS_FILE), fix="Copy the whole model folder.")
                parameter.copy_(tensors[name])

    def load_weights(self, folder: str | Path) -> None:
        """Load all weights of a folder saved from the same kind of model into this one, in place (checkpoints)."""
        if self.is_lora:
            peft = import_peft()
            adapter = load_file(Path(folder) / ADAPTER_WEIGHTS)
            peft.set_peft_model_state_dict(self.backbone, adapter)
        else:
            fresh = load_classifier(folder, dtype=next(self.classifier.parameters()).dtype, quiet=True)
            tensors = {k: v for k, v in fresh.state_dict().items() if not k.startswith(self.output_layer + ".")}
            self.classifier.load_state_dict(tensors, strict=False)
        self.load_heads(folder)

    def push_to_hub(self, repo_id: str, *, tokenizer: Any = None, private: bool | None = None, **kwargs: Any) -> str:
        """Upload the saved folder to the hub; returns the address of the commit."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, tokenizer=tokenizer)
            return upload_folder(folder, repo_id, private=private, **kwargs)

    def merged(self) -> RewardModel:
        """The same model with a LoRA adapter merged into the backbone (a deep copy; itself where there is none)."""
        if not self.is_lora:
            return self
        import copy

        backbone: Any = copy.deepcopy(self.backbone)
        info = self.info.with_(base_model=None)
        return RewardModel(backbone.merge_and_unload(), self.output_layer, info, self._dropout)

    # ---- internals ---------------------------------------------------------------------------------------------------

    def _score_row(self, row: dict[str, Tensor]) -> Tensor:
        mean = self.info.pooling == "mean"
        return score_row(self.classifier, self.heads, row, kernel=self.tree_kernel, mean=mean)

    def _scores(self, rewards_RH: Tensor) -> RewardScores:
        names = self.heads.names
        columns = dict(zip(names, rewards_RH[:, : len(names)].float().unbind(-1), strict=True))
        return RewardScores(heads=columns, feature=rewards_RH[:, len(names) :].float() if self.reads_feature else None)

    def _effective(self, vector_D: Tensor) -> Tensor:
        return effective_head(vector_D, normalise=self.info.normalise_heads, scale=self.info.head_scale)

    def _stock_layer_has_bias(self) -> bool:
        return getattr(self.heads, "stock_bias", False)

    def stock_config(self) -> Any:
        """A copy of the backbone's config as a one-label classifier, with its original dropout rates."""
        return one_label_config(self.config, type(self.classifier).__name__, self._dropout)

    def _save_stock(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        classifier = self.classifier
        live = classifier.config
        classifier.config = self.stock_config()
        try:
            with quiet_loading():
                classifier.save_pretrained(folder, state_dict=tensors)
        finally:
            classifier.config = live
        complete_config(folder, self.info)


def _set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    old: Any = model.get_submodule(name)
    parent, _, child = name.rpartition(".")
    module.stock_bias = getattr(old, "bias", None) is not None  # type: ignore[assignment]
    setattr(model.get_submodule(parent) if parent else model, child, module)
