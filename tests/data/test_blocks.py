import contextlib
import os
import pathlib
import signal

import pytest

from ola_jax.data.blocks import TEMPORARY, Block, replacing, run_blocks, split_into_blocks, sweep
from ola_jax.errors import OlaError


def double(block):
    return 2 * block.number


def die(block):
    os.kill(os.getpid(), signal.SIGKILL)


def test_blocks_cover_all_records_once():
    for count, blocks in ((0, 3), (1, 5), (10, 3), (7, 7), (1000, 64)):
        found = split_into_blocks(count, blocks)
        assert [i for b in found for i in range(b.start, b.stop)] == list(range(count))
        assert len(found) == max(min(count, blocks), 1)


def test_processes_return_the_results_and_report_progress():
    seen = []
    found = run_blocks(
        double, split_into_blocks(10, 5), processes=2, done=3, progress=lambda *at: seen.append(at)
    )
    assert sorted((block.number, result) for block, result in found) == [(i, 2 * i) for i in range(5)]
    assert (seen[0], seen[-1]) == ((3, 13), (13, 13))


def test_a_process_that_is_killed_is_an_error():
    with pytest.raises(OlaError, match=r"was killed .is memory short"):
        list(run_blocks(die, [Block(0, 0, 1)], processes=2))


def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with contextlib.suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with (
        pytest.raises(OlaError, match="cannot be written"),
        replacing(pathlib.Path("/no/such/folder/x")) as file,
    ):
        file.write_text("x")


def test_half_written_files_are_swept_away(tmp_path):
    (tmp_path / f"a{TEMPORARY}17").touch()
    (tmp_path / "b").touch()
    sweep(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]
