"""Writing a released PyTorch checkpoint as an ola_jax checkpoint, piece by piece."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from flax import traverse_util

from ola_jax import checkpoint
from ola_jax.convert.casting import cast_into
from ola_jax.convert.disk_space import check_space
from ola_jax.convert.import_job import ImportJob
from ola_jax.convert.orbax_store import Writer, piece_rows
from ola_jax.convert.parameter_matching import Leaf
from ola_jax.convert.progress import Progress, ignore
from ola_jax.convert.read_ahead import read_ahead
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray, Params, Shaped


def write_checkpoint(
    job: ImportJob, directory: pathlib.Path, *, check_finite: bool = False, progress: Progress = ignore
) -> None:
    """Writes the ola_jax checkpoint, completely or not at all. Peak memory: a few pieces, or one tensor.

    `check_finite`: raise OlaError for a tensor with NaN or infinity.
    """
    leaves = job.abstract_params()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    check_space(checkpoint.check_destination(directory), size)
    with (
        checkpoint.create(
            directory,
            config=job.config,
            processor_config=job.processor_config,
            tokenizer_dir=job.source,
            generation_config=job.generation_config,
            released=job.origin.to_json(),
        ) as params_directory,
        Writer(params_directory, leaves) as writer,
    ):
        for leaf, start, piece in read_ahead(read_pieces(job, check_finite=check_finite, progress=progress)):
            writer.write(leaf.entry.path, start, piece)


def read_params(job: ImportJob, *, check_finite: bool = False, progress: Progress = ignore) -> Params:
    """The model's parameters in memory, as numpy arrays."""
    flat = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in job.abstract_params().items()}
    for leaf, start, piece in read_pieces(job, check_finite=check_finite, progress=progress):
        part = slice(start, start + len(piece)) if piece.ndim else ...
        flat[leaf.entry.path][part] = piece
    return traverse_util.unflatten_dict(flat, sep="/")


def read_pieces(
    job: ImportJob, *, check_finite: bool = False, progress: Progress = ignore
) -> Iterator[tuple[Leaf, int, Shaped[HostArray, "..."]]]:
    """Yields (leaf, start on its first axis, values in our layout), about CHUNK_BYTES at a time.

    Raises OlaError if finite values would become infinite in the job's dtype.
    """
    total = sum(job.tensors[key].nbytes for leaf in job.leaves for key in leaf.keys)
    done = 0

    def read(key: str) -> HostArray:
        nonlocal done
        values = job.tensors[key].read()
        if check_finite:
            _check_finite(key, job.tensors[key], values)
        done += values.nbytes
        progress(done, total)
        return values

    for leaf in job.leaves:
        _check_copies(leaf, job.tensors)
        dtype = job.leaf_dtype(leaf)
        rows = piece_rows(leaf.shape, dtype)
        if leaf.entry.stacked:
            for start in range(0, len(leaf.keys), rows):
                keys = leaf.keys[start : start + rows]
                out = np.empty((len(keys), *leaf.shape[1:]), dtype)
                for i, key in enumerate(keys):
                    values = leaf.entry.to_jax(read(key))
                    cast_into(out[i, ...], values, key=key, file=job.tensors[key].file)
                yield leaf, start, out
        else:
            [key] = leaf.keys
            values = leaf.entry.to_jax(read(key))
            for start in range(0, values.shape[0], rows) if values.ndim else [0]:
                part = values[start : start + rows] if values.ndim else values
                out = np.empty(part.shape, dtype)
                cast_into(out, part, key=key, file=job.tensors[key].file)
                yield leaf, start, out


def _check_finite(key: str, tensor: Tensor, values: HostArray) -> None:
    # In slices: the temporary arrays of a full embedding would take much memory.
    flat = values.reshape(-1)
    bad = sum(int(np.count_nonzero(~np.isfinite(flat[i : i + 2**24]))) for i in range(0, flat.size, 2**24))
    if bad:
        raise OlaError(
            f"{tensor.file}: {key} holds {bad} values that are NaN or infinite, of {values.size}; get the "
            "checkpoint again, or leave out --check-finite"
        )


def _check_copies(leaf: Leaf, tensors: Mapping[str, Tensor]) -> None:
    """Raises OlaError unless copies of a shared tensor are equal, bit for bit (quirk C2)."""
    if not leaf.copies:
        return
    first = tensors[leaf.keys[0]].read()
    for key in leaf.copies:
        other = tensors[key].read()
        if other.dtype != first.dtype or other.tobytes() != first.tobytes():
            raise OlaError(
                f"{tensors[key].file}: {key} differs from {leaf.keys[0]}; all layers share one tensor, "
                "expected equal copies"
            )
