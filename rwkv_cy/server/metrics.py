"""Metrics in Prometheus' format; the names of durations follow OpenTelemetry's conventions for generative models."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rwkv_cy.engine.state_cache import CacheStats

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """Counters and durations of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "rwkv_cy_requests", "Requests that have ended", ("route", "status"), registry=self._registry
        )
        self.active = Gauge("rwkv_cy_requests_active", "Requests in progress", registry=self._registry)
        self.disconnects = Counter(
            "rwkv_cy_disconnects", "Requests whose client left before the end", registry=self._registry
        )
        self.tokens = Counter(
            "rwkv_cy_tokens",
            "Tokens of prompts (computed, cached) and of answers (generated)",
            ("kind",),
            registry=self._registry,
        )
        self.drafts = Counter(
            "rwkv_cy_draft_tokens", "Tokens that speculation proposed and accepted", ("kind",), registry=self._registry
        )
        self.cache = Gauge("rwkv_cy_cache", "The cache of states", ("figure",), registry=self._registry)
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time of a request",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request to its first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time of each token after the first",
            buckets=(0.001, 0.002, 0.005, *_SECONDS[:9]),
            registry=self._registry,
        )

    def note_cache(self, stats: CacheStats) -> None:
        """Take note of what the cache of states holds, and what it has evicted."""
        figures = {
            "snapshots": stats.snapshots,
            "bytes": stats.bytes,
            "disk_files": stats.disk_files,
            "disk_bytes": stats.disk_bytes,
            "disk_errors": stats.disk_errors,
            "lookups": stats.lookups,
            "hits": stats.hits,
            "evicted": stats.evicted.total(),
        }
        for name, value in figures.items():
            self.cache.labels(name).set(value)

    def page(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
