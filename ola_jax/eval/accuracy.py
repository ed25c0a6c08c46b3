"""Exact-match accuracy of greedy answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ola_jax.data.processor import Processor
from ola_jax.data.records import parse_record, read_records
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.answer import answer
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola
from ola_jax.typing import Params

MAX_NEW_TOKENS = 12


@dataclasses.dataclass(frozen=True)
class Question:
    """A held-out prompt, ready for the model, and the answer that is right."""

    sample: Sample
    expected: str


def read_questions(records: str, root: str, processor: Processor) -> list[Question]:
    """The records of a file whose conversations are one question and one answer.

    Raises OlaError naming the file and the record for any that cannot be asked.
    """
    found = []
    for number, record in enumerate(read_records(records)):
        try:
            who = [turn for turn, _ in parse_record(record).turns]
            if who != ["human", "gpt"] or len(record["conversations"]) != 2:
                raise OlaError("'conversations': expected one question of 'human' and one answer of 'gpt'")
            human, gpt = record["conversations"]
            sample = processor.sample({**record, "conversations": [human]}, root)
        except OlaError as error:
            raise type(error)(f"{records}[{number}]: {error}") from error
        found.append(Question(sample, gpt["value"]))
    if not found:
        raise OlaError(f"{records}: no records in it; expected questions with their answers")
    return found


def exact_match(
    model: Ola,
    params: Params,
    processor: Processor,
    questions: Sequence[Question],
    sampling: SamplingConfig,
    rows: int,
) -> dict[str, Any]:
    """Share of the questions whose answer is the expected one, and examples of wrong answers.

    `rows` prompts are answered at a time; the last batch is filled up with the first questions, so
    that one shape serves for all.
    """
    budget = processor.smallest_budget([q.sample for q in questions])
    correct, wrong = 0, []
    for start in range(0, len(questions), rows):
        part = list(questions[start : start + rows])
        filled = (part + list(questions) * rows)[:rows]
        batch = processor.batch([q.sample for q in filled], budget)
        out = answer(model, params, batch, processor.tokenizer, sampling, MAX_NEW_TOKENS)
        for question, text in zip(part, out.texts, strict=False):
            if text == question.expected.strip():
                correct += 1
            else:
                wrong.append({"id": question.sample.id, "expected": question.expected, "answer": text})
    return {"accuracy": correct / len(questions), "questions": len(questions), "wrong": wrong[:10]}
