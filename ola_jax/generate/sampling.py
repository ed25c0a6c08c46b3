"""Sampling settings: the choice of the next token and the end of an answer, by generation_config.json."""

import dataclasses
import math
import sys
from typing import Any

from tokenizers import Tokenizer

from ola_jax.errors import OlaError

# Fields of transformers' GenerationConfig that change what is answered and are not done here, each with the
# values (beside null) that switch it off. Others, such as max_length, do not change the choice of a token.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "guidance_scale": (1,),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "diversity_penalty": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "stop_strings": ([], ""),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": ([],),
    "forced_decoder_ids": ([],),
    "sequence_bias": ([], {}),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "token_healing": (False,),
}
END = "<|im_end|>"  # ends every turn of a chat
TOP_K = 50  # what transformers takes for a generation_config.json without top_k


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """The choice of tokens and the end of an answer: the fields of generation_config.json that matter."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # keep the k most likely; 0: all
    top_p: float = 1.0  # keep the smallest set of at least this probability
    min_p: float = 0.0  # keep those of at least this share of the largest probability
    repetition_penalty: float = 1.0  # divides positive and multiplies negative scores of generated tokens
    stop_ids: tuple[int, ...] = ()  # ids that end an answer; the id itself is part of it
    vocab_size: int = 0  # ids from here on are padding of the output matrix and never chosen; 0: all valid

    def __post_init__(self) -> None:
        for name, good, wanted in [
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more, and finite"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 (all) to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 and finite"),
        ]:
            if not good:
                raise OlaError(f"{name} is {getattr(self, name)}; it must be {wanted}")


def from_generation_config(
    values: dict[str, Any], vocab_size: int, where: str = "generation_config.json"
) -> SamplingConfig:
    """The SamplingConfig that a generation_config.json (transformers' format) asks for.

    A field that is null has its default. Raises OlaError, naming the file as `where`, for a value of a wrong
    kind, and for a setting that changes answers and is not known here.
    """
    for name, neutral in NEUTRAL.items():
        value = values.get(name)
        if value is not None and value not in neutral:
            raise OlaError(f"{where}: {name} is {_short(value)}, which is not supported; set it to null")
    sample = values.get("do_sample")
    if not isinstance(sample, bool | None):
        raise OlaError(f"{where}: do_sample is {_short(sample)}, expected true or false")
    number = lambda name, default: _number(values.get(name), default, f"{where}: {name}")
    try:
        config = SamplingConfig(
            temperature=number("temperature", 1.0),
            top_k=number("top_k", 0 if "top_k" in values else TOP_K),
            top_p=number("top_p", 1.0),
            min_p=number("min_p", 0.0),
            repetition_penalty=number("repetition_penalty", 1.0),
            vocab_size=vocab_size,
        )
    except OlaError as error:
        raise OlaError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    stop_ids = _stop_ids(values.get("eos_token_id"), vocab_size, where)
    return dataclasses.replace(config, temperature=config.temperature * bool(sample), stop_ids=stop_ids)


def with_options(
    sampling: SamplingConfig,
    *,
    temperature: float | int | None = None,
    top_p: float | int | None = None,
    top_k: int | None = None,
    min_p: float | int | None = None,
    repetition_penalty: float | int | None = None,
) -> SamplingConfig:
    """The same with the options that are given."""
    number = lambda given, default: default if given is None else float(given)
    return dataclasses.replace(
        sampling,
        temperature=number(temperature, sampling.temperature),
        top_p=number(top_p, sampling.top_p),
        top_k=sampling.top_k if top_k is None else top_k,
        min_p=number(min_p, sampling.min_p),
        repetition_penalty=number(repetition_penalty, sampling.repetition_penalty),
    )


def with_end(sampling: SamplingConfig, tokenizer: Tokenizer) -> SamplingConfig:
    """The same, stopping at `<|im_end|>` as well, as the original does (quirk P5)."""
    end = tokenizer.token_to_id(END)
    if end is None:
        raise OlaError(f"tokenizer: no {END}, which ends an answer; use a Qwen2 chat tokenizer")
    return dataclasses.replace(sampling, stop_ids=tuple(dict.fromkeys((*sampling.stop_ids, end))))


def _number(value: Any, default: Any, where: str) -> Any:
    """The number, of the kind of `default`; that itself for null."""
    if value is None:
        return default
    kinds, wanted = (int, "a whole number") if isinstance(default, int) else (int | float, "a number")
    if isinstance(value, bool) or not isinstance(value, kinds) or abs(value) > sys.float_info.max:
        raise OlaError(f"{where} is {_short(value)}, expected {wanted}")
    return type(default)(value)


def _stop_ids(value: Any, vocab_size: int, where: str) -> tuple[int, ...]:
    """The ids of `eos_token_id`: none, one or a list."""
    ids = [] if value is None else value if isinstance(value, list | tuple) else [value]
    for i in ids:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocab_size:
            raise OlaError(
                f"{where}: eos_token_id holds {_short(i)}, expected token ids from 0 to {vocab_size - 1}"
            )
    return tuple(dict.fromkeys(ids))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
