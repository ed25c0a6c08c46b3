import pytest
from hypothesis import given
from hypothesis import strategies as st

from ola_jax.generate.stops import StopStrings


def written(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    stream = StopStrings(stops)
    out = [stream.add(piece) for piece in pieces]
    return [*out, stream.close()], stream.found


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["a", "b"], ["a", "b", ""]),
        (("END",), ["one E", "N", "D two"], ["one ", "", "", ""]),
        (("END",), ["one E", "N", "o"], ["one ", "", "ENo", ""]),
        (("END",), ["one EN"], ["one ", "EN"]),  # it ends before it is sure
        (("aab",), ["aaa", "b"], ["a", "", ""]),
        (("\n\n", "."), ["a\n", "b.c"], ["a", "\nb", ""]),
        (("long stop", "s"), ["a long", " stop"], ["a ", "", ""]),
        (("\ufffd",), ["a\ufffdb"], ["a", ""]),
    ],
)
def test_text_is_held_back_while_it_may_become_a_stop(
    stops: tuple[str, ...], pieces: list[str], expected: list[str]
) -> None:
    assert written(stops, pieces)[0] == expected


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc", max_size=4), max_size=8),
)
def test_the_text_is_cut_where_a_stop_is_complete_first(stops: list[str], pieces: list[str]) -> None:
    out, found = written(tuple(stops), pieces)
    text = "".join(pieces)
    # The piece that completes a stop, and the first of all stops in the text up to there.
    for end in range(len(pieces) + 1):
        so_far = "".join(pieces[:end])
        places = [so_far.find(stop) for stop in stops if stop in so_far]
        if places:
            assert ("".join(out), found) == (so_far[: min(places)], True)
            return
    assert ("".join(out), found) == (text, False)
