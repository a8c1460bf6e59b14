"""What the server says of itself at ``/metrics``, in Prometheus' format."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from odin_rm.serve.reward.queue import ScoreQueue

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server.

    Args:
        queue: what it waits for.
    """

    def __init__(self, queue: ScoreQueue) -> None:
        self.registry, self.queue = CollectorRegistry(), queue
        place: dict[str, Any] = {"registry": self.registry, "namespace": "odin_rm"}
        self.requests = Counter("requests", "Requests answered.", ["path", "status"], **place)
        self.seconds = Histogram(
            "request_seconds", "From the whole request to its answer.", ["path"], buckets=_SECONDS, **place
        )
        self.in_progress = Gauge("requests_in_progress", "Requests for scores under way.", **place)
        self.texts = Counter("texts", "Texts in requests, by model.", ["model"], **place)
        self.kinds = Counter("special_texts", "Texts that were cut, truncated or free.", ["kind"], **place)
        self.batch_texts = Histogram("batch_texts", "Texts scored together.", buckets=_TEXTS, **place)
        self.batch_seconds = Histogram("batch_seconds", "Seconds of a batch.", buckets=_SECONDS, **place)
        gauges = {
            "waiting_texts": ("Texts that wait for a batch.", lambda: len(queue.waiting)),
            "busy_workers": ("Replicas of the models that are scoring.", lambda: len(queue.lanes) - queue.idle),
            "waiting_tokens": ("Tokens of texts that wait.", lambda: queue.waiting_tokens),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, **place).set_function(value)
        self.sources = Counter("scores", "Scores given: computed, remembered, or shared.", ["source"], **place)
        self._told = dict.fromkeys(("computed", "cached", "shared"), 0)
        queue.figures.on_batch.append(self._on_batch)

    def _on_batch(self, texts: int, seconds: float) -> None:
        self.batch_texts.observe(texts)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        for name, before in self._told.items():
            count = getattr(self.queue.figures, name)
            self.sources.labels(name).inc(count - before)
            self._told[name] = count
        return generate_latest(self.registry)
