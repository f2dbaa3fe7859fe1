"""What Prometheus reads at /metrics."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own: a process may hold several servers."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files

        def metric(kind, name, help, labels=(), **options):
            return kind(f"ernie_vil2_{name}", help, labels, registry=self.registry, **options)

        self.requests = metric(Counter, "requests", "Requests answered", ["route", "status"])
        self.latency = metric(
            Histogram, "request_seconds", "From headers to answer", ["route"], buckets=_SECONDS
        )
        self.in_flight = 0
        gauge = metric(Gauge, "requests_in_flight", "Requests being answered")
        gauge.set_function(lambda: self.in_flight)
        self.buffered = metric(Gauge, "buffered_bytes", "Request bodies held in memory")
        self.queued = metric(Gauge, "queue_depth", "Items waiting for a batch")
        self.admitted = metric(Gauge, "items_admitted", "Items prepared, waiting or computed")
        self.ready = metric(Gauge, "ready", "1 while requests are taken")
        self.items = metric(Counter, "items", "Items embedded", ["tower"])
        self.item_errors = metric(Counter, "item_errors", "Items refused", ["tower", "code"])
        self.batch_size = metric(
            Histogram, "batch_size", "Items of a batch", ["tower"], buckets=_SIZES
        )
        self.batch_seconds = metric(
            Histogram, "batch_seconds", "Model time of a batch", ["tower"], buckets=_SECONDS
        )

    def on_batch(self, tower: str, items: int, seconds: float) -> None:
        self.items.labels(tower).inc(items)
        self.batch_size.labels(tower).observe(items)
        self.batch_seconds.labels(tower).observe(seconds)


class Measured:
    """ASGI middleware that counts and times every request.

    By its route, not by its path, which a client chooses.
    """

    def __init__(self, app, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 500

        async def watch(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = time.perf_counter()
        self.metrics.in_flight += 1
        try:
            await self.app(scope, receive, watch)
        finally:
            self.metrics.in_flight -= 1
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - start)
