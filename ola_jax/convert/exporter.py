"""Writing an ola_jax checkpoint as a released PyTorch checkpoint, piece by piece."""

import pathlib
import shutil
from collections.abc import Iterator, Mapping

import numpy as np

from ola_jax import json_files
from ola_jax.config import BeatsConfig, WhisperConfig
from ola_jax.convert import export_config, pickles
from ola_jax.convert.casting import cast_into
from ola_jax.convert.disk_space import check_space
from ola_jax.convert.export_job import ExportJob
from ola_jax.convert.layouts import copy
from ola_jax.convert.names import BEATS, BEATS_FILE, BY_PATH, WHISPER, WHISPER_FILE, num_layers
from ola_jax.convert.progress import Progress, ignore
from ola_jax.convert.read_ahead import read_ahead
from ola_jax.convert.safetensors_writer import ShardWriter, TensorSpec
from ola_jax.errors import OlaError
from ola_jax.storage import replace_directory
from ola_jax.typing import HostArray, Shaped


def write_released(
    job: ExportJob, directory: pathlib.Path, *, max_shard_size: str = "5GB", progress: Progress = ignore
) -> None:
    """Writes the released layout, completely or not at all. A directory with content is refused."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OlaError(f"{directory}: exists already and is not overwritten; choose another name")
    total, done = sum(spec.nbytes for spec in job.tensors.values()), 0
    check_space(directory, total)
    with replace_directory(directory) as build:
        try:
            writer = ShardWriter(build, job.embedded(), max_shard_size)
            speech: dict[str, HostArray] = {}
            for key, values in read_ahead(read_tensors(job)):
                if job.separate and key.startswith((WHISPER, BEATS)):
                    speech[key] = values
                else:
                    writer.write(key, values)
                done += values.nbytes
                progress(done, total)
            writer.close()
            config = job.config_json()
            if job.separate and job.config.whisper and job.config.beats:
                file = build / _name(config.get("speech_encoder") or export_config.WHISPER_NAME)
                _write_whisper(job, file, job.config.whisper, _take(speech, WHISPER, WHISPER_FILE))
                file = build / _name(config.get("music_encoder") or export_config.BEATS_NAME)
                _write_beats(job, file, job.config.beats, _take(speech, BEATS, BEATS_FILE))
            json_files.write_object(build / "config.json", config)
            json_files.write_object(build / "generation_config.json", job.generation_config)
            for file in (job.source / "tokenizer").iterdir():
                shutil.copyfile(file, build / file.name)
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
            raise OlaError(f"{directory}: cannot be written ({error})") from error


def read_tensors(job: ExportJob) -> Iterator[tuple[str, Shaped[HostArray, "..."]]]:
    """Yields every released key and its values, in the order of our leaves, reading each piece once."""
    for path in job.reader.leaves:
        entry = BY_PATH[path]
        keys = entry.keys(num_layers(job.config, entry))
        if entry.stacked:
            for start, piece in job.reader.pieces(path):
                for key, layer in zip(keys[start : start + len(piece)], piece, strict=True):
                    out = _empty(job.tensors[key])
                    cast_into(out, entry.to_torch(layer), key=key, file=job.source)
                    yield key, out
        elif keys := [key for key in keys if key in job.tensors]:
            out = _empty(job.tensors[keys[0]])
            view = entry.to_jax(out)  # shares its memory, except for kernels of patches
            for start, piece in job.reader.pieces(path):
                part = slice(start, start + len(piece)) if piece.ndim else ...
                cast_into(view[part], piece, key=keys[0], file=job.source)
            if not np.shares_memory(view, out):
                copy(entry.to_torch(view), out)
            for key in keys:
                yield key, out.astype(job.tensors[key].dtype, copy=False)


def _empty(spec: TensorSpec) -> HostArray:
    return np.empty(spec.shape, np.dtype(spec.dtype))


def _take(speech: Mapping[str, HostArray], released: str, own: str) -> dict[str, HostArray]:
    """The tensors below the prefix `released`, by their keys in a separate file."""
    return {
        own + key.removeprefix(released): values for key, values in speech.items() if key.startswith(released)
    }


def _write_whisper(
    job: ExportJob, file: pathlib.Path, config: WhisperConfig, encoder: Mapping[str, HostArray]
) -> None:
    """OpenAI's format: `dims`, the encoder and a decoder, that of `job.whisper` or one without layers."""
    if job.whisper:
        dims, decoder = pickles.read_whisper_decoder(job.whisper)
    else:
        dims = export_config.make_whisper_dims(config, job.origin.whisper_dims)
        zero = np.zeros(1, np.float16)
        decoder = {"positional_embedding": zero[None], "token_embedding.weight": zero[None]}
        decoder |= {"ln.weight": zero, "ln.bias": zero}
    state = dict(encoder) | {f"decoder.{key}": tensor for key, tensor in decoder.items()}
    pickles.save(file, state, section="model_state_dict", beside={"dims": dims})


def _write_beats(
    job: ExportJob, file: pathlib.Path, config: BeatsConfig, state: Mapping[str, HostArray]
) -> None:
    cfg = export_config.make_beats_cfg(config, job.origin.beats_cfg)
    pickles.save(file, state, section="model", beside={"cfg": cfg})


def _name(path: str) -> str:
    return pathlib.PurePath(path).name
