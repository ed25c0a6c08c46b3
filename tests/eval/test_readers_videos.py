"""The published files of benchmarks on videos are read in exactly their columns."""

import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.items import Clip
from tests.eval.published_files import read_items, write_json, write_parquet


def test_videomme_with_and_without_subtitles(tmp_path: pathlib.Path) -> None:
    row = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "url": "u",
        "videoID": "abc",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many?",
        "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        "answer": "C",
    }
    write_parquet(tmp_path / "videomme/test-00000-of-00001.parquet", [row])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/abc.mkv").write_bytes(b"x")
    (item,) = read_items("videomme", tmp_path)
    assert (item.video, item.options[2], item.category, item.groups["video"]) == (
        tmp_path / "data/abc.mkv",
        "3.",
        "short",
        "abc",
    )
    assert item.fields["subtitle"] is None
    (item,) = read_items("videomme_subtitles", tmp_path)
    assert item.fields["subtitle"] == tmp_path / "subtitle/abc.srt"
    assert "No subtitles available" in str(benchmark("videomme_subtitles").wordings["lmms_eval"](item))


def test_longvideobench_and_mvbench(tmp_path: pathlib.Path) -> None:
    row = {
        "video_id": "v",
        "video_path": "v.mp4",
        "question": "What?",
        "candidates": ["x", "y"],
        "correct_choice": 1,
        "duration_group": 60,
        "question_category": "S2E",
        "starting_timestamp_for_subtitles": 0,
        "duration": 55.0,
        "subtitle_path": "v.json",
        "id": "v_0",
    }
    write_json(tmp_path / "lvb_val.json", [row])
    (item,) = read_items("longvideobench_val", tmp_path)
    assert (item.answers, item.video, item.category) == (("B",), tmp_path / "videos/v.mp4", "60")
    write_json(tmp_path / "lvb_val.json", [{**row, "correct_choice": 2}])
    with pytest.raises(OlaError, match="question 0: correct_choice 2 of 2"):
        read_items("longvideobench_val", tmp_path)
    write_json(
        tmp_path / "mv/json/action_sequence.json",
        [
            {
                "video": "a.mp4",
                "question": "q",
                "candidates": ["x", "y"],
                "answer": "y",
                "start": 1.5,
                "end": 4.0,
            }
        ],
    )
    write_json(
        tmp_path / "mv/json/action_antonym.json",
        [{"video": "b.mp4", "question": "q", "candidates": ["x", "y"], "answer": "x"}],
    )
    whole, cut = read_items("mvbench", tmp_path / "mv")
    assert (whole.video, whole.answers) == (tmp_path / "mv/ssv2_video/b.mp4", ("A",))
    assert cut.video == Clip(tmp_path / "mv/star/Charades_v1_480/a.mp4", 1.5, 4.0)
    write_json(
        tmp_path / "mv/json/action_antonym.json",
        [{"video": "b.mp4", "question": "q", "candidates": ["x"], "answer": "z"}],
    )
    with pytest.raises(OlaError, match="the answer 'z' is none of the options"):
        read_items("mvbench", tmp_path / "mv")
