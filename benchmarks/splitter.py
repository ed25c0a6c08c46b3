"""Sentences of the tests' corpus, as it is written token by token: false and missed ends, and their delay.

    python benchmarks/splitter.py

With `pip install sentencex` also that library, asked again for each token (it has no way to go on).
"""

import re
import statistics
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.table

from ola_jax.speech.splitter import SentenceSplitter
from tests.speech.corpus import CASES, text_and_ends

Feed = Callable[[list[str]], Iterator[tuple[int, str]]]  # (token by which it was known, sentence)


def tokens(text: str) -> list[str]:
    """About what a tokenizer makes: words with their space, digits and signs one by one."""
    return re.findall(r" ?[^\W\d_]{1,7}|\d|\s|[^\w\s]|_", text)


def ours(parts: list[str]) -> Iterator[tuple[int, str]]:
    splitter = SentenceSplitter()
    for number, part in enumerate(parts):
        for sentence in splitter.add(part):
            yield number, sentence
    for sentence in splitter.flush():
        yield len(parts), sentence


def with_sentencex(parts: list[str]) -> Iterator[tuple[int, str]]:
    """A sentence is taken for complete as soon as another one follows it."""
    import sentencex

    text = ""
    for number, part in enumerate(parts):
        text += part
        sentences = list(sentencex.segment("en", text))
        if len(sentences) > 1 and "".join(sentences) == text and sentences[-1].strip():
            for sentence in sentences[:-1]:
                yield number, sentence
            text = sentences[-1]
    yield len(parts), text


def at_stops(parts: list[str]) -> Iterator[tuple[int, str]]:
    """A sentence ends wherever the text ends with a stop."""
    text = ""
    for number, part in enumerate(parts):
        text += part
        if part[-1] in ".!?。！？；;":
            yield number, text
            text = ""
    yield len(parts), text


def measure(feed: Feed) -> dict[str, float]:
    """Counts over the corpus, and the delay in tokens of the ends that were found."""
    false = missed = wrong = ends_in_all = 0
    delays, seconds = [], 0.0
    for marked in CASES.values():
        text, ends = text_and_ends(marked)
        ends = {end for end in ends if text[end:].strip()}
        parts = tokens(text)
        known = [len("".join(parts[: i + 1])) for i in range(len(parts))]
        begin = time.perf_counter()
        found = list(feed(parts))
        seconds += time.perf_counter() - begin
        if "".join(sentence for _, sentence in found) != text:
            raise ValueError(f"the text was changed: {text!r}")
        at, got = 0, {}
        for number, sentence in found[:-1]:
            got[at + len(sentence.rstrip())] = number
            at += len(sentence)
        got = {end: number for end, number in got.items() if text[end:].strip()}
        false += len(got.keys() - ends)
        missed += len(ends - got.keys())
        wrong += got.keys() != ends
        ends_in_all += len(ends)
        for end in got.keys() & ends:
            delays.append(got[end] - next(i for i, length in enumerate(known) if length >= end))
    return {
        "cases": len(CASES),
        "wrong": wrong,
        "ends": ends_in_all,
        "false": false,
        "missed": missed,
        "delay, median": statistics.median(delays),
        "delay, most": max(delays),
        "ms": 1000 * seconds,
    }


def main() -> None:
    """Print the table."""
    forms: dict[str, Feed] = {"ola_jax": ours, "cut at every stop": at_stops}
    try:
        import sentencex  # noqa: F401
    except ImportError:
        pass
    else:
        forms["sentencex"] = with_sentencex
    rows = {name: measure(feed) for name, feed in forms.items()}
    table = rich.table.Table("", *next(iter(rows.values())))
    for name, row in rows.items():
        cells = [f"{value:.0f}" if column == "ms" else f"{value:g}" for column, value in row.items()]
        table.add_row(name, *cells)
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
