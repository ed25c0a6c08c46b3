"""The training step."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from ola_jax.batch import IGNORE, OlaBatch
from ola_jax.models.ola import Ola
from ola_jax.sharding import constrain
from ola_jax.training import health
from ola_jax.training.compiler import compiler_options
from ola_jax.training.lora import LoraConfig, apply_adapters, split_trained
from ola_jax.training.loss import cross_entropy
from ola_jax.training.metrics import gradient_norms
from ola_jax.training.state import TrainState, copy_to_device, join_params
from ola_jax.typing import Array, FlatParams, Float, Int, Params

# Scalars: loss, targets (labelled tokens), tokens, grad_norm, grad_norm/PART, bad_step, bad_steps.
Metrics = dict[str, Array]


@runtime_checkable
class TrainStep(Protocol):
    """A compiled step: (state, batch) to (state, metrics). Its state is donated."""

    def __call__(self, state: TrainState, batch: OlaBatch, /) -> tuple[TrainState, Metrics]:
        """Runs the step; it is compiled for each new shape of a batch."""

    def lower(self, state: TrainState, batch: OlaBatch, /) -> jax.stages.Lowered:
        """Lowers the step for the shapes of state and batch, to be compiled ahead of time."""


def loss(
    model: Ola, params: Params, batch: OlaBatch, *, targets: Int[Array, ""] | None = None
) -> tuple[Float[Array, ""], Metrics]:
    """The mean cross-entropy over the labelled tokens of the global batch, and counts of tokens.

    With `targets`, the sum is divided by that number instead: `batch` is then a part of a batch.
    """
    hidden = model.apply({"params": params}, batch, method="hidden")
    assert isinstance(hidden, jax.Array)  # no collection is mutable, so nothing else is returned
    total, count = cross_entropy(hidden, params["llm"]["lm_head"]["kernel"], batch.targets)
    mean = total / jnp.maximum(count if targets is None else targets, 1)
    return mean, {"loss": mean, "targets": count, "tokens": jnp.sum(batch.segments > 0)}


def make_train_step(
    model: Ola,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    shardings: TrainState | None = None,
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
    spike_factor: float | None = None,
) -> TrainStep:
    """Builds the compiled step: gradients of trained parameters only, then one update.

    A bad step (see `health`, also for `spike_factor`) changes neither parameters nor the optimizer's state
    and is counted; so is a step without a labelled token, whose loss is NaN.

    With `microbatches`, the rows of a batch are computed in that many parts, one after the other, and
    gradients are summed: the same loss and update (each labelled token counts the same) with less memory.
    `shardings` are the state's, on the mesh that is set; compiler options are for its devices.
    """

    def compute_gradients(state: TrainState, batch: OlaBatch) -> tuple[FlatParams, Metrics]:
        targets = (batch.targets != IGNORE).sum()

        def part_loss(trained: FlatParams, part: OlaBatch) -> tuple[Float[Array, ""], Metrics]:
            own, added = split_trained(trained)
            params = apply_adapters(join_params(own, state.frozen), added, adapters)
            return loss(model, params, part, targets=targets)

        def part_gradients(part: OlaBatch) -> tuple[FlatParams, Metrics]:
            (_, metrics), gradients = jax.value_and_grad(part_loss, has_aux=True)(state.trained, part)
            return gradients, metrics

        if microbatches == 1:
            return part_gradients(batch)
        fields = {
            f.name: _split_rows(getattr(batch, f.name), microbatches) for f in dataclasses.fields(batch)
        }
        compute = lambda fields: part_gradients(OlaBatch(**fields))
        add = lambda total, fields: (jax.tree.map(jnp.add, total, compute(fields)), None)
        shapes = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], fields))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, fields)[0]

    def train_step(state: TrainState, batch: OlaBatch) -> tuple[TrainState, Metrics]:
        gradients, metrics = compute_gradients(state, batch)
        # Without tokens there is no mean: such a step is bad, and its loss is not 0.
        metrics["loss"] = jnp.where(metrics["targets"] > 0, metrics["loss"], jnp.nan)
        metrics |= gradient_norms(gradients)
        good, now = health.judge(
            state.health, metrics["loss"], metrics["grad_norm"], spike_factor=spike_factor
        )
        metrics |= {"bad_step": ~good, "bad_steps": now.bad_steps}

        def update(trained: FlatParams, opt_state: optax.OptState) -> tuple[FlatParams, optax.OptState]:
            updates, opt_state = optimizer.update(gradients, opt_state, trained)
            return optax.apply_updates(trained, updates), opt_state

        opt_state = state.opt_state
        if shardings is not None:
            opt_state = copy_to_device(opt_state, shardings.opt_state)
        # A branch, not a select between two results: the arithmetic of the update stays the same.
        trained, opt_state = jax.lax.cond(good, update, lambda *old: old, state.trained, opt_state)
        own, added = split_trained(trained)
        new = state.replace(
            step=state.step + 1, trainable=own, adapters=added, opt_state=opt_state, health=now
        )
        return new, metrics

    out_shardings = None if shardings is None else (shardings, None)
    return jax.jit(
        train_step, donate_argnums=0, out_shardings=out_shardings, compiler_options=compiler_options()
    )


def _split_rows(x: Array, parts: int) -> Array:
    """Reshapes [B ...] to [parts, B / parts ...], each device's rows divided evenly among the parts."""
    # Not reshape(-1, ...): windows or chunks may have size 0.
    split = jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
    return constrain(split, None, "rows", *[None] * (x.ndim - 1))
