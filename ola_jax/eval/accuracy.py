"""Exact-match accuracy of greedy answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ola_jax.data.processor import Processor
from ola_jax.data.records import read_records
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.engine import Engine, EngineConfig, Request
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola
from ola_jax.typing import Params

SPARE_TOKENS = 8  # that an answer may have beyond the expected one's: then it is wrong, or spelled with more
LENGTH_MULTIPLE = 256  # tokens of a slot are rounded up to it, so that fewer shapes are compiled
PREFILL_CHUNK = 64  # tokens: questions are short


@dataclasses.dataclass(frozen=True)
class TaskQuestion:
    """A held-out prompt, ready for the model, and the right answer."""

    sample: Sample
    expected: str
    max_new_tokens: int


def read_questions(
    records: str, root: str, processor: Processor, *, limit: int | None = None
) -> list[TaskQuestion]:
    """The records of a JSON file, each one question with its answer; at most `limit` of them.

    Raises OlaError naming the file and the record if there are none or one is not a question with an answer.
    """
    if limit is not None and limit < 1:
        raise OlaError(f"{records}: the limit of questions is {limit}; it must be 1 or more")
    found = []
    for number, record in enumerate(read_records(records)[:limit]):
        try:
            found.append(_question(record, root, processor))
        except OlaError as error:
            raise OlaError(f"{records}: record {number}: {error}") from error
    if not found:
        raise OlaError(f"{records}: no records; expected questions with their answers")
    return found


def _question(record: Any, root: str, processor: Processor) -> TaskQuestion:
    messages = record.get("conversations") if isinstance(record, dict) else None
    turns = messages if isinstance(messages, list) else []
    if [turn.get("from") for turn in turns if isinstance(turn, dict)] != ["human", "gpt"] or len(turns) != 2:
        raise OlaError("'conversations': expected one message from 'human' and one from 'gpt'")
    human, gpt = turns
    expected = gpt.get("value")
    if not isinstance(expected, str) or not expected.strip():
        raise OlaError(f"'conversations'[1]: expected the answer as text, found {str(expected)[:60]!r}")
    length = len(processor.tokenizer.encode(expected, add_special_tokens=False).ids) + SPARE_TOKENS
    return TaskQuestion(processor.sample({**record, "conversations": [human]}, root), expected, length)


def score_questions(
    model: Ola,
    params: Params,
    processor: Processor,
    *,
    questions: Sequence[TaskQuestion],
    sampling: SamplingConfig,
    rows: int,
) -> dict[str, Any]:
    """The share of the questions that are answered as expected, and examples of wrong answers.

    `rows` prompts are answered at a time.
    """
    if not questions or rows < 1:
        raise OlaError(f"{len(questions)} questions, {rows} rows: expected at least one of each")
    longest = max(len(question.sample.tokens) + question.max_new_tokens for question in questions)
    length = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    config = EngineConfig(slots=rows, length=length, queue=len(questions), prefill_chunk=PREFILL_CHUNK)
    engine = Engine(model, params, processor, sampling, config)
    handles = [engine.submit(Request(q.sample, sampling, q.max_new_tokens)) for q in questions]
    engine.close()  # on this thread, as it may have set a mesh
    correct, wrong = 0, []
    for question, completion in zip(questions, (handle.result() for handle in handles), strict=True):
        if completion.error is not None:
            raise RuntimeError(f"question {question.sample.id!r}: {completion.error}")
        text = completion.text.strip()
        if text == question.expected.strip():
            correct += 1
        else:
            wrong.append({"id": question.sample.id, "expected": question.expected, "answer": text})
    return {"accuracy": correct / len(questions), "questions": len(questions), "wrong": wrong[:10]}
