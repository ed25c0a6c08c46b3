"""The report of a compiled training step: its needs, and bounds on its speed."""

import dataclasses

from ola_jax import hardware
from ola_jax.aot import hlo


@dataclasses.dataclass(frozen=True)
class Report:
    """One step on one device; bytes and FLOPs are per device, rows and tokens of the global batch."""

    stage: str
    topology: str
    mesh: dict[str, int]
    rows: int
    tokens: int  # tokens that a batch has room for
    remat: str
    seconds: float  # to lower and compile
    has_code: bool  # else compiled until all memory was assigned; no code was generated
    arguments: float  # bytes of state and batch
    temporaries: float
    limit: float  # bytes of the device's memory
    host: float  # bytes of state in the memory of the device's host
    flops: dict[str, float]  # of the model, by part
    recomputed: float  # FLOPs that the backward pass repeats
    peak: hardware.Chip
    traffic: float  # bytes to and from the device's memory
    collectives: tuple[hlo.Collective, ...]
    kernels: dict[str, int]  # Pallas kernels by name, as the program's text has them
    products: float = 0.0  # FLOPs of the program's products outside kernels; 0 if not counted (GPUs)
    open_loops: int = 0  # whose number of iterations depends on the data; traffic has one of each

    @property
    def flop_seconds(self) -> float:
        """Seconds at the peak of the matrix units, recomputation included."""
        return (sum(self.flops.values()) + self.recomputed) / self.peak.flops

    @property
    def memory_seconds(self) -> float:
        """Seconds at the peak of the memory."""
        return self.traffic / self.peak.memory_bandwidth

    @property
    def link_seconds(self) -> float:
        """Seconds at the peak of all links: what collectives take if nothing hides them."""
        return sum(c.bytes for c in self.collectives) / self.peak.link_bandwidth

    @property
    def step_seconds(self) -> float:
        """The larger of the first two bounds."""
        return max(self.flop_seconds, self.memory_seconds)

    @property
    def mfu(self) -> float:
        """The largest possible model FLOPs utilization."""
        return sum(self.flops.values()) / self.peak.flops / self.step_seconds

    @property
    def fits(self) -> bool:
        """True if arguments and temporaries are within the device's memory."""
        return self.arguments + self.temporaries <= self.limit

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of all devices, at the bounds."""
        return self.tokens / self.step_seconds

    def line(self) -> str:
        """The report in one line."""
        gb = (self.arguments + self.temporaries) / 1e9
        return (
            f"{self.rows} rows, remat {self.remat}: {gb:.1f} of {self.limit / 1e9:.1f} GB, step at least "
            f"{self.step_seconds * 1e3:.0f} ms, at most {self.tokens_per_second:,.0f} tokens/s"
        )

    def _products(self) -> str:
        counted = f"; the program's products outside kernels: {self.products / 1e12:.2f}"
        return counted if self.products else ""

    def _loop_lines(self) -> list[str]:
        if not self.open_loops:
            return []
        return [
            f"  {self.open_loops} loops have as many iterations as the data needs (attention in blocks): "
            "the memory bound has one of each"
        ]

    def __str__(self) -> str:
        gb = lambda size: f"{size / 1e9:.2f} GB"
        axes = " ".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        parts = ", ".join(f"{part} {count / 1e12:.2f}" for part, count in self.flops.items())
        how = "compiled" if self.has_code else "memory assigned, no code generated,"
        kernels = ", ".join(f"{count} {name}" for name, count in self.kernels.items())
        lines = [
            f"{self.stage} on {self.topology} ({self.peak.name}; {axes}): {self.rows} rows, "
            f"{self.tokens:,} tokens, remat {self.remat}",
            f"  {how} in {self.seconds:.0f} s; kernels: {kernels or 'none'}",
            f"  memory of a device: arguments {gb(self.arguments)} + temporaries {gb(self.temporaries)} "
            f"of {gb(self.limit)}" + (f"; in its host {gb(self.host)}" if self.host else ""),
            f"  model TFLOPs of a device: {sum(self.flops.values()) / 1e12:.2f} ({parts}); "
            f"recomputed {self.recomputed / 1e12:.2f}" + self._products(),
            f"  bounds of a step: FLOPs {self.flop_seconds * 1e3:.1f} ms, memory "
            f"{self.memory_seconds * 1e3:.1f} ms ({gb(self.traffic)}); MFU at most {100 * self.mfu:.0f} %",
            *self._loop_lines(),
            f"  collectives ({self.link_seconds * 1e3:.1f} ms if nothing hides them):",
        ]
        for c in self.collectives:
            lines.append(f"    {c.kind}: {c.count}, {gb(c.bytes)}, {c.asynchronous} of them asynchronous")
        return "\n".join(lines)
