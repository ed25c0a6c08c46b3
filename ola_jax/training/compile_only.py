"""Compiles a stage's training step for TPUs or GPUs that are not there: what it needs and can reach.

libtpu compiles for a topology such as "v5p:4x4x4" on any machine, the CUDA plugin for "h100:8": the real
program, kernels included.
Nothing is run, so times are bounds: what the chip's peaks allow, not what was measured.
"""

import multiprocessing
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh

from ola_jax import gpu_topology, hardware, sharding
from ola_jax.batch import Budget, OlaBatch
from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola
from ola_jax.training import buffers, flops, hlo, optimizer, state
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.step import make_train_step
from ola_jax.training.step_report import Report

_LAST_FILE = (
    "*after_optimizations_after_buffer_assignment.txt"  # the compiler writes it after those read here
)
_ERROR_FILE = "error.txt"


def find_topology(name: str) -> Any:
    """The TPUs or GPUs of that name. Raises OlaError where it, or their compiler, is not known."""
    if gpu_topology.is_gpu(name):
        return gpu_topology.find(name)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # several kinds, by what is missing
        reason = str(error).strip().splitlines()[0][:200]
        raise OlaError(
            f"topology {name!r}: {reason}; expected a name such as v5e:2x2, v5p:4x4x4 or h100:8, for TPUs "
            "libtpu installed (pip install libtpu), and TPU_SKIP_MDS_QUERY=1 set outside Google's cloud"
        ) from error


def compile_stage(config: TrainConfig, stage: Stage, topology: str) -> Report:
    """Compile the step of `stage` for `topology`. Raises OlaError where it does not fit the memory."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        memory = _compile(config, stage, topology, folder).memory_analysis()
        seconds = time.perf_counter() - begin
        program = hlo.Program(_dumped(folder, "after_optimizations.txt"))
    sizes = buffers.Sizes(
        memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.host_argument_size_in_bytes
    )
    return _checked(_report(config, stage, topology, seconds, program, sizes, has_code=True))


def analyze_stage(config: TrainConfig, stage: Stage, topology: str) -> Report:
    """As `compile_stage`, but without code: minutes less.

    The compiler is stopped, in a process of its own, when the program is optimized and scheduled and all
    memory assigned. What fails later, when code is generated, is not found. Raises OlaError where the
    step does not fit the memory.
    """
    if gpu_topology.is_gpu(topology):
        return compile_stage(config, stage, topology)  # has no such point to stop at, and needs seconds more
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = config, stage, topology, folder
        process = multiprocessing.get_context("spawn").Process(
            target=_compile_or_tell, args=arguments, daemon=True
        )
        process.start()
        try:
            while process.is_alive() and not list(pathlib.Path(folder).glob(_LAST_FILE)):
                time.sleep(0.1)
        finally:
            process.kill()
            process.join()
        if (error := pathlib.Path(folder, _ERROR_FILE)).exists():
            raise OlaError(error.read_text())
        if not list(pathlib.Path(folder).glob(_LAST_FILE)):
            raise OlaError(f"{stage.name} on {topology}: the compiler ended with status {process.exitcode}")
        program = hlo.Program(_dumped(folder, "after_optimizations.txt"))
        sizes = buffers.read(_dumped(folder, "after_optimizations-buffer-assignment.txt"))
    seconds = time.perf_counter() - begin
    return _checked(_report(config, stage, topology, seconds, program, sizes, has_code=False))


def arguments(config: TrainConfig, stage: Stage, topology: str) -> float:
    """Bytes of a device that state and batch take (without padding), before anything is computed."""
    mesh = sharding.make_mesh(config.mesh, find_topology(topology).devices)
    train_state, _ = _abstract_state(config.model, stage, optimizer.build(stage.optimizer, stage.steps), mesh)
    leaves = jax.tree.leaves((train_state, _abstract_batch(config.model, stage, mesh)))
    on_device = [x for x in leaves if x.sharding.memory_kind != state.HOST]
    return float(sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in on_device))


def _compile(config: TrainConfig, stage: Stage, topology: str, folder: str) -> Any:
    """The compiled step; its texts are dumped into `folder`."""
    mesh = sharding.make_mesh(config.mesh, find_topology(topology).devices)
    sharding.check(mesh, config.model, stage.rows // stage.microbatches, stage.budget)
    tx = optimizer.build(stage.optimizer, stage.steps)
    train_state, shardings = _abstract_state(config.model, stage, tx, mesh)
    with jax.set_mesh(mesh):
        step = make_train_step(Ola(config.model), tx, stage.microbatches, shardings, stage.lora)
        lowered = step.lower(train_state, _abstract_batch(config.model, stage, mesh))
        # Texts are dumped: this jaxlib cannot read all that a newer libtpu writes.
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        if gpu_topology.is_gpu(topology):
            options |= gpu_topology.OPTIONS
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise OlaError(
                f"{stage.name} on {topology}, {stage.rows} rows, remat {config.model.remat}: {reason}"
            ) from error


def _compile_or_tell(config: TrainConfig, stage: Stage, topology: str, folder: str) -> None:
    """`_compile` in a process of its own, which leaves an OlaError as a file."""
    try:
        _compile(config, stage, topology, folder)
    except OlaError as error:
        pathlib.Path(folder, _ERROR_FILE).write_text(str(error))


def _dumped(folder: str, suffix: str) -> str:
    (file,) = pathlib.Path(folder).glob(f"*{suffix}")
    return file.read_text()


def _checked(report: Report) -> Report:
    """The report. Raises OlaError where the step does not fit: the compiler for GPUs does not mind."""
    if not report.fits:
        raise OlaError(f"{report.stage} on {report.topology} does not fit: {report.line()}")
    return report


def _report(
    config: TrainConfig,
    stage: Stage,
    topology: str,
    seconds: float,
    program: hlo.Program,
    sizes: buffers.Sizes,
    has_code: bool,
) -> Report:
    devices = find_topology(topology).devices
    mesh = sharding.make_mesh(config.mesh, devices)
    chip = hardware.chip(devices[0].device_kind)
    found = hlo.collectives(program)
    of_parts = flops.step(config.model, stage.budget, stage.rows, stage.trainable, stage.lora)
    again = flops.recomputed(config.model, stage.budget, stage.rows, stage.trainable, stage.lora)
    return Report(
        stage=stage.name,
        topology=topology,
        mesh=dict(mesh.shape),
        rows=stage.rows,
        tokens=stage.rows * stage.budget.tokens,
        remat=config.model.remat,
        seconds=seconds,
        has_code=has_code,
        arguments=sizes.arguments,
        temporaries=sizes.temporaries,
        limit=chip.memory,
        host=sizes.host,
        flops={part: of_part / mesh.size for part, of_part in of_parts.items()},
        recomputed=again / mesh.size,
        peak=chip,
        traffic=hlo.traffic(program),
        collectives=tuple(found[kind] for kind in hlo.COLLECTIVES if kind in found),
        kernels=hlo.kernels(program),
        open_loops=len(program.open_loops),
    )


def _abstract_state(
    config: OlaConfig, stage: Stage, tx: optax.GradientTransformation, mesh: Mesh
) -> tuple[state.TrainState, state.TrainState]:
    """The state's shapes with shardings, frozen parameters in the model's dtype.

    In a run they have the dtype they are stored in: that of `init_from` (a release's is bfloat16), and
    float32 for what an earlier stage trained or started at random, which then takes twice this memory.
    """
    abstract, shardings = state.shard(config, stage.trainable, tx, mesh, stage.lora, stage.optimizer.offload)
    frozen = {p: jax.ShapeDtypeStruct(x.shape, config.dtype) for p, x in abstract.frozen.items()}
    place = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
    return jax.tree.map(place, abstract.replace(frozen=frozen), shardings), shardings


def batch_shapes(config: OlaConfig, rows: int, budget: Budget) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each field of a batch."""
    patch_bytes = 3 * config.vision.patch_size**2 if config.vision else 768
    tokens, patches = (rows, budget.tokens), (rows, budget.windows, budget.window_patches)
    by_token = ("tokens", "positions", "segments", "targets", "source")
    shapes = dict.fromkeys(by_token, jax.ShapeDtypeStruct(tokens, np.int32))
    shapes["patches"] = jax.ShapeDtypeStruct((*patches, patch_bytes), np.uint8)
    shapes["patch_image"] = jax.ShapeDtypeStruct(patches, np.int32)
    shapes["patch_position"] = jax.ShapeDtypeStruct((*patches, 4), np.int32)
    audio = (rows, budget.audio_chunks, config.chunk_samples)
    return shapes | {"audio": jax.ShapeDtypeStruct(audio, np.float32)}


def _abstract_batch(config: OlaConfig, stage: Stage, mesh: Mesh) -> OlaBatch:
    splits = sharding.batch_shardings(mesh)
    shapes = batch_shapes(config, stage.rows, stage.budget)
    return OlaBatch(
        **{f: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=splits[f]) for f, x in shapes.items()}
    )
