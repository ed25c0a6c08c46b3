"""Comparing every tensor of an ola_jax checkpoint with a released PyTorch checkpoint, piece by piece."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Literal

import numpy as np

from ola_jax import checkpoint
from ola_jax.config import architecture, differences
from ola_jax.convert.import_job import ImportJob
from ola_jax.convert.importer import read_pieces
from ola_jax.convert.orbax_store import Reader
from ola_jax.convert.progress import Progress, ignore
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray, Shaped


@dataclasses.dataclass
class Difference:
    """The differences between one leaf of ours and its released tensors."""

    path: str
    tensors: int
    dtypes: tuple[str, str]  # ours, the release's
    identical: bool = True  # bit for bit, in the same dtype
    max_abs: float = 0.0
    error_squared: float = 0.0  # sums over all values
    value_squared: float = 0.0

    @property
    def verdict(self) -> Literal["identical", "differ", "same values"]:
        """A summary; "same values": in other dtypes."""
        return "identical" if self.identical else "differ" if self.max_abs else "same values"

    @property
    def relative(self) -> float:
        """Norm of the difference over norm of the tensor."""
        return float(np.sqrt(self.error_squared / max(self.value_squared, 1e-300)))


def compare_tensors(directory: pathlib.Path, job: ImportJob, progress: Progress = ignore) -> list[Difference]:
    """Compares each leaf. NaN on one side only is an infinite difference.

    Parts that `job` initializes at random are left out. Raises OlaError if the two are not models of the
    same structure.
    """
    config, _, _ = checkpoint.load_configs(directory)
    reader, expected = Reader(directory / "params"), job.abstract_params()
    for path in sorted(expected.keys() | reader.leaves.keys()):
        shapes = [
            list(leaves[path].shape) if path in leaves else "missing" for leaves in (reader.leaves, expected)
        ]
        if shapes[0] != shapes[1]:
            raise OlaError(
                f"{directory} and {job.source} are not the same model: {path} is {shapes[0]} here, "
                f"{shapes[1]} there"
            )
    different = differences(architecture(config), architecture(job.config))
    if different:
        lines = [
            f"{path} is {here!r:.60} here, {there!r:.60} there" for path, (here, there) in different.items()
        ]
        raise OlaError(
            f"{directory} and {job.source} are not the same model: {'; '.join(lines[:3])}; give the options "
            "of import (--vision-heads, --whisper-heads, --whisper, --beats, ...) here too"
        )
    found: dict[str, Difference] = {}
    kept = tuple(leaf for leaf in job.leaves if leaf.entry.part not in job.initialized)
    for leaf, start, theirs in read_pieces(dataclasses.replace(job, leaves=kept), progress=progress):
        path = leaf.entry.path
        dtypes = (reader.leaves[path].dtype.name, expected[path].dtype.name)
        one = found.setdefault(path, Difference(path, len(leaf.keys) + len(leaf.copies), dtypes))
        ours = reader.read(path, start, start + (len(theirs) if theirs.ndim else 0))
        _add(one, ours, theirs)
    return list(found.values())


def sum_by_part(differences: Iterable[Difference]) -> dict[str, Difference]:
    """The differences of each part of the model (llm, vision, ...), and of all parts together."""
    parts: dict[str, Difference] = {}
    for one in differences:
        for name in (one.path.partition("/")[0], "all"):
            part = parts.setdefault(name, Difference(name, 0, one.dtypes))
            part.tensors += one.tensors
            part.identical &= one.identical
            part.max_abs = max(part.max_abs, one.max_abs)
            part.error_squared += one.error_squared
            part.value_squared += one.value_squared
    parts["all"] = parts.pop("all")  # last
    return parts


def _add(one: Difference, ours: Shaped[HostArray, "..."], theirs: Shaped[HostArray, "..."]) -> None:
    bits = lambda values: values.view(f"u{values.dtype.itemsize}")
    same = ours.dtype == theirs.dtype and np.array_equal(bits(ours), bits(theirs))
    one.identical &= same
    ours, theirs = ours.reshape(-1), theirs.reshape(-1)
    for i in range(0, theirs.size, 2**22):  # float32 copies of a full piece would take much memory
        b = theirs[i : i + 2**22].astype(np.float32)
        finite = np.isfinite(b)
        one.value_squared += float(np.sum(np.square(b, dtype=np.float64), where=finite))
        if not same:
            a = ours[i : i + 2**22].astype(np.float32)
            with np.errstate(invalid="ignore"):
                error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
            error = np.where(np.isnan(error), np.inf, error)
            one.max_abs = max(one.max_abs, float(error.max(initial=0)))
            one.error_squared += float(np.sum(np.square(error, dtype=np.float64)))
