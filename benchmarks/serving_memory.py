"""The memory that `ola serve` takes on its device, by slots and length; nothing is allocated.

python benchmarks/serving_memory.py                              # Ola-7b in bfloat16
python benchmarks/serving_memory.py --weights int8 --cache int8
python benchmarks/serving_memory.py --checkpoint runs/golden
"""

import dataclasses
import functools
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import rich.console
import rich.table
import tyro

from ola_jax.checkpoint import load_configs
from ola_jax.config import OlaConfig
from ola_jax.generate.encoding import table_rows
from ola_jax.generate.slots import empty_slots
from ola_jax.models.ola import Ola, init_params
from ola_jax.models.quantization import quantize_weights

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Args:
    """What is computed."""

    checkpoint: pathlib.Path | None = None  # whose model; else Ola-7b
    dtype: str = "bfloat16"  # of weights and cache
    slots: tuple[int, ...] = (1, 8, 16, 32)
    lengths: tuple[int, ...] = (4096, 8192, 16_384)
    weights: Literal["int8"] | None = None  # of the decoder's matrices
    cache: Literal["int8"] | None = None  # of keys and values


def size(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def weights(config: OlaConfig, dtype: str, int8: bool = False) -> int:
    """Bytes of all parameters, each in `dtype`; with `int8`, the decoder's matrices and their scales."""
    shapes = jax.eval_shape(functools.partial(init_params, config, seed=0))
    in_dtype = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), tree)
    shapes = in_dtype(shapes)
    return size(jax.eval_shape(quantize_weights, shapes) if int8 else shapes)


def state(
    config: OlaConfig, dtype: str, slots: int, length: int, cache: str | None = None
) -> tuple[int, int]:
    """Bytes of the cache (in `cache` or else `dtype`) with the state of the slots, and of the features."""
    kept = jnp.dtype(cache or dtype)
    made = jax.eval_shape(lambda: jax.tree.leaves(empty_slots(Ola(config), slots, length, kept)))
    table = table_rows(config, length) * config.llm.hidden_size * jnp.dtype(dtype).itemsize
    return size(made), table


def main(args: Args) -> None:
    config = load_configs(args.checkpoint)[0] if args.checkpoint else OlaConfig(dtype="bfloat16")
    held = weights(config, args.dtype, args.weights == "int8")
    table = rich.table.Table(title=f"GiB, {args}; weights {held / GIB:.2f}")
    for heading in ("slots", *(f"{length} tokens" for length in args.lengths)):
        table.add_column(heading, justify="right")
    for slots in args.slots:
        cells = []
        for length in args.lengths:
            cache, features = state(config, args.dtype, slots, length, args.cache)
            cells.append(f"{cache / GIB:.2f} + {features / GIB:.2f} = {(held + cache + features) / GIB:.2f}")
        table.add_row(str(slots), *cells)
    rich.console.Console(width=120).print(table)
    print(
        "cache of the slots + features of the media of one prompt = all with weights; temporaries come on top"
    )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
