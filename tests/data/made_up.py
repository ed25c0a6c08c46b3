"""Samples and records made up for tests."""

import json

import numpy as np
from PIL import Image

from ola_jax.batch import IGNORE, MARKS, TEXT
from ola_jax.config import (
    BeatsConfig,
    OlaConfig,
    OryxViTConfig,
    PixelLimits,
    ProcessorConfig,
    Qwen2Config,
    WhisperConfig,
)
from ola_jax.data import ImagePatches, Processor, Sample
from ola_jax.data.layout import pooled_size
from ola_jax.data.tokenizer import load_tokenizer
from tests.golden import VISIBLE

TINY = OlaConfig(
    Qwen2Config(vocab_size=728),
    OryxViTConfig(patch_size=2),
    WhisperConfig(num_positions=20),
    BeatsConfig(),
)


def tiny_processor(**changes):
    limits = PixelLimits(8, 16, 4, 4, 8, 4, max_frames=4)
    return Processor(TINY, ProcessorConfig(limits, limits, **changes), load_tokenizer(VISIBLE / "hf"))


def conversation(*messages, **keys):
    """A record of these messages, of the human and of the assistant in turn."""
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(messages)]
    return {"conversations": turns, **keys}


def write_json(folder, name, records):
    """A file of records, JSON Lines if it is named so; returns its path."""
    text = "\n".join(map(json.dumps, records)) if name.endswith("l") else json.dumps(records)
    (folder / name).write_text(text)
    return str(folder / name)


def made_up_sample(rng, length, grids, chunks, name="made up"):
    """Random content; `source` points at random into the sample's table, at every feature it can."""
    features = sum(map(pooled_size, grids)) + chunks * TINY.chunk_tokens + len(MARKS)
    images = tuple(ImagePatches(rng.integers(0, 256, (h * w, 12), np.uint8), (h, w)) for h, w in grids)
    return Sample(
        name,
        rng.integers(0, 728, length).astype(np.int32),
        rng.choice([IGNORE, 5, 6], length).astype(np.int32),
        rng.integers(TEXT, features, length).astype(np.int32),
        images,
        rng.uniform(-1, 1, (chunks, TINY.chunk_samples)).astype(np.float32),
        np.zeros(3, np.int32),
        {},
    )


def write_records(folder, count, name="records.json", bad=()):
    """A file of records, every third with an image; those in `bad` name a missing file. Returns its path."""
    records = []
    for i in range(count):
        record = conversation(f"Number {i} of {name}?", "yes " * (i % 7 + 1), id=f"r{i}")
        if i % 3 == 0 or i in bad:
            Image.new("RGB", (10 + i, 12), (i % 256, 3, 7)).save(folder / f"{name}{i}.png")
            record["image"] = "missing.png" if i in bad else f"{name}{i}.png"
            record["conversations"][0]["value"] = f"<image>\nNumber {i} of {name}?"
        records.append(record)
    return write_json(folder, name, records)
