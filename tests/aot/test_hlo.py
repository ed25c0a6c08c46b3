import jax
import jax.numpy as jnp
import numpy as np

from ola_jax import sharding
from ola_jax.aot import hlo
from ola_jax.sharding import MeshConfig

TPU = """
HloModule m

%fused (p0: bf16[5,8,4], p1: s32[]) -> bf16[8,4] {
  %p0 = bf16[5,8,4]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %slice = bf16[1,8,4]{2,1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8,4}
}

%all-reduce-scatter.1 (input: bf16[8,4]) -> bf16[2,4] {
  %input = bf16[8,4]{1,0} parameter(0)
  ROOT %all-reduce.7 = bf16[8,4]{1,0} all-reduce(%input), channel_id=3, to_apply=%add
}

%started (p: bf16[2,4]) -> bf16[8,4] {
  %p = bf16[2,4]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,4]{1,0} all-gather(%p), channel_id=9, dimensions={0}
}

%waited (q: bf16[2,4]) -> bf16[8,4] {
  %q = bf16[2,4]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,4]{1,0} all-gather(%q), channel_id=9, dimensions={0}
}

%condition (t: (s32[])) -> pred[] {
  %limit = s32[] constant(5)
  %t = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (t2: (s32[])) -> (s32[]) {
  %t2 = (s32[]) parameter(0)
  %i2 = s32[] get-tuple-element(%t2), index=0
  %stack = bf16[5,8,4]{2,1,0} constant({...})
  %near = bf16[8,4]{1,0:S(1)} fusion(%stack, %i2), kind=kLoop, calls=%fused
  %async-collective-start.1 = bf16[8,4]{1,0} fusion(%near), kind=kCustom, calls=%started
  %async-collective-done.1 = bf16[8,4]{1,0} fusion(%near), kind=kCustom, calls=%waited
  %scattered = bf16[2,4]{1,0} fusion(%async-collective-done.1), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t3 = (s32[]) tuple(%i2)
}

ENTRY %main (a: s32[]) -> (s32[]) {
  %a = s32[] parameter(0)
  %start = (s32[]) tuple(%a)
  ROOT %loop = (s32[]) while(%start), condition=%condition, body=%body
}
"""


def test_loops_are_counted_out_and_parts_of_an_asynchronous_collective_once() -> None:
    program = hlo.Program(TPU)
    assert program.runs == {"main": 1, "body": 5}
    found = hlo.count_collectives(program)
    assert found["all-gather"] == hlo.Collective("all-gather", 5, 320.0, 5)
    assert found["reduce-scatter"] == hlo.Collective("reduce-scatter", 5, 320.0, 0)
    # Each round: a slice of the stack (64 bytes) and the place in it (4) are read, the result is near (VMEM);
    # the scatter reads 64 and writes 16.
    assert hlo.count_traffic(program) == 5 * (64 + 4 + 64 + 16)


GPU = """
ENTRY %main (a: bf16[8,4]) -> bf16[8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %first.3 = bf16[8,4]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", backend_config={"x"}
  ROOT %mpmd_map.26 = bf16[8,4]{1,0} custom-call(%first.3), custom_call_target="mosaic_gpu_v2", \
metadata={op_name="jit(step)/pooler/shard_map/second/mpmd_map" scheduling_name="mpmd_map.26"}
}
"""


def test_kernels_are_counted_by_name_also_where_the_instruction_has_none() -> None:
    assert hlo.count_kernels(hlo.Program(GPU)) == {"first": 1, "second": 1}


def test_a_loop_of_unknown_length_counts_once_and_is_told() -> None:
    program = hlo.Program(TPU.replace("%limit = s32[] constant(5)", "%limit = s32[] parameter(1)"))
    assert program.open_loops == {"loop"}
    assert program.runs == {"main": 1, "body": 1}


def test_a_compiled_program_gathers_each_layers_weights_once() -> None:
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    layers, width = 6, 64

    def forward(weights: jax.Array, x: jax.Array) -> jax.Array:
        layer = lambda x, w: (jnp.tanh(x @ sharding.gather_weight(w, ("embed", "features"))), None)
        return jax.lax.scan(layer, x, weights)[0]

    split = sharding.parameter_spec(("layers", "embed", "features"), (layers, width, width), mesh.shape)
    place = lambda spec: jax.sharding.NamedSharding(mesh, spec)
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(
                forward,
                in_shardings=(place(split), place(sharding.activation_spec("rows", None))),
                out_shardings=place(sharding.activation_spec("rows", None)),
            )
            .lower(np.zeros((layers, width, width), np.float32), np.zeros((8, width), np.float32))
            .compile()
        )
    found = hlo.count_collectives(hlo.Program(compiled.as_text()))
    assert set(found) == {"all-gather"}
    assert (found["all-gather"].count, found["all-gather"].bytes) == (layers, layers * width * width * 4)


NESTED = """
%sliced (s0: bf16[5,8,4], s1: s32[]) -> bf16[8,4] {
  %s0 = bf16[5,8,4]{2,1,0} parameter(0)
  %s1 = s32[] parameter(1)
  %one = bf16[1,8,4]{2,1,0} dynamic-slice(%s0, %s1), dynamic_slice_sizes={1,8,4}
  ROOT %flat = bf16[8,4]{1,0} bitcast(%one)
}

%relabelled (r0: bf16[1,4,16]) -> bf16[4,16] {
  %r0 = bf16[1,4,16]{2,1,0} parameter(0)
  ROOT %r1 = bf16[4,16]{1,0} bitcast(%r0)
}

%multiplied (m0: bf16[5,8,4], m1: s32[], m2: bf16[1,4,16]) -> bf16[8,16] {
  %m0 = bf16[5,8,4]{2,1,0} parameter(0)
  %m1 = s32[] parameter(1)
  %m2 = bf16[1,4,16]{2,1,0} parameter(2)
  %left = bf16[8,4]{1,0} fusion(%m0, %m1), kind=kLoop, calls=%sliced
  %right = bf16[4,16]{1,0} fusion(%m2), kind=kLoop, calls=%relabelled
  ROOT %product = bf16[8,16]{1,0} convolution(%left, %right), dim_labels=bf_io->bf
}

ENTRY %main (a: bf16[5,8,4], i: s32[], w: bf16[1,4,16]) -> bf16[8,16] {
  %a = bf16[5,8,4]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %w = bf16[1,4,16]{2,1,0} parameter(2)
  ROOT %out = bf16[8,16]{1,0} fusion(%a, %i, %w), kind=kOutput, calls=%multiplied
}
"""


def test_a_stack_that_a_fusion_within_a_fusion_slices_is_not_read_whole() -> None:
    # The slice of the stack (64 bytes), the place in it (4), the matrix (128); the product (256) is written.
    assert hlo.count_traffic(hlo.Program(NESTED)) == 64 + 4 + 128 + 256


def test_products_are_counted_within_fusions_and_with_their_windows() -> None:
    assert hlo.count_products(hlo.Program(NESTED)) == 2 * 8 * 4 * 16
    # As XLA writes batched products: of 7 positions each sees those of 4 that its window of 4 covers.
    windowed = NESTED.replace("bf16[8,4]{1,0} fusion(%m0", "bf16[8,4,4]{2,1,0} fusion(%m0")
    windowed = windowed.replace("bf16[4,16]{1,0} fusion(%m2", "bf16[4,16,4]{2,1,0} fusion(%m2")
    windowed = windowed.replace("ROOT %product = bf16[8,16]{1,0}", "ROOT %product = bf16[8,16,7]{2,1,0}")
    windowed = windowed.replace("dim_labels=bf_io->bf", "window={size=4 pad=3_3}, dim_labels=bf0_io0->bf0")
    assert hlo.count_products(hlo.Program(windowed)) == 2 * 8 * 4 * 16 * (1 + 2 + 3 + 4 + 3 + 2 + 1)
