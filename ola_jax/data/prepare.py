"""Preparing a source: shards in the format of TFDS, with the media in them, written by many processes."""

import contextlib
import dataclasses
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ola_jax.data.blocks import Block, OnProgress, replacing, run_blocks, split_into_blocks, sweep
from ola_jax.data.checking import isolated, load_part, locked, part_path, write_failures
from ola_jax.data.identity import digest_records, source_index_path
from ola_jax.data.index import (
    Failure,
    Index,
    RecordSize,
    concatenate,
    load_index,
    make_index,
    save_index,
)
from ola_jax.data.measure import describe_failure, describe_settings, measure
from ola_jax.data.processor import Processor
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.records import parse_record
from ola_jax.data.shards import (
    FINISHED,
    UNFINISHED,
    ShardWriter,
    features,
    shard_name,
    to_example,
    write_info,
)
from ola_jax.data.sources import Source, open_table
from ola_jax.data.storing import store_audio, store_files, store_sound_track, store_video
from ola_jax.data.tables import RecordTable
from ola_jax.errors import OlaError

logger = logging.getLogger(__name__)

_SAMPLED = 32  # records by which the number of shards is estimated


@dataclasses.dataclass(frozen=True)
class StoreSettings:
    """What is stored of media; images are always stored as they are."""

    video: Literal["frames", "file"] = (
        "frames"  # those that training uses, as JPEG, which is lossy; or the file
    )
    jpeg_quality: int = 90
    audio: Literal["flac", "file"] = "flac"  # 16 kHz mono, rounded to 16 bits; or the file

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise OlaError(f"jpeg_quality is {self.jpeg_quality}; expected 1 to 100")


@dataclasses.dataclass(frozen=True)
class Notes:
    """Counts of what is not exact in the shards."""

    records: int = 0
    videos_as_jpeg: int = 0
    audio_rounded: int = 0  # to 16 bits; audio at 16 kHz of 16 bits is exact
    silent_videos: int = 0  # whose text had a mark of audio, which is removed as in training

    def __add__(self, other: "Notes") -> "Notes":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Notes(*(a + b for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class PreparedSource:
    """A folder of shards, which is a source, too."""

    folder: pathlib.Path
    index: Index
    notes: Notes
    failures: Mapping[int, Failure]  # by position in the source; they are not in the shards
    bad_path: pathlib.Path | None


def prepare_source(
    source: Source,
    processor: Processor,
    folder: str | pathlib.Path,
    *,
    name: str = "ola",
    split: str = "train",
    settings: StoreSettings = StoreSettings(),
    shard_bytes: int = 2**28,
    processes: int = 1,
    progress: OnProgress = lambda done, total: None,
) -> PreparedSource:
    """Writes the shards of a source, their index, and the metadata of TFDS.

    Each shard holds a range of records that depends on the source alone, so the files are the same however
    often the work was interrupted and however many processes did it. Every stored record is measured, which
    decodes it; bad records are left out, and listed in a file of JSON Lines. Raises OlaError for a source
    that cannot be read, and for a folder that holds something else.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not re.fullmatch(r"[a-z][a-z0-9_]*", split):
        raise OlaError(
            f"name {name!r}, split {split!r}: expected small letters, digits and _, a letter first"
        )
    features()
    folder = pathlib.Path(folder)
    table = open_table(source)
    digest = digest_records(source.records, source.split)
    work = folder / UNFINISHED
    _check_folder(folder, work)
    with locked(work), isolated(processor) if processes == 1 else contextlib.nullcontext(processor) as own:
        sweep(folder)
        sweep(work)
        shutil.rmtree(folder / FINISHED, ignore_errors=True)
        plan = {
            "name": name,
            "split": split,
            "store": dataclasses.asdict(settings),
            "records": digest,
            "source": [source.root, source.marks_are_text, source.rewrite, source.bgr],
            "processor": describe_settings(processor, marks_are_text=source.marks_are_text),
            "shard_bytes": shard_bytes,
        }
        shards = _continue_plan(work / "plan.json", plan) or _shard_count(
            table, source, own, settings, shard_bytes
        )
        _write_json(work / "plan.json", plan | {"shards": shards})
        blocks = split_into_blocks(len(table), shards)
        job = _Job(source, table, own, settings, folder, name, split, len(blocks), digest)
        missing = [block for block in blocks if not job.is_done(block)]
        done = len(table) - sum(block.stop - block.start for block in missing)
        for _ in run_blocks(job, missing, processes=processes, done=done, progress=progress):
            pass
        return _finish(job, blocks)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """Writes one shard after another."""

    source: Source
    table: RecordTable
    processor: Processor
    settings: StoreSettings
    folder: pathlib.Path
    name: str
    split: str
    shards: int
    digest: str

    @property
    def work(self) -> pathlib.Path:
        return self.folder / UNFINISHED

    @property
    def index_settings(self) -> dict[str, Any]:
        return describe_settings(self.processor, marks_are_text=self.source.marks_are_text)

    def shard(self, block: Block) -> pathlib.Path:
        return self.folder / shard_name(self.name, self.split, block.number, self.shards)

    def facts(self, block: Block) -> pathlib.Path:
        return self.work / f"{block.number:05d}.json"

    def is_done(self, block: Block) -> bool:
        """True if the shard was written; it is renamed last."""
        index = load_part(self.work, block, self.index_settings, self.digest)
        return self.shard(block).exists() and self.facts(block).exists() and index is not None

    def __call__(self, block: Block) -> None:
        results: list[RecordSize | Failure] = []
        notes, size = Notes(), 0
        with (
            replacing(self.shard(block)) as temporary,
            ShardWriter(temporary) as writer,
            isolated(self.processor) as processor,
        ):
            for number in range(block.start, block.stop):
                record = self.table[number]
                try:
                    stored, found = store_record(record, self.source, processor, self.settings)
                    measured = measure(processor, stored, marks_are_text=self.source.marks_are_text)
                    data = writer.encode(to_example(stored))
                except Exception as error:
                    results.append(describe_failure(record, error))
                    continue
                writer.write(data)
                results.append(measured)
                size, notes = size + len(data), notes + found
            writer.close()
            path = part_path(self.work, block)
            save_index(path, make_index(results), settings=self.index_settings, records=self.digest)
            _write_json(self.facts(block), {"bytes": size, "notes": dataclasses.asdict(notes)})


def store_record(
    record: JsonRecord | Malformed, source: Source, processor: Processor, settings: StoreSettings
) -> tuple[JsonRecord, Notes]:
    """The record with its media in memory, as they are stored. Raises OlaError for a bad one."""
    parsed = parse_record(record, training=True, marks_are_text=source.marks_are_text)
    assert isinstance(record, dict)  # or it would not have been parsed
    new, notes, decode = dict(record), Notes(records=1), processor.settings
    root, call = source.root, processor.decode
    if parsed.images:
        images = call(store_files, parsed.images, root, decode)
        new["image"] = images if len(images) > 1 or isinstance(record["image"], list) else images[0]
    audio_key = "audio_q" if record.get("audio_q") is not None else "audio"
    if parsed.audio is not None:
        if settings.audio == "flac":
            audio = call(store_audio, parsed.audio, root, decode)
            new[audio_key], notes = audio.file, notes + Notes(audio_rounded=int(not audio.is_exact))
        else:
            files = call(store_files, (parsed.audio,), root, decode)
            if len(files) > 1:  # only decoding joins them
                audio = call(store_audio, parsed.audio, root, decode)
                new[audio_key], notes = audio.file, notes + Notes(audio_rounded=int(not audio.is_exact))
            else:
                new[audio_key] = files[0]
    if parsed.video is None:
        return new, notes
    if settings.video == "file":
        refs = parsed.video if isinstance(parsed.video, list) else [parsed.video]
        files = call(store_files, tuple(refs), root, decode)
        new["video"] = files if len(files) > 1 or isinstance(parsed.video, list) else files[0]
        return new, notes
    video = call(store_video, parsed.video, root, decode, settings.jpeg_quality)
    if video.file is not None:
        return new | {"video": video.file}, notes
    new["video"], notes = list(video.frames), notes + Notes(videos_as_jpeg=int(not video.is_exact))
    if parsed.has_audio and parsed.audio is None:  # frames have no sound track
        track = call(store_sound_track, parsed.video, root, decode) if processor.config.has_audio else None
        if track is None:
            turns = parsed.without_audio().turns
            new["conversations"] = [{"from": speaker, "value": text} for speaker, text in turns]
            notes += Notes(silent_videos=1)
        else:
            new["audio"], notes = track.file, notes + Notes(audio_rounded=int(not track.is_exact))
    return new, notes


def _finish(job: _Job, blocks: list[Block]) -> PreparedSource:
    """Writes the metadata and the index of all shards, and removes what only the work needed."""
    parts = [load_index(part_path(job.work, block)) for block in blocks]
    whole = concatenate(parts)
    good = np.ones(len(whole), bool)
    good[list(whole.failures)] = False
    if not good.any():
        reason = whole.failures[0].reason
        raise OlaError(f"{job.source.records}: all {len(whole)} records are bad; the first: {reason}")
    facts = [json.loads(job.facts(block).read_text()) for block in blocks]
    counts = [len(part) - len(part.failures) for part in parts]
    try:
        write_info(job.folder, job.name, job.split, counts, sum(fact["bytes"] for fact in facts))
    except OSError as error:
        raise OlaError(
            f"{job.folder}: the metadata cannot be written ({error.strerror}); nothing is lost: run it again"
        ) from error
    index = without_failures(whole)
    bad_path = job.folder / f"{job.split}.left_out.jsonl"
    write_failures(bad_path, whole.failures)
    path = source_index_path(str(job.folder), job.split)
    digest = digest_records(str(job.folder), job.split)
    save_index(path, index, settings=job.index_settings, records=digest)
    notes = sum((Notes(**fact["notes"]) for fact in facts), Notes())
    failures = dict(whole.failures)
    finished = job.work.rename(job.folder / FINISHED)  # in one step: what is left of it does no harm
    shutil.rmtree(finished)
    return PreparedSource(job.folder, load_index(path), notes, failures, bad_path if failures else None)


def without_failures(index: Index) -> Index:
    """The index of the good records alone."""
    good = np.ones(len(index), bool)
    good[list(index.failures)] = False
    images = np.diff(index.image_offsets)
    return dataclasses.replace(
        index,
        counts=np.asarray(index.counts)[good],
        image_offsets=np.cumsum(np.append(0, images[good]), dtype=np.int64),
        kinds=np.asarray(index.kinds)[good],
        failures={},
    )


def _shard_count(
    table: RecordTable, source: Source, processor: Processor, settings: StoreSettings, shard_bytes: int
) -> int:
    """The number of shards of about this size, estimated from some records."""
    if shard_bytes < 1:
        raise OlaError(f"shard_bytes is {shard_bytes}; expected more than 0")
    sizes = []
    with isolated(processor) as own:
        for index in np.linspace(0, len(table) - 1, min(_SAMPLED, len(table)), dtype=int).tolist():
            try:
                stored, _ = store_record(table[index], source, own, settings)
                example = to_example(stored)
                sizes.append(len(example["record"]) + sum(map(len, example["media"])))
            except Exception as error:  # which is reported when the record is stored
                logger.debug("record %d is not in the estimate: %s", index, error)
    return max(round(len(table) * float(np.mean(sizes or [0])) / shard_bytes), 1)


def _check_folder(folder: pathlib.Path, work: pathlib.Path) -> None:
    if (folder / "dataset_info.json").exists() and not work.exists():
        raise OlaError(f"{folder}: is prepared already; remove the folder to prepare it again")
    if folder.exists() and not work.exists() and any(folder.iterdir()):
        raise OlaError(f"{folder}: the folder is not empty; remove it, or choose another")


def _continue_plan(path: pathlib.Path, plan: dict[str, Any]) -> int | None:
    """The number of shards of an interrupted run with the same plan; None if there was none."""
    if not path.exists():
        return None
    saved = json.loads(path.read_text())
    shards = saved.pop("shards")
    if saved != json.loads(json.dumps(plan)):
        names = [name for name in plan if saved.get(name) != json.loads(json.dumps(plan[name]))]
        raise OlaError(
            f"{path.parent.parent}: holds unfinished work with other settings ({', '.join(names)}); use "
            "those, or remove the folder"
        )
    return int(shards)


def _write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values))
