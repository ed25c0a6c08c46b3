"""The engine's two programs for the 7B decoder, compiled for TPUs or a GPU that are not attached.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/serving_compiled.py --topology v5e:2x2 --tensor 4
    JAX_PLATFORMS=cpu python benchmarks/serving_compiled.py --topology h100 --slots 1 --weights int8

Needs libtpu or the CUDA plugin (`pip install "ola_jax[aot-cuda]"`). What is not int8 is bfloat16.
Arguments are weights, cache and the state of the answers, on each device. The time of a call is bounded by
the bytes that the program reads and writes, as its text has them, at the peak of the device's memory;
attention over the cache counts one block of positions. The share is that of the weights, each read once.
"""

import dataclasses
import pathlib
import tempfile
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from ola_jax.aot import gpu_topology, hlo
from ola_jax.aot.compile import find_topology
from ola_jax.config import OlaConfig
from ola_jax.generate import slots
from ola_jax.hardware import find_chip
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.models.quantization import abstract_quantized
from ola_jax.sharding import MeshConfig, make_mesh, parameter_shardings

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Args:
    """An engine, and the devices that it is compiled for."""

    topology: str = "v5e:2x2"
    tensor: int = 1  # devices that the decoder is split over
    slots: int = 8
    length: int = 4096
    chunk: int = 256
    steps: int = 4
    layers: int = 28  # fewer compile no faster, but read faster
    weights: Literal["int8"] | None = None
    cache: Literal["int8"] | None = None


def main(args: Args) -> None:
    """Compile both programs and print what they need."""
    devices = find_topology(args.topology).devices
    mesh = make_mesh(MeshConfig(tensor=args.tensor), devices)
    config = OlaConfig(dtype="bfloat16", vision=None, whisper=None, beats=None)
    config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, num_layers=args.layers))
    model, boxed = Ola(config), abstract_params(config)
    if args.weights == "int8":
        boxed = abstract_quantized(boxed)
    whole = NamedSharding(mesh, PartitionSpec())
    heads = NamedSharding(mesh, PartitionSpec(None, None, None, "tensor"))
    on = lambda sharding: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def weight(path: Any, x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        scale = args.weights == "int8" and "scale" in str(path[-1])
        kept = x.dtype if x.dtype == jnp.int8 or scale else jnp.bfloat16
        return jax.ShapeDtypeStruct(x.shape, kept, sharding=sharding)

    params = jax.tree_util.tree_map_with_path(weight, nn.unbox(boxed), parameter_shardings(boxed, mesh))
    if gpu_topology.is_gpu(args.topology):  # as the engine has them there
        of_layer = lambda sharding: NamedSharding(mesh, PartitionSpec(*sharding.spec[1:]))
        one = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=of_layer(x.sharding))
        layer = jax.tree.map(one, params["llm"]["layers"])
        params["llm"]["layers"] = {str(number): layer for number in range(args.layers)}
    dtype = jnp.dtype(args.cache or "bfloat16")
    state = jax.eval_shape(lambda: slots.empty_slots(model, args.slots, args.length, dtype))
    cache = jax.tree.map(on(heads), state.cache)
    state = slots.Slots(cache=cache, answering=jax.tree.map(on(whole), state.answering))
    array = lambda *shape, dtype="int32": jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
    table = array(args.length + 7, config.llm.hidden_size, dtype="bfloat16")
    chunk = array(args.chunk), array(args.chunk), table
    decoder = {key: value for key, value in params["llm"].items() if key != "embed_tokens"}
    least = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(decoder)) / args.tensor
    print(f"{args}; the decoder's weights without embeddings: {least / GIB:.2f} GiB on each device")
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        going = array(args.slots, dtype="bool")
        answers = slots.advance.lower(model, params, state, array(), going, args.steps, args.slots)
        prompts = slots.read_chunk.lower(model, params, cache, array(), array(), array(), *chunk)
    chip = find_chip(devices[0].device_kind)
    flops = 2 * least / (1 if args.weights == "int8" else 2)  # of a token, on a device
    for name, lowered, repeats, tokens in (
        ("answers", answers, args.steps, args.slots),
        ("prompts", prompts, 1, args.chunk),
    ):
        memory, traffic = compiled(lowered, args.topology)
        bytes_bound = traffic / repeats / chip.memory_bandwidth
        bound = max(bytes_bound, tokens * flops / chip.flops)
        print(
            f"{name}: arguments {memory.argument_size_in_bytes / GIB:.2f} GiB, of which "
            f"{memory.alias_size_in_bytes / GIB:.2f} are updated in place; temporaries "
            f"{memory.temp_size_in_bytes / GIB:.3f} GiB; {traffic / repeats / GIB:.2f} GiB moved for "
            f"{tokens} tokens, {100 * least / (traffic / repeats):.0f} % of them the weights; "
            f"{tokens * flops / 1e12:.3f} TFLOP; at least {1e3 * bound:.2f} ms, at most "
            f"{tokens / bound:.0f} tokens/s"
        )


def compiled(lowered: Any, topology: str) -> tuple[Any, float]:
    """What a program needs of the memory, and the bytes that it reads and writes."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        if gpu_topology.is_gpu(topology):
            options |= gpu_topology.OPTIONS
        memory = lowered.compile(compiler_options=options).memory_analysis()
        (file,) = pathlib.Path(folder).glob("*after_optimizations.txt")
        return memory, hlo.count_traffic(hlo.Program(file.read_text()))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
