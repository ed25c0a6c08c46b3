"""One training step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ola_jax.batch import IGNORE, OlaBatch
from ola_jax.models.ola import Ola
from ola_jax.sharding import constrain
from ola_jax.training import health, lora
from ola_jax.training.compiler import compiler_options
from ola_jax.training.lora import LoraConfig
from ola_jax.training.loss import cross_entropy
from ola_jax.training.metrics import grad_norms
from ola_jax.training.state import TrainState, bring, join
from ola_jax.typing import Array, Float, Int, Params

# Scalars: loss, targets (labelled tokens), tokens, grad_norm, grad_norm/PART, bad_step, bad_steps.
Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, OlaBatch], tuple[TrainState, Metrics]]


def loss(
    model: Ola, params: Params, batch: OlaBatch, targets: Int[Array, ""] | None = None
) -> tuple[Float[Array, ""], Metrics]:
    """Mean cross-entropy over the labelled tokens of the global batch, and what it was taken over.

    With `targets`, the sum is divided by that number instead: `batch` is then a part of a batch.
    """
    hidden = model.apply({"params": params}, batch, method="hidden")
    total, count = cross_entropy(hidden, params["llm"]["lm_head"]["kernel"], batch.targets)
    mean = total / jnp.maximum(count if targets is None else targets, 1)
    return mean, {"loss": mean, "targets": count, "tokens": (batch.segments > 0).sum()}


def make_train_step(
    model: Ola,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
    shardings: TrainState | None = None,
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
    spike_factor: float | None = None,
) -> TrainStep:
    """The compiled step: gradients of the trainable parameters only, then one update.

    A bad step (see `health`, which `spike_factor` belongs to) changes neither parameters nor the
    optimizer's state; it is counted. So is one without a labelled token, whose loss is NaN.

    With `microbatches`, the rows of a batch go through the model in that many parts, one after the
    other, and gradients are summed: the same loss and update (each labelled token counts the same),
    less memory. `shardings` are the state's, on the mesh that is set; compiler options are for its devices.
    """

    def gradients(state: TrainState, batch: OlaBatch) -> tuple[dict[str, Array], Metrics]:
        targets = (batch.targets != IGNORE).sum()

        def of_part(part: OlaBatch) -> tuple[dict[str, Array], Metrics]:
            def of_trainable(trainable: dict[str, Array]) -> tuple[Float[Array, ""], Metrics]:
                params = lora.merge(join(trainable, state.frozen), adapters)
                return loss(model, params, part, targets)

            (_, metrics), grads = jax.value_and_grad(of_trainable, has_aux=True)(state.trainable)
            return grads, metrics

        if microbatches == 1:
            return of_part(batch)
        fields = {
            f.name: _split_rows(getattr(batch, f.name), microbatches) for f in dataclasses.fields(batch)
        }
        of_fields = lambda part: of_part(OlaBatch(**part))
        add = lambda total, part: (jax.tree.map(jnp.add, total, of_fields(part)), None)
        shapes = jax.eval_shape(of_fields, jax.tree.map(lambda x: x[0], fields))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, fields)[0]

    def train_step(state: TrainState, batch: OlaBatch) -> tuple[TrainState, Metrics]:
        grads, metrics = gradients(state, batch)
        # There is no mean over no tokens: such a step is bad, and its loss is not 0.
        metrics["loss"] = jnp.where(metrics["targets"] > 0, metrics["loss"], jnp.nan)
        metrics |= grad_norms(grads)
        good, now = health.judge(state.health, metrics["loss"], metrics["grad_norm"], spike_factor)
        metrics |= {"bad_step": ~good, "bad_steps": now.bad_steps}

        def update(
            trainable: dict[str, Array], opt_state: optax.OptState
        ) -> tuple[dict[str, Array], optax.OptState]:
            updates, opt_state = optimizer.update(grads, opt_state, trainable)
            return optax.apply_updates(trainable, updates), opt_state

        opt_state = bring(state.opt_state, shardings.opt_state) if shardings else state.opt_state
        # A branch, not a choice between two results: the update's own arithmetic stays as it would be alone.
        trainable, opt_state = jax.lax.cond(good, update, lambda *old: old, state.trainable, opt_state)
        return state.replace(
            step=state.step + 1, trainable=trainable, opt_state=opt_state, health=now
        ), metrics

    out_shardings = None if shardings is None else (shardings, None)
    return jax.jit(
        train_step, donate_argnums=0, out_shardings=out_shardings, compiler_options=compiler_options()
    )


def _split_rows(x: Array, parts: int) -> Array:
    """[B ...] to [parts, B / parts ...], each device's rows shared out evenly among the parts."""
    # Not reshape(-1, ...): what a batch has none of (windows, chunks) has size 0.
    split = jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
    return constrain(split, None, "rows", *[None] * (x.ndim - 1))
