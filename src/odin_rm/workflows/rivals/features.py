"""The data of a comparison: preference sets, edits and pairs of the user's own, all read by one frozen backbone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.progress import Progress
from odin_rm.core.types import QUALITY
from odin_rm.data.attributes import TOKENS, Attribute, find_attribute, measure_texts
from odin_rm.data.columns import Columns
from odin_rm.data.load import load_preferences
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.tokenise import EncodedResponse, EncodingSettings, encode_responses
from odin_rm.evaluation.edits import EDITS
from odin_rm.model.backbone import check_model_folder, load_config
from odin_rm.model.device import pick_device
from odin_rm.model.head_scale import follows_features, scale_at, unit_deviation
from odin_rm.model.pad_token import ensure_sound_pad_token
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_tokenizer
from odin_rm.reward.features import frozen_features
from odin_rm.workflows.probe.rows import OWN_FIELDS, edited_reply, read_own_pairs, read_probed, reply_text
from odin_rm.workflows.rivals.config import RivalsConfig


@dataclass(frozen=True)
class Edited:
    """What one edit did to some responses of a data set.

    Attributes:
        originals: ``(n,)`` responses of the set.
        places: ``(n,)`` rows of the set's further texts.
        units: ``(n,)`` units of its attribute that it adds; ``None`` where it changes nothing countable.
        unit: that unit in words.
    """

    originals: np.ndarray
    places: np.ndarray
    units: np.ndarray | None
    unit: str | None


@dataclass(frozen=True)
class Compared:
    """A preference set with everything that its heads score.

    Attributes:
        name: of the set.
        data: its pairs.
        fold_P: ``(P,)`` the part of each prompt.
        feature_RD: ``(R, D)`` of its responses.
        further: the texts beside them, and ``further_RD`` their features.
        edits: by name.
        pairs: by name of the user's own pairs, ``(n, 2)`` rows of ``further`` (shorter and longer, original and
            edited), and ``pair_prompts`` their prompts.
        head_scale: of normalised heads, where an arm gives none.
    """

    name: str
    data: TokenisedPreferences
    fold_P: np.ndarray
    feature_RD: np.ndarray
    further: TokenisedPreferences
    further_RD: np.ndarray
    edits: dict[str, Edited] = field(default_factory=dict)
    pairs: dict[str, np.ndarray] = field(default_factory=dict)
    pair_prompts: dict[str, np.ndarray] = field(default_factory=dict)
    head_scale: float = 1.0

    @property
    def fold_R(self) -> np.ndarray:
        """``(R,)`` the part of each response's prompt."""
        return self.fold_P[np.asarray(self.data.response_prompt)]

    @property
    def fold_B(self) -> np.ndarray:
        """``(B,)`` the part of each pair's prompt."""
        return self.fold_R[np.asarray(self.data.pair_chosen)]


class Backbone:
    """The frozen model that reads all texts.

    Args:
        config: of the comparison.

    Attributes:
        tokenizer: its own.
        settings: how texts are rendered and cut.
        seconds: that features took, 0 where all stood in the cache.
    """

    def __init__(self, config: RivalsConfig) -> None:
        check_model_folder(config.model)
        self.config = config
        self.tokenizer: Any = load_tokenizer(config.model)
        self.settings = EncodingSettings(
            max_length=config.max_length, overlong="truncate_response", read_at="end_of_turn"
        )
        ensure_sound_pad_token(self.tokenizer, load_config(config.model), self.settings)
        self.seconds = 0.0

    @functools.cached_property
    def _model(self) -> RewardModel:
        model = RewardModel.from_backbone(self.config.model, heads=(QUALITY,), pooling=self.config.pooling)
        model.grow_vocabulary(int(self.tokenizer.pad_token_id) + 1)
        return model.to(pick_device(self.config.device)).eval()

    def features(self, data: TokenisedPreferences, what: str) -> np.ndarray:
        """``(R, D)`` float32 features of a set's sequences."""
        if not data.num_responses:
            return np.zeros((0, self._model.heads.in_features), np.float32)
        with Progress(f"features of {what}", data.num_responses, unit="texts") as bar:
            found = frozen_features(
                self._model,
                data,
                pad_token_id=int(self.tokenizer.pad_token_id),
                microbatch_tokens=self.config.microbatch_tokens,
                cache_dir=self.config.cache_dir,
                progress=bar.advance,
            )
        self.seconds += found.seconds
        return found.rows

    def head_scale(self, feature_RD: np.ndarray) -> float:
        """Of normalised heads: 1 for decoders, else by the features, as ``odin-rm reward --train heads`` has it."""
        return scale_at(unit_deviation(feature_RD)) if follows_features(self._model.classifier) else 1.0

    def encode(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[EncodedResponse]:
        """Texts as the features are of them."""
        return encode_responses(self.tokenizer, prompts, responses, self.settings) if len(prompts) else []


def named_sources(datasets: Sequence[str]) -> dict[str, str]:
    """Names and places of data sets that are given as ``NAME=PATH`` or ``PATH``.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for text in datasets:
        name, given, place = text.partition("=")
        name, place = (name, place) if given else (Path(text).name.split(".")[0] or text, text)
        if name in found:
            fix = "Write NAME=PATH for one of them."
            raise ConfigError(f"two data sets are called '{name}'", where="--datasets", fix=fix)
        found[name] = place
    return found


def read_compared(
    config: RivalsConfig, backbone: Backbone, name: str, source: str, measured: Sequence[Attribute] = ()
) -> Compared:
    """Read one data set with its edits and the user's own pairs, and compute what is not known of their features.

    Args:
        config: of the comparison.
        backbone: the frozen model.
        name, source: of the set.
        measured: attributes that an arm reads of the texts.

    Raises:
        OdinError: rows that cannot be used, an edit that there is not, too few prompts for the folds.
    """
    wanted = [edit for edit in EDITS if edit.name in config.edits]
    unknown = [one for one in config.edits if one not in [edit.name for edit in EDITS]]
    if unknown:
        fix = f"Use {', '.join(edit.name for edit in EDITS)}, or none."
        raise ConfigError(f"there is no edit '{unknown[0]}'", where="--edits", fix=fix)
    gold = [config.gold] if config.gold is not None else []
    of_rows = config.columns if config.pairs is None else Columns(config.columns).but(OWN_FIELDS)
    data = load_preferences(
        source, backbone.tokenizer, backbone.settings,
        on_bad_row=config.on_bad_row, cache_dir=config.cache_dir, extra_columns=gold, measured=measured,
        columns=of_rows,
    )  # fmt: skip
    if gold and not np.isfinite(np.asarray(data.extra[gold[0]], np.float64)).any():
        fix = "Leave --gold out, or name another score."
        raise DataError(f"no row has chosen_{gold[0]} and rejected_{gold[0]}", where=source, fix=fix)
    if data.num_prompts < 2 * config.folds:
        fix = f"Give at least {2 * config.folds}, or fewer --folds."
        raise DataError(f"has {data.num_prompts} prompts for {config.folds} folds", where=source, fix=fix)
    fold_P = np.random.default_rng(config.seed).permutation(data.num_prompts) % config.folds
    texts: list[EncodedResponse] = []
    edits = _edits(config, backbone, (source, of_rows), data, wanted, texts) if wanted else {}
    pairs: dict[str, np.ndarray] = {}
    prompts: dict[str, np.ndarray] = {}
    for own in read_own_pairs(config.pairs, config.on_bad_row, config.columns) if config.pairs else []:
        first = len(texts)
        texts += backbone.encode(own.prompts, own.originals) + backbone.encode(own.prompts, own.edited)
        places = np.arange(first, len(texts)).reshape(2, -1).T
        pairs[own.name] = places
        prompts[own.name] = np.unique([repr(p) for p in own.prompts], return_inverse=True)[1]
    further = _as_set(texts, f"{name}, edits and pairs")
    feature_RD = backbone.features(data, name)
    further_RD = backbone.features(further, f"edits of {name}")
    scale = backbone.head_scale(feature_RD)
    return Compared(name, data, fold_P, feature_RD, further, further_RD, edits, pairs, prompts, head_scale=scale)


def _edits(
    config: RivalsConfig,
    backbone: Backbone,
    source: tuple[str, Sequence[str]],
    data: TokenisedPreferences,
    wanted: Sequence[Any],
    texts: list[EncodedResponse],
) -> dict[str, Edited]:
    rows = read_probed(*source, config.responses, config.seed, config.on_bad_row)
    number_of = {np.asarray(data.input_ids(r), np.int32).tobytes(): r for r in range(data.num_responses)}
    read = backbone.encode(rows.prompts, rows.responses)
    number = [number_of.get(np.asarray(one.input_ids, np.int32).tobytes()) for one in read]
    found: dict[str, Edited] = {}
    for edit in wanted:
        changed = [
            (k, reply)
            for k, response in enumerate(rows.responses)
            if number[k] is not None and (reply := edited_reply(response, edit.apply)) is not None
        ]
        encoded = backbone.encode([rows.prompts[k] for k, _ in changed], [reply for _, reply in changed])
        places = np.arange(len(texts), len(texts) + len(encoded))
        texts += encoded
        attribute = find_attribute(edit.attribute) if edit.attribute else None
        units = None
        if attribute is not None and attribute.name == TOKENS:
            before = np.array([read[k].response_tokens for k, _ in changed], np.float64)
            units = (np.array([one.response_tokens for one in encoded], np.float64) - before) / attribute.step
        elif attribute is not None:
            sides = [[reply_text(rows.responses[k]) for k, _ in changed], [reply_text(reply) for _, reply in changed]]
            before, after = (np.asarray(measure_texts(side, [attribute])[attribute.name], np.float64) for side in sides)
            units = (after - before) / attribute.step
        if changed:
            originals = np.array([number[k] for k, _ in changed], dtype=np.int64)
            found[edit.name] = Edited(originals, places, units, None if attribute is None else attribute.unit)
    return found


def _as_set(texts: Sequence[EncodedResponse], source: str) -> TokenisedPreferences:
    """Texts without a pair between them, in the columns of a preference set."""
    none = np.zeros(0, np.int32)
    lengths = [len(one.input_ids) for one in texts]
    ids = [np.asarray(one.input_ids, np.int32) for one in texts]
    return TokenisedPreferences(
        input_ids_flat=np.concatenate(ids) if ids else none,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        response_tokens=np.array([one.response_tokens for one in texts], np.int32),
        response_prompt=np.arange(len(texts), dtype=np.int32),
        pair_chosen=none,
        pair_rejected=none,
        pair_margin=none.astype(np.float32),
        pair_row=none.astype(np.int64),
        source=source,
    )
