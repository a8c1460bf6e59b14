"""The one way to score texts: our reward models and anybody's sequence classifier, batched by length.

Training's evaluation, ``odin-rm score``, ``odin-rm audit``, reinforcement learning and the parity check of an export
read the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from odin_rm.core.errors import ConfigError, DataError, ModelError, NumericalError
from odin_rm.core.hub import check_hub
from odin_rm.core.types import LENGTH, QUALITY, RewardScores
from odin_rm.data.planning import plan_batch, row_inputs, to_device
from odin_rm.data.tokenise import EncodedResponse, EncodingSettings, encode_responses
from odin_rm.fast import TreeSupport, known_layout, neighbour_reason, reads_left_to_right, score_row, use_fast_products
from odin_rm.model.backbone import (
    check_model_folder,
    check_token_ids,
    embedding_rows,
    find_output_layer,
    load_classifier,
    load_config,
    model_window,
    pad_right,
    position_table,
)
from odin_rm.model.calibrated import AppliedDial, find_calibration, model_folder
from odin_rm.model.device import is_out_of_memory, pick_device
from odin_rm.model.honest import check_template, labels_of_weights, loading
from odin_rm.model.info import INFO_FILE, RewardModelInfo, is_reward_model_folder
from odin_rm.model.reading import padded_logits, stock_skip_id, up_to_reading
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.saved_reading import saved_settings, say_where_stock_reads

FEATURE = "feature"
"""The name of the feature among the columns of :func:`score_columns`; no head is called so."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Scorer:
    """A model that scores sequences, with the tokenizer and text settings it wants.

    Attributes:
        model: takes ``input_ids`` and ``attention_mask``, gives :class:`RewardScores`.
        tokenizer: the model's own tokenizer, with a pad token.
        settings: how texts are rendered and cut; the training run's own where the model is ours.
        name: what to call it.
        has_length_head: whether scores carry a length reward.
        info: our description of the model, or ``None`` for another library's.
        batch_layout: how sequences share a forward pass: ``tree``, ``packed``, ``padded``, or ``auto``.
        tree_attention: attention of trees and packed rows, or ``auto``.
        dial: the calibration that is taken off its scores; ``None`` for none (:mod:`odin_rm.model.calibrated`).
    """

    model: nn.Module
    tokenizer: Any
    settings: EncodingSettings
    name: str
    has_length_head: bool
    info: RewardModelInfo | None = None
    batch_layout: str = "auto"
    tree_attention: str = "auto"
    dial: AppliedDial | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def check_ids(self, sequences: Sequence[np.ndarray]) -> None:
        """Refuse token ids that the model has no embedding for.

        Raises:
            ModelError: there is one.
        """
        if (classifier := getattr(self.model, "classifier", None)) is not None:
            check_token_ids(classifier, sequences, where=self.name)

    def layout(self, sequences: Sequence[np.ndarray]) -> TreeSupport:
        """How its sequences share a forward pass, verified on the first ones that it scores.

        Raises:
            ConfigError: the layout that is wished for does not give the model's own scores.
            ModelError: a sequence has a token that the model has no embedding for.
        """
        self.check_ids(sequences)
        request = {"requested": self.batch_layout, "kernel": self.tree_attention}
        return known_layout(self.model, sequences, self.pad_token_id, device=self.device, **request)

    @property
    def pad_token_id(self) -> int:
        """What stands on padding: the config's pad id, else the tokenizer's, else any; the mask marks padding."""
        classifier = getattr(self.model, "classifier", None)
        rows = embedding_rows(classifier) if classifier is not None else None
        known = [] if classifier is None else [stock_skip_id(classifier.config)]
        known.append(self.tokenizer.pad_token_id)
        return next((int(i) for i in known if i is not None and (rows is None or i < rows)), 0)


class ColumnClassifier(nn.Module):
    """Somebody's sequence classifier, one column of its logits read as quality, where stock transformers reads it.

    Neither its config nor its tokenizer is changed: the pad id of the config says where the model was trained to be
    read, one sequence at a time (:mod:`odin_rm.model.reading`).

    Args:
        classifier: the transformers model.
        column: which logit.

    Attributes:
        tree_kernel: attention kernel for rows that hold trees (:mod:`odin_rm.fast.tree_attention`).
    """

    def __init__(self, classifier: nn.Module, column: int) -> None:
        super().__init__()
        self.classifier, self.column = classifier, column
        self.tree_kernel = "auto"
        self.reads_left_to_right = reads_left_to_right(getattr(classifier, "base_model", classifier))
        # Where the length of a sequence decides its positions, what is not read counts too.
        counts_all = isinstance(classifier, PreTrainedModel) and neighbour_reason(classifier) is not None
        self._may_be_cut = self.reads_left_to_right and not counts_all
        use_fast_products(classifier)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **row: torch.Tensor
    ) -> RewardScores:
        """``RewardScores`` with the chosen column as quality, of padded sequences or of a row as in ``RewardModel``."""
        if attention_mask is None:
            classifier: Any = self.classifier
            layer = classifier.get_submodule(find_output_layer(classifier, int(classifier.config.num_labels)))
            logits = score_row(classifier, layer, {"input_ids": input_ids, **row}, kernel=self.tree_kernel)
            return RewardScores(logits[:, self.column].float())
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        logits = padded_logits(self.classifier, self.classifier, input_ids, attention_mask, stock=True)
        return RewardScores(logits[:, self.column].float())

    def read_part(self, ids: np.ndarray) -> np.ndarray:
        """What of a sequence its score depends on: a causal model reads nothing behind the token that stock reads."""
        return up_to_reading(ids, stock_skip_id(self.classifier.config)) if self._may_be_cut else ids


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder or hub id.

    Raises:
        ModelError: there is none.
    """
    check_hub(path, ModelError, "folder with a tokenizer", file="tokenizer_config.json")
    with loading(path, "tokenizer", "Save the tokenizer into the model folder, or check the id."):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    check_template(tokenizer, path)
    return tokenizer


def load_scorer(
    path: str | Path,
    *,
    column: str | int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    settings: EncodingSettings | None = None,
    read_at: str | None = None,
    calibration: str | None = None,
) -> Scorer:
    """Load a reward model of ours (or the run folder that holds it) or any sequence classifier.

    Args:
        path: model folder, run folder, or hub id.
        column: label name or index of a classifier with several labels.
        dtype: ``float32``, ``bfloat16`` or ``float16``; default float32.
        device: default CUDA where there is one.
        attn_implementation: attention of transformers.
        trust_remote_code: run code that comes with the model.
        settings: text settings; default the model's own, in its own window.
        read_at: ``end`` or ``before_pad`` for a model of an earlier odin-rm that does not say where it is read.
        calibration: ``none``, or a calibration.json; default the one beside the model, if there is one.

    Raises:
        ModelError: it cannot be loaded, or does not say where it is read (and ``read_at`` neither).
        ConfigError: ``column`` is missing for a classifier with several labels, or names none of them; the calibration
            belongs to other weights.
    """
    given = str(path)
    path = model_folder(path)
    found = find_calibration(path, calibration, name=given)
    place = pick_device(device)
    kwargs: dict[str, Any] = {
        "dtype": DTYPES[dtype] if dtype else torch.float32,
        "attn_implementation": attn_implementation,
        "trust_remote_code": trust_remote_code,
    }
    model: nn.Module
    if is_reward_model_folder(path) or _is_ours_on_hub(path):
        if column is not None:
            what = "belongs to other libraries' classifiers; ours scores by quality"
            raise ConfigError(what, where="--column", fix="Leave it out.")
        model = RewardModel.from_pretrained(path, **kwargs)
        info: RewardModelInfo | None = model.info
        config, has_length = model.config, model.has_length_head
    else:
        if read_at is not None:
            what = "is for reward models of odin-rm; somebody's classifier is read where its config says"
            raise ConfigError(what, where="--read_at", fix="Leave it out.")
        check_model_folder(path)
        rows = labels_of_weights(path)
        named = {} if rows is None else {"num_labels": rows}
        config = load_config(path, trust_remote_code=trust_remote_code, **named)
        if _is_classifier(config):
            _column_index(config, column, str(path))  # a missing --column is told before minutes of loading
        classifier = load_classifier(path, **(kwargs if rows is None else kwargs | {"config": config}))
        index = _column_index(config, column, str(path))
        model, info, has_length = ColumnClassifier(classifier, index), None, False
        config = classifier.config
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    own_window = settings is None
    if settings is None:
        settings = EncodingSettings()
        if info is not None:
            settings = saved_settings(info, tokenizer, config, path, read_at=read_at)
        else:
            say_where_stock_reads(tokenizer, config, model, settings, str(path))
    name = Path(path).parent.name if Path(path).name == "model" else Path(path).name
    scorer = Scorer(model.to(place).eval(), tokenizer, settings, name, has_length, info)
    if found is not None:
        scorer.dial = AppliedDial(found, name)
    if own_window:
        scorer.settings = text_settings(scorer)
    return scorer


def text_settings(scorer: Scorer, *, max_length: int | None = None, overlong: str | None = None) -> EncodingSettings:
    """The scorer's text settings with what a caller changes; a model that names no window is held to its own.

    Args:
        scorer: the model.
        max_length: most tokens of a sequence; default the model's own setting, else its window.
        overlong: what happens to longer ones; default the model's own setting.

    Raises:
        ConfigError: ``max_length`` is larger than the model's table of positions.
    """
    known = scorer.info is not None and bool(scorer.info.encoding)
    changes: dict[str, Any] = {}
    if max_length is not None:
        changes["max_length"] = max_length
    elif not known:
        window = model_window(scorer.model, scorer.tokenizer)
        changes["max_length"] = window or scorer.settings.max_length
    if overlong is not None:
        changes["overlong"] = overlong
    settings = replace(scorer.settings, **changes)
    table = position_table(scorer.model)
    if max_length is not None and table is not None and max_length > table:
        what = f"is {max_length:,}, but the model has {table:,} positions"
        raise ConfigError(what, where="--max_length", fix=f"Give at most {table}.")
    return settings


def score_sequences(
    model: Callable[..., RewardScores], sequences: Sequence[np.ndarray], **options: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """``(R,)`` float64 quality rewards, and length rewards or ``None``; arguments as of :func:`score_columns`."""
    columns = score_columns(model, sequences, **options)
    return columns.get(QUALITY, np.zeros(len(sequences))), columns.get(LENGTH)


@torch.no_grad()
def score_columns(
    model: Callable[..., RewardScores],
    sequences: Sequence[np.ndarray],
    *,
    pad_token_id: int,
    microbatch_tokens: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], None] | None = None,
    layout: TreeSupport | None = None,
) -> dict[str, np.ndarray]:
    """Scores of token sequences in their order; what they begin with alike is computed once where the model allows it.

    A forward pass that does not fit into memory is taken again in halves.

    Args:
        model: gives :class:`RewardScores`.
        sequences: ``R`` arrays of token ids.
        pad_token_id: what to pad with.
        microbatch_tokens: computed tokens per forward pass.
        device: where the model is.
        rank, world_size: with several processes each scores its share and leaves the others' entries at 0.
        progress: called with the number of sequences done after each forward pass.
        layout: how sequences share a forward pass; default what the model was verified for (``odin_rm.fast.layout``).

    Returns:
        ``(R,)`` float64 rewards by head; under :data:`FEATURE` the ``(R, D)`` float32 features, where the model gives
        them. Nothing where there are no sequences.
    """
    found: dict[str, np.ndarray] = {}
    if not len(sequences):
        return found
    if (classifier := getattr(model, "classifier", None)) is not None:
        check_token_ids(classifier, sequences, where="scoring")
    # Verified on whole sequences, which end as the data's do.
    layout = layout or known_layout(model, sequences, pad_token_id, device=device)
    read_part = getattr(model, "read_part", None)
    if read_part is not None:
        sequences = [read_part(np.asarray(one)) for one in sequences]
    plan = plan_batch(sequences, microbatch_tokens, world_size, layout=layout.layout)
    # A rank with less to do runs the shortest sequence, so that collectives inside the model match.
    idle = [np.argmin([len(s) for s in sequences])] if world_size > 1 else []
    waiting = [rows if len(rows) else None for rows in plan.ranks[rank]][::-1]
    while waiting:
        positions = waiting.pop()
        rows = idle if positions is None else positions
        try:
            inputs = row_inputs([sequences[int(p)] for p in rows], layout.layout, pad_token_id)
            scores = model(**to_device(inputs, device))
        except Exception as error:
            if world_size > 1 or len(rows) < 2 or not is_out_of_memory(error):
                raise
            scores = None
        if scores is None and positions is not None:
            # Outside of the handler, so that the frames of the attempt are gone.
            waiting += np.array_split(positions, 2)[::-1]
            continue
        assert scores is not None
        for name, column in _columns(scores).items():
            if name not in found:
                found[name] = np.zeros((len(sequences), *column.shape[1:]), dtype=column.dtype)
            if positions is not None:
                found[name][positions] = column
        if progress is not None and positions is not None:
            progress(len(positions))
    return found


def _columns(scores: RewardScores) -> dict[str, np.ndarray]:
    columns = {name: column.double().cpu().numpy() for name, column in scores.heads.items()}
    return columns if scores.feature is None else columns | {FEATURE: scores.feature.float().cpu().numpy()}


def score_texts(
    scorer: Scorer, prompts: Sequence[Any], responses: Sequence[Any], *, microbatch_tokens: int = 16384
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Scores of prompts with responses (strings or chat messages).

    Returns:
        ``(R,)`` quality, length rewards or ``None``, and true response lengths in tokens.

    Raises:
        DataError: a text does not fit the scorer's window and its settings do not cut it.
        NumericalError: a score is not finite.
    """
    encoded = encode_responses(scorer.tokenizer, prompts, responses, scorer.settings)
    quality_R, length_R = score_whole(scorer, encoded, "response", microbatch_tokens)
    return quality_R, length_R, np.array([e.response_tokens for e in encoded])


def score_whole(
    scorer: Scorer, encoded: Sequence[EncodedResponse], name: str, microbatch_tokens: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """:func:`score_encoded`, but each must fit and be finite; errors call the first that does not by ``name``."""
    for number, one in enumerate(encoded):
        if one.dropped:
            raise DataError(
                f"the text has {one.sequence_tokens:,} tokens, the window is {scorer.settings.max_length:,}",
                where=f"{name} {number}",
                fix="Leave it out, or load the scorer with settings that cut (overlong='truncate_prompt_left').",
            )
    quality_R, length_R = score_encoded(scorer, encoded, microbatch_tokens=microbatch_tokens)
    check_finite(quality_R, scorer.name)
    return quality_R, length_R


def score_encoded(
    scorer: Scorer, encoded: Sequence[EncodedResponse], *, microbatch_tokens: int = 16384
) -> tuple[np.ndarray, np.ndarray | None]:
    """``(R,)`` quality and length rewards (or ``None``) of encoded responses; NaN where one was dropped as too long.

    Quality is calibrated where the scorer has a dial.
    """
    kept = np.array([i for i, one in enumerate(encoded) if not one.dropped], dtype=int)
    sequences = [np.asarray(encoded[i].input_ids, dtype=np.int32) for i in kept]
    quality, length = score_sequences(
        scorer.model,
        sequences,
        pad_token_id=scorer.pad_token_id,
        microbatch_tokens=microbatch_tokens,
        device=scorer.device,
        layout=scorer.layout(sequences) if sequences else None,
    )
    quality_R = np.full(len(encoded), np.nan)
    quality_R[kept] = quality
    if scorer.dial is not None:
        quality_R = scorer.dial.of_encoded(quality_R, encoded)
    if length is None:
        return quality_R, None
    length_R = np.full(len(encoded), np.nan)
    length_R[kept] = length
    return quality_R, length_R


def check_finite(values: Iterable[float] | np.ndarray, name: str) -> None:
    """Raise :class:`NumericalError` where a score is not finite."""
    bad = ~np.isfinite(np.asarray(values))
    if bad.any():
        raise NumericalError(
            f"{int(bad.sum())} of {len(bad)} scores are not finite (first at response {int(np.argmax(bad))})",
            where=name,
            fix="Load the model in float32, or check that its weights are sound.",
        )


def _is_classifier(config: Any) -> bool:
    return any("SequenceClassification" in name for name in config.architectures or ())


def _column_index(config: Any, column: str | int | None, where: str) -> int:
    labels = int(config.num_labels)
    names = {str(name): int(index) for index, name in config.id2label.items()}
    listing = ", ".join(f"{index}: {name}" for name, index in names.items())
    if column is None:
        if labels == 1:
            return 0
        raise ConfigError(f"the model has {labels} labels ({listing})", where=where, fix="Choose one with --column.")
    if str(column) in names:
        return names[str(column)]
    if str(column).isdigit() and int(column) < labels:
        return int(column)
    raise ConfigError(f"there is no label {column!r} ({listing})", where="--column", fix="Give a name or an index.")


def _is_ours_on_hub(path: str | Path) -> bool:
    if Path(path).exists() or str(path).count("/") > 1:
        return False
    check_model_folder(path)
    from huggingface_hub import file_exists, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(str(path), INFO_FILE)
        return isinstance(cached, str) or bool(file_exists(str(path), INFO_FILE))
    except Exception:  # offline, no such repository or no possible name: let the classifier's loader say so
        return False
