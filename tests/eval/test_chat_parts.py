"""Chats of other harnesses become questions to the engine."""

import io
import pathlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from ola_jax.errors import OlaError
from ola_jax.eval.adapters.chat_parts import ChatPart, ask_chats, to_item, wording
from ola_jax.eval.asking import Asking
from ola_jax.eval.items import Clip, EmbeddedMedia, MediaSlot
from ola_jax.generate.engine import Engine, EngineConfig
from ola_jax.generate.sampling import SamplingConfig
from tests.generate import small


def test_images_stay_in_the_text_and_other_media_come_first() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    text = [
        ChatPart("text", "Is "),
        ChatPart("image", image),
        ChatPart("text", " like "),
        ChatPart("image", "b.png"),
    ]
    item = to_item("q", text)
    assert wording(item) == ("Is ", MediaSlot(0), " like ", MediaSlot(1))
    assert item.images[1] == pathlib.Path("b.png")
    assert isinstance(item.images[0], EmbeddedMedia)
    assert np.asarray(Image.open(io.BytesIO(item.images[0].read())))[0, 0].tolist() == [1, 2, 3]
    both = to_item("q", [ChatPart("text", "What?"), ChatPart("audio", "a.wav"), ChatPart("image", "b.png")])
    assert wording(both) == (MediaSlot(), "What?")
    assert (both.audio, both.images) == ((pathlib.Path("a.wav"),), (pathlib.Path("b.png"),))
    video = to_item("q", [ChatPart("video", "v.mp4"), ChatPart("text", "What?")])
    assert (video.video, wording(video)) == (pathlib.Path("v.mp4"), (MediaSlot(), "What?"))
    part = {"path": "v.mp4", "video_start": 1.0, "video_end": 2.0}
    assert to_item("q", [ChatPart("video", part)]).video == Clip(pathlib.Path("v.mp4"), 1.0, 2.0)


def test_audio_may_be_samples_or_bytes() -> None:
    samples = np.linspace(-0.5, 0.5, 100)
    (given,) = to_item("q", [ChatPart("audio", {"array": samples, "sampling_rate": 8000})]).audio
    assert isinstance(given, EmbeddedMedia)
    read, rate = soundfile.read(io.BytesIO(given.read()))
    assert rate == 8000
    assert read == pytest.approx(samples, abs=1e-6)
    (given,) = to_item("q", [ChatPart("audio", {"bytes": b"wav", "path": None})]).audio
    assert isinstance(given, EmbeddedMedia)
    assert given.read() == b"wav"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([ChatPart("video", "a"), ChatPart("video", "b")], "2 videos and 0 images"),
        ([ChatPart("video", "a"), ChatPart("image", "b")], "1 videos and 1 images"),
        ([ChatPart("video", 3)], "expected the path of a video, found 3"),
        ([ChatPart("image", 3)], "expected an image, found 3"),
        ([ChatPart("audio", 3)], "expected audio, found 3"),
    ],
)
def test_what_the_model_cannot_be_asked_is_refused(parts: list[ChatPart], message: str) -> None:
    with pytest.raises(OlaError, match=f"question q: {message}"):
        to_item("q", parts)


def test_answers_keep_the_order_of_the_chats() -> None:
    config = EngineConfig(slots=2, length=256, queue=8, prefill_chunk=32, kept_features=0)
    engine = Engine(small.MODEL, small.params(), small.processor(), SamplingConfig(vocab_size=728), config)
    items = [to_item(f"q{i}", [ChatPart("text", f"Who is number {i}?")]) for i in range(5)]
    with engine:
        answers = ask_chats(engine, items, Asking(wording, 4, workers=2))
        alone = [ask_chats(engine, [item], Asking(wording, 4))[0] for item in items]
        assert [a.id for a in answers] == [item.id for item in items]
        assert [a.text for a in answers] == [a.text for a in alone]
        with pytest.raises(OlaError, match="question q: the prompt has"):
            ask_chats(engine, [to_item("q", [ChatPart("text", "long " * 300)])], Asking(wording, 4))
