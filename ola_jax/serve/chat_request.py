"""The body of /v1/chat/completions, checked into typed fields."""

import dataclasses
from typing import Any

from ola_jax.errors import quote
from ola_jax.generate.requests import SEEDS
from ola_jax.generate.sampling import SamplingConfig, with_options
from ola_jax.serve.api_error import ApiError, invalid
from ola_jax.serve.fields import flag, integer, number, object_of, text
from ola_jax.serve.limits import Limits
from ola_jax.serve.messages import Message, read_messages
from ola_jax.serve.speech_request import AnswerAudio, read_answer_audio

STOPS = 4  # stop strings of a request
STOP_CHARACTERS = 256  # of one of them
NAME_CHARACTERS = 256  # of a model or a conversation
MOST = 2**31 - 1  # of a number of tokens

TAKEN = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "conversation",
    "modalities",
    "audio",
}
# Fields without a meaning here, that do not change an answer.
WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}
# Fields that change answers and are not supported, with the values (beside null) that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "echo": (False,),
}


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling options of a request; None: those of the checkpoint."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def config(self, base: SamplingConfig) -> SamplingConfig:
        """The settings of `base` with those of the request in their place."""
        return with_options(
            base,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """A checked chat request."""

    messages: tuple[Message, ...]
    sampling: Sampling
    max_new_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    conversation: str | None
    audio: AnswerAudio | None  # None: the answer is text alone


def read_chat_request(body: dict[str, Any], model: str, limits: Limits) -> ChatRequest:
    """The checked request for the model of this name. Raises ApiError naming the field that is wrong."""
    for name, value in body.items():
        if value is None or name in TAKEN or name in WITHOUT_EFFECT:
            continue
        if name not in NEUTRAL:
            raise invalid(f"unknown field {quote(name)}", code="unknown_parameter")
        if not any(_is_same(value, neutral) for neutral in NEUTRAL[name]):
            only = " or ".join(map(_json, NEUTRAL[name])) or "null"
            raise invalid(f"{quote(value)} is not supported, only {only}", name, "unsupported_value")
    found = text(body.get("model"), "model", NAME_CHARACTERS)
    if found != model:
        message = f"model {quote(found)} is not served here; this server has {quote(model)}"
        raise ApiError(404, message, param="model", code="model_not_found")
    options = object_of(
        body.get("stream_options") or {}, "stream_options", ("include_usage", "include_obfuscation")
    )
    stream = flag(body.get("stream"), "stream")
    if options and not stream:
        raise invalid("only with stream: true", "stream_options")
    conversation = body.get("conversation")
    return ChatRequest(
        messages=read_messages(body.get("messages"), limits),
        sampling=_sampling(body),
        max_new_tokens=_max_new_tokens(body),
        seed=integer(body.get("seed"), "seed", 0, SEEDS - 1),
        stop=_stop(body.get("stop")),
        stream=stream,
        include_usage=flag(options.get("include_usage"), "stream_options.include_usage"),
        conversation=None if conversation is None else _conversation(conversation),
        audio=read_answer_audio(body, stream),
    )


def _sampling(body: dict[str, Any]) -> Sampling:
    read = lambda name, high, above=False: _float(number(body.get(name), name, 0, high, above=above))
    top_k = integer(body.get("top_k"), "top_k", -1, MOST)
    return Sampling(
        temperature=read("temperature", 100),
        top_p=read("top_p", 1, above=True),
        top_k=None if top_k is None else max(top_k, 0),  # -1 is another server's word for all
        min_p=read("min_p", 1),
        repetition_penalty=read("repetition_penalty", 100, above=True),
    )


def _float(value: int | float | None) -> float | None:
    return None if value is None else float(value)


def _max_new_tokens(body: dict[str, Any]) -> int | None:
    old = integer(body.get("max_tokens"), "max_tokens", 1, MOST)
    new = integer(body.get("max_completion_tokens"), "max_completion_tokens", 1, MOST)
    if old is not None and new is not None and old != new:
        raise invalid(f"{old} beside max_completion_tokens {new}; give one of them", "max_tokens")
    return old if new is None else new


def _stop(value: Any) -> tuple[str, ...]:
    given = [] if value is None else value if isinstance(value, list) else [value]
    if len(given) > STOPS:
        raise invalid(f"{len(given)} texts, at most {STOPS} are taken", "stop")
    stops = tuple(text(stop, "stop", STOP_CHARACTERS) for stop in given)
    if not all(stops):
        raise invalid("a stop text is empty", "stop")
    return stops


def _conversation(value: Any) -> str:
    name = text(value, "conversation", NAME_CHARACTERS)
    if not name:
        raise invalid("empty text; name the conversation or leave it out", "conversation")
    return name


def _is_same(value: Any, neutral: Any) -> bool:
    """True for equal JSON values; true is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _json(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value).replace("'", '"')
