"""Reading of prompts and decoding by the engine, on the device that is there, with random weights.

    python benchmarks/decoding.py                        # the decoder of Ola-7b in bfloat16; small on a CPU
    python benchmarks/decoding.py --weights int8 --json FILE

Prompt: seconds from the request to the first token. Decoding: tokens per second of all answers, once all
prompts are read; the floor is one read of all weights for each step, at the peak of the device's
memory. Compilation and a first run are not timed.
"""

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
import tyro

from ola_jax import hardware
from ola_jax.config import OlaConfig, ProcessorConfig, Qwen2Config
from ola_jax.data.processor import Processor
from ola_jax.data.sample import Sample
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.generate.engine import Completion, Engine, EngineConfig, Piece, Request
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola, init_params

TOKENIZER = pathlib.Path(__file__).parents[1] / "tests" / "goldens" / "visible" / "hf"
SMALL = Qwen2Config(768, 96, 2, 4, 2, 256)


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured; the defaults fit the device."""

    prompts: tuple[int, ...] = ()  # tokens; default: 256 2048, on a CPU 64
    answers: tuple[int, ...] = (1, 8)  # at the same time
    new: int = 128  # tokens of an answer
    layers: int | None = None  # of the decoder, instead of all
    weights: Literal["int8"] | None = None
    steps: int = 4  # tokens of an answer in one call
    chunk: int = 256  # tokens of a prompt read at a time
    rounds: int = 3
    json: pathlib.Path | None = None  # where to write the figures as well


def request(rng: np.random.Generator, tokens: int, new: int, vocabulary: int) -> Request:
    """A prompt of random tokens."""
    ids = rng.integers(0, vocabulary, tokens).astype(np.int32)
    audio = np.zeros((0, 0), np.float32)
    sample = Sample("", ids, ids, np.full(tokens, -1, np.int32), (), audio, ids, {"text": tokens})
    return Request(sample, SamplingConfig(vocab_size=vocabulary), new)


def answer(engine: Engine, requests: list[Request]) -> tuple[float, float]:
    """Seconds to the first piece of any answer; tokens per second of all from when each has its first."""
    begin = time.perf_counter()
    pieces: list[list[tuple[float, int]]] = [[] for _ in requests]

    def note_for(own: list[tuple[float, int]]) -> Callable[[Piece | Completion], None]:
        def note(event: Piece | Completion) -> None:
            if isinstance(event, Piece):
                own.append((time.perf_counter(), len(event.ids)))

        return note

    handles = [engine.submit(each, note_for(own)) for each, own in zip(requests, pieces, strict=True)]
    for handle in handles:
        handle.result()
    start = max(own[0][0] for own in pieces)
    after = [piece for own in pieces for piece in own if piece[0] > start]
    first = min(own[0][0] for own in pieces)
    return first - begin, sum(count for _, count in after) / (max(at for at, _ in after) - start)


def main(args: Args) -> None:
    """Measures and prints a table."""
    cpu = jax.default_backend() == "cpu"
    dtype = "float32" if cpu else "bfloat16"
    llm = SMALL if cpu else OlaConfig.ola_7b().llm
    llm = dataclasses.replace(llm, num_layers=args.layers or llm.num_layers)
    config = OlaConfig(llm=llm, vision=None, whisper=None, beats=None, dtype=dtype)
    vocabulary = min(700, llm.vocab_size)  # ids that are used: those behind would end an answer
    sampling = SamplingConfig(vocab_size=vocabulary)
    processor = Processor(config, ProcessorConfig(), load_tokenizer(TOKENIZER), preset="infer")
    params = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), init_params(config, seed=0))
    itemsize = 1 if args.weights else jnp.dtype(dtype).itemsize
    read = {name: part for name, part in params["llm"].items() if name != "embed_tokens"}
    weights = itemsize * sum(x.size for x in jax.tree.leaves(read))  # in each step
    device = jax.devices()[0].device_kind
    bandwidth = hardware.find_chip(device).memory_bandwidth if not cpu else None
    rows: list[dict[str, Any]] = []
    for prompt in args.prompts or ((64,) if cpu else (256, 2048)):
        for answers in args.answers:
            length = -(-(prompt + args.new + args.steps) // 128) * 128
            sizes = EngineConfig(
                answers,
                length,
                args.chunk,
                args.steps,
                weights=args.weights,
                separate_layers=jax.default_backend() == "gpu",
            )
            with Engine(Ola(config), params, processor, sampling, sizes) as engine:
                rng = np.random.default_rng(0)
                run = lambda engine=engine, answers=answers, prompt=prompt, rng=rng: answer(
                    engine, [request(rng, prompt, args.new, vocabulary) for _ in range(answers)]
                )
                run()
                found = [run() for _ in range(args.rounds)]
            rate = statistics.median(rate for _, rate in found)
            rows.append(
                {
                    "prompt": prompt,
                    "answers": answers,
                    "first token, ms": 1e3 * statistics.median(first for first, _ in found),
                    "tokens/s": rate,
                    "of the floor": rate * weights / answers / bandwidth if bandwidth else None,
                }
            )
    table = rich.table.Table(*rows[0], title=f"{device}, {llm.num_layers} layers, {args.weights or dtype}")
    show = lambda v: "" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v)
    for row in rows:
        table.add_row(*map(show, row.values()))
    rich.console.Console(width=100).print(table)
    if args.json:
        facts = {"device": device, "jax": jax.__version__, "layers": llm.num_layers, "weights": args.weights}
        args.json.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
