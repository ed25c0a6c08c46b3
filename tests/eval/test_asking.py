"""Every kind of benchmark becomes a sample with its media."""

import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.asking import Asking, make_sample
from ola_jax.eval.benchmark import Quirks
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.items import Clip, EmbeddedMedia, Item
from ola_jax.eval.run import with_quirks
from tests import golden
from tests.data.test_evaluation_views import processor
from tests.eval.published_files import png

INPUTS = golden.VISIBLE / "inputs"
PICTURE = EmbeddedMedia("a picture", lambda: png(1))
SPEECH = INPUTS / "a_short.wav"
OPTIONS = ("x", "y")


def counts(task: str, item: Item, folder: pathlib.Path, sound: bool = True) -> set[str]:
    """The modalities of the sample that asks an item."""
    named = benchmark(task)
    for wording in named.wordings.values():
        sample = make_sample(processor(), item, Asking(wording, 8, sound=sound), folder)
    return {name for name, count in sample.counts.items() if count}


def test_images_audio_and_videos(tmp_path: pathlib.Path) -> None:
    choice = {"answers": ("A",), "options": OPTIONS}
    assert counts("ai2d", Item("1", "q", **choice, images=(PICTURE,)), tmp_path) == {"text", "image"}
    two = Item("1", "<image 2> or <image 1>?", **choice, images=(PICTURE, PICTURE))
    assert counts("mmmu_val", two, tmp_path) == {"text", "image"}
    spoken = Item("1", "q", ("x",), audio=(SPEECH,))
    assert counts("librispeech", spoken, tmp_path) == {"text", "audio"}
    both = Item("1", "q", **choice, images=(PICTURE,), audio=(SPEECH,))
    assert counts("omni_bench", both, tmp_path) == {"text", "image", "audio"}
    joined = Item("1", "[audio1] [audio2]", **choice, audio=(SPEECH, SPEECH), fields={"options": OPTIONS})
    assert counts("av_odyssey", joined, tmp_path) == {"text", "audio"}
    fields = {"options": OPTIONS, "subtitle": None}
    video = Item("1", "q", **choice, video=INPUTS / "clip.mp4", fields=fields)
    assert {"text", "video"} <= counts("videomme", video, tmp_path)
    assert counts("videomme", video, tmp_path, sound=False) == {"text", "video"}
    cut = Item("1", "q", **choice, video=Clip(INPUTS / "clip.mp4", 0.0, 0.5))
    assert counts("mvbench", cut, tmp_path) == {"text", "video"}


def test_media_that_are_missing_are_named(tmp_path: pathlib.Path) -> None:
    asking = Asking(benchmark("ai2d").wordings["ola"], 8)
    item = Item("q7", "q", ("A",), OPTIONS, images=(tmp_path / "none.png",))
    with pytest.raises(OlaError, match=r"none\.png: no such file"):
        make_sample(processor(), item, asking, tmp_path)


def test_quirks_are_settings_of_the_processor(tmp_path: pathlib.Path) -> None:
    item = Item("1", "q", ("A",), OPTIONS, images=(EmbeddedMedia("small", lambda: png(1, (20, 50))),))
    asking = Asking(benchmark("ai2d").wordings["ola"], 8)
    grids = {}
    for quirks in (Quirks(), Quirks(True, False), Quirks(False, True), Quirks(True, True)):
        sample = make_sample(with_quirks(processor(), quirks), item, asking, tmp_path)
        grids[quirks] = [image.grid for image in sample.images]
    assert [len(each) for each in grids.values()] == [2, 1, 2, 1]
    assert grids[Quirks()][1] == grids[Quirks(True, False)][0] == (4, 2)
    assert grids[Quirks(False, True)][1] == grids[Quirks(True, True)][0] != (4, 2)
    assert benchmark("mmmu_val").paper_quirks == benchmark("mmvet").paper_quirks == Quirks(True, True)
    assert benchmark("mmstar").paper_quirks == Quirks(False, True)
