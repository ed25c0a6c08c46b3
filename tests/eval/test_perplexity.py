"""Perplexity of right answers: the mean negative log-likelihood of their tokens after the prompt."""

import math
import pathlib

import jax
import numpy as np
import pytest

from ola_jax.batch import IGNORE
from ola_jax.data.tokenizer import END
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.perplexity import make_likelihood, with_answer
from ola_jax.eval.run import EvaluationJob, evaluate
from tests.eval import made_up
from tests.generate import small


def expected(question: str, answer: str) -> tuple[float, int]:
    """Sum and number from the logits of prompt and answer in one row."""
    processor = small.processor()
    prompt = processor.sample({"conversations": [{"from": "human", "value": question}]})
    ids = processor.tokenizer.encode(answer + END, add_special_tokens=False).ids
    batch = processor.batch([with_answer(prompt, answer, processor)])
    logits = small.MODEL.apply({"params": small.params()}, batch)[0]
    losses = -jax.nn.log_softmax(np.asarray(logits, np.float32), axis=-1)
    start = len(prompt.tokens) - 1
    return float(sum(losses[start + i, token] for i, token in enumerate(ids))), len(ids)


def test_the_loss_is_that_of_the_answers_tokens_and_its_end() -> None:
    processor = small.processor()
    prompt = processor.sample({"conversations": [{"from": "human", "value": "Hi"}]})
    sample = with_answer(prompt, "Who?", processor)
    nats, count = expected("Hi", "Who?")
    assert int((sample.targets != IGNORE).sum()) == count
    assert make_likelihood(small.MODEL, small.params(), processor)(sample) == pytest.approx(nats, rel=1e-4)


def test_the_perplexity_of_a_task(tmp_path: pathlib.Path) -> None:
    pairs = [("Hi", "Who?"), ("Who are you?", "I am here."), ("Why?", "So")]
    made_up.write_records(tmp_path / "data/talk.json", *zip(*pairs, strict=True))
    model = made_up.text_checkpoint(tmp_path / "model")
    task = benchmark("perplexity")
    job = EvaluationJob(task, model, tmp_path / "data", tmp_path / "out", prompt="ola")

    def no_engine() -> None:
        raise AssertionError("perplexity needs no engine")

    scores = evaluate(job, no_engine)
    sums = [expected(*pair) for pair in pairs]
    mean = sum(nats for nats, _ in sums) / sum(count for _, count in sums)
    assert scores.figures[0].value == pytest.approx(math.exp(mean), rel=1e-4)
    assert scores.figures[0].interval.method == "bootstrap"
    again = evaluate(job, no_engine)
    assert again.figures == scores.figures
