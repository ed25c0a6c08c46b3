"""`ola ask --checkpoint DIR --image F --text "..."`: one answer, streamed or as JSON."""

import codecs
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from ola_jax.compilation_cache import FOLDER, CompilationNotice, keep_compiled_programs
from ola_jax.errors import OlaError
from ola_jax.generate.assistant import NEW_TOKENS, Assistant
from ola_jax.generate.conversation import PARAMETERS, Question, check_question
from ola_jax.speech.loading import VoiceOptions, load_voice
from ola_jax.speech.outputs import Player, WavFile
from ola_jax.speech.speaker import Speaker


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Ask a model about images, a video or audio, or in plain text.

    Audio with an image is a spoken question about it; audio with a video replaces the video's own
    sound track. Sampling options left out come from the checkpoint's
    generation_config.json.
    """

    checkpoint: pathlib.Path  # an ola_jax checkpoint directory
    image: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()  # an image file; may be repeated
    video: str | None = None  # a video file
    audio: str | None = None  # an audio file
    text: str = ""  # the question
    sound: bool = True  # use the video's own sound track, if it has one
    max_new_tokens: int = NEW_TOKENS
    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()  # end before this text; may be repeated
    seed: int = 0  # of sampling
    dtype: Literal["float32", "bfloat16"] | None = None  # of matrix products
    weights: Literal["int8"] | None = None  # of the decoder's matrices; else as stored
    cache: Literal["int8"] | None = None  # of keys and values; else as --dtype
    speech: pathlib.Path | None = None  # a WAV file for the spoken answer
    play: bool = False  # play the answer while it is written
    spoken: Annotated[VoiceOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=VoiceOptions
    )
    json: bool = False  # print one JSON object instead of streaming the text
    compilation_cache: str = FOLDER  # folder that keeps compiled programs for the next start; or none


# Names of the parts of a question in messages.
OPTIONS = {name: "--" + name.replace("_", "-") for name in PARAMETERS} | {"images": "--image"}


def main(arguments: Sequence[str] | None = None, prog: str = "ola ask") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    ask(tyro.cli(Arguments, args=arguments, prog=prog))


def ask(args: Arguments) -> None:
    """Answers once. Raises OlaError for mistakes of the user."""
    question = Question(args.text, args.image, args.video, args.audio, args.sound)
    check_question(question, args.max_new_tokens, args.seed, OPTIONS)
    keep_compiled_programs(args.compilation_cache)
    speech = _speech(args)
    notice = CompilationNotice(args.compilation_cache)
    try:
        assistant = Assistant.from_pretrained(
            args.checkpoint, args.dtype, notice.begin, weights=args.weights, cache=args.cache
        )
    except BaseException:
        if speech is not None:
            speech.discard()
        raise

    def write(text: str) -> None:
        notice.end()
        print(text, end="", flush=True)

    try:
        reply = assistant.ask(
            args.text,
            args.image,
            args.video,
            args.audio,
            args.sound,
            stream=None if args.json else write,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            stop=args.stop,
            seed=args.seed,
            speech=None if speech is None else speech.stream,
        )
    except BaseException as error:
        if speech is not None:
            speech.discard()
        if isinstance(error, Exception):
            assistant.close()
        raise
    finally:
        notice.end()
    assistant.close()  # not after Ctrl-C: it would wait for a program that is being compiled
    if not args.json:
        print(flush=True)
    spoken = speech.finish() if speech is not None else None
    if not args.json:
        return
    report = {
        "prompt_ids": reply.prompt_ids,
        "generated_ids": reply.ids,
        "text": reply.text,
        "tokens": reply.tokens,
        "prefill_seconds": round(reply.prefill_seconds, 4),
        "decode_seconds": round(reply.decode_seconds, 4),
    }
    if spoken is not None:
        report["speech"] = {"real_time_factor": spoken.real_time_factor, **dataclasses.asdict(spoken)}
    readable = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print(json.dumps(report, ensure_ascii=not readable))


def _speech(args: Arguments) -> Speaker | None:
    """The speaker of the answer, loaded before the question is read; None without --speech and --play."""
    if args.speech is None and not args.play:
        return None
    options = args.spoken
    if options.voice == "auto":  # what is asked for must not be left out because a library is missing
        options = dataclasses.replace(options, voice="hibari")
    voice = load_voice(options)
    if voice is None:
        raise OlaError("--speech and --play need a voice; leave out --voice none")
    player = [Player()] if args.play else []
    return Speaker(voice[1], [*player, *([WavFile(args.speech)] if args.speech else [])])
