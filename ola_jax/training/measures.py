"""Figures of a step that the host computes: learning rates, MFU, memory, compilations."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from ola_jax import hardware
from ola_jax.config import OlaConfig
from ola_jax.training import flops, optimizer
from ola_jax.training.config import Stage
from ola_jax.training.metrics import part
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.typing import Float, HostArray


def peak_rates(config: OptimizerConfig, paths: Iterable[str]) -> dict[str, float]:
    """The peak learning rate of each part; "PART/lowest" and "PART/highest" if a part has several."""
    rates: dict[str, set[float]] = {}
    for path in paths:
        rates.setdefault(part(path), set()).add(optimizer.learning_rate(config, path))
    found = {}
    for name, values in sorted(rates.items()):
        if len(values) == 1:
            found[name] = values.pop()
        else:
            found |= {f"{name}/lowest": min(values), f"{name}/highest": max(values)}
    return found


def rate_shares(config: OptimizerConfig, steps: int) -> Float[HostArray, "steps"]:
    """The share of the peak rate at each update of a stage, on the host, so that no device is waited for."""
    return np.asarray(jax.vmap(optimizer.schedule(config, steps))(np.arange(steps, dtype=np.int32)))


def peak_is_known(mesh: Mesh) -> bool:
    """True if hardware.py has figures for these devices."""
    return mesh.devices.flat[0].device_kind in hardware.CHIPS


def seconds_at_peak(config: OlaConfig, stage: Stage, mesh: Mesh) -> dict[str, float]:
    """Seconds that a step's FLOPs take at the peak of all devices: "llm" and "encoders" (with projectors).

    Divided by the seconds of a step: the MFU. Empty if hardware.py has no figures for the devices.
    """
    if not peak_is_known(mesh):
        return {}
    peak = hardware.find_chip(mesh.devices.flat[0].device_kind).flops * mesh.size
    by_part = flops.count_step(
        config, stage.budget, rows=stage.rows, trainable=stage.trainable, adapters=stage.lora
    )
    llm = by_part.pop("llm")
    return {"llm": llm / peak} | ({"encoders": sum(by_part.values()) / peak} if by_part else {})


@runtime_checkable
class ReportsMemory(Protocol):
    """A device, as far as its memory is concerned; `jax.Device` is one."""

    def memory_stats(self) -> dict[str, int] | None:
        """Figures by the backend's names, in bytes; None if it has none."""


def memory(devices: Sequence[ReportsMemory]) -> dict[str, int]:
    """Bytes in use, and at most so far, on the fullest device; empty if the backend does not report them."""
    found = [stats for device in devices if (stats := device.memory_stats())]
    names = {"memory/in_use": "bytes_in_use", "memory/peak": "peak_bytes_in_use"}
    return {
        name: max(stats[key] for stats in found)
        for name, key in names.items()
        if found and all(key in stats for stats in found)
    }


class Compilations:
    """Counts the compilations of a function, by JAX's own events, until it is closed."""

    def __init__(self, function: str):
        self._function = function
        self._seconds: list[float] = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event.endswith("backend_compile_duration") and self._function in str(about.get("fun_name")):
            self._seconds.append(duration_secs)

    def take(self) -> list[float]:
        """Seconds of each compilation since the last call."""
        taken, self._seconds = self._seconds, []
        return taken

    def close(self) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._listen)
