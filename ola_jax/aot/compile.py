"""Compiling the training step of a stage for TPUs or GPUs that are not attached: its needs and bounds.

libtpu compiles for a topology such as "v5p:4x4x4" on any machine, the CUDA plugin for "h100:8": the real
program, kernels included.
Nothing is run, so times are bounds by the chip's peaks, not measurements.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh

from ola_jax import hardware, sharding
from ola_jax.aot import buffers, gpu_topology, hlo
from ola_jax.aot.report import Report
from ola_jax.batch import OlaBatch, spec
from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError, first_line
from ola_jax.models.ola import Ola
from ola_jax.training import flops, optimizer, state
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.step import make_train_step

_LAST_FILE = (
    "*after_optimizations_after_buffer_assignment.txt"  # the compiler writes it after those read here
)
_ERROR_FILE = "error.json"


class DoesNotFitError(OlaError):
    """The step needs more memory than a device has."""


def find_topology(name: str) -> Any:
    """The TPUs or GPUs of that name. Raises OlaError if the name or their compiler is not known."""
    if gpu_topology.is_gpu(name):
        return gpu_topology.find_topology(name)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # several kinds, by what is missing
        reason = first_line(error)
        if "lockfile" in reason:
            raise OlaError(
                f"topology {name!r}: another process has loaded libtpu; wait for it, or set "
                "ALLOW_MULTIPLE_LIBTPU_LOAD=1 if it only compiles as well"
            ) from error
        raise OlaError(
            f"topology {name!r}: {reason}; expected a name such as v5e:2x2, v5p:4x4x4 or h100:8, for TPUs "
            "libtpu installed (pip install libtpu), and TPU_SKIP_MDS_QUERY=1 set outside Google's cloud"
        ) from error


def compile_stage(config: TrainConfig, stage: Stage, topology: str) -> Report:
    """Compiles the step of `stage` for `topology`. Raises DoesNotFitError if the memory is too small."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        memory = _compile(config, stage, topology, folder).memory_analysis()
        seconds = time.perf_counter() - begin
        program = hlo.Program(_dumped(folder, "after_optimizations.txt"))
    sizes = buffers.Sizes(
        memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.host_argument_size_in_bytes
    )
    return _check_fits(
        _report(config, stage, topology, seconds=seconds, program=program, sizes=sizes, has_code=True)
    )


def analyze_stage(config: TrainConfig, stage: Stage, topology: str) -> Report:
    """Compiles like `compile_stage`, but generates no code, which saves minutes.

    The compiler is stopped, in a process of its own, when the program is optimized and scheduled and all
    memory is assigned. Failures of code generation are not found. Raises DoesNotFitError if the memory is
    too small.
    """
    if gpu_topology.is_gpu(topology):
        return compile_stage(
            config, stage, topology
        )  # it cannot be stopped there, and takes only seconds more
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = config, stage, topology, folder
        process = multiprocessing.get_context("spawn").Process(
            target=_compile_or_report, args=arguments, daemon=True
        )
        process.start()
        try:
            while process.is_alive() and not list(pathlib.Path(folder).glob(_LAST_FILE)):
                time.sleep(0.1)
        finally:
            process.kill()
            process.join()
        if (error := pathlib.Path(folder, _ERROR_FILE)).exists():
            kind, reason = json.loads(error.read_text())
            raise (DoesNotFitError if kind == DoesNotFitError.__name__ else OlaError)(reason)
        if not list(pathlib.Path(folder).glob(_LAST_FILE)):
            raise OlaError(
                f"{stage.name} on {topology}: the compiler's process ended with status {process.exitcode} "
                "and without a message; see its output above"
            )
        program = hlo.Program(_dumped(folder, "after_optimizations.txt"))
        sizes = buffers.read_sizes(_dumped(folder, "after_optimizations-buffer-assignment.txt"))
    seconds = time.perf_counter() - begin
    return _check_fits(
        _report(config, stage, topology, seconds=seconds, program=program, sizes=sizes, has_code=False)
    )


def measure_arguments(config: TrainConfig, stage: Stage, topology: str) -> float:
    """Bytes of a device that state and batch occupy (without padding)."""
    mesh = sharding.make_mesh(config.mesh, find_topology(topology).devices)
    train_state, _ = _abstract_state(config.model, stage, optimizer.build(stage.optimizer, stage.steps), mesh)
    leaves = jax.tree.leaves((train_state, _abstract_batch(config.model, stage, mesh)))
    on_device = [x for x in leaves if x.sharding.memory_kind != state.HOST]
    return float(sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in on_device))


def _compile(config: TrainConfig, stage: Stage, topology: str, folder: str) -> Any:
    """The compiled step; its program is dumped as text into `folder`."""
    mesh = sharding.make_mesh(config.mesh, find_topology(topology).devices)
    sharding.check_mesh(mesh, config.model, rows=stage.rows // stage.microbatches, budget=stage.budget)
    tx = optimizer.build(stage.optimizer, stage.steps)
    train_state, shardings = _abstract_state(config.model, stage, tx, mesh)
    with jax.set_mesh(mesh):
        step = make_train_step(
            Ola(config.model), tx, microbatches=stage.microbatches, shardings=shardings, adapters=stage.lora
        )
        if not isinstance(step, jax.stages.Wrapped):
            raise TypeError(f"expected a step from jax.jit, found {type(step).__name__}")
        lowered = step.lower(train_state, _abstract_batch(config.model, stage, mesh))
        # As text: this jaxlib cannot parse everything that a newer libtpu writes.
        options: dict[str, Any] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        if gpu_topology.is_gpu(topology):
            options |= gpu_topology.OPTIONS
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise DoesNotFitError(
                f"{stage.name} on {topology}, {stage.rows} rows, remat {config.model.remat}: {reason}"
            ) from error


def _compile_or_report(config: TrainConfig, stage: Stage, topology: str, folder: str) -> None:
    """Runs `_compile` in a process of its own, which writes its error to a file."""
    # The parent has loaded libtpu, which keeps other processes from the TPUs; none is used here.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    try:
        _compile(config, stage, topology, folder)
    except OlaError as error:
        _write_error(folder, type(error).__name__, str(error))
    except Exception as error:  # the compiler's own kinds
        where = f"{stage.name} on {topology}, {stage.rows} rows, remat {config.model.remat}"
        _write_error(folder, OlaError.__name__, f"{where}: the compiler failed: {first_line(error)}")


def _write_error(folder: str, kind: str, reason: str) -> None:
    beside = pathlib.Path(folder, "error.partial")
    beside.write_text(json.dumps([kind, reason]))
    beside.rename(pathlib.Path(folder, _ERROR_FILE))


def _dumped(folder: str, suffix: str) -> str:
    (file,) = pathlib.Path(folder).glob(f"*{suffix}")
    return file.read_text()


def _check_fits(report: Report) -> Report:
    """Returns the report. Raises DoesNotFitError if memory is too small: a GPU's compiler does not check."""
    if not report.fits:
        raise DoesNotFitError(f"{report.stage} on {report.topology} does not fit: {report.line()}")
    return report


def _report(
    config: TrainConfig,
    stage: Stage,
    topology: str,
    *,
    seconds: float,
    program: hlo.Program,
    sizes: buffers.Sizes,
    has_code: bool,
) -> Report:
    """The report of a program that was compiled in `seconds`."""
    devices = find_topology(topology).devices
    mesh = sharding.make_mesh(config.mesh, devices)
    chip = hardware.find_chip(devices[0].device_kind)
    found = hlo.count_collectives(program)
    count = lambda function: function(
        config.model, stage.budget, rows=stage.rows, trainable=stage.trainable, adapters=stage.lora
    )
    by_part, again = count(flops.count_step), count(flops.count_recomputed)
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
        flops={part: count / mesh.size for part, count in by_part.items()},
        recomputed=again / mesh.size,
        peak=chip,
        traffic=hlo.count_traffic(program),
        products=0.0 if gpu_topology.is_gpu(topology) else hlo.count_products(program),
        collectives=tuple(found[kind] for kind in hlo.COLLECTIVES if kind in found),
        kernels=hlo.count_kernels(program),
        open_loops=len(program.open_loops),
    )


def _abstract_state(
    config: OlaConfig, stage: Stage, tx: optax.GradientTransformation, mesh: Mesh
) -> tuple[state.TrainState, state.TrainState]:
    """The state's shapes with shardings, frozen parameters in the model's dtype.

    In a run they have the dtype they are stored in: that of `init_from` (bfloat16 in a release), and float32
    for parameters that an earlier stage trained or initialized, which then take twice this memory.
    """
    abstract, shardings = state.abstract_state(
        config, stage.trainable, tx, mesh=mesh, adapters=stage.lora, offload=stage.optimizer.offload
    )
    frozen = {p: jax.ShapeDtypeStruct(x.shape, config.dtype) for p, x in abstract.frozen.items()}
    shard = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(shard, dataclasses.replace(abstract, frozen=frozen), shardings), shardings


def _abstract_batch(config: OlaConfig, stage: Stage, mesh: Mesh) -> OlaBatch:
    splits = sharding.batch_shardings(mesh)
    fields: dict[str, Any] = {  # shapes instead of arrays
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=splits[name])
        for name, x in spec(config, stage.rows, stage.budget).items()
    }
    return OlaBatch(**fields)
