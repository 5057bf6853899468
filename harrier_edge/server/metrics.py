"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from harrier_edge.server.batching import Batcher
from harrier_edge.server.models import Models

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The counters of one server."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, batcher: Batcher, models: Models) -> None:
        """Count requests, and tell what `batcher` and `models` know of themselves."""
        self._registry = CollectorRegistry()
        self._registry.register(_Work(batcher, models))
        self._requests = Counter(
            "harrier_requests", "Requests by path and status", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "harrier_request_seconds", "From a request's head to its answer", ["path"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip

    def count(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self._registry)


class _Work(Collector):
    """What is asked for when it is told, and not counted here."""

    def __init__(self, batcher: Batcher, models: Models) -> None:
        self._batcher, self._models = batcher, models

    def collect(self) -> list[Metric]:
        """One of each."""
        load = self._batcher.load
        loaded = GaugeMetricFamily("harrier_model_loaded", "1 if loaded", labels=["model"])
        names = self._models.loaded
        for told in self._models.all_told():
            loaded.add_metric([told.id], float(told.id in names))
        return [
            GaugeMetricFamily("harrier_waiting_tokens", "Taken, not yet done", load.waiting_tokens),
            CounterMetricFamily("harrier_tokens", "Tokens embedded", load.tokens),
            CounterMetricFamily("harrier_texts", "Texts embedded", load.texts),
            CounterMetricFamily("harrier_batches", "Batches run", load.batches),
            loaded,
        ]
