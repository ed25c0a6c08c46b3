"""One training step."""

import functools
from collections.abc import Callable

import jax
import optax

from ola_jax.batch import OlaBatch
from ola_jax.models.ola import Ola
from ola_jax.training.loss import cross_entropy
from ola_jax.training.state import TrainState, join
from ola_jax.typing import Array, Float, Params

Metrics = dict[str, Array]  # scalars: loss, targets (labelled tokens), tokens, grad_norm
TrainStep = Callable[[TrainState, OlaBatch], tuple[TrainState, Metrics]]


def loss(model: Ola, params: Params, batch: OlaBatch) -> tuple[Float[Array, ""], Metrics]:
    """Mean cross-entropy over the labelled tokens of the global batch, and what it was taken over."""
    hidden = model.apply({"params": params}, batch, method="hidden")
    total, targets = cross_entropy(hidden, params["llm"]["lm_head"]["kernel"], batch.targets)
    mean = total / jax.numpy.maximum(targets, 1)
    return mean, {"loss": mean, "targets": targets, "tokens": (batch.segments > 0).sum()}


def make_train_step(model: Ola, optimizer: optax.GradientTransformation) -> TrainStep:
    """The compiled step: gradients of the trainable parameters only, then one update."""

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, batch: OlaBatch) -> tuple[TrainState, Metrics]:
        of_trainable = lambda trainable: loss(model, join(trainable, state.frozen), batch)
        (_, metrics), grads = jax.value_and_grad(of_trainable, has_aux=True)(state.trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics

    return train_step
