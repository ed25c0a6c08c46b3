"""Clips, subtitles, and media inside tables."""

import json
import pathlib

import av
import numpy as np
import pytest
from PIL import Image

from ola_jax.data.media import BadMediaError
from ola_jax.errors import OlaError
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.clips import cut_clip, duration
from ola_jax.eval.items import Clip, EmbeddedMedia, write_embedded
from ola_jax.eval.subtitles import Line, at_times, covering, read_srt
from tests.eval.published_files import write_parquet

SRT = """1
00:00:00,000 --> 00:00:01,500
<font color="white" size=".72c">one</font>

2
00:00:02,000 --> 00:00:04,000
two
lines
"""


def write_video(path: pathlib.Path, frames: int = 40, rate: int = 10) -> pathlib.Path:
    """A video whose frames get brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        for number in range(frames):
            grey = np.full((32, 32, 3), 6 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(files: list[str]) -> list[float]:
    return [float(np.asarray(Image.open(file)).mean()) for file in files]


def test_a_clip_has_evenly_spaced_frames_of_its_part(tmp_path: pathlib.Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    assert duration(video) == pytest.approx(4.0, abs=0.2)
    frames = cut_clip(Clip(video, 1.0, 2.0), 6, str(tmp_path))
    assert brightness(frames) == pytest.approx([60, 72, 84, 96, 108, 120], abs=4)
    assert len(cut_clip(Clip(video, 1.0, 1.2), 64, str(tmp_path))) == 3  # no more than there are
    assert len(cut_clip(Clip(video), 64, str(tmp_path))) == 40
    with pytest.raises(BadMediaError, match=r"no frame from 9\.0 to 10\.0 seconds"):
        cut_clip(Clip(video, 9.0, 10.0), 6, str(tmp_path))
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(BadMediaError, match="cannot be read as a video"):
        cut_clip(Clip(tmp_path / "broken.mp4", 0.0, 1.0), 6, str(tmp_path))
    with pytest.raises(BadMediaError, match="cannot be read as a video"):
        duration(tmp_path / "broken.mp4")


def test_a_folder_of_frames_is_cut_by_its_rate(tmp_path: pathlib.Path) -> None:
    for number in range(12):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number:05}.png")
    found = cut_clip(Clip(tmp_path, 1.0, 3.0, 3.0), 64, "")
    assert [pathlib.Path(file).stem for file in found] == [f"{n:05}" for n in range(3, 10)]


def test_subtitles_are_those_shown_at_the_frames(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.srt").write_text(SRT.replace("\n", "\r\n"))
    lines = read_srt(tmp_path / "a.srt")
    assert lines == [Line(0.0, 1.5, "one"), Line(2.0, 4.0, "two lines")]
    assert at_times(lines, [0.5, 1.0, 1.7, 2.5]) == ["one", "one", "two lines"]
    assert covering(lines, [0.5, 1.0, 1.7, 2.5]) == ["one", "two lines"]
    with pytest.raises(OlaError, match="subtitles cannot be read"):
        read_srt(tmp_path / "none.srt")


def test_prompts_of_videomme_hold_the_subtitles(tmp_path: pathlib.Path) -> None:
    row = {"videoID": "v", "duration": "short", "domain": "d", "question_id": "1", "task_type": "t"}
    row |= {"question": "What?", "options": ["A. x", "B. y"], "answer": "A"}
    write_parquet(tmp_path / "videomme/test-0.parquet", [row])
    for folder in ("data", "subtitle"):
        (tmp_path / folder).mkdir()
    write_video(tmp_path / "data/v.mp4")
    (tmp_path / "subtitle/v.srt").write_text(SRT)
    task = benchmark("videomme_subtitles")
    (item,) = task.read(tmp_path).items
    said = str(task.wordings["lmms_eval"](item)[1])
    assert said.startswith("This video's subtitles are listed below: \none\ntwo lines\nSelect the best")
    golden = json.loads((pathlib.Path(__file__).parents[1] / "goldens/eval/prompts.json").read_text())
    head, tail = golden["videomme_vlmevalkit_subtitles"].split("one\ntwo")
    said = str(task.wordings["vlmevalkit"](item)[1])
    shown = said.removeprefix(head).removesuffix(tail).split("\n")
    assert set(shown) == {"one", "two lines"}
    assert len(shown) > 40  # the line of each of the 64 frames, as often as it is shown


def test_embedded_media_are_written_once_under_their_digest(tmp_path: pathlib.Path) -> None:
    media = EmbeddedMedia("row 1", lambda: b"data")
    first, second = write_embedded(media, tmp_path), write_embedded(media, tmp_path)
    assert first == second
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"data"]
    with pytest.raises(OlaError, match="row 1: the media are empty"):
        write_embedded(EmbeddedMedia("row 1", lambda: b""), tmp_path)
