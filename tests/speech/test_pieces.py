"""Pieces for the voice: their lengths, their waiting, and that together they are the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ola_jax.speech.pieces import Piece, PieceConfig, PieceCutter, estimate_tokens
from tests.speech.corpus import CASES, text_and_ends

BY_TEXT = PieceConfig(first_seconds=None, idle_seconds=None)
LONG = (
    "The quick brown fox, which had never seen such a thing before in all its long and eventful life, jumped "
    "over the lazy dog and then ran away into the woods and was never seen again by any of the villagers who "
    "lived near the river and told stories about it. "
)


def cut(text: str, config: PieceConfig = BY_TEXT, step: int = 1) -> list[Piece]:
    cutter = PieceCutter(config)
    pieces = [p for i in range(0, len(text), step) for p in cutter.add(text[i : i + step], now=i * 0.01)]
    return pieces + cutter.finish()


def texts(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces]


@given(st.text("aB1 .!?。，\n`|(),你😀", max_size=400), st.integers(1, 30), st.booleans())
def test_pieces_together_are_the_text(text: str, step: int, timed: bool) -> None:
    pieces = cut(text, PieceConfig() if timed else BY_TEXT, step)
    assert "".join(texts(pieces)) == text
    assert all(text.startswith(piece.text, piece.start) for piece in pieces)


@pytest.mark.parametrize("name", CASES)
def test_without_times_pieces_depend_on_the_text_alone(name: str) -> None:
    text, _ = text_and_ends(CASES[name])
    assert cut(text, step=1) == cut(text, step=3) == cut(text, step=17)


def test_the_first_piece_is_small_and_may_be_a_clause() -> None:
    assert texts(cut(LONG))[0] == "The quick brown fox, "


def test_later_sentences_are_cut_at_clauses_only_where_they_are_too_long() -> None:
    first, *rest = texts(cut("Yes, of course it is. " + LONG))
    assert first == "Yes, of course it is. "
    assert rest[0].endswith("life, ")
    assert all(estimate_tokens(piece) <= BY_TEXT.max_tokens for piece in rest)
    whole = "This sentence, which has a clause, is of a good length. "
    assert texts(cut("Yes, of course it is. " + whole * 2))[1:] == [whole, whole]


def test_short_sentences_are_joined() -> None:
    assert texts(cut("That is a good start. Yes. No. I see. We can go on now.")) == [
        "That is a good start. ",
        "Yes. No. I see. We can go on now.",
    ]


def test_text_without_stops_is_cut_between_words() -> None:
    pieces = texts(cut("word " * 200))
    assert all(estimate_tokens(piece) <= BY_TEXT.max_tokens for piece in pieces)
    assert all(piece.endswith("word ") for piece in pieces)


def test_chinese_without_stops_is_cut_anywhere() -> None:
    assert all(estimate_tokens(piece) < BY_TEXT.max_tokens + 1 for piece in texts(cut("很" * 300)))


def test_code_is_one_piece_of_any_length() -> None:
    code = "```\n" + "a = b. C, d\n" * 100 + "```\n"
    assert code in texts(cut("Here is some code for you:\n" + code + "That is all there is.\n"))


def test_an_endless_word_ends_at_a_bound() -> None:
    pieces = texts(cut("x" * 4000))
    assert len(pieces) > 1
    assert max(estimate_tokens(piece) for piece in pieces) <= 8 * BY_TEXT.max_tokens + 1


def test_the_first_piece_waits_no_longer_than_its_time() -> None:
    cutter = PieceCutter(PieceConfig(first_seconds=0.45, idle_seconds=None))
    text = "there is no stop or comma at all in here "
    found = []
    for number, word in enumerate(text.split()):
        found += [(number, piece.text) for piece in cutter.add(word + " ", now=0.1 * number)]
    assert found[0] == (5, "there is no stop or comma ")
    assert len(found) == 1  # only the first


def test_an_idle_text_that_looks_complete_is_a_piece() -> None:
    cutter = PieceCutter(PieceConfig(first_seconds=None, idle_seconds=0.6))
    assert cutter.add("Let me look at this for a moment.", now=1.0) == []
    assert cutter.deadline() == pytest.approx(1.6)
    assert cutter.poll(1.5) == []
    assert texts(cutter.poll(1.6)) == ["Let me look at this for a moment."]
    assert cutter.deadline() is None
    cutter.add(" And then it", now=2.0)
    assert cutter.deadline() is None  # in the middle of a sentence
    assert cutter.poll(9.0) == []
    assert texts(cutter.finish()) == [" And then it"]


def test_a_short_sentence_does_not_wait_for_ever() -> None:
    cutter = PieceCutter(PieceConfig(first_seconds=None, idle_seconds=0.6))
    cutter.add("Hm. A", now=0.0)
    assert texts(cutter.poll(0.6)) == ["Hm. "]


def test_estimates_are_near_the_tokens_of_the_vocabulary() -> None:
    assert estimate_tokens("The cat sat on the mat.") == 7
    assert estimate_tokens("12.5") == 4
    assert estimate_tokens("你好吗") == pytest.approx(2.1)
