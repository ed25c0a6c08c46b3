"""Reporting a run: the figures of every step, on the terminal and in the sinks; bad steps with their records.

The figures of a step are fetched while the next one runs, so that the device never waits for the host.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import Mesh

from ola_jax.data.pipeline import TrainBatch
from ola_jax.training import health, measures
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.measures import Compilations
from ola_jax.training.progress import ProgressBar
from ola_jax.training.sinks import JsonLines, Sink, TensorBoard, WeightsAndBiases
from ola_jax.training.state import TrainState
from ola_jax.training.step import Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A step that was dispatched to the device."""

    number: int
    metrics: Metrics
    batch: TrainBatch
    waited: float  # seconds for the batch
    compiled: float  # seconds, if the step was compiled for this batch
    recompilations: int  # so far


class Watch:
    """Reports the steps of one stage, from the one after `state`'s. Files are in `folder`."""

    def __init__(
        self, config: TrainConfig, stage: Stage, state: TrainState, *, mesh: Mesh, folder: pathlib.Path
    ):
        start, process = int(state.step), jax.process_index()
        self._config, self._stage = config, stage
        self._peak_rates = measures.peak_rates(stage.optimizer, state.trained)
        self._rate_shares = measures.rate_shares(stage.optimizer, stage.steps)
        self._at_peak = measures.seconds_at_peak(config.model, stage, mesh)
        self._devices = [d for d in mesh.devices.flat if d.process_index == process]
        self._sinks = _open_sinks(config, stage, folder, start) if process == 0 else []
        self._bad_file = folder / (f"bad_batches_{process}.jsonl" if process else "bad_batches.jsonl")
        self._bad = JsonLines(self._bad_file, start)
        self._compilations = Compilations("train_step")
        self._recompilations, self._first = 0, start + 1
        self._progress = ProgressBar(stage.name, stage.steps, start, silent=process > 0)
        self._pending: _Step | None = None
        self._waited = 0.0
        self._begin = self._clock = time.perf_counter()  # of the run, and of the current step
        self._shown_tokens, self._shown_seconds = 0.0, 0.0  # since the last update of the bar
        self.failed = ""  # the reason, once there are more bad steps than allowed

    def take(self, data: Iterator[TrainBatch]) -> TrainBatch:
        """Takes the next batch; the time for it is one of the figures."""
        begin = time.perf_counter()
        if self._pending is None:
            self._clock = begin
        batch = next(data)
        self._waited = time.perf_counter() - begin
        return batch

    def step(self, number: int, metrics: Metrics, batch: TrainBatch) -> None:
        """Notes a step that was dispatched; waits for the previous one, and reports its figures."""
        compiled = self._compilations.take()
        if compiled and number > self._first:
            self._recompilations += len(compiled)
            shapes = {f.name: getattr(batch.batch, f.name).shape for f in dataclasses.fields(batch.batch)}
            self._progress.print_line(
                f"warning: step {number} was recompiled ({sum(compiled):.1f} s), for {shapes}; "
                "all batches of a stage should have the same shapes"
            )
        before = self._pending
        seconds = sum(compiled, 0.0)
        self._pending = _Step(number, metrics, batch, self._waited, seconds, self._recompilations)
        if before:
            self._report(before)

    def flush(self) -> None:
        """Waits for the last step and reports it. The time from then to the next `take` is not counted."""
        if self._pending:
            self._report(self._pending)
        self._pending = None

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Reports more figures of a step that was already reported, such as "eval/loss"."""
        self._progress.print_line(
            f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )
        for sink in self._sinks:
            sink.write(step, values)

    def close(self) -> None:
        """Leaves the bar as it is and closes all files; call `flush` before, unless the run failed."""
        self._progress.close()
        self._compilations.close()
        for sink in (*self._sinks, self._bad):
            sink.close()

    def _report(self, step: _Step) -> None:
        metrics = {name: x.item() for name, x in jax.device_get(step.metrics).items()}  # waits
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        bad = metrics.pop("bad_step")
        share = self._rate_shares[step.number - 1 - metrics["bad_steps"] + bad]
        values = {
            **metrics,
            **{f"learning_rate/{name}": peak * float(share) for name, peak in self._peak_rates.items()},
            "step_seconds": seconds,
            "data_seconds": step.waited,
            "tokens_per_second": metrics["tokens"] / seconds,
            **{f"mfu/{name}": at_peak / seconds for name, at_peak in self._at_peak.items()},
            **{f"utilization/{name}": share for name, share in step.batch.utilization.items()},
            **measures.memory(self._devices),
            "recompilations": step.recompilations,
            **{f"skipped/{kind.replace(' ', '_')}": count for kind, count in step.batch.skipped.items()},
            "seconds": now - self._begin,
        }
        if step.compiled:
            values["compile_seconds"] = step.compiled
        for sink in self._sinks:
            sink.write(step.number, values)
        if bad:
            self._report_bad(step, metrics)
        self._show(step, metrics, seconds)

    def _report_bad(self, step: _Step, metrics: Mapping[str, float | int]) -> None:
        rows = [[dataclasses.asdict(record) for record in row] for row in step.batch.record_ids]
        reason = health.describe_bad_step(metrics["loss"], metrics["grad_norm"], int(metrics["targets"]))
        figures = {name: metrics[name] for name in ("loss", "grad_norm", "targets")}
        self._bad.write(step.number, {"reason": reason, **figures, "records": rows})
        what = f"step {step.number}: {reason}"
        self._progress.print_line(
            f"warning: {what}: its update is skipped; its records are in {self._bad_file}"
        )
        count, allowed = metrics["bad_steps"], self._config.bad_steps.max_skipped
        if self._config.bad_steps.action == "stop":
            self.failed = self.failed or f"{what}; its records are in {self._bad_file}"
        elif count > allowed:
            why = f"bad step number {count}, at most {allowed} are skipped"
            self.failed = self.failed or f"{what}: {why}; its records are in {self._bad_file}"

    def _show(self, step: _Step, metrics: Mapping[str, float | int], seconds: float) -> None:
        if not step.compiled:
            self._shown_tokens += metrics["tokens"]
            self._shown_seconds += seconds
        if step.number % self._config.logging.log_every and step.number != self._stage.steps:
            return
        figures = f"loss {metrics['loss']:.3f}" if metrics["targets"] else "no labelled token"
        if self._shown_seconds:
            figures += f"  {self._shown_tokens / self._shown_seconds:,.0f} tokens/s"
        if self._at_peak and not step.compiled:
            figures += f"  MFU {sum(self._at_peak.values()) / seconds:.0%}"
        self._progress.update(step.number, figures)
        self._shown_tokens = self._shown_seconds = 0.0


def _open_sinks(config: TrainConfig, stage: Stage, folder: pathlib.Path, start: int) -> Sequence[Sink]:
    sinks: list[Sink] = [JsonLines(folder / "metrics.jsonl", start)]
    if config.logging.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", start))
    if config.logging.wandb:
        name = f"{pathlib.Path(config.output).name}/{stage.name}"
        sinks.append(
            WeightsAndBiases(config.logging.wandb, name, folder=folder, config=dataclasses.asdict(stage))
        )
    return sinks
