"""What a saved reward model says about itself: heads, normalisation, text settings, reference statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from odin_rm.core.errors import ModelError
from odin_rm.core.files import atomic_write_json
from odin_rm.core.reading import read_json
from odin_rm.core.types import LENGTH, QUALITY

INFO_FILE = "odin_rm.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RewardModelInfo:
    """Everything besides tensors that scoring needs; stored as ``odin_rm.json`` beside the weights.

    Attributes:
        heads: head names in column order.
        normalise_heads: whether the forward pass normalises the head vectors.
        head_scale: constant that multiplies a normalised head.
        pooling: ``backbone`` (the architecture's own read-out) or ``mean`` (mean of the last hidden states).
        objective: what the model was trained with, a name of :data:`odin_rm.objectives.registry.OBJECTIVES`.
        length_unit: the unit of length that training and audit used.
        encoding: fields of :class:`odin_rm.data.tokenise.EncodingSettings` used in training.
        reward_mean, reward_std: mean and deviation of the quality reward on the reference set, reward units.
        reference: what the reference set was and how many responses it had.
        vocabulary: rows of the embedding where a pad token was added to them, else ``None``.
        base_model: folder or hub id that a LoRA model's adapter belongs to; ``None`` for a full model.
        audit: figures of the last audit for the model card.
        training: the settings of the run for the model card.
        certificate: verdicts of ``odin-rm certify`` for the model card.
    """

    heads: tuple[str, ...] = (QUALITY, LENGTH)
    normalise_heads: bool = True
    head_scale: float = 1.0
    pooling: str = "backbone"
    objective: str = "odin"
    length_unit: str = "response tokens"
    encoding: dict[str, Any] = field(default_factory=dict)
    reward_mean: float | None = None
    reward_std: float | None = None
    reference: dict[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    base_model: str | None = None
    audit: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write ``odin_rm.json`` into ``folder``."""
        atomic_write_json(Path(folder) / INFO_FILE, {"format_version": FORMAT_VERSION, **asdict(self)})

    def with_(self, **changes: Any) -> RewardModelInfo:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def load(cls, folder: str | Path) -> RewardModelInfo:
        """Read ``odin_rm.json`` of ``folder``.

        Raises:
            ModelError: the file is missing, is not JSON, or comes from a newer format.
        """
        path = Path(folder) / INFO_FILE
        try:
            content = read_json(path)
            version = int(content.pop("format_version"))
            content["heads"] = tuple(str(name) for name in content.get("heads", ()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                f"cannot read the reward model's description ({getattr(error, 'what', error)})",
                where=str(path),
                fix="Copy the whole model folder again.",
            ) from error
        if version > FORMAT_VERSION:
            raise ModelError(
                f"the model has format {version}, this odin-rm reads up to {FORMAT_VERSION}",
                where=str(path),
                fix="Update odin-rm.",
            )
        known = {name: value for name, value in content.items() if name in cls.__dataclass_fields__}
        return cls(**known)


def is_reward_model_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder that :meth:`RewardModelInfo.save` wrote into."""
    return (Path(path) / INFO_FILE).is_file()
