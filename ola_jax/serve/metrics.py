"""Figures of the server, in the format of Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ola_jax.generate.requests import Completion, EngineStatus

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts what requests come to; thread-safe. `status` and `waiting` are asked when figures are read."""

    def __init__(self, status: Callable[[], EngineStatus], waiting: Callable[[], int]):
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(status, waiting))
        histogram = lambda name, text: Histogram(name, text, buckets=SECONDS, registry=self._registry)
        counter = lambda name, text, *labels: Counter(name, text, labels, registry=self._registry)
        self._first = histogram("ola_time_to_first_token_seconds", "From the request to its first token")
        self._whole = histogram("ola_request_seconds", "From the request to the end of its answer")
        self._queue = histogram("ola_queue_seconds", "Waiting of a request before it was answered")
        self._decode = histogram(
            "ola_media_decode_seconds", "Fetching and decoding of the media of a request"
        )
        self._finished = counter("ola_requests", "Answered requests, by how they ended", "finished_reason")
        self._refused = counter("ola_requests_refused", "Refused requests, by status", "status")
        self._cached = counter("ola_cached_prompt_tokens", "Tokens of prompts taken from a cache")
        self._media = counter("ola_media_seconds", "Length of the media of requests, by kind", "kind")
        for reason in ("stop", "length", "cancelled", "error"):
            self._finished.labels(reason)

    def prepared(self, media_seconds: dict[str, float], decode_seconds: float) -> None:
        """A request whose media are decoded."""
        for kind, seconds in media_seconds.items():
            self._media.labels(kind).inc(seconds)
        self._decode.observe(decode_seconds)

    def finished(self, completion: Completion, before: float) -> None:
        """An answer that has ended; the request came `before` seconds before the engine had it."""
        self._finished.labels(completion.finish_reason).inc()
        self._queue.observe(before + completion.queue_seconds)
        self._whole.observe(before + completion.seconds)
        self._cached.inc(completion.cached_tokens)
        if completion.ids:
            self._first.observe(before + completion.first_token_seconds)

    def refused(self, status: int) -> None:
        """A request that got an error."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)


class _Engine(Collector):
    """Figures that the engine keeps itself."""

    def __init__(self, status: Callable[[], EngineStatus], waiting: Callable[[], int]):
        self._status, self._waiting = status, waiting

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        age = status.last_step_age_seconds or 0.0
        for name, text, value in (
            ("ola_requests_running", "Requests in a slot", status.running),
            ("ola_requests_waiting", "Requests that wait for a slot", status.waiting + self._waiting()),
            ("ola_slots", "Requests that are answered at the same time, at most", status.slots),
            ("ola_cache_tokens_used", "Tokens in the cache", status.cache_tokens_used),
            (
                "ola_cache_usage_ratio",
                "Part of the cache in use",
                status.cache_tokens_used / status.cache_tokens,
            ),
            ("ola_last_step_age_seconds", "Time since the last step, with work to do", age),
            ("ola_engine_alive", "1 if the engine runs", float(status.alive)),
        ):
            yield GaugeMetricFamily(name, text, value)
        for name, text, value in (
            ("ola_engine_steps", "Steps of the engine", status.steps),
            ("ola_prompt_tokens", "Tokens of prompts", status.prompt_tokens),
            ("ola_generation_tokens", "Tokens of answers", status.generated_tokens),
        ):
            yield CounterMetricFamily(name, text, value)
