"""From answers to scores, with a judge where one is needed."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ola_jax.eval.answers import Answer
from ola_jax.eval.benchmark import Ask, Benchmark, Graded
from ola_jax.eval.items import Item, PromptName
from ola_jax.eval.measures import Figure, Measure, summarize
from ola_jax.eval.rules.reading import UNREADABLE

JUDGE_WORKERS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """All scores of a run. `not_comparable` says why there is no score, and the figures are then empty."""

    graded: list[Graded]
    measures: list[Measure]
    figures: list[Figure]
    unreadable: int
    failed: int
    judged: int
    not_comparable: str | None


def grade(
    benchmark: Benchmark,
    items: Sequence[Item],
    answers: Mapping[str, Answer],
    prompt: PromptName,
    ask: Ask | None = None,
) -> Scores:
    """Scores of answered items. A question that failed is wrong, as is an answer that cannot be read."""
    rule, judge = benchmark.rules[prompt], benchmark.judge if ask is not None else None

    def one(item: Item) -> Graded:
        answer = answers[item.id]
        if answer.error is not None:
            return Graded(item, "", UNREADABLE)
        text = answer.text.strip()  # as both harnesses get it from Ola
        reading = rule(item, text)
        if reading.found is None and judge is not None and ask is not None and item.answers and text:
            return Graded(item, text, judge(item, text, ask), judged=True)
        return Graded(item, text, reading)

    answered = [item for item in items if item.id in answers]
    with ThreadPoolExecutor(JUDGE_WORKERS if judge else 1) as pool:
        graded = list(pool.map(one, answered))
    failed = sum(answers[item.id].error is not None for item in answered)
    unreadable = sum(each.reading.found is None for each in graded) - failed
    judged = sum(each.judged for each in graded)
    reason = _reason(benchmark, answered, has_judge=ask is not None)
    measures = [] if reason else benchmark.measures(graded)
    figures = [summarize(measure) for measure in measures]
    return Scores(graded, measures, figures, unreadable, failed, judged, reason)


def _reason(benchmark: Benchmark, items: Sequence[Item], *, has_judge: bool) -> str | None:
    if not all(item.answers for item in items):
        return "the answers of this split are not published"
    if benchmark.judged == "always" and not has_judge:
        return "the published figure is given by a judge; name one with --judge-url and --judge-model"
    return None
