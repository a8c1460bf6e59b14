"""The proof before an export: the written folder, read in every way that other tools read it, against the original.

The truth is the original model on one sequence at a time. Against it stand, on the same token ids:

- the stock classifier one at a time, and in batches padded with the saved tokenizer's pad token on either side;
- the base model's state at the last attended token times the classifier's weight, as vLLM, verl and OpenRLHF read it;
- what transformers 4 makes of the folder: the rotary frequencies that it computes from its own words, and the token
  that it reads in a padded row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from odin_rm.core.errors import ExportError, OdinError
from odin_rm.core.reading import read_json
from odin_rm.fast import neighbour_reason, reads_left_to_right
from odin_rm.model.backbone import find_output_layer, position_table
from odin_rm.model.reading import forget_earlier
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.rotary import NotInFourError, rotary_difference

ONE_BY_ONE, RIGHT, LEFT, LAST = "one by one", "padded on the right", "padded on the left", "at the last token"
# Relative; transformers computes the frequencies in float32, from powers of large bases.
_ROTARY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Proof:
    """What was measured.

    Attributes:
        differences: largest absolute difference to the original by way of reading, reward units.
        rotary: largest relative difference of rotary frequencies in transformers 4; ``None`` where there are none, or
            transformers 4 has no words for them.
        left_out: what does not hold for this architecture, a sentence each.
    """

    differences: dict[str, float]
    rotary: float | None = None
    left_out: tuple[str, ...] = field(default=())


@torch.no_grad()
def true_scores(model: RewardModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """``(N,)`` float32 rewards of the original, one sequence at a time.

    Args:
        model: the reward model, in evaluation mode.
        sequences: token ids.
    """
    device = next(model.parameters()).device
    rows = [_pad([ids], 0, device) for ids in sequences]
    return torch.cat([model(*row).quality for row in rows]).float()


@torch.no_grad()
def prove(
    model: RewardModel,
    stock: PreTrainedModel,
    folder: Path,
    *,
    sequences: Sequence[Sequence[int]],
    expected: Tensor,
    pad_token_id: int | None,
    tolerance: float,
) -> Proof:
    """Compare a written classifier with the original in every way of the module.

    Args:
        model: the original, in evaluation mode, a LoRA adapter merged.
        stock: the classifier as any tool loads it from ``folder``.
        folder: what was written.
        sequences: token ids.
        expected: their true scores.
        pad_token_id: the saved tokenizer's, else the config's; ``None`` without any.
        tolerance: largest absolute difference allowed.

    Raises:
        ExportError: one way of reading gives another score, and the architecture does not explain it.
    """
    stock.eval()
    decoder = reads_left_to_right(stock.base_model)
    content = read_json(folder / "config.json")
    if decoder and pad_token_id is not None:
        _check_token_read(content, sequences, int(pad_token_id))
    one_by_one, last = _one_by_one(stock, sequences, decoder)
    differences = {ONE_BY_ONE: _apart(one_by_one, expected, ONE_BY_ONE, tolerance)}
    left_out: list[str] = []
    if last is not None:
        differences[LAST] = _apart(last, expected, LAST, tolerance)
    elif decoder:
        left_out.append("Not at the last token: the classifier pools before its last layer.")
    sides = {RIGHT: True, LEFT: decoder}
    if decoder and pad_token_id is None:
        left_out.append("There is no pad token: one text at a time.")
        sides = {}
    elif (reason := _alone_only(model, sequences, expected, pad_token_id or 0, tolerance)) is not None:
        left_out.append(f"One text at a time: {reason}.")
        sides = {}
    elif decoder and position_table(stock) is not None:
        left_out.append("Pad on the right only: the positions of this architecture count columns.")
        sides[LEFT] = False
    elif not decoder:
        left_out.append("Pad on the right only: an encoder reads its first column.")
    for side in (side for side, wanted in sides.items() if wanted):
        found = _padded(stock, sequences, pad_token_id or 0, left=side == LEFT)
        differences[side] = _apart(found, expected, side, tolerance)
    rotary = _rotary(stock, content, left_out)
    return Proof(differences, rotary, tuple(left_out))


def _rotary(stock: PreTrainedModel, content: dict[str, Any], left_out: list[str]) -> float | None:
    try:
        difference = rotary_difference(stock, content)
    except NotInFourError as error:
        left_out.append(f"Rotary positions in transformers 4: {error}.")
        return None
    if difference is not None and not difference <= _ROTARY_TOLERANCE:
        raise ExportError(
            f"transformers 4 would compute other rotary positions from config.json ({difference:.1e} apart)",
            fix="Nothing was written. Report it with the model's config.json.",
        )
    return difference


def _check_token_read(content: dict[str, Any], sequences: Sequence[Sequence[int]], pad_token_id: int) -> None:
    """Refuse where transformers, 4 or 5, would not read the last token: it skips the config's pad id, by its number."""
    configured = content.get("pad_token_id")
    if configured != pad_token_id:
        raise ExportError(
            f"config.json has the pad id {configured}, the tokenizer pads with {pad_token_id}",
            fix="Nothing was written. Give tokenizer and config one pad token.",
        )
    ends = sum(1 for ids in sequences if ids[-1] == configured)
    if ends:
        raise ExportError(
            f"{ends} of {len(sequences)} texts end with the pad token, which classifiers skip",
            fix="Nothing was written. Give the tokenizer a pad token that ends no text.",
        )


def _apart(found: Tensor, expected: Tensor, how: str, tolerance: float) -> float:
    difference = float((found - expected).abs().max())
    if not difference <= tolerance:
        raise ExportError(
            f"the exported model scores differently {how}: {difference:.2e} apart, {tolerance:.2e} allowed",
            fix="Nothing was written. Raise --tolerance if a low precision explains it, else report it.",
        )
    return difference


def _alone_only(
    model: RewardModel, sequences: Sequence[Sequence[int]], expected: Tensor, pad: int, tolerance: float
) -> str | None:
    """Why the original itself gives other scores in batches, or ``None`` where it does not."""
    if (reason := neighbour_reason(model.classifier)) is not None:
        return reason
    try:
        rows = [model(*_pad(chunk, pad, expected.device)).quality for chunk in _chunks(sequences)]
    except (torch.OutOfMemoryError, OdinError):
        raise
    except Exception as error:  # some architectures take certain lengths only
        return f"this architecture cannot compute a padded batch ({type(error).__name__})"
    found = torch.cat(rows).float()
    difference = float((found - expected).abs().max())
    return None if difference <= tolerance else f"padding moves a score of this architecture by {difference:.1e}"


def _one_by_one(stock: Any, sequences: Sequence[Sequence[int]], decoder: bool) -> tuple[Tensor, Tensor | None]:
    """Scores of the stock classifier, and what its last layer gives for the last token where it is applied to each.

    For nearly all decoders that is the base model's state times the classifier's weight; some have a layer between.
    """
    layer = stock.get_submodule(find_output_layer(stock, 1))
    given: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: given.append(output))
    found, last = [], []
    try:
        for ids in sequences:
            forget_earlier(stock.base_model)
            given.clear()
            inputs = _pad([ids], 0, stock.device)
            found.append(stock(input_ids=inputs[0], attention_mask=inputs[1]).logits[:, 0].float())
            if decoder and given and given[0].shape[:2] == inputs[0].shape:
                last.append(given[0][:, -1, 0].float())
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(last) if len(last) == len(found) else None


def _padded(stock: Any, sequences: Sequence[Sequence[int]], pad: int, *, left: bool) -> Tensor:
    out = []
    for chunk in _chunks(sequences):
        ids, mask = _pad(chunk, pad, stock.device, left=left)
        out.append(stock(input_ids=ids, attention_mask=mask).logits[:, 0].float())
    return torch.cat(out)


def _chunks(sequences: Sequence[Sequence[int]], size: int = 8) -> Iterator[Sequence[Sequence[int]]]:
    return (sequences[i : i + size] for i in range(0, len(sequences), size))


def _pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device, *, left: bool = False
) -> tuple[Tensor, Tensor]:
    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        part = slice(width - len(sequence), width) if left else slice(len(sequence))
        ids[row, part] = torch.as_tensor(sequence, dtype=torch.long)
        mask[row, part] = 1
    return ids.to(device), mask.to(device)
