"""Second pass over the texts: tokenise each distinct (prompt, response) once, ids straight to disk."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odin_rm.core.errors import OdinError
from odin_rm.core.files import written
from odin_rm.core.progress import Progress
from odin_rm.data.collect import Collected, unpack
from odin_rm.data.tokenise import CHUNK, EncodingSettings, encode_named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# (prompts, responses, places), packed texts
_Texts = tuple[list[str], list[str], list[str]]
_Numbers = tuple[np.ndarray, np.ndarray]

MANY = 50_000
"""Up to so many texts one process tokenises: it is done before others would have started."""
_MOST_PROCESSES = 8
_TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"

# Columns of the numbers kept per sequence.
STORED, RESPONSE_TOKENS, SEQUENCE_TOKENS, PROMPT_CUT, RESPONSE_CUT, DROPPED, PROMPT_TOKENS, REWRITTEN = range(8)


@dataclass(frozen=True)
class EncodedTexts:
    """All sequences in order of first appearance.

    Attributes:
        ids: ``(tokens,)`` int32, sequences end to end; memory-mapped.
        numbers: ``(n, 8)`` int32, see the column names of this module.
    """

    ids: np.ndarray
    numbers: np.ndarray


def encode_texts(
    collected: Collected,
    first_slots: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    settings: EncodingSettings,
    folder: Path,
    num_proc: int | None = None,
) -> EncodedTexts:
    """Tokenise the distinct responses.

    Args:
        collected: the first pass.
        first_slots: ``(n,)`` ascending slots to encode.
        tokenizer: any Hugging Face tokenizer.
        settings: window and policy.
        folder: scratch folder; gets ``ids.bin``.
        num_proc: processes to share the work between, see :func:`processes_for`.

    Raises:
        RowError: a sequence is too long and the policy is ``"error"``.
    """
    numbers = np.zeros((len(first_slots), 8), dtype=np.int32)
    done = 0
    chunks = _chunks(collected, first_slots)
    path = folder / "ids.bin"
    with written(path) as file, Progress("tokenise", len(first_slots), unit="texts") as bar:
        for ids, part in _encoded(chunks, tokenizer, settings, processes_for(len(first_slots), num_proc)):
            file.write(ids.tobytes())
            numbers[done : done + len(part)] = part
            done += len(part)
            bar.advance(len(part))
    ids = np.memmap(path, dtype=np.int32, mode="r") if path.stat().st_size else np.empty(0, dtype=np.int32)
    return EncodedTexts(ids, numbers)


def processes_for(texts: int, num_proc: int | None = None) -> int:
    """How many processes tokenise.

    The tokenizer has threads of its own, but templates, checks and lists of ids are Python, so many texts are shared
    between the usable cores (at most 8). That needs processes that start as a copy of this one: others would run the
    caller's script anew.

    Args:
        texts: how many there are.
        num_proc: as asked; ``None`` decides by itself.
    """
    if num_proc is not None:
        return max(1, num_proc)
    process = multiprocessing.current_process()
    if texts <= MANY or process.daemon or multiprocessing.get_start_method(allow_none=True) not in _copying():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_PROCESSES, cores)


def _copying() -> tuple[str | None, ...]:
    """Start methods that copy this process; ``None`` is the platform's own before anybody has chosen."""
    default = multiprocessing.get_all_start_methods()[0]
    return ("fork", None) if default == "fork" else ("fork",)


def _chunks(collected: Collected, first_slots: np.ndarray) -> Iterator[_Texts]:
    """Packed texts of the wanted slots, a thousand at a time; one record batch of the file in memory at a time."""
    import pyarrow as pa

    wanted = np.zeros(collected.slots, dtype=bool)
    wanted[first_slots] = True
    slot = 0
    texts: _Texts = ([], [], [])
    with pa.memory_map(str(collected.texts)) as mapped:
        reader = pa.ipc.open_file(mapped)
        for index in range(reader.num_record_batches):
            columns = reader.get_batch(index).to_pydict()
            for place, prompt, responses in zip(columns["place"], columns["prompt"], columns["responses"], strict=True):
                for response in responses:
                    if wanted[slot]:
                        for column, text in zip(texts, (prompt, response, place), strict=True):
                            column.append(text)
                    slot += 1
                if len(texts[0]) >= CHUNK:
                    yield texts
                    texts = ([], [], [])
    if texts[0]:
        yield texts


def _encoded(chunks: Iterator[_Texts], tokenizer: Any, settings: EncodingSettings, num_proc: int) -> Iterator[_Numbers]:
    if num_proc == 1:
        for chunk in chunks:
            yield _encode_chunk(tokenizer, settings, chunk)
        return
    # A few chunks ahead keep all processes busy without reading the whole file into memory.
    with (
        _without_tokenizer_threads(),
        ProcessPoolExecutor(num_proc, initializer=_start_worker, initargs=(tokenizer, settings)) as pool,
    ):
        waiting: deque[Future[_Numbers]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_encode_in_worker, chunk))
                if len(waiting) > 2 * num_proc:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except OdinError:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _without_tokenizer_threads() -> Iterator[None]:
    """Each process is busy by itself; threads of the tokenizers would only get into each other's way."""
    before = os.environ.get(_TOKENIZER_THREADS)
    os.environ[_TOKENIZER_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TOKENIZER_THREADS]
        else:
            os.environ[_TOKENIZER_THREADS] = before


_in_worker: Callable[[_Texts], _Numbers] | None = None


def _start_worker(tokenizer: Any, settings: EncodingSettings) -> None:
    global _in_worker
    _in_worker = lambda texts: _encode_chunk(tokenizer, settings, texts)  # noqa: E731


def _encode_in_worker(texts: _Texts) -> _Numbers:
    assert _in_worker is not None
    return _in_worker(texts)


def _encode_chunk(tokenizer: Any, settings: EncodingSettings, texts: _Texts) -> _Numbers:
    prompts, responses, places = texts
    encoded = encode_named(tokenizer, [unpack(p) for p in prompts], [unpack(r) for r in responses], settings, places)
    ids = np.concatenate([np.asarray(e.input_ids, dtype=np.int32) for e in encoded])
    numbers = [
        (
            len(e.input_ids),
            e.response_tokens,
            e.sequence_tokens,
            e.prompt_cut,
            e.response_cut,
            e.dropped,
            e.prompt_tokens,
            e.rewritten,
        )
        for e in encoded
    ]
    return ids, np.asarray(numbers, dtype=np.int32)
