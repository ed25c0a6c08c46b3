"""Measures of scored answers: plain accuracy, by category, circular, of groups."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from ola_jax.eval.benchmark import Graded
from ola_jax.eval.measures import Measure, Unit
from ola_jax.eval.wer import Language, transcript_errors

Counting = Callable[[Sequence[Graded]], list[Measure]]


def units(graded: Sequence[Graded], cluster: str | None) -> tuple[Unit, ...]:
    """One unit for each question; those of one group `cluster` (a key of its groups) depend on each other."""
    return tuple(
        Unit(
            each.item.id,
            each.item.groups.get(cluster, each.item.id) if cluster else each.item.id,
            each.reading.score,
        )
        for each in graded
    )


def split(graded: Sequence[Graded], key: Callable[[Graded], str]) -> dict[str, list[Graded]]:
    """The answers by a key, in alphabetical order; those without one are left out."""
    found: defaultdict[str, list[Graded]] = defaultdict(list)
    for each in graded:
        if name := key(each):
            found[name].append(each)
    return {name: found[name] for name in sorted(found)}


def category(each: Graded) -> str:
    """The category of a question."""
    return each.item.category


def group_key(group: str) -> Callable[[Graded], str]:
    """The function that gives a question's value of a group."""
    return lambda each: each.item.groups.get(group, "")


def accuracy(cluster: str | None = None, *by: str, name: str = "accuracy", scale: float = 100.0) -> Counting:
    """The mean score, and that of each category; `by`: also of each value of these groups."""

    def measures(graded: Sequence[Graded]) -> list[Measure]:
        found = [Measure(name, (units(graded, cluster),), scale)]
        for key in (category, *map(group_key, by)):
            parts = split(graded, key)
            if len(parts) > 1:
                found += [Measure(part, (units(g, cluster),), scale) for part, g in parts.items()]
        return found

    return measures


def mean_of_categories(cluster: str | None = None, key: Callable[[Graded], str] = category) -> Counting:
    """The mean of the categories' accuracies, the plain accuracy, and each category's."""

    def measures(graded: Sequence[Graded]) -> list[Measure]:
        parts = {name: units(g, cluster) for name, g in split(graded, key).items()}
        mean = [Measure("mean of categories", tuple(parts.values()))] if parts else []
        return [
            *mean,
            Measure("accuracy", (units(graded, cluster),)),
            *(Measure(name, (part,)) for name, part in parts.items()),
        ]

    return measures


def all_right(graded: Sequence[Graded], group: str, cluster: str) -> tuple[Unit, ...]:
    """One unit for each value of a group: 1 if all of its questions are right."""
    found = split(graded, lambda each: each.item.groups[group])
    return tuple(
        Unit(name, members[0].item.groups[cluster], float(all(m.reading.score == 1 for m in members)))
        for name, members in found.items()
    )


def circular(graded: Sequence[Graded]) -> list[Measure]:
    """A question is right if it is with all of its rolled options; the accuracy of single answers beside it.

    VLMEvalKit counts only groups whose unrolled question is there.
    """
    whole = {each.item.groups["circular"] for each in graded if each.item.id == each.item.groups["circular"]}
    graded = [each for each in graded if each.item.groups["circular"] in whole]
    first = Measure("circular accuracy", (all_right(graded, "circular", "image"),), of_groups=True)
    found = [first, Measure("accuracy of single answers", (units(graded, "image"),))]
    return found + [
        Measure(name, (all_right(part, "circular", "image"),), of_groups=True)
        for name, part in split(graded, category).items()
    ]


def hallusion(graded: Sequence[Graded]) -> list[Measure]:
    """The mean of aAcc (questions), fAcc (all of a figure) and qAcc (all of a question), and these."""
    parts = {
        "aAcc": units(graded, "set"),
        "fAcc": all_right(graded, "figure", "set"),
        "qAcc": all_right(graded, "question", "set"),
    }
    mean = Measure("mean of aAcc, fAcc, qAcc", tuple(parts.values()), of_groups=True)
    return [mean, *(Measure(name, (part,), of_groups=name != "aAcc") for name, part in parts.items())]


def error_rate(name: str, language: Language = "en") -> Counting:
    """Errors over words of all utterances; readings hold the errors in `found` as "errors/words".

    All words of an utterance that could not be asked about are errors.
    """

    def unit(each: Graded) -> Unit:
        if each.reading.found is None:
            length = float(transcript_errors(each.item.answers[0], "", language).length)
            return Unit(each.item.id, each.item.id, length, length)
        errors, words = (float(part) for part in each.reading.found.split("/"))
        return Unit(each.item.id, each.item.id, errors, words)

    def measures(graded: Sequence[Graded]) -> list[Measure]:
        found = [Measure(name, (tuple(map(unit, graded)),), higher_is_better=False)]
        parts = split(graded, category)
        if len(parts) > 1:
            found += [
                Measure(part, (tuple(map(unit, g)),), higher_is_better=False) for part, g in parts.items()
            ]
        return found

    return measures
