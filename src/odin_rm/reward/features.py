"""Features of a frozen backbone: what the heads read of every response, computed once and kept in the cache.

The feature is the one of the model's own read-out (last token, pooled first token, or mean), so that heads trained on
it make an ordinary model folder. It is computed by the pass that scores: prompts are shared where the layout shares
them. A folder of the cache belongs to the weights, the data and the way of reading; changing one of them makes another.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odin_rm.core.errors import NumericalError, OutputError
from odin_rm.core.files import PathLike, atomic_folder
from odin_rm.data.cache import read_arrays, usable_cache_dir, write_record
from odin_rm.data.cache_size import cache_limit, keep_within, mark_used
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.fast import TreeSupport
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import FEATURE, score_columns

NAME = "features"
CHUNK = 4096
"""Responses whose features are in memory at a time; those of one prompt stand together in a data set."""


@dataclass(frozen=True)
class Features:
    """Features of the responses of one data set.

    Attributes:
        rows: ``(R, D)`` float32, memory-mapped where they stand in a cache.
        seconds: how long it took to compute them, 0 where they were there already.
        digest: of weights, data and reading.
    """

    rows: np.ndarray
    seconds: float
    digest: str


def frozen_features(
    model: RewardModel,
    data: TokenisedPreferences,
    *,
    pad_token_id: int,
    microbatch_tokens: int = 16384,
    layout: TreeSupport | None = None,
    cache_dir: PathLike | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    precision: str = "",
    progress: Callable[[int], None] | None = None,
) -> Features:
    """The features of every response of a data set, from the cache where it has them.

    Args:
        model: the reward model; its heads are not read.
        data: the preference set.
        pad_token_id: what to pad with.
        microbatch_tokens: computed tokens per forward pass.
        layout: how sequences share a forward pass.
        cache_dir: folder of the cache; default the one of tokenised data.
        autocast: context of the forward passes (mixed precision).
        precision: a name for ``autocast``, for features of other precision are other features.
        progress: called with the number of responses done after each forward pass.

    Returns:
        :class:`Features`.

    Raises:
        NumericalError: a feature is not finite.
        OutputError: the cache cannot be written.
    """
    digest = features_digest(model, data, precision)
    root = usable_cache_dir(cache_dir)
    kwargs: dict[str, Any] = {"pad_token_id": pad_token_id, "microbatch_tokens": microbatch_tokens, "layout": layout}
    kwargs |= {"autocast": autocast, "progress": progress}
    started = time.perf_counter()
    if root is None:
        with tempfile.TemporaryDirectory(prefix="odin_rm_") as scratch:
            rows = np.array(np.load(_compute(model, data, Path(scratch), **kwargs)))
        return Features(rows, time.perf_counter() - started, digest)
    folder = root / digest
    found = read_arrays(folder)
    if found is not None and NAME in found[0]:
        mark_used(folder)
        return Features(found[0][NAME], 0.0, digest)
    try:
        with atomic_folder(folder, overwrite=True) as place:
            _compute(model, data, place, **kwargs)
            write_record(place, [NAME], {"kind": NAME, "source": data.source, "responses": data.num_responses})
    except OSError as error:
        what = f"features cannot be written ({error.strerror or error})"
        raise OutputError(what, where=str(root), fix="Make room there, or give another --cache_dir.") from error
    if cache_dir is None:  # a folder that the user has named is the user's to look after
        keep_within(root, cache_limit(), spared=(folder,))
    found = read_arrays(folder)
    if found is None:
        raise OutputError("the cached features vanished while they were read", where=str(folder), fix="Run again.")
    return Features(found[0][NAME], time.perf_counter() - started, digest)


def features_digest(model: RewardModel, data: TokenisedPreferences, precision: str = "") -> str:
    """32 hexadecimal digits of what features depend on: weights without the heads, config, read-out, token ids."""
    digest = hashlib.sha256(f"features 1 {model.info.pooling} {precision}".encode())
    digest.update(model.config.to_json_string(use_diff=False).encode())
    heads = model.output_layer + ".vectors."
    for name, tensor in sorted(model.classifier.state_dict().items()):
        if not name.startswith(heads):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for column in (data.offsets, data.input_ids_flat):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:32]


def _compute(
    model: RewardModel,
    data: TokenisedPreferences,
    folder: Path,
    *,
    autocast: Callable[[], AbstractContextManager],
    **kwargs: Any,
) -> Path:
    """Write the features of all responses into a file of a folder, a chunk at a time; returns the file."""
    path = folder / f"{NAME}.npy"
    shape = (data.num_responses, model.heads.in_features)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    was_training = model.training
    model.eval()
    try:
        with model.heads.giving_feature():
            for start in range(0, data.num_responses, CHUNK):
                stop = min(start + CHUNK, data.num_responses)
                sequences = [data.input_ids(r) for r in range(start, stop)]
                with torch.inference_mode(), autocast():
                    device = next(model.parameters()).device
                    out[start:stop] = score_columns(model, sequences, device=device, **kwargs)[FEATURE]
                bad_R = ~np.isfinite(out[start:stop]).all(1)
                if bad_R.any():
                    what = f"{int(bad_R.sum())} responses have features that are not finite"
                    fix = "Use --dtype float32, or --bf16 instead of --fp16."
                    raise NumericalError(what, where=data.source, fix=fix)
    finally:
        model.train(was_training)
    out.flush()
    return path
