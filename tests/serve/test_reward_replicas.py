"""Replicas in processes of their own: their scores, and what becomes of one that fails, has no memory, or dies."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import psutil
import pytest

from odin_rm.core.errors import ConfigError, ModelError
from odin_rm.serve.reward.config import ServeConfig
from odin_rm.serve.reward.queue import Entry, score_batch
from odin_rm.serve.reward.replicas import Replica, ReplicaLost, devices_of, start_replicas

CONFIG = ServeConfig(model=["m=nowhere"], workers=2, device="cpu")
BAD, LARGE, FATAL = 666, 777, 999


class Sum:
    """A text's score is the sum of its ids, but for some."""

    name = "m"

    def score(self, sequences: Any) -> Any:
        ids = {int(i) for one in sequences for i in one}
        if BAD in ids:
            raise ZeroDivisionError("inside the model")
        if LARGE in ids:
            raise MemoryError("no room")
        if FATAL in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([float(one.sum()) for one in sequences]), np.zeros(len(sequences))


def load(config: ServeConfig) -> Any:
    assert (config.workers, config.device) == (1, "cpu")
    return {"m": Sum()}


def refuse(config: ServeConfig) -> Any:
    raise ModelError("is no model", where=config.model[0])


def sequences(*values: int) -> list[np.ndarray]:
    return [np.array([value, 1], dtype=np.int32) for value in values]


def entries(*values: int) -> list[Entry]:
    return [Entry(Sum(), ids, 0, bytes(ids), None) for ids in sequences(*values)]  # type: ignore[arg-type]


def test_scores_failures_and_death():
    _, (replica,) = start_replicas(CONFIG, load)
    try:
        model: Any = Sum()
        np.testing.assert_array_equal(replica.score(model, sequences(2, 3))[0], [3.0, 4.0])
        with pytest.raises(MemoryError, match="no room"):
            replica.score(model, sequences(LARGE))
        with pytest.raises(RuntimeError, match="inside the model"):
            replica.score(model, sequences(BAD))
        first = replica.process.pid
        with pytest.raises(ReplicaLost):
            replica.score(model, sequences(FATAL))
        # The text that kills it spoils no other: each is tried alone, by a process that is started again.
        one, lost, other = score_batch(entries(2, FATAL, 3), replica.score)
        assert (one, other) == ((3.0, 0.0), (4.0, 0.0))
        assert (lost.status, lost.retry_after) == (503, 10)  # type: ignore[union-attr]
        assert replica.process.pid != first
        last = replica.process.pid
    finally:
        replica.close()
    assert not psutil.pid_exists(last)


def test_a_replica_that_cannot_load_ends_the_start():
    replica = Replica(CONFIG, 1, refuse)
    replica.start()
    with pytest.raises(ModelError, match="is no model"):
        replica.wait()
    replica.close()


@pytest.mark.parametrize(
    ("device", "workers", "cards", "expected"),
    [
        (None, 1, 0, [None]),
        ("cuda:1", 1, 2, ["cuda:1"]),
        (None, 3, 0, ["cpu"] * 3),
        ("cpu", 2, 4, ["cpu"] * 2),
        (None, 3, 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 2, 2, ["cuda:0", "cuda:1"]),
    ],
)
def test_where_replicas_are(monkeypatch: pytest.MonkeyPatch, device: Any, workers: int, cards: int, expected: Any):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    assert devices_of(device, workers) == expected


def test_one_device_for_several_is_refused():
    with pytest.raises(ConfigError, match="one place for 2 workers"):
        devices_of("cuda:1", 2)
