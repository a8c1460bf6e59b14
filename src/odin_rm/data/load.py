"""Preference data from any source to the columns that training and audit work on, tokenised once.

Three steps, each streaming: read and check the rows, texts to disk (:mod:`odin_rm.data.collect`); tokenise each
distinct response once (:mod:`odin_rm.data.encode`); put responses and pairs in the order of prompts (here). The result
is cached (:mod:`odin_rm.data.cache`) and memory-mapped.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.core.files import PathLike, atomic_file, atomic_folder
from odin_rm.core.reading import opened
from odin_rm.data import cache
from odin_rm.data.attributes import Attribute
from odin_rm.data.cache_size import cache_limit, keep_within, mark_used
from odin_rm.data.collect import Collected, VariantMaker, collect, first_appearances
from odin_rm.data.encode import (
    DROPPED,
    PROMPT_CUT,
    PROMPT_TOKENS,
    RESPONSE_CUT,
    RESPONSE_TOKENS,
    REWRITTEN,
    STORED,
    EncodedTexts,
    encode_texts,
)
from odin_rm.data.left_out import overlong_by_side
from odin_rm.data.render import fixed_date
from odin_rm.data.schema import TokenisedPreferences
from odin_rm.data.sources import RowSource, Source, open_source
from odin_rm.data.template_check import TemplateCheck
from odin_rm.data.tokenise import EncodingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SKIPPED = "skipped.jsonl"
# Responses whose ids are copied at once.
_COPY_AT_ONCE = 4096


def load_preferences(
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    settings: EncodingSettings | None = None,
    *,
    on_bad_row: Literal["error", "skip"] = "error",
    skipped_rows_file: PathLike | None = None,
    cache_dir: PathLike | None = None,
    num_proc: int | None = None,
    extra_columns: Sequence[str] = (),
    columns: Sequence[str] = (),
    measured: Sequence[Attribute] = (),
    variants: Mapping[str, VariantMaker] | None = None,
) -> TokenisedPreferences:
    """Load, check and tokenise preference data.

    Args:
        source: a file, a dataset folder, a hub id (``"id"`` or ``"id:split"``) or a list of rows; see
            :func:`odin_rm.data.sources.open_source` and :mod:`odin_rm.data.rows`.
        tokenizer: the reward model's tokenizer.
        settings: window, policy for what does not fit, chat template.
        on_bad_row: raise at an unusable row, or leave it out and count it.
        skipped_rows_file: JSON lines file for the rows left out, with row number and reason; written only if there are
            any.
        cache_dir: where tokenised data are kept; by default ``ODIN_RM_CACHE`` or ``~/.cache/odin_rm/data``, and nowhere
            for a list of rows.
        num_proc: processes that tokenise; by default this one, and for many texts one per core (at most 8).
        extra_columns: per-response numbers to take along, from ``chosen_<name>`` and ``rejected_<name>`` of a pair or
            the list ``<name>`` of a ranked list. A response that appears several times keeps its first number.
        columns: names of fields, ``new=theirs`` each (:mod:`odin_rm.data.columns`).
        measured: attributes to compute of every response's text, beside those that are always carried; with a user's
            own function among them nothing is cached.
        variants: by kind, what makes a variant of a response, or ``None`` where there is nothing to change. The kind
            names it in the cache. A variant that does not fit, or is the same to the model, is left out.

    Returns:
        The data. ``report`` counts: ``rows`` read, ``skipped_rows``, ``ties``; ``pairs_stated`` by the usable rows;
        ``pairs``, ``prompts``, ``responses`` kept; ``duplicate_pairs`` (repetitions of a pair, kept as its
        multiplicity); left out ``dropped_overlong_pairs``, which are ``overlong_chosen`` (only that side does not fit),
        ``overlong_rejected`` and ``overlong_both``, and ``identical_pairs``, whose two sides have the same token ids
        and so state no preference to the model; ``truncated_prompts`` and ``truncated_responses`` (sequences that lost
        prompt or response tokens), ``longer_chosen_share`` (of pairs of different length). Always
        ``pairs_stated = pairs + dropped_overlong_pairs + identical_pairs``. ``rewritten_responses`` are those whose
        text does not stand in the sequence as it is, because the chat template leaves a part out or changes it; their
        length still counts all of it. ``unrendered`` names what rows hold beside texts (``tools``, ``tool_calls``) and
        the template does not write, ``layouts`` the rows that were read from each public layout.

    Raises:
        RowError: an unusable row, placed by file and row number, where ``on_bad_row`` is ``"error"``.
        DataError: the source cannot be read, or no pair of it can be used.
    """
    settings = settings or EncodingSettings()
    if on_bad_row not in ("error", "skip"):
        raise ConfigError(f"on_bad_row is '{on_bad_row}'", where="--on_bad_row", fix="Use error or skip.")
    opened = open_source(source, columns=columns, want="preferences")
    unnamed = (opened.in_memory and cache_dir is None) or any(one.own for one in measured)
    root = None if unnamed else cache.usable_cache_dir(cache_dir)

    def build(scratch: Path, out: Path | None) -> TokenisedPreferences:
        check = TemplateCheck(tokenizer, settings.chat_template, every_row=on_bad_row == "skip")
        collected = collect(
            opened, scratch, skip_bad_rows=on_bad_row == "skip", extra_columns=extra_columns, check=check,
            measured=measured, makers=variants,
        )  # fmt: skip
        return _build(opened, collected, tokenizer, settings, scratch, out, num_proc, check.unrendered)

    if root is None:
        with tempfile.TemporaryDirectory(prefix="odin_rm_") as scratch:
            data = build(Path(scratch), None)
            _hand_out_skipped(Path(scratch) / _SKIPPED, skipped_rows_file)
            return data
    chosen = asdict(settings) | {"on_bad_row": on_bad_row, "extra_columns": list(extra_columns)}
    chosen |= {"columns": list(columns), "measured": [one.name for one in measured]}
    chosen |= {"variants": list(variants)} if variants else {}  # without them the key is the one that it always was
    folder = root / cache.cache_key(f"{opened.name}:{opened.fingerprint()}", tokenizer, chosen)
    cached = cache.read_columns(folder)
    if cached is not None:
        mark_used(folder)
        data = cached
    else:
        data = _build_in_cache(root, folder, build)
        if cache_dir is None:  # a folder that the user has named is the user's to look after
            keep_within(root, cache_limit(), spared=(folder,))
    _hand_out_skipped(folder / _SKIPPED, skipped_rows_file)
    return data


class _OthersWereFaster(Exception):
    """Another process has finished the same cache folder meanwhile."""


def _build_in_cache(
    root: Path, folder: Path, build: Callable[[Path, Path | None], TokenisedPreferences]
) -> TokenisedPreferences:
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=root) as scratch:
        try:
            with atomic_folder(folder, overwrite=True) as out:
                cache.write_columns(out, build(Path(scratch), out))
                if (Path(scratch) / _SKIPPED).exists():
                    shutil.copyfile(Path(scratch) / _SKIPPED, out / _SKIPPED)
                if cache.read_columns(folder) is not None:
                    raise _OthersWereFaster
        except _OthersWereFaster:
            pass
        except OSError as error:
            # The other process may also win the race between that look and the rename.
            if cache.read_columns(folder) is None:
                what = f"tokenised data cannot be written ({error.strerror or error})"
                raise OutputError(what, where=str(root), fix="Make room there, or give another cache_dir.") from error
    for _ in range(20):
        if (data := cache.read_columns(folder)) is not None:
            return data
        time.sleep(0.05)  # the other process may be between its two renames
    raise OutputError("the cached data vanished while they were read", where=str(folder), fix="Run again.")


def _hand_out_skipped(found: Path, wanted: PathLike | None) -> None:
    if wanted is not None and found.exists():
        with atomic_file(wanted) as file, opened(found) as content:
            shutil.copyfileobj(content, file)


def _why_none(collected: Collected) -> str:
    if not collected.first_reason:
        return f"they state {collected.ties:,} ties"
    return f"first problem: {collected.first_reason}"


def _build(
    source: Source,
    collected: Collected,
    tokenizer: PreTrainedTokenizerBase,
    settings: EncodingSettings,
    scratch: Path,
    out: Path | None,
    num_proc: int | None,
    unrendered: set[str],
) -> TokenisedPreferences:
    if not len(collected.chosen):
        raise DataError(
            f"no usable pair in {collected.rows:,} rows ({_why_none(collected)})",
            where=source.name,
            fix="Mend the rows, or give another file.",
        )
    first_slots, response_of_slot = first_appearances(collected.slot_digests)
    _, prompt_of_row = first_appearances(collected.prompt_digests)
    row_of_slot = np.repeat(np.arange(len(prompt_of_row)), np.frombuffer(collected.slots_per_row, dtype=np.int64))
    prompt_D = prompt_of_row[row_of_slot[first_slots]]
    chosen = response_of_slot[np.frombuffer(collected.chosen, dtype=np.int64)]
    rejected = response_of_slot[np.frombuffer(collected.rejected, dtype=np.int64)]
    encoded = encode_texts(collected, first_slots, tokenizer, settings, scratch, num_proc)

    dropped = encoded.numbers[:, DROPPED].astype(bool)
    left_out = overlong_by_side(dropped[chosen], dropped[rejected])
    identical = _identical(encoded, chosen, rejected, ~(dropped[chosen] | dropped[rejected]))
    left_out["identical_pairs"] = int(identical.sum())
    kept_pairs = np.flatnonzero(~(dropped[chosen] | dropped[rejected] | identical))
    if not len(kept_pairs):
        raise _nothing_left(source, encoded, settings, len(chosen), left_out["identical_pairs"])
    key = _pair_keys(collected)[kept_pairs]
    chosen, rejected = chosen[kept_pairs], rejected[kept_pairs]
    used = np.zeros(len(prompt_D), dtype=bool)
    used[chosen] = used[rejected] = True
    in_pairs = used.copy()
    variant_D = _variants(collected, encoded, response_of_slot, in_pairs)
    for found in variant_D.values():
        used[found[found >= 0]] = True
    # Responses by prompt, prompts and responses in order of first appearance; then pairs by prompt, in reading order.
    responses = np.flatnonzero(used)
    responses = responses[np.argsort(prompt_D[responses], kind="stable")]
    new_number = np.full(len(prompt_D), -1, dtype=np.int64)
    new_number[responses] = np.arange(len(responses))
    by_prompt = np.argsort(prompt_D[chosen], kind="stable")
    chosen, rejected = new_number[chosen[by_prompt]], new_number[rejected[by_prompt]]
    pairs = kept_pairs[by_prompt]

    numbers = encoded.numbers[responses]
    offsets = np.concatenate([[0], np.cumsum(numbers[:, STORED], dtype=np.int64)])
    report = _report(collected, numbers, chosen, rejected, in_pairs[responses]) | {
        **left_out,
        "dropped_overlong_responses": int(dropped.sum()),
        "max_length": settings.max_length,
        "overlong": settings.overlong,
        "unrendered": sorted(unrendered),
        "template_date": fixed_date(tokenizer, settings.chat_template),
        "layouts": dict(collected.layouts),
    }
    if variant_D:
        report["variants"] = {kind: int((found >= 0).sum()) for kind, found in variant_D.items()}
    prompt_numbers = np.unique(prompt_D[responses], return_inverse=True)[1].reshape(-1)
    report["prompts"] = int(prompt_numbers[-1]) + 1
    return TokenisedPreferences(
        input_ids_flat=_gather(encoded, responses, offsets, out),
        offsets=offsets,
        response_tokens=np.ascontiguousarray(numbers[:, RESPONSE_TOKENS]),
        response_prompt=prompt_numbers.astype(np.int32),
        pair_chosen=chosen.astype(np.int32),
        pair_rejected=rejected.astype(np.int32),
        pair_margin=np.frombuffer(collected.margin, dtype=np.float32)[pairs],
        pair_row=np.frombuffer(collected.row, dtype=np.int64)[pairs],
        pair_key=key[by_prompt],
        source=source.name,
        report=report,
        extra={
            name: np.frombuffer(column, dtype=np.float64)[first_slots[responses]]
            for name, column in collected.extra.items()
        },
        variants={
            kind: np.where(found[responses] >= 0, new_number[found[responses]], -1).astype(np.int32)
            for kind, found in variant_D.items()
        },
    )


def _variants(
    collected: Collected,
    encoded: EncodedTexts,
    response_of_slot: np.ndarray,
    in_pairs: np.ndarray,
) -> dict[str, np.ndarray]:
    """By kind, the distinct response that is the variant of each distinct response of a pair, -1 without one.

    A variant that does not fit is none, and neither is one whose ids are those of its original.
    """
    dropped = encoded.numbers[:, DROPPED].astype(bool)
    found = {}
    for kind, column in collected.variants.items():
        # Of every slot, not of the first: the text may stand there as the variant of another.
        slots = np.frombuffer(column, dtype=np.int64)
        having = np.flatnonzero(slots >= 0)
        variant = np.full(len(in_pairs), -1, dtype=np.int64)
        variant[response_of_slot[having]] = response_of_slot[slots[having]]
        variant[~in_pairs] = -1
        variant[(variant >= 0) & dropped[variant]] = -1
        originals = np.flatnonzero(variant >= 0)
        same = _identical(encoded, originals, variant[originals], np.ones(len(originals), dtype=bool))
        variant[originals[same]] = -1
        found[kind] = variant
    return found


def _gather(encoded: EncodedTexts, responses: np.ndarray, offsets: np.ndarray, out: Path | None) -> np.ndarray:
    """Ids of the chosen sequences end to end, in memory or straight into the cache folder's file."""
    lengths = encoded.numbers[:, STORED].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(offsets[-1])
    flat: np.ndarray
    if out is None:
        flat = np.empty(total, dtype=np.int32)
    else:
        path = out / f"{cache.FLAT}.npy"
        flat = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(total,))
    for first in range(0, len(responses), _COPY_AT_ONCE):
        part = responses[first : first + _COPY_AT_ONCE]
        low, high = offsets[first], offsets[first + len(part)]
        shift = np.repeat(starts[part] - offsets[first : first + len(part)], lengths[part])
        flat[low:high] = encoded.ids[np.arange(low, high) + shift]
    if isinstance(flat, np.memmap):
        flat.flush()
    return flat


def _report(
    collected: Collected, numbers: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, in_pairs: np.ndarray
) -> dict[str, Any]:
    tokens = numbers[:, RESPONSE_TOKENS].astype(np.int64)
    difference = tokens[chosen] - tokens[rejected]
    unequal = int((difference != 0).sum())
    distinct = len(np.unique(chosen * len(numbers) + rejected))
    numbers, tokens = numbers[in_pairs], tokens[in_pairs]  # variants are counted apart
    return {
        "rows": collected.rows,
        "pairs_stated": len(collected.chosen),
        "pairs": len(chosen),
        "prompts": 0,
        "responses": len(numbers),
        "skipped_rows": collected.skipped,
        "ties": collected.ties,
        "duplicate_pairs": len(chosen) - distinct,
        "truncated_prompts": int((numbers[:, PROMPT_CUT] > 0).sum()),
        "truncated_responses": int((numbers[:, RESPONSE_CUT] > 0).sum()),
        "rewritten_responses": int((numbers[:, REWRITTEN] > 0).sum()),
        "longer_chosen_share": float((difference > 0).sum() / unequal) if unequal else None,
        "mean_response_tokens": float(tokens.mean()),
        "mean_sequence_tokens": float(numbers[:, STORED].mean()),
    }


def _identical(encoded: EncodedTexts, chosen: np.ndarray, rejected: np.ndarray, fits_B: np.ndarray) -> np.ndarray:
    """``(B,)`` bool: pairs that fit and of which both sides are the same ids.

    Texts that differ can be one to the model: where the difference was cut off, or the chat template trims it or leaves
    it out (a thinking block, say).
    """
    lengths = encoded.numbers[:, STORED].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    same = np.zeros(len(chosen), dtype=bool)
    for pair in np.flatnonzero(fits_B & (lengths[chosen] == lengths[rejected])):
        first, second = (encoded.ids[starts[r] : starts[r] + lengths[r]] for r in (chosen[pair], rejected[pair]))
        same[pair] = np.array_equal(first, second)
    return same


def _pair_keys(collected: Collected) -> np.ndarray:
    """``(B,)`` uint64, a digest of each pair's prompt, chosen and rejected text, whatever tokenizer reads them."""
    halves = np.frombuffer(collected.slot_digests, dtype=np.uint64).reshape(-1, 2)
    chosen, rejected = (np.frombuffer(side, dtype=np.int64) for side in (collected.chosen, collected.rejected))
    # The halves are digests already; an odd factor makes the sum depend on which side is which.
    return halves[chosen, 0] * np.uint64(0x9E3779B97F4A7C15) + halves[rejected, 1]


def _nothing_left(
    source: Source, encoded: EncodedTexts, settings: EncodingSettings, pairs: int, identical: int
) -> DataError:
    if identical:
        rest = "" if identical == pairs else f", and in the other {pairs - identical:,} a sequence does not fit"
        what = f"chosen and rejected have the same tokens in {identical:,} of {pairs:,} pairs{rest}"
        fix = "Raise --max_length, or check what --overlong and the chat template leave of the responses."
        return DataError(f"no usable pair: {what}", where=source.name, fix=fix)
    dropped = encoded.numbers[encoded.numbers[:, DROPPED] > 0]
    alone = bool((dropped[:, PROMPT_TOKENS] > settings.max_length).all())
    what = "the prompt alone is" if alone else "a sequence is"
    return DataError(
        f"no usable pair: in all {pairs:,} pairs {what} longer than max_length ({settings.max_length:,} tokens)",
        where=source.name,
        fix="Raise --max_length, or choose --overlong truncate_prompt_left or truncate_response.",
    )
