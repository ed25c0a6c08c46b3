"""Writing and reading a checkpoint's params/ piece by piece, so that no array is in memory at once.

An Orbax tree is a directory with Orbax's own metadata and one tensorstore database (OCDBT) that holds a
zarr array for each leaf. Orbax itself writes the metadata here, for a tree of the same structure with tiny
leaves; then each array is recreated in its full size and written through tensorstore. So the metadata is
always that of the installed Orbax, and Orbax's reading of it is checked.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import traverse_util

from ola_jax.checkpoint import CHUNK_BYTES
from ola_jax.errors import OlaError, first_line
from ola_jax.typing import DTypeLike, HostArray, Shaped

IN_FLIGHT = 2  # writes in progress while the next piece is prepared


def piece_rows(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Entries of the first axis (layers, rows) in a piece of a leaf: about CHUNK_BYTES, at least one."""
    if not shape or not all(shape):
        return 1
    row = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    return min(shape[0], max(1, CHUNK_BYTES // row))


class Writer:
    """Writer of an Orbax tree in `directory`, whose `leaves` are named by path ("llm/norm/scale").

    A context manager: at its end all is written, and Orbax has confirmed the shape and dtype of every leaf.
    """

    def __init__(self, directory: pathlib.Path, leaves: Mapping[str, jax.ShapeDtypeStruct]):
        self._directory, self._leaves = directory.absolute(), dict(leaves)
        self._writes: list[ts.WriteFutures] = []
        tiny = {path: np.zeros((), leaf.dtype) for path, leaf in leaves.items()}
        with _checkpointer() as checkpointer:
            checkpointer.save(self._directory, traverse_util.unflatten_dict(tiny, sep="/"))
        self._arrays = {path: self._create(path, leaf) for path, leaf in leaves.items()}

    def write(self, path: str, start: int, piece: Shaped[HostArray, "..."]) -> None:
        """Writes a piece of a leaf at `start` of its first axis; the caller must not change it afterwards."""
        array = self._arrays[path]
        target = array[start : start + len(piece)] if piece.ndim else array
        try:
            self._writes.append(target.write(piece))
            while len(self._writes) > IN_FLIGHT:
                self._writes.pop(0).result()
        except ValueError as error:  # tensorstore's only kind: no space, no permission
            raise OlaError(f"{self._directory}: {path} cannot be written ({first_line(error)})") from error

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = None
        while self._writes:  # after an error too: none may write while the files are being removed
            try:
                self._writes.pop(0).result()
            except ValueError as error:
                failed = error
        if kind is None and failed:
            raise OlaError(f"{self._directory}: cannot be written ({first_line(failed)})") from failed
        if kind is None:
            self._confirm()

    def _confirm(self) -> None:
        with _checkpointer() as checkpointer:
            tree = checkpointer.metadata(self._directory).item_metadata.tree
        found = traverse_util.flatten_dict(tree, sep="/")
        for path, leaf in self._leaves.items():
            if path not in found or (tuple(found[path].shape), found[path].dtype) != (leaf.shape, leaf.dtype):
                raise RuntimeError(f"{self._directory}: Orbax finds {path} as {found.get(path)}, not {leaf}")

    def _create(self, path: str, leaf: jax.ShapeDtypeStruct) -> ts.TensorStore:
        chunk = (piece_rows(leaf.shape, leaf.dtype), *leaf.shape[1:]) if leaf.shape else ()
        spec = _spec(self._directory, path) | {
            "metadata": {
                "shape": leaf.shape,
                "chunks": chunk,
                "dtype": _zarr_dtype(leaf.dtype),
                "compressor": None,  # bits of weights hardly compress
            },
            "store_data_equal_to_fill_value": True,
        }
        return ts.open(spec, create=True, delete_existing=True, context=_context()).result()


class Reader:
    """Reader of an Orbax tree of arrays. Raises OlaError if the directory is none.

    `leaves` has the shape and dtype of every array, by path.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory.absolute()
        # Not through Orbax: for a damaged store it leaves reads running that print errors later.
        try:
            store = ts.KvStore.open(_database(self._directory), context=_context()).result()
            keys = [key.decode() for key in store.list().result()]
            names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
            self.leaves = {
                name.replace(".", "/"): self._leaf(name.replace(".", "/")) for name in sorted(names)
            }
        except ValueError as error:
            raise _unreadable(directory, error) from error
        if not self.leaves:
            raise _unreadable(directory, "no arrays")

    def pieces(self, path: str) -> Iterator[tuple[int, Shaped[HostArray, "..."]]]:
        """Yields (start on the first axis, values) of a leaf, each stored chunk read once; 0 for a scalar."""
        try:
            array, leaf = self._open(path), self.leaves[path]
            if not leaf.shape:
                yield 0, array.read().result()
                return
            length, rows = leaf.shape[0], piece_rows(leaf.shape, leaf.dtype)
            if chunk := array.chunk_layout.read_chunk.shape:
                rows = max(rows, chunk[0] or 0)
            read = lambda start: array[start : min(start + rows, length)].read()
            upcoming = read(0)
            for start in range(0, length, rows):
                current = upcoming
                if start + rows < length:
                    upcoming = read(start + rows)
                yield start, current.result()
        except ValueError as error:
            raise _unreadable(self._directory, error, path) from error

    def read(self, path: str, start: int, stop: int) -> Shaped[HostArray, "..."]:
        """Entries `start` to `stop` of a leaf's first axis; a scalar as it is."""
        try:
            array = self._open(path)
            return (array[start:stop] if array.rank else array).read().result()
        except ValueError as error:
            raise _unreadable(self._directory, error, path) from error

    def _open(self, path: str) -> ts.TensorStore:
        return ts.open(_spec(self._directory, path), open=True, context=_context()).result()

    def _leaf(self, path: str) -> jax.ShapeDtypeStruct:
        array = self._open(path)
        return jax.ShapeDtypeStruct(tuple(array.shape), array.dtype.numpy_dtype)


def _checkpointer() -> ocp.PyTreeCheckpointer:
    return ocp.PyTreeCheckpointer(use_ocdbt=True, use_zarr3=False)


def _database(directory: pathlib.Path) -> dict[str, Any]:
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{directory}/"}}


def _spec(directory: pathlib.Path, path: str) -> dict[str, Any]:
    name = path.replace("/", ".")  # as Orbax names the array of a leaf
    return {"driver": "zarr", "kvstore": _database(directory) | {"path": f"{name}/"}}


def _unreadable(directory: pathlib.Path, reason: ValueError | str, path: str = "the parameters") -> OlaError:
    reason = reason if isinstance(reason, str) else first_line(reason)
    return OlaError(
        f"{directory}: {path} cannot be read ({reason}); expected an Orbax tree as ola_jax writes it: copy "
        "or convert the checkpoint again"
    )


def _context() -> ts.Context:
    # No cache: every chunk is used once. No sync: all files are synced before the checkpoint is renamed.
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False})


def _zarr_dtype(dtype: DTypeLike) -> str:
    dtype = np.dtype(dtype)
    return "bfloat16" if dtype.name == "bfloat16" else dtype.str
