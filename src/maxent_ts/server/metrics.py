"""What Prometheus may ask. Labels are names of this package and routes; nothing of a request's content is among them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from maxent_ts.registry import METHODS
from maxent_ts.search.run import SearchResult
from maxent_ts.server.service import Service

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Counters of one server; each has a registry of its own, so that several may live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "maxent_requests",
            "Answered, by the search's method.",
            ["path", "method", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "maxent_request_seconds", "From arrival to the last byte.", ["path"], registry=self._registry, buckets=SECONDS
        )
        self.in_flight = Gauge("maxent_requests_in_flight", "Requests that are being answered.", registry=self._registry)
        self._search_seconds = Histogram(
            "maxent_search_seconds", "From a search's begin to its end.", ["method"], registry=self._registry, buckets=SECONDS
        )
        self._failed = Counter("maxent_searches_failed", "Searches that ended with an error.", registry=self._registry)
        self._cancelled = Counter(
            "maxent_searches_cancelled", "Searches of which nobody waited for the result any more.", registry=self._registry
        )
        self._generated = Counter("maxent_generated_tokens", "By all searches that have ended.", registry=self._registry)
        self._prompt = Counter("maxent_prompt_tokens", "Of all searches that have ended.", registry=self._registry)

    def watch(self, service: Service) -> None:
        """Ask a service how many searches there are whenever somebody wants to know."""
        live = Gauge("maxent_searches_live", "Searches under way.", registry=self._registry)
        live.set_function(lambda: service.num_live)
        waiting = Gauge("maxent_searches_waiting", "Searches that have not begun.", registry=self._registry)
        waiting.set_function(lambda: service.num_waiting)

    def answered(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count an answer; 499 stands for a client that left before it."""
        self._requests.labels(path, method, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def searched(self, result: SearchResult, is_cancelled: bool) -> None:
        """Count a search that has ended."""
        factory = getattr(result.job.method, "func", result.job.method)
        place = f"{factory.__module__}:{factory.__qualname__}"
        method = next((name for name, where in METHODS.items() if where == place), "other")
        self._search_seconds.labels(method).observe(result.usage.seconds)
        self._generated.inc(result.usage.generated_tokens)
        self._prompt.inc(result.usage.prompt_tokens)
        if is_cancelled:
            self._cancelled.inc()
        elif result.error is not None:
            self._failed.inc()

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)
