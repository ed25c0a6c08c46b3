"""Placeholder of the engine's types, replaced at the merge."""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from ola_jax.data.processor import Processor
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.sampling import SamplingConfig


class QueueFullError(OlaError):
    """A request that finds no place in the queue."""


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Sizes."""

    slots: int = 8
    length: int = 4096
    prefill_chunk: int = 256
    steps: int = 4
    queue: int = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A request."""

    sample: Sample
    sampling: SamplingConfig
    max_new_tokens: int
    seed: int = 0
    stop: tuple[str, ...] = ()
    conversation: str | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of text."""

    text: str
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """The end of an answer."""

    text: str
    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "cancelled", "error"]
    prompt_tokens: int
    counts: dict[str, int]
    cached_tokens: int
    queue_seconds: float
    first_token_seconds: float
    seconds: float
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class EngineStatus:
    """What an engine does now."""

    slots: int
    running: int
    waiting: int
    cache_tokens_used: int
    cache_tokens: int
    last_step_age_seconds: float | None
    steps: int
    finished: dict[str, int]
    generated_tokens: int
    prompt_tokens: int
    alive: bool


Listener = Callable[[Piece | Completion], object]


@runtime_checkable
class Handle(Protocol):
    """A running request."""

    def cancel(self) -> None: ...
    def result(self, timeout: float | None = None) -> Completion: ...


@runtime_checkable
class Engine(Protocol):
    """An engine."""

    @property
    def processor(self) -> Processor: ...
    @property
    def config(self) -> EngineConfig: ...
    @property
    def sampling(self) -> SamplingConfig: ...
    def start(self) -> None: ...
    def close(self, finish: bool = True) -> None: ...
    def submit(self, request: Request, listener: Listener) -> Handle: ...
    def status(self) -> EngineStatus: ...
