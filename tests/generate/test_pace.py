"""Prompts get as much of the device's time as the running answers, whatever a call takes."""

from ola_jax.generate.pace import MOST_PIECES, Pace


def measured(piece: float, answers: float) -> Pace:
    """A pace that has seen twenty calls of each kind, the first of which were compiled."""
    pace, now = Pace(), 100.0
    for number in range(20):
        for call, seconds in (("piece", piece), ("answers", answers)):
            asked, now = now, now + seconds + 30.0 * (number == 0)
            pace.finish(call, asked, now)
    return pace


def test_pieces_take_as_long_as_the_calls_for_answers() -> None:
    assert measured(0.010, 0.041).pieces(1) == 4
    assert measured(0.010, 0.041).pieces(3) == 12
    assert measured(0.100, 0.020).pieces(1) == 1
    assert measured(0.001, 1.0).pieces(1) == MOST_PIECES
    assert abs(measured(0.010, 0.041).share(2) - 0.082) < 1e-9


def test_one_piece_is_read_where_nothing_is_known_or_no_answer_runs() -> None:
    assert Pace().pieces(2) == 1
    assert measured(0.010, 0.041).pieces(0) == 1


def test_a_call_is_measured_from_the_end_of_the_one_before_it() -> None:
    pace = Pace()
    pace.finish("piece", 0.0, 1.0)
    pace.finish("answers", 0.0, 3.0)  # was asked for at the same time
    assert (pace.share(1), pace.pieces(1)) == (2.0, 2)
