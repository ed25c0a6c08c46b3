"""The host's work for a row of training data: from files, from prepared shards, and as the original does it.

    python benchmarks/data.py            # on one core, in about two minutes
    python benchmarks/data.py --frames 5400 --keyframes 60 --rounds 1

All three make the same rows from made-up media: 48 frames of a video of 30 s, 30 s of audio (one or two
channels), an image of 1024x768, text; a mixed row holds a video with sound, an image and a text. "original"
is the order of work of the original's loader, in new code: it converts, resizes and normalizes every frame
of a video, and keeps 48 of them afterwards; it reads audio with librosa. What it computes beyond that on the
host (mel spectrograms), and its batches, are left out, in its favour. Figures are CPU seconds, the best of
some rounds in which the three take turns.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import av
import librosa
import numpy as np
import rich.console
import rich.table
import soundfile
import tyro
from PIL import Image

from ola_jax.batch import OlaBatch
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.data.assembly import assemble
from ola_jax.data.image import image_views, video_frame
from ola_jax.data.prepare import prepare_source
from ola_jax.data.processor import Processor
from ola_jax.data.sample import Sample
from ola_jax.data.sources import Source, open_table
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.data.windows import assign_windows
from ola_jax.row import Budget

RATE, SECONDS = 30, 30
# Accelerators, and tokens per second of each: 9000 of a v5p or H100; of a v5e as its peak rate is to v5p's.
TARGETS = {"v5e-8": (8, 3_900), "v5p-8": (4, 9_000), "8 H100": (8, 9_000)}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    height: int = 360  # of the video, in pixels
    frames: int = 900  # of the video
    keyframes: int = 250  # frames from one keyframe to the next
    rounds: int = 3
    tokenizer: pathlib.Path = pathlib.Path(__file__).parents[1] / "tests/goldens/visible/hf"


def main(options: Options) -> None:
    """Measures, and prints the tables."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config = OlaConfig.ola_7b()
    processor = Processor(config, ProcessorConfig(), load_tokenizer(options.tokenizer))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        records = write_media(folder, options)
        prepared = {}
        for kind, row in records.items():
            path = folder / f"{kind}.json"
            path.write_text(json.dumps(row))
            done = prepare_source(Source(str(path), name), processor, folder / f"{kind}_shards")
            prepared[kind] = Source(str(done.folder))
        rows = rich.table.Table("row", "from", *("CPU s", "rows/s", "MB/s", "tokens/s", "MB", "times"))
        best: dict[tuple[str, str], float] = {}
        tokens: dict[str, int] = {}
        for kind, row in records.items():
            shards = open_table(prepared[kind])
            samples = [processor.sample(record, name, training=True) for record in row]
            tokens[kind] = sum(len(sample.tokens) for sample in samples)
            budget = row_budget(samples)
            ways: dict[str, Callable[[], object]] = {
                "original": lambda row=row: [original(record, folder, processor) for record in row],
                "files": lambda row=row, budget=budget: ours(row, name, processor, budget),
                "shards": lambda row=row, shards=shards, budget=budget: ours(
                    [shards[index] for index in range(len(row))], None, processor, budget
                ),
            }
            files = sum((folder / file).stat().st_size for record in row for file in media_of(record))
            stored = sum(
                f.stat().st_size for f in pathlib.Path(prepared[kind].records).glob("*.array_record*")
            )
            for way in [*ways] * (options.rounds + 1):
                begin = time.process_time()
                ways[way]()
                spent = time.process_time() - begin
                best[kind, way] = min(spent, best.get((kind, way), spent))
            for way in ways:
                seconds, size = best[kind, way], (stored if way == "shards" else files) / 1e6
                figures = (1 / seconds, size / seconds, tokens[kind] / seconds, size)
                rows.add_row(
                    kind if way == "original" else "",
                    way,
                    f"{seconds:.4f}",
                    *(f"{figure:,.0f}" if figure > 1000 else f"{figure:.2f}" for figure in figures),
                    f"{best[kind, 'original'] / seconds:.1f}",
                )
    console = rich.console.Console(width=110)
    console.print(rows)
    per_token = {way: best["mixed", way] / tokens["mixed"] for way in ("original", "files", "shards")}
    cores = rich.table.Table("cores needed, mixed rows", *per_token)
    for name, (count, speed) in TARGETS.items():
        cores.add_row(
            f"{name} at {speed} tokens/s each", *(f"{count * speed * c:.2f}" for c in per_token.values())
        )
    console.print(cores)


def ours(row: list, root: str | None, processor: Processor, budget: Budget) -> OlaBatch:
    """The batch of one row of these records."""
    samples = [processor.sample(record, root, training=True) for record in row]
    return assemble([samples], budget, processor.config)


def row_budget(samples: list[Sample]) -> Budget:
    """A row that holds the samples, with windows of about the size of the largest image."""
    sizes = [len(image.patches) for sample in samples for image in sample.images]
    patches = max(sizes, default=0)
    return Budget(
        sum(len(sample.tokens) for sample in samples),
        assign_windows(sizes, patches)[1] if sizes else 0,
        patches,
        sum(len(sample.audio) for sample in samples),
    )


def write_media(folder: pathlib.Path, options: Options) -> dict[str, list[dict]]:
    """Writes the media, and returns the records of each row."""
    rng = np.random.default_rng(0)
    noise = lambda width, height: Image.fromarray(
        rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    ).resize((width, height), Image.Resampling.BICUBIC)
    noise(1024, 768).save(folder / "image.jpg", quality=90)
    wave = (rng.normal(size=44_100 * SECONDS) * 2000).astype(np.int16)
    soundfile.write(folder / "audio.wav", wave, 44_100)
    soundfile.write(folder / "stereo.wav", np.stack([wave, wave[::-1]], axis=1), 44_100)
    width = options.height * 16 // 9 // 2 * 2
    base = np.asarray(noise(width, options.height))
    with av.open(str(folder / "video.mp4"), "w") as container:
        extra = {"g": str(options.keyframes), "preset": "veryfast", "threads": "1"}
        video = container.add_stream("libx264", rate=RATE, options=extra)
        video.width, video.height, video.pix_fmt = width, options.height, "yuv420p"
        sound = container.add_stream("aac", rate=44_100, layout="mono")
        for number in range(options.frames):
            frame = av.VideoFrame.from_ndarray(np.roll(base, 3 * number, axis=1), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        block = av.AudioFrame.from_ndarray(
            wave[None].astype(np.float32) / 2**15, format="fltp", layout="mono"
        )
        block.sample_rate = 44_100
        container.mux(sound.encode(block))
        container.mux(sound.encode())
    talk = lambda marks: [
        {"from": "human", "value": f"{marks}Describe it. " + "What is there? " * 10},
        {"from": "gpt", "value": "There is something. " * 20},
    ]
    image = {"image": "image.jpg", "conversations": talk("<image>\n")}
    return {
        "image": [image],
        "audio": [{"audio": "audio.wav", "conversations": talk("<speech>\n")}],
        "stereo": [{"audio": "stereo.wav", "conversations": talk("<speech>\n")}],
        "video": [{"video": "video.mp4", "conversations": talk("<image>\n")}],
        "mixed": [
            {"video": "video.mp4", "conversations": talk("<speech><image>\n")},
            image,
            {"conversations": talk("")},
        ],
    }


def media_of(record: dict) -> list[str]:
    return [record[key] for key in ("image", "audio", "video") if key in record]


def original(record: dict, folder: pathlib.Path, processor: Processor) -> None:
    """The original's order of work for the media of a record."""
    limits = processor.limits
    if "image" in record:
        image = Image.open(folder / record["image"]).convert("RGB")
        for view in image_views(image, limits):
            normalize(view)
    if "video" in record:
        with av.open(str(folder / record["video"])) as container:
            container.streams.video[0].thread_type = "SLICE"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        kept = set(np.linspace(0, len(frames) - 1, limits.max_frames, dtype=int).tolist())
        tensors = []
        for number, frame in enumerate(frames):
            tensor = normalize(video_frame(Image.fromarray(frame), limits))
            if number in kept:  # the original keeps all of them until here
                tensors.append(tensor)
    if "audio" in record or "<speech>" in record["conversations"][0]["value"]:
        path = folder / record.get("audio", "audio.wav")  # of a video, it lies beside it as a file
        librosa.load(path, sr=16_000)
    text = "".join(turn["value"] for turn in record["conversations"])
    processor.tokenizer.encode(text)


def normalize(image: Image.Image) -> np.ndarray:
    """Channels first, float32, from -1 to 1."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32) / 127.5 - 1


if __name__ == "__main__":
    main(tyro.cli(Options))
