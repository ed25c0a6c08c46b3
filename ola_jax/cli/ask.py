"""Answers from the command line: `python -m ola_jax.infer --checkpoint DIR --image F --text "..."`."""

import codecs
import dataclasses
import json
import pathlib
import sys
from typing import Annotated, Literal

import tyro

from ola_jax.checkpoint import load, load_configs
from ola_jax.compilation_cache import FOLDER, keep_compiled_programs
from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record
from ola_jax.errors import OlaError
from ola_jax.generate.answer import POSITIONS, SEEDS, answer
from ola_jax.generate.sampling import from_generation_config
from ola_jax.models.ola import Ola


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Ask a model about images, a video, a sound, or in plain text.

    Audio beside an image is a spoken question about it; audio beside a video takes the place of the
    video's own sound track. Sampling options left out come from the checkpoint's
    generation_config.json.
    """

    checkpoint: pathlib.Path  # an ola_jax checkpoint directory
    image: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()  # an image file; may be repeated
    video: str | None = None  # a video file
    audio: str | None = None  # an audio file
    text: str = ""  # the question
    sound: bool = True  # use the video's own sound track, if it has one
    max_new_tokens: int = 1024
    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0  # of sampling
    dtype: Literal["float32", "bfloat16"] | None = None  # of matrix products
    json: bool = False  # print one JSON object instead of streaming the text
    compilation_cache: str = FOLDER  # folder where compiled programs are kept for the next time; or none


def main(args: Arguments) -> None:
    """Answer once. Raises OlaError for what the user can mend."""
    _check(args)
    keep_compiled_programs(args.compilation_cache)
    config, processor_config, generation_config = load_configs(args.checkpoint)
    if args.dtype:
        config = dataclasses.replace(config, dtype=args.dtype)
    processor = Processor.from_pretrained(args.checkpoint, preset="infer")
    sampling = from_generation_config(
        generation_config,
        processor.tokenizer.get_vocab_size(),
        str(args.checkpoint / "generation_config.json"),
    )
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    sampling = dataclasses.replace(sampling, **given)

    record = prompt_record(args.text, args.image, args.video, args.audio, args.sound)
    with processor.isolated() as isolated:
        sample = isolated.sample(record)
    batch = processor.batch([sample])
    _, params = load(args.checkpoint)
    write = None if args.json else lambda text: print(text, end="", flush=True)
    positions = max(POSITIONS, processor_config.max_length)
    out = answer(
        Ola(config),
        params,
        batch,
        processor.tokenizer,
        sampling,
        args.max_new_tokens,
        args.seed,
        write,
        positions,
    )
    if not args.json:
        print()
        return
    report = {
        "prompt_ids": sample.prompt_ids.tolist(),
        "generated_ids": out.ids[0],
        "text": out.texts[0],
        "tokens": sample.counts,
        "prefill_seconds": round(out.prefill_seconds, 4),
        "decode_seconds": round(out.decode_seconds, 4),
    }
    readable = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print(json.dumps(report, ensure_ascii=not readable))


def _check(args: Arguments) -> None:
    if not (args.text.strip() or args.image or args.video or args.audio):
        raise OlaError("the prompt is empty: give --text, --image, --video or --audio")
    if args.video and args.image:
        raise OlaError("--video and --image exclude each other: ask about one of them")
    if args.image and args.audio and args.text:
        raise OlaError("--audio beside --image is the question: leave out --text, or leave out --audio")
    if args.max_new_tokens < 1:
        raise OlaError(f"--max-new-tokens is {args.max_new_tokens}; it must be 1 or more")
    if not 0 <= args.seed < SEEDS:
        raise OlaError(f"--seed is {args.seed}; it must be from 0 to {SEEDS - 1}")
    try:
        args.text.encode()
    except UnicodeEncodeError as error:
        raise OlaError(f"--text: not valid UTF-8 at character {error.start + 1}") from error
