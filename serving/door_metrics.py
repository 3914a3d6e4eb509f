"""The door's own metrics.

A request's time is split in two: `engine` is spent waiting for the model, `door` is all the rest, the client's reading
of a stream among it.
"""

import re
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.visit import Visit

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1)
_DOOR = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.015, 0.03, 0.1, 0.5, 1)
_OF_KEY = re.compile(r'^\w+\{(?:[^"]*"[^"]*",)*key="([^"]*)"')
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class DoorMetrics:
    """Counted per model and key. Names of models come from the catalogue and names of keys from the key ring, so that
    nobody can fill the memory with labels."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        who = ["model", "key"]
        self._requests = Counter(
            "raymill_requests", "Answered requests.", ["route", *who, "status"], registry=self.registry
        )
        self._tokens = Counter("raymill_tokens", "Tokens by kind.", [*who, "kind"], registry=self.registry)
        self._gone = Counter(
            "raymill_clients_left", "Requests whose client left before the end.", who, registry=self.registry
        )
        self._first = self._histogram("time_to_first_token", "From arrival to the first part of the answer.", _FIRST)
        self._token = self._histogram("time_per_output_token", "Between tokens of a stream, mean of a request.", _TOKEN)
        self._whole = self._histogram("request", "From arrival to the last byte.", _WHOLE)
        self._engine = self._histogram("engine", "Of a request: waiting for the engine, its queue included.", _WHOLE)
        self._before = self._histogram("door_before_engine", "From arrival to asking the engine.", _DOOR)
        self._door = self._histogram("door", "Of a request: all but the engine.", _DOOR)
        self.inside = Gauge("raymill_requests_inside", "Requests of a model now.", ["model"], registry=self.registry)
        self.places = Gauge("raymill_requests_limit", "Requests that a model takes.", ["model"], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        labels = ["model", "key"]
        return Histogram(f"raymill_{name}_seconds", text, labels, registry=self.registry, buckets=tuple(buckets))

    def record(self, visit: Visit) -> None:
        """Count a request that has ended."""
        who = (visit.model or "none", visit.key.name if visit.key is not None else "none")
        self._requests.labels(visit.route, *who, visit.status).inc()
        if visit.gone:
            self._gone.labels(*who).inc()
        if visit.asked is None:
            return
        self._tokens.labels(*who, "prompt").inc(visit.prompt_tokens)
        self._tokens.labels(*who, "completion").inc(visit.completion_tokens)
        seconds = visit.seconds
        self._whole.labels(*who).observe(seconds)
        self._engine.labels(*who).observe(visit.engine_s)
        self._before.labels(*who).observe(visit.asked - visit.began)
        self._door.labels(*who).observe(seconds - visit.engine_s)
        if visit.first is not None:
            self._first.labels(*who).observe(visit.first - visit.began)
            if visit.last is not None and visit.last > visit.first and visit.completion_tokens > 1:
                self._token.labels(*who).observe((visit.last - visit.first) / (visit.completion_tokens - 1))

    def text(self, key: str | None = None) -> str:
        """In Prometheus' text form; with the name of a key, without what is of other keys."""
        text = generate_latest(self.registry).decode()
        if key is None:
            return text
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if (found := _OF_KEY.search(line)) is None or found[1] in (key, "none"))
