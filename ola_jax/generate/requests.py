"""Requests to an engine, and its answers."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Literal

from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.sampling import SamplingConfig

SEEDS = 2**32
MAX_STOP_STRINGS = 16
FinishReason = Literal["stop", "length", "cancelled", "error"]


class QueueFullError(OlaError):
    """As many requests wait as are allowed to."""


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """The fixed sizes of an engine: they decide how much memory it takes, and what it compiles."""

    slots: int = 8  # answers that are made at the same time
    length: int = 4096  # tokens of a prompt and its answer together
    prefill_chunk: int = 256  # tokens of a prompt that are read between two steps of the others
    steps: int = 4  # tokens that each answer gets in one call of the device
    queue: int = 64  # requests that may wait for a slot
    kept_features: int = 16_384  # tokens of media that are kept for later turns of conversations
    # of the model's matrix products and, unless it is int8, of the cache; None: as the checkpoint says
    dtype: Literal["float32", "bfloat16"] | None = None
    weights: Literal["int8"] | None = None  # of the decoder's matrices; None: as they are stored
    cache: Literal["int8"] | None = None  # of keys and values; None: in `dtype`
    attention: Literal["auto", "xla", "splash"] = "auto"  # whatever the model was trained with
    # weights of each layer apart, see models.qwen2; None: where a checkpoint is loaded for a GPU
    separate_layers: bool | None = None
    tensor: int = 1  # devices that heads, MLP and vocabulary of the decoder are split over

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("length", 2), ("prefill_chunk", 1), ("steps", 1), ("tensor", 1)):
            if getattr(self, name) < least:
                raise OlaError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        for name in ("queue", "kept_features"):
            if getattr(self, name) < 0:
                raise OlaError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.dtype not in (None, "float32", "bfloat16"):
            raise OlaError(f"dtype is {self.dtype!r}; expected 'float32', 'bfloat16' or None")
        for name in ("weights", "cache"):
            if getattr(self, name) not in (None, "int8"):
                raise OlaError(f"{name} is {getattr(self, name)!r}; expected 'int8' or None")
        if self.attention not in ("auto", "xla", "splash"):
            raise OlaError(f"attention is {self.attention!r}; expected 'auto', 'xla' or 'splash'")


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A prompt, and how it is to be answered."""

    sample: Sample
    sampling: SamplingConfig
    max_new_tokens: int
    seed: int = 0
    stop: tuple[str, ...] = ()  # the answer ends before the first of these texts
    # requests with the same key may use what was computed for earlier ones; None: nothing is shared
    conversation: str | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
    """The next tokens of an answer, and the text that they complete (perhaps "")."""

    text: str
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """An answer that has ended; `text` is that of all its pieces, `ids` has the stop id."""

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    counts: dict[str, int]  # tokens of the prompt by modality: text, image, video, audio
    cached_tokens: int  # of the prompt, which an earlier request of the conversation had computed
    queue_seconds: float  # until a slot was free
    first_token_seconds: float  # since the request came; 0 if there is none
    seconds: float  # since the request came
    error: str | None = None


Listener = Callable[[Piece | Completion], object]


@dataclasses.dataclass(frozen=True)
class EngineStatus:
    """The state of an engine."""

    slots: int
    running: int
    waiting: int
    cache_tokens_used: int  # by running requests
    cache_tokens: int
    last_step_age_seconds: float | None  # since work was last finished, or came; None: there is no work
    steps: int  # calls of the device that are finished
    finished: dict[str, int]  # requests, by their reason
    generated_tokens: int
    prompt_tokens: int
    alive: bool  # False after a failure of the device


class Handle:
    """A request under way."""

    def __init__(self, wake: Callable[[], None]):
        self._wake, self._done = wake, threading.Event()
        self._completion: Completion | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """End the request; its slot is free before the next step of the others."""
        self.cancelled = True
        self._wake()

    def result(self, timeout: float | int | None = None) -> Completion:
        """The completion, waited for; raises TimeoutError after so many seconds."""
        if not self._done.wait(timeout) or self._completion is None:
            raise TimeoutError(f"no answer within {timeout} seconds")
        return self._completion

    def finish(self, completion: Completion) -> None:
        """For the engine: hand the completion to those who wait for it."""
        self._completion = completion
        self._done.set()
