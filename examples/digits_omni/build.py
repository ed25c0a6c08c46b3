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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from examples.digits_omni.drawing import VARIATIONS
from examples.digits_omni.facts import split_questions
from examples.digits_omni.media import write_clip, write_picture, write_speech
from examples.digits_omni.plan import Plan, plan_split
from examples.digits_omni.records import Record
from examples.digits_omni.speech import load_pack
from examples.digits_omni.tasks import AIDS, SPLITS, TASKS, chance_level
from ola_jax.errors import OlaError
from ola_jax.typing import Array, Int, UInt8

VERSION = 6  # of the dataset: a build of another version is not reused
HELDOUT_SHARE = 1 / 6  # of the digit images


def build(
    root: Path, seed: int = 0, scale: float = 1.0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Builds the dataset at `root` unless it is there already; returns `root`.

    `scale` multiplies the number of records of every task. `progress(done, total)` is called after each
    media file. Everything is written beside `root` and renamed when complete. Raises OlaError if
    `root` holds something else, or a dataset of another seed, scale or version.
    """
    identity = {"format": "digits_omni", "version": VERSION, "seed": seed, "scale": scale}
    if root.exists():
        _check_complete(root, identity)
        return root
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    partial_root.mkdir(parents=True)
    plans, images = plan(seed, scale)
    _write_media(plans, images, partial_root, progress)
    manifest = identity | {"splits": {}}
    for split, of_split in plans.items():
        for task, records in of_split.records.items():
            _write_json(partial_root / split / f"{task}.json", records)
        media = [of_split.pictures, of_split.digits, of_split.questions, of_split.clips]
        _write_json(
            partial_root / split / "media.json", [dataclasses.asdict(m) for kind in media for m in kind]
        )
        manifest["splits"][split] = {
            task: {"records": len(records), "chance": round(chance_level(records), 4)}
            for task, records in of_split.records.items()
        }
    (partial_root / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    partial_root.rename(root)
    return root


def plan(seed: int, scale: float) -> tuple[dict[str, Plan], UInt8[Array, "n 8 8"]]:
    """What each split will hold, and the images of all the handwritten digits (0 paper .. 16 ink)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise OlaError(
            "scikit-learn, which has the digits, is missing: pip install 'ola_jax[demo]'"
        ) from None
    rng = np.random.default_rng(seed)
    handwriting = load_digits()
    indices = split_digits(handwriting.target, rng)
    facts = dict(zip(SPLITS, split_questions(rng, max(1, round(scale * TASKS[0].heldout))), strict=True))
    pack = load_pack()
    plans = {}
    for split in SPLITS:
        counts = {task.name: _scaled(getattr(task, split), scale) for task in TASKS}
        train_files = {task.name: _scaled(task.train_files, scale) for task in TASKS}
        files = train_files if split == "train" else counts
        aids = {name: _scaled(count, scale) for name, count in AIDS.items()} if split == "train" else {}
        described = aids.pop("described", 0)
        voices = [recording for recording in pack if recording.split == split]
        plans[split] = plan_split(
            split,
            counts | aids,
            files,
            handwriting.target,
            indices[split],
            voices,
            facts[split],
            described,
            rng,
        )
    return plans, handwriting.images.astype(np.uint8)


def _scaled(count: int, scale: float) -> int:
    return max(10, round(scale * count))


def split_digits(labels: Int[Array, "n"], rng: np.random.Generator) -> dict[str, Int[Array, "m"]]:
    """Indices of the digit images of each split, every digit in the same proportion."""
    indices = {split: [] for split in SPLITS}
    for digit in range(10):
        of_digit = rng.permutation(np.flatnonzero(labels == digit))
        heldout = round(len(of_digit) * HELDOUT_SHARE)
        indices["heldout"].append(of_digit[:heldout])
        indices["train"].append(of_digit[heldout:])
    return {split: np.concatenate(parts) for split, parts in indices.items()}


def load_records(root: Path, split: str, task: str) -> list[Record]:
    """The records of one task; media paths in them are relative to `root`."""
    return json.loads((root / split / f"{task}.json").read_text())


def _write_media(
    plans: dict[str, Plan],
    images: UInt8[Array, "n 8 8"],
    root: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    pack = {recording.file: recording for recording in load_pack()}
    jobs = []
    for split, of_split in plans.items():
        variation = VARIATIONS[split]
        jobs += [partial(write_picture, p, root, images, variation) for p in of_split.pictures]
        jobs += [partial(write_speech, s, root, pack) for s in of_split.digits + of_split.questions]
        jobs += [partial(write_clip, c, root, images, variation, pack) for c in of_split.clips]
    for folder in {(root / job.args[0].file).parent for job in jobs}:
        folder.mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(lambda job: job(), jobs), start=1):
            if progress:
                progress(done, len(jobs))


def _write_json(path: Path, items: list[dict[str, Any]]) -> None:
    """One item a line, so that a file can be read and searched by eye."""
    lines = ",\n".join(json.dumps(item) for item in items)
    path.write_text(f"[\n{lines}\n]\n")


def _check_complete(root: Path, identity: dict[str, Any]) -> None:
    path = root / "manifest.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        raise OlaError(f"{root}: exists but is no digits_omni dataset; choose another place") from None
    for key, expected in identity.items():
        if found.get(key) != expected:
            raise OlaError(
                f"{path}: {key} is {found.get(key)!r}, expected {expected!r}; "
                f"remove {root} or choose another place"
            )
