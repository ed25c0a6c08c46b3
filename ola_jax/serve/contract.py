"""The protocol that the server needs of an engine; `ola_jax.generate.engine.Engine` follows it."""

from typing import Protocol, runtime_checkable

from ola_jax.data.processor import Processor
from ola_jax.generate.requests import EngineConfig, EngineStatus, Listener, Request
from ola_jax.generate.sampling import SamplingConfig


@runtime_checkable
class Cancellable(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """End it; its slot is free before the next step of the others."""


@runtime_checkable
class AnsweringEngine(Protocol):
    """Answers requests from a thread of its own."""

    processor: Processor
    config: EngineConfig
    sampling: SamplingConfig  # of requests that say nothing else

    def start(self) -> None:
        """Begin to work on requests."""

    def close(self, finish: bool = True) -> None:
        """Finish or cancel what there is, and end."""

    def submit(self, request: Request, listener: Listener) -> Cancellable:
        """Queue a request; its pieces and its completion go to the listener."""

    def status(self) -> EngineStatus:
        """The state of the engine."""
