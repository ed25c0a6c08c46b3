"""Evaluation of a stage during training: loss on held-out records, answers to the tasks."""

import functools
import itertools
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ola_jax import sharding
from ola_jax.batch import OlaBatch
from ola_jax.data.pipeline import make_train_iterator
from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.eval.accuracy import TaskQuestion
from ola_jax.eval.tasks import read_tasks, score_tasks
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig
from ola_jax.training.config import Stage, TrainConfig
from ola_jax.training.lora import Adapters, apply_adapters
from ola_jax.training.state import TrainState, join_params
from ola_jax.training.step import loss
from ola_jax.typing import Array, FlatParams, Float, Int


class Evaluation:
    """Evaluates on the same batches and questions each time; changes neither state nor training data.

    Raises OlaError if the stage has nothing to evaluate.
    """

    def __init__(
        self,
        config: TrainConfig,
        stage: Stage,
        processor: Processor,
        *,
        generation: dict[str, Any],
        mesh: Mesh,
    ):
        self._config, self._stage, self._mesh, self._generation = config, stage, mesh, generation
        self._model = Ola(config.model)
        self._processor = Processor(
            config.model, processor.processor_config, processor.tokenizer, preset="infer"
        )
        part, parts = sharding.rows_of_process(mesh, jax.process_index())
        self._data = None
        if stage.held_out:
            self._data = make_train_iterator(
                stage.held_out,
                processor,
                stage.budget,
                batch_rows=stage.rows,
                seed=config.seed,
                epochs=1,
                process_index=part,
                process_count=parts,
                max_skipped=config.data.max_skipped,
                max_bad_fraction=config.data.max_bad_fraction,
                workers=config.data.workers,
                prefetch=config.data.prefetch,
                read_ahead_bytes=config.data.read_ahead_bytes,
                index_folder=pathlib.Path(config.output) / "index",
            )
            self._start = self._data.get_state()
        if not self._data and not (config.evaluation.tasks and config.tasks):
            raise OlaError(
                f"evaluation.every is {config.evaluation.every}, and stage {stage.name!r} has nothing to "
                "evaluate: give it held_out records, or set evaluation.tasks"
            )

        @jax.jit
        def total_loss(
            trainable: FlatParams, adapters: Adapters, frozen: FlatParams, batch: OlaBatch
        ) -> tuple[Float[Array, ""], Int[Array, ""]]:
            params = apply_adapters(join_params(trainable, frozen), adapters, stage.lora)
            total, counts = loss(self._model, params, batch, targets=jnp.int32(1))
            return total, counts["targets"]

        self._total_loss = total_loss

    def __call__(self, state: TrainState) -> dict[str, float]:
        """The mean loss of a labelled token as "eval/loss"; the accuracies as "eval/accuracy[/TASK]"."""
        found = {"eval/loss": self._loss(state)} if self._data else {}
        if self._config.evaluation.tasks and self._config.tasks:
            accuracy = self._accuracy(state)
            found |= {f"eval/accuracy/{name}": value for name, value in accuracy.items()}
            found["eval/accuracy"] = statistics.fmean(accuracy.values())
        return found

    def close(self) -> None:
        """Stops reading."""
        if self._data:
            self._data.close()

    def _loss(self, state: TrainState) -> float:
        sums = [
            self._total_loss(state.trainable, state.adapters, state.frozen, batch)
            for batch in self._batches()
        ]
        totals, counts = zip(*jax.device_get(sums), strict=True) if sums else ((), ())
        if not (labelled := int(sum(counts))):
            raise OlaError(
                f"held_out of stage {self._stage.name!r}: no labelled token in {len(sums)} batches, so "
                "there is no loss to take; give it records with answers that can be used"
            )
        return float(sum(totals)) / labelled

    def _batches(self) -> Iterator[OlaBatch]:
        """At most `evaluation.batches`: as many in all processes."""
        assert self._data is not None
        self._data.set_state(self._start)
        for packed in itertools.islice(self._data, self._config.evaluation.batches):
            yield sharding.global_batch(packed.batch, self._mesh)

    def _accuracy(self, state: TrainState) -> dict[str, float]:
        params = apply_adapters(state.params, state.adapters, self._stage.lora)
        one = sharding.make_mesh(MeshConfig())  # answers come from one device
        if self._mesh.size > 1:
            params = jax.device_get(params)
        with jax.set_mesh(one):
            scores = score_tasks(
                self._model,
                params,
                self._processor,
                questions=self._questions,
                generation=self._generation,
                rows=self._config.evaluation.rows,
            )
        return {name: score["accuracy"] for name, score in scores.items()}

    @functools.cached_property
    def _questions(self) -> dict[str, list[TaskQuestion]]:
        return read_tasks(self._config.tasks, self._processor, self._config.evaluation.limit)
