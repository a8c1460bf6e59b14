"""The quality head as a stock one-label classifier, written only after its scores were compared with the original's.

What comes out has the architecture's own tensor names and one label, so it loads in transformers pipelines, TRL,
OpenRLHF, verl, vLLM and RewardBench without any code of ours. The length head does not leave the house.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from odin_rm.core.errors import ExportError
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.fast import reads_left_to_right
from odin_rm.model.backbone import load_classifier, model_window, quiet_loading
from odin_rm.model.export_card import Example, ExportFacts, write_export_card
from odin_rm.model.export_proof import Proof, prove, true_scores
from odin_rm.model.parity_texts import EXAMPLE, parity_sequences
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.stock_config import complete_config, complete_tokenizer, write_neutral_bias
from odin_rm.model.stock_template import Pairs
from odin_rm.model.stock_tokenizer import StockTokenizer, same_conversations, same_pairs, stock_tokenizer
from odin_rm.runs.output_folder import check_output_folder, replaced_folder


@dataclass(frozen=True)
class ParityReport:
    """What the comparison before an export measured.

    Attributes:
        sequences: number of sequences compared.
        max_difference: largest absolute difference of the two models' scores in any way of reading, reward units.
        tolerance: largest difference that was allowed.
        chat_template: whether the exported tokenizer renders conversations to the ids that training saw.
        pairs: whether it renders a query and a document to them: ``both`` for tools that add special tokens to the
            text and for those that do not, ``rendered`` for the latter only, ``none``.
        differences: largest difference by way of reading ("one by one", "padded on the right", "padded on the left",
            "at the last token").
        rotary: largest relative difference of the rotary frequencies that transformers 4 computes; ``None`` where the
            model has none or transformers 4 no words for them.
        left_out: what does not hold for the model, a sentence each.
    """

    sequences: int
    max_difference: float
    tolerance: float
    chat_template: bool = False
    pairs: Pairs = "none"
    differences: dict[str, float] = field(default_factory=dict)
    rotary: float | None = None
    left_out: tuple[str, ...] = ()


def export_quality_head(
    model: RewardModel,
    folder: str | Path,
    *,
    sequences: Sequence[Sequence[int]] = (),
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ParityReport:
    """Write the quality head as a stock one-label classifier after checking that it scores like the original.

    The stock model is written to a temporary folder, loaded again from disk as any tool would, and compared in every
    way that tools read it (:mod:`odin_rm.model.export_proof`); on a mismatch the folder is removed and nothing is left.

    Args:
        model: the trained reward model; a LoRA adapter is merged.
        folder: where to write.
        sequences: token ids of the sequences to compare on.
        tokenizer: a copy is saved beside the model, padding on the right, with the template of the training. The
            built-in texts are compared too then, the longest of which fills the model's window.
        dtype: dtype of the exported weights; by default the model's own.
        tolerance: largest absolute difference allowed. By default 1e-5 times the largest score (at least 1) in
            float32; 2e-2 times that in half precisions, whose rounding of every layer cannot be avoided.
        overwrite: replace an existing folder.

    Raises:
        ExportError: the scores differ by more than the tolerance, are not finite, or there are no sequences; the model
            is read where no tool reads it.
    """
    settings = within_window(EncodingSettings(**model.info.encoding), model, tokenizer)
    _check_readable(model, settings, str(folder))
    sequences = [*(parity_sequences(tokenizer, settings) if tokenizer is not None else []), *sequences]
    if not sequences:
        raise ExportError("there is nothing to compare on", fix="Give token ids of some sequences.")
    was_training = model.training
    merged = model.merged().eval()
    target = dtype or next(merged.classifier.parameters()).dtype
    expected = true_scores(merged, sequences)
    if not bool(torch.isfinite(expected).all()):
        raise ExportError("the model's own scores are not finite", fix="Check the training run for divergence.")
    if tolerance is None:
        relative = 1e-5 if target == torch.float32 else 2e-2
        tolerance = relative * max(1.0, float(expected.abs().max()))
    check_output_folder(folder, "export", overwrite=overwrite)
    with replaced_folder(folder, "export") as temporary:
        tensors = {k: v.to(target) if v.is_floating_point() else v for k, v in merged.quality_state_dict().items()}
        made = None if tokenizer is None else stock_tokenizer(tokenizer, settings)
        _save_stock(merged, temporary, tensors, target, made)
        pad = merged.config.pad_token_id if made is None else _reloaded_pad(temporary, tokenizer, settings, made)
        stock: Any = load_classifier(temporary, dtype=target).to(expected.device)
        proof = prove(
            merged, stock, temporary, sequences=sequences, expected=expected, pad_token_id=pad, tolerance=tolerance
        )
        write_export_card(temporary, merged.info, _facts(stock, made, proof, tokenizer, settings))
    model.train(was_training)
    return ParityReport(
        len(sequences),
        max(proof.differences.values()),
        tolerance,
        made is not None and made.conversations,
        "none" if made is None else made.pairs,
        proof.differences,
        proof.rotary,
        proof.left_out,
    )


def within_window(settings: EncodingSettings, model: RewardModel, tokenizer: Any) -> EncodingSettings:
    """The text settings of a model; one that was saved without any is held to its window.

    Args:
        settings: the model's own, or the default.
        model: the reward model.
        tokenizer: its tokenizer, or ``None``.
    """
    if model.info.encoding or tokenizer is None:
        return settings
    window = model_window(model, tokenizer) or settings.max_length
    return replace(settings, max_length=min(settings.max_length, window))


def _check_readable(model: RewardModel, settings: EncodingSettings, where: str) -> None:
    if model.info.pooling != "backbone":
        raise ExportError(
            f"the heads read {model.info.pooling}-pooled features, which no stock classifier does",
            where=where,
            fix="Train with --pooling backbone to export, or score with odin-rm score.",
        )
    if settings.read_at == "before_pad":
        raise ExportError(
            "the model is read before its pad token; vLLM, verl and OpenRLHF read the last token",
            where=where,
            fix="Train it anew; odin-rm score and audit go on reading it as it is.",
        )


def _save_stock(
    merged: RewardModel, folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype, made: StockTokenizer | None
) -> None:
    config = merged.stock_config()
    config.dtype = dtype
    with torch.device("meta"):
        stock = AutoModelForSequenceClassification.from_config(config)
    with quiet_loading():
        stock.save_pretrained(folder, state_dict=tensors)
    complete_config(folder, merged.info)
    write_neutral_bias(folder, config, dtype)
    if made is not None:
        made.tokenizer.save_pretrained(folder)
        complete_tokenizer(folder, stock)


def _reloaded_pad(folder: Path, tokenizer: Any, settings: EncodingSettings, made: StockTokenizer) -> int | None:
    """The pad id of the written tokenizer, which must give the ids of the training when loaded as any tool loads it.

    Raises:
        ExportError: it gives others.
    """
    try:
        written = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(f"the written tokenizer cannot be loaded ({error})", fix="Nothing was written.") from error
    faithful = not made.conversations or same_conversations(written, tokenizer, settings)
    if not (faithful and same_pairs(written, tokenizer, settings, made.pairs)):
        raise ExportError(
            f"the tokenizer reads texts differently once transformers loads it as {type(written).__name__}",
            fix="Nothing was written. Train with the tokenizer as AutoTokenizer loads it for this kind of model.",
        )
    return written.pad_token_id


@torch.no_grad()
def _facts(
    stock: Any, made: StockTokenizer | None, proof: Proof, tokenizer: Any, settings: EncodingSettings
) -> ExportFacts:
    """What the card says of the export, with one conversation and the score that the written model gives it."""
    decoder = reads_left_to_right(stock.base_model)
    if made is None or not made.conversations:
        return ExportFacts(decoder, proof.left_out)
    prompt, response = EXAMPLE
    ids = encode_response(tokenizer, prompt, response, settings).input_ids
    score = None
    if ids:
        row = torch.tensor([ids], device=stock.device)
        score = float(stock(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 0])
    text = _rendered(made, "user", "assistant", prompt, response)
    # The template leaves them off itself where it takes pairs.
    bare = text if made.adds == ("", "") else None
    if made.pairs == "both":
        bare = _rendered(made, "query", "document", prompt, response)
    return ExportFacts(decoder, proof.left_out, made, Example(prompt, response, text, bare, ids, score))


def _rendered(made: StockTokenizer, asks: str, answers: str, prompt: str, response: str) -> str:
    messages = [{"role": asks, "content": prompt}, {"role": answers, "content": response}]
    return made.tokenizer.apply_chat_template(messages, tokenize=False)
