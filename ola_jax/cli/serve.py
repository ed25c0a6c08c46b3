"""`ola serve --checkpoint DIR`: an HTTP server that speaks OpenAI's API."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from ola_jax.compilation_cache import FOLDER, CompilationNotice, keep_compiled_programs
from ola_jax.errors import OlaError, first_line
from ola_jax.generate.engine import Engine, EngineConfig
from ola_jax.serve.app import create_app
from ola_jax.serve.limits import Limits, ServerConfig
from ola_jax.serve.server import bind, make_server
from ola_jax.serve.service import AHEAD
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.loading import VoiceOptions, load_voice

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Serve a model to OpenAI's clients: text, images, audio and video in, text and speech out.

    Access by others is off by default: other machines and web pages cannot reach it, and it fetches nothing.
    """

    checkpoint: pathlib.Path  # an ola_jax checkpoint directory
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all networks
    port: int = 8000  # 0: a free one
    model_name: str | None = None  # name of the model in requests; else that of the directory
    api_key_file: pathlib.Path | None = None  # a file of API keys, one per line; requests need one of them
    cors_origin: Repeated = ()  # of a web page that may call the server; "*": any; may be repeated
    media_host: Repeated = ()  # a host that media may be fetched from; may be repeated
    media_private_hosts: bool = False  # media hosts may be on private networks
    media_folder: pathlib.Path | None = None  # local files below it may be asked about, as file: URLs
    shutdown_seconds: int = 120  # that running requests may take when the server is stopped
    stuck_seconds: float = 120.0  # without a step while requests run; then /health reports it
    decode_workers: int = 4  # requests whose media are decoded at the same time
    ui: bool = False  # a web page at / to talk with the model
    speech: Annotated[VoiceOptions, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=VoiceOptions
    )
    slots: int = 8  # requests that are answered at the same time
    length: int = 16_384  # tokens of a prompt and its answer together: memory is taken for all slots
    prefill_chunk: int = 256  # tokens of a prompt that are read between two steps of the others
    steps: int = 4  # tokens that each answer gets per call of the device
    dtype: Literal["float32", "bfloat16"] | None = None  # of matrix products and the cache
    weights: Literal["int8"] | None = None  # of the decoder's matrices; else as stored
    cache: Literal["int8"] | None = None  # of keys and values; else as --dtype
    tensor: int = 1  # devices that the decoder is split over
    limits: Limits = dataclasses.field(default_factory=Limits)
    compilation_cache: str = FOLDER  # folder that keeps compiled programs for the next start; or none


def main(arguments: Sequence[str] | None = None, prog: str = "ola serve") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    serve(tyro.cli(Arguments, args=arguments, prog=prog))


def serve(args: Arguments) -> None:
    """Serves until a signal ends it. Raises OlaError for mistakes of the user."""
    config = server_config(args)
    if args.host not in LOOPBACK and not config.api_keys:
        print("note: other machines can use this server, and no --api-key-file is given", file=sys.stderr)
    with bind(args.host, args.port) as bound:
        keep_compiled_programs(args.compilation_cache)
        found = load_voice(args.speech)
        voice = ServedVoice(*found) if found else None
        try:
            server = make_server(
                create_app(load_engine(args), config, voice),
                args.shutdown_seconds,
                report=lambda port: print(f"listening at {_address(args.host, port)}", flush=True),
            )
            server.run(sockets=[bound])
        finally:
            if voice is not None:
                voice.voice.close()


def load_engine(args: Arguments) -> Engine:
    """The engine, with its programs compiled."""
    notice = CompilationNotice(args.compilation_cache)
    engine = Engine.from_pretrained(args.checkpoint, engine_config(args))
    try:
        engine.warm_up(notice.begin)
    finally:
        notice.end()
    return engine


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def engine_config(args: Arguments) -> EngineConfig:
    """The sizes of the engine; requests wait outside it, with their media not yet decoded."""
    return EngineConfig(
        slots=args.slots,
        length=args.length,
        prefill_chunk=args.prefill_chunk,
        steps=args.steps,
        queue=AHEAD,
        dtype=args.dtype,
        weights=args.weights,
        cache=args.cache,
        tensor=args.tensor,
    )


def server_config(args: Arguments) -> ServerConfig:
    """The settings of the server. Raises OlaError for impossible ones."""
    name = args.checkpoint.resolve().name if args.model_name is None else args.model_name
    return ServerConfig(
        name,
        limits=args.limits,
        api_keys=() if args.api_key_file is None else read_keys(args.api_key_file),
        cors_origins=args.cors_origin,
        media_hosts=args.media_host,
        private_hosts=args.media_private_hosts,
        media_folder=args.media_folder,
        decode_workers=args.decode_workers,
        stuck_seconds=args.stuck_seconds,
        page=args.ui,
    )


def read_keys(path: pathlib.Path) -> tuple[str, ...]:
    """The keys of a file, one per line; empty lines and lines that begin with # are ignored."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OlaError(f"{path}: API keys cannot be read ({first_line(error)})") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    for number, key in enumerate(keys, start=1):
        if not re.fullmatch("[!-~]{8,}", key):
            raise OlaError(f"{path}: key {number} is shorter than 8 characters, or has other than plain ones")
    if not keys:
        raise OlaError(f"{path}: no API key in it, expected one per line")
    return keys
