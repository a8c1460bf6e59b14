"""The quality head as a stock one-label classifier, written only after its scores were compared with the original's.

What comes out has the architecture's own tensor names and one label, so it loads in transformers pipelines, TRL,
OpenRLHF, verl, vLLM and RewardBench without any code of ours. The length head does not leave the house.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from odin_rm.core.errors import ExportError
from odin_rm.core.files import atomic_folder
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.backbone import load_classifier, quiet_loading
from odin_rm.model.card import write_export_card
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.stock_tokenizer import stock_tokenizer


@dataclass(frozen=True)
class ParityReport:
    """What the comparison before an export measured.

    Attributes:
        sequences: number of sequences compared.
        max_difference: largest absolute difference of the two models' scores, reward units.
        tolerance: largest difference that was allowed.
        chat_template: whether the exported tokenizer renders conversations to the ids that training saw.
    """

    sequences: int
    max_difference: float
    tolerance: float
    chat_template: bool = False


def export_quality_head(
    model: RewardModel,
    folder: str | Path,
    *,
    sequences: Sequence[Sequence[int]],
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ParityReport:
    """Write the quality head as a stock one-label classifier after checking that it scores like the original.

    The stock model is written to a temporary folder, loaded again from disk as any tool would, and compared on
    ``sequences``; on a mismatch the folder is removed and nothing is left.

    Args:
        model: the trained reward model; a LoRA adapter is merged.
        folder: where to write.
        sequences: token ids of the sequences to compare on.
        tokenizer: a copy is saved beside the model, padding on the right, with the template of the training.
        dtype: dtype of the exported weights; by default the model's own.
        tolerance: largest absolute difference allowed. By default 1e-5 times the largest score (at least 1) in
            float32; 2e-2 times that in half precisions, whose rounding of every layer cannot be avoided.
        overwrite: replace an existing folder.

    Raises:
        ExportError: the scores differ by more than the tolerance, are not finite, or there are no sequences.
    """
    if model.info.pooling != "backbone":
        raise ExportError(
            f"the heads read {model.info.pooling}-pooled features, which no stock classifier does",
            where=str(folder),
            fix="Train with --pooling backbone to export, or score with odin-rm score.",
        )
    if not sequences:
        raise ExportError("there is nothing to compare on", fix="Give token ids of some sequences.")
    was_training = model.training
    merged = model.merged().eval()
    target = dtype or next(merged.classifier.parameters()).dtype
    expected = _score_ours(merged, sequences)
    if not bool(torch.isfinite(expected).all()):
        raise ExportError("the model's own scores are not finite", fix="Check the training run for divergence.")
    if tolerance is None:
        relative = 1e-5 if target == torch.float32 else 2e-2
        tolerance = relative * max(1.0, float(expected.abs().max()))
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        tensors = {k: v.to(target) if v.is_floating_point() else v for k, v in merged.quality_state_dict().items()}
        with quiet_loading():
            _save_stock(merged, temporary, tensors, target)
        faithful = False
        if tokenizer is not None:
            stock_side, faithful = stock_tokenizer(tokenizer, EncodingSettings(**merged.info.encoding))
            stock_side.save_pretrained(temporary)
        write_export_card(temporary, merged.info, chat_template=faithful)
        stock = load_classifier(temporary, dtype=target)
        found = _score_stock(stock.to(expected.device), sequences, int(merged.config.pad_token_id or 0))
        difference = float((found - expected).abs().max())
        if not difference <= tolerance:
            raise ExportError(
                f"the exported model scores differently: {difference:.2e} apart, {tolerance:.2e} allowed",
                where=str(folder),
                fix="Nothing was written. Raise --tolerance if a low precision explains it, else report it.",
            )
    model.train(was_training)
    return ParityReport(len(sequences), difference, tolerance, faithful)


def _save_stock(merged: RewardModel, folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    config = merged.stock_config()
    config.dtype = dtype
    with torch.device("meta"):
        stock = AutoModelForSequenceClassification.from_config(config)
    stock.save_pretrained(folder, state_dict=tensors)


@torch.no_grad()
def _score_ours(model: RewardModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    pad, device = int(model.config.pad_token_id or 0), next(model.parameters()).device
    return torch.cat([model(*_pad(chunk, pad, device)).quality for chunk in _chunks(sequences)]).float()


@torch.no_grad()
def _score_stock(model: Any, sequences: Sequence[Sequence[int]], pad: int) -> Tensor:
    model.eval()
    out = []
    for chunk in _chunks(sequences):
        ids, mask = _pad(chunk, pad, next(model.parameters()).device)
        out.append(model(input_ids=ids, attention_mask=mask).logits[:, 0].float())
    return torch.cat(out)


def _chunks(sequences: Sequence[Sequence[int]], size: int = 8) -> list[Sequence[Sequence[int]]]:
    return [sequences[i : i + size] for i in range(0, len(sequences), size)]


def _pad(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)
