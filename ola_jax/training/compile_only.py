"""Compiles a stage's training step for TPUs that are not there, and tells what it needs and can reach.

libtpu compiles for a topology such as "v5p:4x4x4" on any machine: the real program, kernels included.
Nothing is run, so times are bounds: what the chip's peaks allow, not what was measured.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh

from ola_jax import hardware, sharding
from ola_jax.batch import Budget, OlaBatch
from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola
from ola_jax.training import flops, hlo, optimizer, state
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Report:
    """Of one step on one device; bytes and FLOPs are per device, rows and tokens of the whole batch."""

    stage: str
    topology: str
    mesh: dict[str, int]
    rows: int
    tokens: int  # places for tokens in a batch
    remat: str
    seconds: float  # to lower and compile
    arguments: float  # bytes of state and batch
    temporaries: float
    limit: float  # bytes of the device's memory
    flops: dict[str, float]  # of the model, by part
    recomputed: float  # FLOPs that the backward pass does again
    peak: hardware.Chip
    traffic: float  # bytes to and from the device's memory
    collectives: tuple[hlo.Collective, ...]

    @property
    def flop_seconds(self) -> float:
        """At the peak of the matrix units, recomputation included."""
        return (sum(self.flops.values()) + self.recomputed) / self.peak.flops

    @property
    def memory_seconds(self) -> float:
        """At the peak of the memory."""
        return self.traffic / self.peak.memory_bandwidth

    @property
    def link_seconds(self) -> float:
        """At the peak of all links: what collectives take if nothing hides them."""
        return sum(c.bytes for c in self.collectives) / self.peak.link_bandwidth

    @property
    def step_seconds(self) -> float:
        """The larger of the first two bounds."""
        return max(self.flop_seconds, self.memory_seconds)

    @property
    def mfu(self) -> float:
        """The largest possible model FLOPs utilisation."""
        return sum(self.flops.values()) / self.peak.flops / self.step_seconds

    def __str__(self) -> str:
        gb = lambda size: f"{size / 1e9:.2f} GB"
        axes = " ".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        parts = ", ".join(f"{part} {of_part / 1e12:.2f}" for part, of_part in self.flops.items())
        lines = [
            f"{self.stage} on {self.topology} ({self.peak.name}; {axes}): {self.rows} rows, "
            f"{self.tokens:,} tokens, remat {self.remat}",
            f"  compiled in {self.seconds:.0f} s",
            f"  memory of a device: arguments {gb(self.arguments)} + temporaries {gb(self.temporaries)} "
            f"of {gb(self.limit)}",
            f"  model TFLOPs of a device: {sum(self.flops.values()) / 1e12:.2f} ({parts}); "
            f"computed again {self.recomputed / 1e12:.2f}",
            f"  bounds of a step: FLOPs {self.flop_seconds * 1e3:.1f} ms, memory "
            f"{self.memory_seconds * 1e3:.1f} ms ({gb(self.traffic)}); MFU at most {100 * self.mfu:.0f} %",
            f"  collectives ({self.link_seconds * 1e3:.1f} ms if nothing hides them):",
        ]
        for c in self.collectives:
            lines.append(f"    {c.kind}: {c.count}, {gb(c.bytes)}, {c.asynchronous} of them asynchronous")
        return "\n".join(lines)


def find_topology(name: str) -> Any:
    """The topology of that name. Raises OlaError without libtpu or for a name it does not know."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # several kinds, by what is missing
        reason = str(error).strip().splitlines()[0][:200]
        raise OlaError(
            f"topology {name!r}: {reason}; expected a name such as v5e:2x2 or v5p:4x4x4, libtpu installed "
            "(pip install libtpu), and TPU_SKIP_MDS_QUERY=1 set outside Google's cloud"
        ) from error


def compile_stage(config: TrainConfig, stage: Stage, topology: str) -> Report:
    """Compile the step of `stage` for `topology`. Raises OlaError where it does not fit the memory."""
    devices = find_topology(topology).devices
    mesh = sharding.make_mesh(config.mesh, devices)
    sharding.check(mesh, config.model, stage.rows // stage.microbatches, stage.budget)
    tx = optimizer.build(stage.optimizer, stage.steps)
    train_state, shardings = _abstract_state(config.model, stage, tx, mesh)
    begin = time.perf_counter()
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        step = make_train_step(Ola(config.model), tx, stage.microbatches, shardings, stage.lora)
        lowered = step.lower(train_state, _abstract_batch(config.model, stage, mesh))
        # The program's text is dumped: this jaxlib cannot read all that a newer libtpu writes.
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise OlaError(
                f"{stage.name} on {topology}, {stage.rows} rows, remat {config.model.remat}: {reason}"
            ) from error
        seconds = time.perf_counter() - begin
        (file,) = pathlib.Path(folder).glob("*after_optimizations.txt")
        program = hlo.Program(file.read_text())
    memory = compiled.memory_analysis()
    found = hlo.collectives(program)
    chip = hardware.chip(devices[0].device_kind)
    of_parts = flops.step(config.model, stage.budget, stage.rows, stage.trainable)
    again = flops.recomputed(config.model, stage.budget, stage.rows, stage.trainable)
    return Report(
        stage=stage.name,
        topology=topology,
        mesh=dict(mesh.shape),
        rows=stage.rows,
        tokens=stage.rows * stage.budget.tokens,
        remat=config.model.remat,
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        limit=chip.memory,
        flops={part: of_part / mesh.size for part, of_part in of_parts.items()},
        recomputed=again / mesh.size,
        peak=chip,
        traffic=hlo.traffic(program),
        collectives=tuple(found[kind] for kind in hlo.COLLECTIVES if kind in found),
    )


def plan(config: TrainConfig, stage: Stage, topology: str, show: Callable[[str], None] = print) -> Report:
    """The fastest that fits, by tokens a second at the bounds, over rows of a device and remat policies.

    Rows are doubled until they do not fit. Each candidate is told to `show`. Raises OlaError where none fits.
    """
    mesh = sharding.make_mesh(config.mesh, find_topology(topology).devices)
    groups = mesh.shape["data"] * mesh.shape["fsdp"] * stage.microbatches
    best: Report | None = None
    for remat in ("none", "dots", "full"):
        model = dataclasses.replace(config.model, remat=remat)
        rows = groups
        while True:
            candidate = dataclasses.replace(stage, rows=rows)
            try:
                report = compile_stage(dataclasses.replace(config, model=model), candidate, topology)
            except OlaError as error:
                show(str(error))
                break
            show(str(report))
            speed = lambda r: r.tokens / r.step_seconds
            if best is None or speed(report) > 1.01 * speed(best):
                best = report
            elif best.remat == remat:
                break  # more rows gain nothing
            rows *= 2
    if best is None:
        raise OlaError(
            f"{stage.name} on {topology}: no batch fits; split more (mesh) or shorten the rows (budget)"
        )
    return best


def _abstract_state(
    config: OlaConfig, stage: Stage, tx: optax.GradientTransformation, mesh: Mesh
) -> tuple[state.TrainState, state.TrainState]:
    """The state's shapes with shardings, frozen parameters in the model's dtype."""
    abstract, shardings = state.shard(config, stage.trainable, tx, mesh, stage.lora)
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
