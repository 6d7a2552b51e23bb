"""The rim, step 0: what is counted of every call.

Invariant: one observation per call, whatever became of it; labels are methods and codes, never tenants or ids.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


class RpcMetrics:
    """Calls by method and code, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "tollway_rpc_calls_total",
            "Calls by method and gRPC code.",
            ("method", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "tollway_rpc_seconds",
            "How long calls took.",
            ("method",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=registry,
        )
        # A look-up of labels takes a lock and a tuple; there are few methods and codes.
        self._of_code: dict[tuple[str, str], Counter] = {}
        self._of_method: dict[str, Histogram] = {}

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Counts one finished call."""
        counter = self._of_code.get((method, code))
        if counter is None:
            counter = self._of_code[method, code] = self._calls.labels(method, code)
        timer = self._of_method.get(method)
        if timer is None:
            timer = self._of_method[method] = self._seconds.labels(method)
        counter.inc()
        timer.observe(seconds)


class Refusals:
    """Calls that were refused for a limit, by the error's reason; one counter for all limits of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "tollway_refused_calls_total",
            "Calls and messages of streams that a limit refused, by reason.",
            ("reason",),
            registry=registry,
        )

    def count(self, reason: str) -> None:
        """Counts one refusal."""
        self._calls.labels(reason).inc()
