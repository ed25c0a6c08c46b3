"""Tasks: held-out questions whose answers are scored by exact match."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.eval.accuracy import TaskQuestion, read_questions, score_questions
from ola_jax.generate.sampling import from_generation_config
from ola_jax.models.ola import Ola
from ola_jax.training.config import EvalTask
from ola_jax.typing import Params


def read_tasks(
    tasks: Sequence[EvalTask], processor: Processor, limit: int | None = None
) -> dict[str, list[TaskQuestion]]:
    """The questions of each task, at most `limit` of each. Raises OlaError if two tasks share a name."""
    names = [task.name for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OlaError(f"tasks: {twice[0]!r} is the name of several; their accuracies would be mixed up")
    with processor.isolated() as isolated:
        return {task.name: read_questions(task.records, task.root, isolated, limit=limit) for task in tasks}


def score_tasks(
    model: Ola,
    params: Params,
    processor: Processor,
    *,
    questions: Mapping[str, Sequence[TaskQuestion]],
    generation: dict[str, Any],
    rows: int,
) -> dict[str, Any]:
    """The result of `score_questions` for each task, answered greedily, otherwise as `ola ask` does."""
    sampling = from_generation_config(generation, processor.tokenizer.get_vocab_size())
    sampling = dataclasses.replace(sampling, temperature=0.0)
    return {
        name: score_questions(model, params, processor, questions=asked, sampling=sampling, rows=rows)
        for name, asked in questions.items()
    }
