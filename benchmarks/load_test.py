"""Many clients of a server at once, for minutes: every answer must be the one given alone.

    python benchmarks/load_test.py                               # make load-test: a tiny model
    python benchmarks/load_test.py --checkpoint runs/mine --streams 8 --seconds 20

A server is started on a free port. Each request of a mixed list is answered alone; then many clients send
them at random, in streams and not, and among them clients that go away, that read slowly, and that send what
must be refused. At the end no slot may be lost and memory must not have grown. Exit status 1 says that
something was wrong.
"""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import http.client
import io
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import openai
import psutil
import soundfile
import tyro
from PIL import Image

WARM = 0.25  # of the time, after which memory must be flat
GROWTH = 0.05, 64 * 2**20  # that is no growth: of the memory, and bytes
MODEL = "tiny-ola"


@dataclasses.dataclass(frozen=True)
class Args:
    """What is done."""

    checkpoint: pathlib.Path | None = None  # an ola_jax checkpoint; else a tiny model with random weights
    streams: int = 64  # clients at the same time
    seconds: float = 600.0
    slots: int = 8
    length: int = 8192  # tokens of a prompt and its answer
    seed: int = 0


@dataclasses.dataclass
class Counts:
    """What clients met."""

    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    tokens: int = 0
    first: list[float] = dataclasses.field(default_factory=list)  # seconds to the first token of streams
    wrong: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server and the process that it runs in."""

    process: psutil.Process
    port: int

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    def memory(self) -> int:
        """Bytes of the server alone; the processes for decoding come and go."""
        return int(self.process.memory_info().rss)


def data_url(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def picture(width: int, height: int, rng: np.random.Generator, form: str) -> dict[str, Any]:
    out = io.BytesIO()
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    coarse.resize((width, height)).save(out, form)
    return {"type": "image_url", "image_url": {"url": data_url(out.getvalue())}}


def sound(seconds: float, pitch: float) -> dict[str, Any]:
    out = io.BytesIO()
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(16_000 * seconds)) / 16_000)
    soundfile.write(out, wave, 16_000, format="WAV")
    data = base64.b64encode(out.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def clip(frames: int, rng: np.random.Generator) -> dict[str, Any]:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return {"type": "video_url", "video_url": {"url": data_url(out.getvalue())}}


def user(*parts: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def good_requests(seed: int, has_video: bool) -> list[dict[str, Any]]:
    """Bodies of requests of many kinds and lengths, greedy and sampled with a seed."""
    rng = np.random.default_rng(seed)
    image = lambda *size, form="PNG": picture(*size, rng, form)
    conversations = [
        [user("Hello!")],
        [user("Count to one hundred, " + "and once more, " * 30)],
        [{"role": "system", "content": "Be brief."}, user("What is seven times eight?")],
        [user("One?"), {"role": "assistant", "content": "Two."}, user("And three?")],
        [user(image(64, 64), "What is this?")],
        [user(image(200, 90, form="JPEG"), image(50, 120), "Which is larger?")],
        [user(image(30, 30, form="WEBP")), {"role": "assistant", "content": "A spot."}, user("And why?")],
        [user(sound(1.0, 440), "What do you hear?")],
        [user(sound(2.5, 220))],
        [user(image(96, 96), sound(0.7, 880))],
    ]
    if has_video:
        conversations.append([user(clip(4, rng), "What happens?")])
    requests = []
    for number, messages in enumerate(conversations):
        for sampled in (False, True):
            fields = {"temperature": 0.9, "top_p": 0.95, "seed": number} if sampled else {"temperature": 0}
            new = int(rng.integers(4, 64))
            requests.append({"model": MODEL, "messages": messages, "max_tokens": new} | fields)
    return requests


BAD = (
    {"model": MODEL, "messages": []},
    {"model": MODEL, "messages": [user("x")], "n": 5},
    {"model": MODEL, "messages": [user("x")], "temperature": -1},
    {"model": "another", "messages": [user("x")]},
    {"model": MODEL, "messages": [user({"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}})]},
    {"model": MODEL, "messages": [user({"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}})]},
    {
        "model": MODEL,
        "messages": [
            user({"type": "image_url", "image_url": {"url": data_url(b"\x89PNG\r\n\x1a\n" + b"0" * 99)}})
        ],
    },
    {
        "model": MODEL,
        "messages": [user({"type": "input_audio", "input_audio": {"data": "UklGRgAAAABXQVZF"}})],
    },
)


@contextlib.contextmanager
def serving(checkpoint: pathlib.Path, args: Args) -> Iterator[Server]:
    """`ola serve` in a process of its own, until it answers."""
    options = {"slots": args.slots, "length": args.length, "port": 0, "limits.queue": 4 * args.streams}
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "ola_jax.cli.main", "serve", f"--checkpoint={checkpoint}"]
    command += [*words, f"--model-name={MODEL}", "--limits.queue-seconds=3600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening at http://"):
                yield Server(psutil.Process(process.pid), int(line.rstrip("/\n").rpartition(":")[2]))
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait(150)


async def ask_alone(client: openai.AsyncOpenAI, bodies: list[dict[str, Any]]) -> list[str]:
    """The answers to all requests, one after the other."""
    return [(await create(client, body)).choices[0].message.content or "" for body in bodies]


async def create(client: openai.AsyncOpenAI, body: dict[str, Any], **fields: Any) -> Any:
    return await client.chat.completions.create(**body, **fields)


async def one_client(
    client: openai.AsyncOpenAI,
    bodies: list[dict[str, Any]],
    alone: list[str],
    counts: Counts,
    rng: random.Random,
    end: float,
) -> None:
    """Requests at random, one after the other, until the time is over."""
    while time.monotonic() < end:
        number, kind = rng.randrange(len(bodies)), rng.random()
        body = bodies[number]
        if kind < 0.1:
            await send_bad(client, rng.choice(BAD), counts)
        elif kind < 0.2:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.random()):
                    await create(client, body)
            counts.outcomes["gone without a stream"] += 1
        elif kind < 0.4:
            reply = await create(client, body)
            counts.tokens += reply.usage.completion_tokens
            compare(reply.choices[0].message.content or "", alone[number], number, counts, "whole")
        else:
            leave = rng.randrange(1, 10) if kind < 0.5 else None
            pause = rng.random() / 4 if kind > 0.9 else 0.0
            text = await read_stream(client, body, counts, leave, pause)
            if leave is None:
                compare(text, alone[number], number, counts, "slow" if pause else "stream")


async def read_stream(
    client: openai.AsyncOpenAI, body: dict[str, Any], counts: Counts, leave: int | None, pause: float
) -> str:
    """The text of a stream, read with pauses; or until so many events, after which the client goes away."""
    begin, texts = time.monotonic(), []
    options = {"include_usage": True}
    async with await create(client, body, stream=True, stream_options=options) as stream:
        async for number, chunk in aenumerate(stream):
            if chunk.choices and chunk.choices[0].delta.content:
                if not texts:
                    counts.first.append(time.monotonic() - begin)
                texts.append(chunk.choices[0].delta.content)
            if chunk.usage:
                counts.tokens += chunk.usage.completion_tokens
            if leave == number:
                counts.outcomes["gone from a stream"] += 1
                break
            if pause:
                await asyncio.sleep(pause)
    return "".join(texts)


async def aenumerate(items: Any) -> Any:
    number = 0
    async for item in items:
        yield number, item
        number += 1


async def send_bad(client: openai.AsyncOpenAI, body: dict[str, Any], counts: Counts) -> None:
    try:
        await create(client, body)
        counts.wrong.append(f"answered, but had to be refused: {json.dumps(body)[:200]}")
    except openai.APIStatusError as error:
        counts.outcomes["bad, and refused"] += 1
        if not 400 <= error.status_code < 500:
            counts.wrong.append(f"status {error.status_code} for {json.dumps(body)[:200]}")


def compare(text: str, alone: str, number: int, counts: Counts, kind: str) -> None:
    counts.outcomes[f"answered, {kind}"] += 1
    if text != alone:
        counts.wrong.append(f"request {number} ({kind}): {text!r}, alone {alone!r}")


async def watch(server: Server, end: float, seen: list[int]) -> None:
    while time.monotonic() < end:
        seen.append(server.memory())
        await asyncio.sleep(0.5)


async def run(server: Server, args: Args, has_video: bool) -> tuple[Counts, list[int], float]:
    counts, memory, bodies = Counts(), [], good_requests(args.seed, has_video)
    url = f"http://127.0.0.1:{server.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=3600) as client:
        begin = time.monotonic()
        alone = await ask_alone(client, bodies)
        print(f"{len(bodies)} requests alone: {time.monotonic() - begin:.1f} s", flush=True)
        begin = time.monotonic()
        end = begin + args.seconds
        rngs = [random.Random(1000 * args.seed + n) for n in range(args.streams)]
        clients = [one_client(client, bodies, alone, counts, rng, end) for rng in rngs]
        await asyncio.gather(watch(server, end, memory), *clients)
        seconds = time.monotonic() - begin
        again = await ask_alone(client, bodies[:4])
        if again != alone[:4]:
            counts.wrong.append("after the load, answers alone are others than before")
        if len({*alone}) < 3:
            counts.wrong.append("the answers are all alike, which shows nothing")
    return counts, memory, seconds


def check_idle(server: Server, counts: Counts) -> None:
    """All slots are free again within seconds."""
    end = time.monotonic() + 20
    while (health := json.loads(server.get("/health")))["running"] or health["waiting"]:
        if time.monotonic() > end:
            counts.wrong.append(f"slots are lost: {health}")
            return
        time.sleep(0.1)


def check_memory(memory: list[int], counts: Counts) -> None:
    rest = memory[int(len(memory) * WARM) :]
    parts = [rest[: len(rest) // 3], rest[-(len(rest) // 3) :]]
    if len(rest) < 9:
        return
    before, after = (statistics.median(part) for part in parts)
    print(f"memory of the server: {before / 2**20:.0f} MiB, at the end {after / 2**20:.0f} MiB")
    share, size = GROWTH
    if after > before * (1 + share) + size:
        counts.wrong.append(f"memory has grown from {before / 2**20:.0f} to {after / 2**20:.0f} MiB")


def make_tiny(directory: pathlib.Path) -> pathlib.Path:
    """The checkpoint of a tiny model of all parts, made of the tests' weights."""
    root = pathlib.Path(__file__).parents[1] / "tests" / "goldens" / "visible"
    files = [f"--from={root / 'hf'}", f"--whisper={root / 'whisper.pt'}", f"--beats={root / 'beats.pt'}"]
    command = [sys.executable, "-m", "ola_jax.cli.main", "convert", "import", *files, "--vision-heads=4"]
    subprocess.run([*command, f"--to={directory / 'tiny'}"], check=True, stdout=subprocess.DEVNULL)
    return directory / "tiny"


def load(server: Server, args: Args) -> Counts:
    """Put a server under load; what was wrong is in the counts, and the rest is printed."""
    counts, memory, seconds = asyncio.run(run(server, args, has_video=args.length >= 6000))
    check_idle(server, counts)
    check_memory(memory, counts)
    for outcome, count in sorted(counts.outcomes.items()):
        print(f"{count:8d}  {outcome}")
    first = sorted(counts.first) or [0.0]
    rate = f"{counts.tokens / seconds:.1f} tokens/s in {seconds:.0f} s"
    print(f"{rate} by {args.streams} clients and {args.slots} slots")
    print(f"first token: median {first[len(first) // 2]:.2f} s, 99 % {first[int(len(first) * 0.99)]:.2f} s")
    for line in counts.wrong[:20]:
        print(f"WRONG: {line}")
    print(f"{len(counts.wrong)} wrong")
    return counts


def main(args: Args) -> int:
    """0 if all was well."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or make_tiny(pathlib.Path(folder))
        with serving(checkpoint, args) as server:
            return int(bool(load(server, args).wrong))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
