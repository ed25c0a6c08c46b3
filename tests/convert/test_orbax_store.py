import pathlib
import shutil
import time

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert import orbax_store
from ola_jax.convert.orbax_store import Reader, Writer
from ola_jax.errors import OlaError
from tests.convert.checkpoints import HF

LEAVES = {
    "llm/layers/mlp/kernel": ((5, 3, 4), ml_dtypes.bfloat16),
    "llm/layers/bias": ((4, 2), np.float16),
    "llm/embed": ((7,), np.float32),
    "zero": ((3, 2), np.float32),  # by default tensorstore does not store such chunks
    "scalar": ((), np.float32),
}


def random_leaves(seed: int) -> dict[str, np.ndarray]:
    """Every bit pattern, NaN included."""
    rng = np.random.default_rng(seed)
    values = {}
    for path, (shape, dtype) in LEAVES.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        values[path] = np.frombuffer(rng.bytes(size), dtype).reshape(shape)
    values["zero"] = np.zeros(*LEAVES["zero"])
    return values


def write(directory: pathlib.Path, values: dict[str, np.ndarray]) -> None:
    abstract = {path: jax.ShapeDtypeStruct(*leaf) for path, leaf in LEAVES.items()}
    with Writer(directory, abstract) as writer:
        for path, leaf in values.items():
            rows = orbax_store.piece_rows(leaf.shape, leaf.dtype)
            for start in range(0, len(leaf), rows) if leaf.ndim else [0]:
                writer.write(path, start, leaf[start : start + rows] if leaf.ndim else leaf)


@pytest.mark.parametrize("chunk_bytes", [1, 50, 2**20])
def test_orbax_restores_what_was_written_in_pieces(
    chunk_bytes: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orbax_store, "CHUNK_BYTES", chunk_bytes)
    values = random_leaves(chunk_bytes)
    write(tmp_path / "params", values)
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = traverse_util.flatten_dict(checkpointer.restore(tmp_path / "params"), sep="/")
    assert restored.keys() == values.keys()
    for path, leaf in values.items():
        assert restored[path].dtype == leaf.dtype
        assert restored[path].shape == leaf.shape
        assert np.asarray(restored[path]).tobytes() == leaf.tobytes(), path


@pytest.mark.parametrize("chunk_bytes", [1, 50, 2**20])
@pytest.mark.parametrize("written_by", ["pieces", "orbax"])
def test_pieces_read_are_those_written(
    chunk_bytes: int, written_by: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orbax_store, "CHUNK_BYTES", chunk_bytes)
    values = random_leaves(chunk_bytes)
    if written_by == "pieces":
        write(tmp_path / "params", values)
    else:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "params", traverse_util.unflatten_dict(values, sep="/"))
    reader = Reader(tmp_path / "params")
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in reader.leaves.items()} == LEAVES
    for path, leaf in values.items():
        found = list(reader.pieces(path))
        assert [start for start, _ in found] == list(
            np.cumsum([0, *(len(piece) for _, piece in found[:-1])] if leaf.ndim else [0])
        )
        assert b"".join(piece.tobytes() for _, piece in found) == leaf.tobytes(), path
    longest = len(list(reader.pieces("llm/layers/mlp/kernel")))
    whole = written_by == "orbax" or chunk_bytes == 2**20  # Orbax stored one chunk: it is read once
    assert longest == (1 if whole else {1: 5, 50: 3}[chunk_bytes])


def test_large_arrays_of_training_are_stored_layer_by_layer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 400)
    monkeypatch.setattr(orbax_store, "CHUNK_BYTES", 400)
    values = np.arange(6 * 5 * 10, dtype=np.float32).reshape(6, 5, 10)
    config = OlaConfig(vision=None, whisper=None, beats=None)
    checkpoint.save(
        tmp_path / "model",
        config=config,
        processor_config=ProcessorConfig(),
        params={"kernel": values},
        tokenizer_dir=HF,
        generation_config={},
    )
    found = [piece for _, piece in Reader(tmp_path / "model" / "params").pieces("kernel")]
    assert [piece.shape for piece in found] == [(2, 5, 10)] * 3
    np.testing.assert_array_equal(np.concatenate(found), values)


def test_no_write_is_in_progress_after_an_error_in_the_writer(tmp_path: pathlib.Path) -> None:
    leaf = jax.ShapeDtypeStruct((40, 2**16), np.float32)
    with pytest.raises(KeyError), Writer(tmp_path / "params", {"a": leaf}) as writer:  # noqa: PT012
        for row in range(3):
            writer.write("a", row, np.ones((1, 2**16), np.float32))
        raise KeyError("interrupted")
    assert not writer._writes
    shutil.rmtree(tmp_path / "params")
    time.sleep(0.2)
    assert not (tmp_path / "params").exists()


def test_a_missing_or_damaged_store_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match=r"none: the parameters cannot be read"):
        Reader(tmp_path / "none")
    write(tmp_path / "params", random_leaves(0))
    reader = Reader(tmp_path / "params")
    for file in (tmp_path / "params" / "d").iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(OlaError, match=r"llm/embed cannot be read \(.*copy or convert the checkpoint again"):
        list(reader.pieces("llm/embed"))
