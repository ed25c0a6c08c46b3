"""Builds the dataset on disk in Ola's JSON record format.

ROOT/manifest.json         seed, scale, and for each split the chance level and number of records of each task
ROOT/SPLIT/TASK.json       the records; media paths are relative to ROOT
ROOT/SPLIT/media.json      the ground truth of every media file
ROOT/SPLIT/{images,digits,questions,videos}/...
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from examples.digits_omni import augmentation
from examples.digits_omni.contents import SplitContents, choose_contents
from examples.digits_omni.drawing import VARIATIONS
from examples.digits_omni.facts import split_questions
from examples.digits_omni.media_files import Clip, Picture, Speech, write_clip, write_picture, write_speech
from examples.digits_omni.speech import load_pack
from examples.digits_omni.task_records import Record
from examples.digits_omni.tasks import AIDS, SPLITS, TASKS, chance_level
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray, Int, UInt8

VERSION = 8  # of the dataset: a build of another version is not reused
HELDOUT_SHARE = 1 / 6  # of the digit images


def build(
    root: Path, seed: int = 0, scale: float = 1.0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Builds the dataset at `root` unless it exists already; returns `root`.

    `scale` multiplies the number of records of every task. `progress(done, total)` is called after each
    media file. Everything is written beside `root` and renamed when complete. Raises OlaError if `root`
    contains something else, or a dataset of another seed, scale or version.
    """
    identity = {"format": "digits_omni", "version": VERSION, "seed": seed, "scale": scale}
    if root.exists():
        _check_complete(root, identity)
        return root
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    partial_root.mkdir(parents=True)
    splits, images = choose_splits(seed, scale)
    _write_media(splits, images, partial_root, progress)
    tables: dict[str, dict[str, Any]] = {}
    for split, contents in splits.items():
        for task, records in contents.records.items():
            _write_json(partial_root / split / f"{task}.json", records)
        files: list[Picture | Speech | Clip] = [*contents.pictures, *contents.digits, *contents.questions]
        files += contents.clips
        _write_json(partial_root / split / "media.json", [dataclasses.asdict(file) for file in files])
        tables[split] = {
            task: {"records": len(records), "chance": round(chance_level(records), 4)}
            for task, records in contents.records.items()
        }
    manifest = identity | {"splits": tables}
    (partial_root / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    partial_root.rename(root)
    return root


def choose_splits(seed: int, scale: float) -> tuple[dict[str, SplitContents], UInt8[HostArray, "n 8 8"]]:
    """The contents of each split, and the images of all handwritten digits (0 paper .. 16 ink)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise OlaError(
            "scikit-learn, which has the digits, is not installed; run: pip install 'ola_jax[demo]'"
        ) from None
    rng = np.random.default_rng(seed)
    handwriting = load_digits()
    indices = split_digits(handwriting.target, rng)
    facts = dict(zip(SPLITS, split_questions(rng, max(1, round(scale * TASKS[0].heldout))), strict=True))
    pack = load_pack()
    splits = {}
    for split in SPLITS:
        counts = {task.name: _scaled(getattr(task, split), scale) for task in TASKS}
        train_files = {task.name: _scaled(task.train_files, scale) for task in TASKS}
        files = train_files if split == "train" else counts
        aids = {name: _scaled(count, scale) for name, count in AIDS.items()} if split == "train" else {}
        described = aids.pop("described", 0)
        splits_used = (split, "other") if split == "heldout" else (split,)
        voices = [recording for recording in pack if recording.split in splits_used]
        splits[split] = choose_contents(
            split,
            counts=counts | aids,
            files=files,
            labels=handwriting.target,
            sources=indices[split],
            pack=voices,
            facts=facts[split],
            described=described,
            rng=rng,
        )
    return splits, handwriting.images.astype(np.uint8)


def _scaled(count: int, scale: float) -> int:
    return max(10, round(scale * count)) if count else 0


def split_digits(labels: Int[HostArray, "n"], rng: np.random.Generator) -> dict[str, Int[HostArray, "m"]]:
    """Indices of the digit images of each split, with every digit in the same proportion."""
    indices: dict[str, list[HostArray]] = {split: [] for split in SPLITS}
    for digit in range(10):
        shuffled = rng.permutation(np.flatnonzero(labels == digit))
        heldout = round(len(shuffled) * HELDOUT_SHARE)
        indices["heldout"].append(shuffled[:heldout])
        indices["train"].append(shuffled[heldout:])
    return {split: np.concatenate(parts) for split, parts in indices.items()}


def load_records(root: Path, split: str, task: str) -> list[Record]:
    """Loads the records of one task; their media paths are relative to `root`."""
    return json.loads((root / split / f"{task}.json").read_text())


def _write_media(
    splits: dict[str, SplitContents],
    images: UInt8[HostArray, "n 8 8"],
    root: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    pack = {recording.file: recording for recording in load_pack()}
    jobs: list[partial[None]] = []
    for split, contents in splits.items():
        variation = VARIATIONS[split]
        jobs += [partial(write_picture, p, root, images, variation) for p in contents.pictures]
        jobs += [partial(write_speech, s, root, pack) for s in contents.digits + contents.questions]
        jobs += [partial(write_clip, c, root, images, variation, pack) for c in contents.clips]
    for folder in {(root / job.args[0].file).parent for job in jobs}:
        folder.mkdir(parents=True)
    augmentation.warm_up()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(lambda job: job(), jobs), start=1):
            if progress:
                progress(done, len(jobs))


def _write_json(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Writes a JSON array with one item per line, so that people can read the file."""
    lines = ",\n".join(json.dumps(item) for item in items)
    path.write_text(f"[\n{lines}\n]\n")


def _check_complete(root: Path, identity: dict[str, Any]) -> None:
    path = root / "manifest.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        raise OlaError(f"{root}: exists and is not a digits_omni dataset; choose another folder") from None
    for key, expected in identity.items():
        if found.get(key) != expected:
            raise OlaError(
                f"{path}: {key} is {found.get(key)!r}, expected {expected!r}; "
                f"remove {root} or choose another folder"
            )
