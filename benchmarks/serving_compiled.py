"""Memory of the engine's programs for the 7B decoder on TPUs, by their compiler, without a TPU.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/serving_compiled.py --topology v5e:2x2 --tensor 4

Needs libtpu. Weights are bfloat16; arguments are weights, cache and the state of the answers, on each chip.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from ola_jax.aot.compile import find_topology
from ola_jax.config import OlaConfig
from ola_jax.generate import slots
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.sharding import MeshConfig, make_mesh, parameter_shardings

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Args:
    """An engine, and the chips that it is compiled for."""

    topology: str = "v5e:2x2"
    tensor: int = 4  # chips that the decoder is split over
    slots: int = 8
    length: int = 4096
    chunk: int = 256
    steps: int = 4


def main(args: Args) -> None:
    """Compile both programs and print what they need."""
    mesh = make_mesh(MeshConfig(tensor=args.tensor), find_topology(args.topology).devices)
    config = OlaConfig(dtype="bfloat16", vision=None, whisper=None, beats=None)
    model, boxed = Ola(config), abstract_params(config)
    whole = NamedSharding(mesh, PartitionSpec())
    heads = NamedSharding(mesh, PartitionSpec(None, None, None, "tensor"))
    on = lambda sharding: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    half = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=sharding)
    params = jax.tree.map(half, nn.unbox(boxed), parameter_shardings(boxed, mesh))
    state = jax.eval_shape(lambda: slots.empty_slots(model, args.slots, args.length, jnp.dtype("bfloat16")))
    cache = jax.tree.map(on(heads), state.cache)
    state = slots.Slots(cache=cache, answering=jax.tree.map(on(whole), state.answering))
    array = lambda *shape, dtype="int32": jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
    table = array(args.length + 7, config.llm.hidden_size, dtype="bfloat16")
    chunk = array(args.chunk), array(args.chunk), table
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        going = array(args.slots, dtype="bool")
        report("answers", slots.advance.lower(model, params, state, going, args.steps))
        report("prompts", slots.read_chunk.lower(model, params, cache, array(), array(), array(), *chunk))


def report(name: str, lowered: Any) -> None:
    """A line about one program."""
    memory = lowered.compile().memory_analysis()
    print(
        f"{name}: arguments {memory.argument_size_in_bytes / GIB:.2f} GiB, of which "
        f"{memory.alias_size_in_bytes / GIB:.2f} are updated in place; temporaries "
        f"{memory.temp_size_in_bytes / GIB:.3f} GiB"
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
