"""The published files of benchmarks on several modalities together are read in exactly their columns."""

import pathlib

from ola_jax.eval.benchmarks import benchmark
from tests.eval.published_files import png, read_items, stored, write_json, write_parquet


def test_omni_benchmarks(tmp_path: pathlib.Path) -> None:
    row = {
        "index": 0,
        "task type": "Action",
        "audio content": "a",
        "image content": "i",
        "question": "q",
        "options": ["x", "y"],
        "answer": "y",
        "audio": stored(b"wav"),
        "image": stored(png(1)),
    }
    write_parquet(tmp_path / "omni/train.parquet", [row])
    (item,) = read_items("omni_bench", tmp_path / "omni")
    assert (item.answers, item.audio[0].read(), item.images[0].read()) == (("B",), b"wav", png(1))
    row = {
        "index": 1,
        "video_path": "videos/v.mp4",
        "subtitle_path": "s.srt",
        "question": "q",
        "candidates": ["A. x", "B. y", "C. z"],
        "answer": "C",
        "task_type": "t",
        "task_domain": "d",
        "duration": "<1min",
        "audio_class": ["Speech"],
    }
    write_parquet(tmp_path / "world/test.parquet", [row])
    (item,) = read_items("worldsense", tmp_path / "world")
    assert (item.options, item.video) == (("x", "y", "z"), tmp_path / "world/videos/v.mp4")
    row = {
        "Question": "q",
        "Choice": ["A. x", "B. y"],
        "Answer": "B",
        "video_id": "v",
        "Type": "AV",
        "content_parent_category": "p",
        "content_fine_category": "f",
        "video_category": "c",
        "video_duration": "30s",
    }
    write_json(tmp_path / "daily/qa.json", [row])
    (item,) = read_items("daily_omni", tmp_path / "daily")
    assert (item.video, item.groups["duration"]) == (tmp_path / "daily/v/v_video.mp4", "30s")
    assert "Choices: ['A. x', 'B. y']\n" in str(benchmark("daily_omni").wordings["ola"](item)[1])
    row = {
        "question_id": "1_1",
        "question": "Is [audio1] like [audio2]?",
        "options": ["A. x", "B. y", "C. z", "D. w"],
        "answer": "A",
        "data_type": "image",
        "audio_path": ["a.wav", "b.wav"],
        "image_path": ["i.png"],
        "video_path": [],
        "subfield": "Tone",
    }
    write_json(tmp_path / "av/test.json", [row])
    (item,) = read_items("av_odyssey", tmp_path / "av")
    assert ([p.name for p in item.audio], [p.name for p in item.images], item.video) == (
        ["a.wav", "b.wav"],
        ["i.png"],
        None,
    )
    row = {
        "id": "m",
        "audio": stored(b"wav"),
        "question": "q",
        "choices": '["x", "y"]',
        "answer": "x",
        "task": "sound",
    }
    write_parquet(tmp_path / "mmau/test_mini-0.parquet", [row] * 5)
    assert [item.audio[0].read() for item in read_items("mmau_mini", tmp_path / "mmau")] == [b"wav"] * 5
