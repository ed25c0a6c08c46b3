"""Files damaged at random: readers refuse them with an OlaError, or read them; in bounded memory and time."""

import pytest

from ola_jax.data.isolation import IsolatedDecoder
from tests.data import mutants


@pytest.mark.parametrize(
    ("first", "count"), [(0, 250), pytest.param(1000, 5000, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_damaged_files_are_read_or_refused(first, count):
    files, read = mutants.seeds(), 0
    with IsolatedDecoder(60.0) as decoder:  # a crash or a hang is an error of its own
        for seed in range(first, first + count, 50):
            successes, faults, slowest, peak = decoder(mutants.read_mutants, files, seed, 50)
            assert not faults
            assert slowest < 30, f"seconds for one file, seeds from {seed}"
            assert peak < 600, f"MB, seeds from {seed}"
            read += successes
    assert 0 < read < 5 * count  # some are still good, some are not


def test_the_files_are_good_before_they_are_damaged():
    files = mutants.seeds()
    assert all(mutants.read_all(data) for data in files.values())
