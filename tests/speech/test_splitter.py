"""Sentences of growing texts: where they end, when that is known, and that nothing is lost."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ola_jax.speech.splitter import SentenceSplitter
from tests.speech.corpus import CASES, sentence_ends, text_and_ends

SIGNS = "aB1 .!?…。？\n`~|*-#()[]“”„\"'「」😀,:é你مA"


def split(text: str, step: int = 1) -> list[str]:
    splitter = SentenceSplitter()
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    return [sentence for piece in pieces for sentence in splitter.add(piece)] + splitter.flush()


@pytest.mark.parametrize("name", CASES)
def test_sentences_of_the_corpus(name: str) -> None:
    text, ends = text_and_ends(CASES[name])
    sentences = split(text)
    assert "".join(sentences) == text
    assert sentence_ends(sentences) == {end for end in ends if text[end:].strip()}, sentences


@given(st.text(SIGNS, max_size=200), st.integers(2, 9))
def test_any_text_is_kept_and_cut_the_same_however_it_comes(text: str, step: int) -> None:
    sentences = split(text)
    assert "".join(sentences) == text
    assert split(text, step) == sentences


@given(st.text(max_size=100))
def test_any_unicode_text_is_kept(text: str) -> None:
    assert "".join(split(text)) == text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("It is done. N", "N"),  # the next character decides
        ("你好。我", "我"),
        ("Buy the iPhone. i", None),  # a small letter: the word decides
        ("He left the U.S. Then ", " "),  # the next word decides
        ("It is done. ", None),
    ],
)
def test_a_sentence_ends_as_soon_as_it_can_be_known(text: str, after: str | None) -> None:
    splitter = SentenceSplitter()
    last = [splitter.add(character) for character in text][-1]
    assert bool(last) == (after is not None)


def test_what_may_be_an_end_is_known_before_more_text_comes() -> None:
    splitter = SentenceSplitter()
    expected = {"It is 3": False, ".": True, "5": False, ". ": True, "`a.": False, "`.": True}
    for text, may_end in expected.items():
        splitter.add(text)
        assert splitter.may_end == may_end, text


def test_a_sentence_can_be_cut_where_the_caller_wants_it() -> None:
    splitter = SentenceSplitter()
    splitter.add("one two three")
    assert splitter.cut(4) == "one "
    assert splitter.pending == "two three"
    assert splitter.cut() == "two three"
    assert splitter.flush() == []


def test_code_and_tables_are_blocks() -> None:
    splitter = SentenceSplitter()
    states = []
    for line in ("Text.\n", "```py\n", "a. B\n", "```\n", "| a |\n", "end"):
        splitter.add(line[:-1])
        states.append(splitter.in_block)
        splitter.add(line[-1])
    assert states == [False, True, True, True, True, False]


def calls_to_split(words: int) -> int:
    """Python functions that are called while a sentence without end is written."""
    splitter, calls = SentenceSplitter(), 0

    def count(frame: object, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        assert splitter.add("(word " * words) == []
    finally:
        sys.setprofile(None)
    return calls


def test_the_cost_of_a_character_does_not_grow_with_the_text() -> None:
    short, long = calls_to_split(200), calls_to_split(400)
    assert long < 2.05 * short
