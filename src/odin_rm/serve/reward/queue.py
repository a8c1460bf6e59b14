"""Batching across requests: texts that come within milliseconds share a forward pass, those of one prompt a tree.

A task for each replica of the models takes what waits, in order of arrival but prompt by prompt, as much as fits into
the token budget, and has it scored in a thread; meanwhile further texts gather. Replicas that are idle share what
waits, whole prompts each. Scores are remembered by content, and a text that waits already is
not computed twice. What nobody waits for any more is not computed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from odin_rm.model.device import is_out_of_memory
from odin_rm.serve.reward.dialects.records import Problem
from odin_rm.serve.reward.models import Encoded, ServedModel
from odin_rm.serve.reward.replicas import ReplicaLost

log = logging.getLogger("odin_rm.serve")

Pair = tuple[float, float | None]
# What scores the sequences of a batch: the model itself, or a replica of it elsewhere.
Lane = Callable[[ServedModel, Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray | None]]
# A burst may stretch the window to so many windows.
_LONGEST_WINDOW = 5
# Where batches take long, waiting for the rest of a prompt's responses is worth this part of the last batch.
_WINDOW_SHARE, _WINDOW_AT_MOST = 0.05, 0.1
_SLOWEST_RETRY = 60


@dataclass(frozen=True)
class QueueSettings:
    """How texts gather.

    Attributes:
        window: seconds without a new text after which what waits is scored; a twentieth of the last batch's seconds
            where that is more (at most 0.1 s), and 0 for never waiting.
        batch_tokens: computed tokens of one batch.
        most_texts, most_tokens: that may wait; more are refused.
        cache_size: scores that are remembered.
    """

    window: float = 0.004
    batch_tokens: int = 16384
    most_texts: int = 8192
    most_tokens: int = 2_000_000
    cache_size: int = 100_000


@dataclass(eq=False)
class Entry:
    """A text that waits for its score.

    Attributes:
        model: whose score.
        ids: token ids.
        group: texts of one group begin alike.
        key: of its content.
        done: gets the score.
        waiters: how many requests want it.
    """

    model: ServedModel
    ids: np.ndarray
    group: Any
    key: bytes
    done: asyncio.Future[Pair]
    waiters: int = 1


@dataclass
class QueueFigures:
    """What a queue has done, for metrics.

    Attributes:
        computed, cached, shared: texts that were scored, known already, or waiting already.
        batches: how many were scored.
        seconds, tokens: in batches, in all.
        on_batch: is told of each batch: its texts and its seconds.
    """

    computed: int = 0
    cached: int = 0
    shared: int = 0
    batches: int = 0
    seconds: float = 0.0
    tokens: int = 0
    on_batch: list[Callable[[int, float], None]] = field(default_factory=list)


class ScoreQueue:
    """Texts in, scores out.

    Args:
        settings: how texts gather.
        lanes: what scores; as many batches are under way at a time.
    """

    def __init__(self, settings: QueueSettings, lanes: Sequence[Lane] | None = None) -> None:
        self.settings, self.figures = settings, QueueFigures()
        self.lanes = [own_score] if lanes is None else list(lanes)
        self.waiting: dict[bytes, Entry] = {}
        self.running: dict[bytes, Entry] = {}
        self._known: OrderedDict[bytes, Pair] = OrderedDict()
        self._threads = ThreadPoolExecutor(len(self.lanes), thread_name_prefix="score")
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.idle = len(self.lanes)
        self.waiting_tokens = 0
        self._last_seconds = 0.0

    def start(self) -> None:
        """Begin; a loop must be running."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(lane)) for lane in self.lanes]

    async def close(self) -> None:
        """End; who still waits is told so."""
        entries = [*self.waiting.values(), *self.running.values()]  # a batch that is broken off forgets its own
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in entries:
            if not entry.done.done():
                entry.done.set_exception(Problem(503, "the server is ending", retry_after=5))
                entry.done.exception()  # nobody may be there to look
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def scores(self, model: ServedModel, texts: Sequence[Encoded]) -> list[Pair]:
        """Quality and length reward of texts, in order.

        Raises:
            Problem: too much waits already (429), or a text could not be scored.
        """
        keys = [_key(model, text.ids) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if not self._has(key)}
        self._check_room(new)
        known = [self._remember(key) for key in keys]
        # The same text twice in one request waits once.
        entries = [
            None if pair is not None else self._enter(model, text, key)
            for pair, text, key in zip(known, texts, keys, strict=True)
        ]
        futures = [entry.done for entry in entries if entry is not None]
        try:
            await asyncio.gather(*(asyncio.shield(future) for future in futures))
            return [
                entry.done.result() if entry is not None else pair  # type: ignore[misc]
                for entry, pair in zip(entries, known, strict=True)
            ]
        finally:
            for entry in entries:
                if entry is not None:
                    entry.waiters -= 1

    def _has(self, key: bytes) -> bool:
        return key in self._known or key in self.waiting or key in self.running

    def _check_room(self, new: dict[bytes, Encoded]) -> None:
        texts, tokens = len(self.waiting) + len(new), self.waiting_tokens + sum(len(one.ids) for one in new.values())
        if not new or not self.waiting:
            return  # what fits into one request is taken where nothing waits
        if texts > self.settings.most_texts or tokens > self.settings.most_tokens:
            raise Problem(429, "too many texts are waiting; try again later", retry_after=self.retry_after())

    def retry_after(self) -> int:
        """Seconds in which what waits will be done, at the speed so far."""
        speed = self.figures.tokens / self.figures.seconds if self.figures.seconds else 1000.0
        return max(1, min(_SLOWEST_RETRY, math.ceil(self.waiting_tokens / speed)))

    def _remember(self, key: bytes) -> Pair | None:
        pair = self._known.get(key)
        if pair is not None:
            self._known.move_to_end(key)
            self.figures.cached += 1
        return pair

    def _enter(self, model: ServedModel, text: Encoded, key: bytes) -> Entry:
        entry = self.waiting.get(key) or self.running.get(key)
        if entry is not None:
            entry.waiters += 1
            self.figures.shared += 1
            return entry
        entry = Entry(model, text.ids, text.group, key, asyncio.get_running_loop().create_future())
        self.waiting[key] = entry
        self.waiting_tokens += len(text.ids)
        self._arrived.set()
        return entry

    # ---- the tasks ---------------------------------------------------------------------------------------------------

    async def _run(self, lane: Lane) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            self._forget_abandoned()
            batch = next_batch(list(self.waiting.values()), self.settings.batch_tokens, self.idle)
            for entry in batch:
                del self.waiting[entry.key]
                self.running[entry.key] = entry
                self.waiting_tokens -= len(entry.ids)
            if not self.waiting:
                self._arrived.clear()
            if batch:
                self.idle -= 1
                try:
                    await self._score(batch, lane)
                except Exception as error:  # no thread, no memory for the results: the lane must go on
                    fail(batch, error)
                finally:
                    self.idle += 1

    async def _gather(self) -> None:
        """Wait until no text has come for a window, or the budget is full."""
        if self.settings.window <= 0:
            return
        window = max(self.settings.window, min(_WINDOW_SHARE * self._last_seconds, _WINDOW_AT_MOST))
        for _ in range(_LONGEST_WINDOW):
            before = len(self.waiting)
            await asyncio.sleep(window)
            if len(self.waiting) == before or self.waiting_tokens >= self.settings.batch_tokens:
                return

    def _forget_abandoned(self) -> None:
        for entry in [one for one in self.waiting.values() if one.waiters < 1]:
            del self.waiting[entry.key]
            self.waiting_tokens -= len(entry.ids)
            entry.done.cancel()

    async def _score(self, batch: list[Entry], lane: Lane) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            results = await loop.run_in_executor(self._threads, score_batch, batch, lane)
        finally:
            for entry in batch:
                self.running.pop(entry.key, None)
        seconds = self._last_seconds = loop.time() - start
        self.figures.batches += 1
        self.figures.computed += len(batch)
        self.figures.seconds += seconds
        self.figures.tokens += sum(len(entry.ids) for entry in batch)
        for told in self.figures.on_batch:
            told(len(batch), seconds)
        for entry, result in zip(batch, results, strict=True):
            if entry.done.done():
                continue
            if isinstance(result, BaseException):
                entry.done.set_exception(result)
                entry.done.exception()  # its requests may all have gone
            else:
                self._store(entry.key, result)
                entry.done.set_result(result)

    def _store(self, key: bytes, pair: Pair) -> None:
        if self.settings.cache_size < 1:
            return
        self._known[key] = pair
        while len(self._known) > self.settings.cache_size:
            self._known.popitem(last=False)


def own_score(model: ServedModel, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """A model's scores in this process."""
    return model.score(sequences)


def next_batch(waiting: Sequence[Entry], budget: int, shares: int = 1) -> list[Entry]:
    """What is scored next: texts of the oldest one's model, prompt by prompt in order of arrival, within the budget.

    Args:
        waiting: in order of arrival.
        budget: computed tokens: of a prompt's texts the common beginning counts once. The first text is always taken,
            and only the first prompt is ever cut in two.
        shares: idle replicas, this one among them: each takes so large a part of what waits, in whole prompts.
    """
    if not waiting:
        return []
    groups: dict[Any, list[Entry]] = {}
    for entry in waiting:
        if entry.model is waiting[0].model:
            groups.setdefault(entry.group, []).append(entry)
    costs_of = [_costs(group) for group in groups.values()]
    share = sum(map(sum, costs_of)) / max(1, shares)
    batch: list[Entry] = []
    used = 0
    for group, costs in zip(groups.values(), costs_of, strict=True):
        # A prompt that is cut in two is computed twice.
        if batch and (used >= share or used + sum(costs) > budget):
            return batch
        for entry, cost in zip(group, costs, strict=True):
            if batch and used + cost > budget:
                return batch
            batch.append(entry)
            used += cost
    return batch


def _costs(group: Sequence[Entry]) -> list[int]:
    """Computed tokens of each text of a prompt, after those before it."""
    return [len(group[0].ids)] + [len(two.ids) - _common(one.ids, two.ids) for one, two in pairwise(group)]


def _common(first: np.ndarray, second: np.ndarray) -> int:
    shared = min(len(first), len(second))
    different = np.flatnonzero(first[:shared] != second[:shared])
    return int(different[0]) if len(different) else shared


def score_batch(batch: Sequence[Entry], lane: Lane = own_score) -> list[Pair | BaseException]:
    """Scores of a batch of one model. Where it fails, each text is tried alone, so that one spoils no other.

    A text alone that does not fit into memory, or whose score is not finite, gets a :class:`Problem`.
    """
    try:
        quality_R, length_R = lane(batch[0].model, [entry.ids for entry in batch])
    except Exception as error:
        if len(batch) > 1:
            return [score_batch([entry], lane)[0] for entry in batch]
        return [_problem_of(error)]
    lengths = [None] * len(batch) if length_R is None else [float(x) for x in length_R]
    return [
        (float(quality), length)
        if math.isfinite(quality) and (length is None or math.isfinite(length))
        else Problem(422, "the model's score of this text is not finite")
        for quality, length in zip(quality_R, lengths, strict=True)
    ]


def fail(batch: Sequence[Entry], error: Exception) -> None:
    """Tell those who wait for a batch that it failed as a whole."""
    problem = _problem_of(error)
    for entry in batch:
        if not entry.done.done():
            entry.done.set_exception(problem)
            entry.done.exception()  # its requests may all have gone


def _problem_of(error: Exception) -> Problem:
    """What clients are told of an error while scoring."""
    if isinstance(error, ReplicaLost):
        log.error("a replica was lost and is started again")
        return Problem(503, "the process that scored this text ended, maybe for lack of memory", retry_after=10)
    if is_out_of_memory(error):
        return Problem(503, "this machine's memory does not hold this text now", retry_after=10)
    log.error("a text could not be scored", exc_info=error)
    return Problem(500, "the model failed at this text; the server's log says why")


def _key(model: ServedModel, ids: np.ndarray) -> bytes:
    return hashlib.blake2b(model.name.encode() + b"\0" + ids.tobytes(), digest_size=20).digest()
