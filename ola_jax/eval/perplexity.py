"""Perplexity of the right answers to questions in Ola's record format, each after its prompt.

The prompt is tokenized as for generation, the answer after it, up to and with the token that ends it: so the
figure is of what the model would have to say, not of the tokens that training labels.
"""

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.batch import IGNORE, TEXT, OlaBatch
from ola_jax.data.processor import Processor
from ola_jax.data.sample import Sample
from ola_jax.data.tokenizer import END
from ola_jax.errors import OlaError
from ola_jax.eval.answers import Answer
from ola_jax.eval.asking import Asking, make_sample
from ola_jax.eval.benchmark import Graded
from ola_jax.eval.items import Item
from ola_jax.eval.measures import Measure, Unit
from ola_jax.eval.rules.reading import Reading
from ola_jax.models.ola import Ola
from ola_jax.training.loss import cross_entropy
from ola_jax.typing import Array, Float, Params

Likelihood = Callable[[Sample], float]  # the sum over labelled tokens of their negative logarithms, in nats


def with_answer(sample: Sample, answer: str, processor: Processor) -> Sample:
    """A prompt with its answer behind it, whose tokens are the targets."""
    ids = processor.tokenizer.encode(f"{answer}{END}", add_special_tokens=False).ids
    if not ids:
        raise OlaError(f"question {sample.id}: the answer has no tokens")
    tokens = np.append(sample.tokens, np.array(ids, np.int32)).astype(np.int32)
    targets = np.full(len(tokens), IGNORE, np.int32)
    targets[len(sample.tokens) - 1 : -1] = ids
    source = np.append(sample.source, np.full(len(ids), TEXT, np.int32)).astype(np.int32)
    return dataclasses.replace(sample, tokens=tokens, targets=targets, source=source)


def make_likelihood(model: Ola, params: Params, processor: Processor) -> Likelihood:
    """The function that computes a sample's loss; compiled once for each shape."""

    @jax.jit
    def total(params: Params, batch: OlaBatch) -> Float[Array, ""]:
        hidden = model.apply({"params": params}, batch, method="hidden")
        assert isinstance(hidden, jax.Array)
        return cross_entropy(hidden, params["llm"]["lm_head"]["kernel"], jnp.asarray(batch.targets))[0]

    return lambda sample: float(total(params, processor.batch([sample])))


def score_likelihoods(
    likelihood: Likelihood, processor: Processor, items: Sequence[Item], receive: Callable[[Answer], None]
) -> None:
    """Computes the loss of each item's right answer; `receive` gets it as the text "nats/tokens"."""
    asking = Asking(lambda item: (), 1)
    for item in items:
        try:
            with tempfile.TemporaryDirectory(prefix="ola_eval_") as folder:
                sample = make_sample(processor, item, asking, pathlib.Path(folder))
            sample = with_answer(sample, item.answers[0], processor)
        except OlaError as error:
            receive(Answer(item.id, error=str(error)))
            continue
        nats, tokens = likelihood(sample), int((sample.targets != IGNORE).sum())
        if not math.isfinite(nats):
            raise OlaError(f"question {item.id}: the loss of its answer is {nats}")
        receive(Answer(item.id, f"{nats!r}/{tokens}", "stop", len(sample.tokens) - tokens, tokens))


def read_loss(item: Item, answer: str) -> Reading:
    """The reading of "nats/tokens"."""
    return Reading(0.0, answer)


def perplexity_measures(graded: Sequence[Graded]) -> list[Measure]:
    """Perplexity of a token over all answers, and of each category; intervals by bootstrap over media.

    A question that could not be asked is left out: no number stands for it.
    """

    def measure(name: str, chosen: Sequence[Graded]) -> Measure:
        units = []
        for each in chosen:
            nats, tokens = (float(part) for part in str(each.reading.found).split("/"))
            units.append(Unit(each.item.id, each.item.groups.get("media", each.item.id), nats, tokens))
        return Measure(name, (tuple(units),), scale=1.0, exponential=True, higher_is_better=False)

    known = [each for each in graded if each.reading.found is not None]
    categories = sorted({each.item.category for each in known})
    found = [measure("perplexity", known)]
    if len(categories) > 1:
        found += [measure(name, [e for e in known if e.item.category == name]) for name in categories]
    return found
