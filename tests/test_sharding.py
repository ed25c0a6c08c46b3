import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.batch import Budget
from ola_jax.errors import OlaError
from ola_jax.sharding import MeshConfig
from tests import tiny

SHAPE = {"data": 1, "fsdp": 4, "tensor": 2, "context": 2}


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("layers", "embed", "mlp"), (2, 64, 128), (None, ("fsdp", "context"), "tensor")),
        (("layers", "mlp", "embed"), (2, 128, 64), (None, ("tensor", "fsdp", "context"), None)),
        (("vocab", "width"), (512, 64), (("tensor", "context"), "fsdp")),
        (("patch", "embed"), (3, 64), (None, ("fsdp", "context"))),  # 3 is not divisible by 4
        (("patch", "embed"), (3, 5), (None, None)),
        (("layers", "heads"), (2, 64), (None, "tensor")),  # a bias
        ((None,), (64,), (None,)),  # a norm
    ],
)
def test_parameters_are_split_along_axes_that_can_be_divided(
    names: tuple, shape: tuple, expected: tuple
) -> None:
    found = sharding.parameter_spec(names, shape, SHAPE)
    unwrap = lambda part: part[0] if isinstance(part, tuple) and len(part) == 1 else part
    assert tuple(map(unwrap, found)) == expected


def test_minus_one_takes_the_remaining_devices() -> None:
    assert dict(sharding.make_mesh(MeshConfig(data=2, fsdp=-1, tensor=2)).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
        "context": 1,
    }
    assert sharding.make_mesh(MeshConfig()).size == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(fsdp=16), "needs 16 devices, found 8"),
        (MeshConfig(fsdp=-1, tensor=3), "8 devices cannot be divided by 3"),
        (MeshConfig(fsdp=-1, data=-1), "of which one may be -1"),
        (MeshConfig(tensor=0), "expected positive sizes"),
    ],
)
def test_meshes_that_do_not_fit_the_devices_are_refused(config: MeshConfig, message: str) -> None:
    with pytest.raises(OlaError, match=message):
        sharding.make_mesh(config)


@pytest.mark.parametrize(
    ("config", "rows", "tokens", "message"),
    [
        (MeshConfig(fsdp=4), 6, 64, "6 rows of a microbatch cannot be divided by data=1 \\* fsdp=4"),
        (MeshConfig(context=8), 4, 36, "36 tokens of a row"),
        (MeshConfig(tensor=8), 4, 64, "4 key/value heads"),
    ],
)
def test_batches_and_models_that_do_not_fit_the_mesh_are_refused(
    config: MeshConfig, rows: int, tokens: int, message: str
) -> None:
    with pytest.raises(OlaError, match=message):
        sharding.check_mesh(sharding.make_mesh(config), tiny.CONFIG, rows=rows, budget=Budget(tokens=tokens))


@pytest.mark.parametrize("windows", [1, 3, 4])
def test_windows_are_split_evenly_and_gathered_to_their_rows(windows: int) -> None:
    x = np.arange(4 * windows * 5, dtype=np.float32).reshape(4, windows, 5)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2, context=2))):
        split = jax.jit(sharding.shard_windows)(x)
        assert len({str(shard.index) for shard in split.addressable_shards}) == 8
        gathered = jax.jit(lambda y: sharding.gather_windows(y, 4, windows))(split)
    np.testing.assert_array_equal(gathered, x)
