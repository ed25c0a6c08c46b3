"""Samples for training: which answers are learned, and records that leave no room for one."""

import dataclasses

import numpy as np
import pytest

from ola_jax.batch import IGNORE, TEXT
from ola_jax.data.decoding import image_sizes
from ola_jax.data.failures import TooLargeError
from ola_jax.errors import OlaError
from tests.data.clips import write_video
from tests.data.golden_processor import golden_processor
from tests.data.made_up import conversation
from tests.golden import VISIBLE

ROOT = str(VISIBLE)


def test_answers_before_a_last_question_are_learned():
    processor = golden_processor()
    asked = conversation("a", "the answer", "b")
    assert (processor.sample(asked).targets == IGNORE).all()
    sample = processor.sample(asked, training=True)
    answered = processor.sample(conversation("a", "the answer"), training=True)
    length = len(answered.tokens)
    np.testing.assert_array_equal(sample.tokens[:length], answered.tokens)
    np.testing.assert_array_equal(sample.targets[: length - 1], answered.targets[: length - 1])
    end, newline = processor.tokenizer.encode("<|im_end|>\n").ids
    last = sample.targets[length:]  # the marks of the last turn are learned, its words are not
    assert last[-3:].tolist() == [end, newline, IGNORE]
    assert (last[:-3] == IGNORE).all()


@pytest.mark.parametrize(
    "asked",
    [
        conversation("<speech>\nx", "the answer", "b", audio="inputs/a_short.wav"),
        conversation("X", "the answer", "b", audio_q="inputs/a_short.wav", text_q="Asked: <speech>"),
        conversation("<image>\nx", "the answer", "b", image="inputs/img_tiny.png"),
        conversation("<speech><image>\nx", "the answer", "b", video="inputs/clip.mp4"),
    ],
)
def test_answers_about_media_before_a_last_question_are_learned(asked):
    sample = golden_processor().sample(asked, ROOT, training=True)
    answer = golden_processor().tokenizer.encode("the answer", add_special_tokens=False).ids
    learned = sample.targets[sample.targets != IGNORE].tolist()
    assert any(learned[i : i + len(answer)] == answer for i in range(len(learned)))


def decoding_no_media(processor):
    """The processor, failing if it decodes anything but the headers of images."""

    def decode(function, *arguments):
        assert function is image_sizes, "media were decoded"
        return function(*arguments)

    return dataclasses.replace(processor, decode=decode)


def least_length(record):
    """The least max_length at which a token of an answer is left."""
    complete = golden_processor().sample(record, ROOT, training=True)
    answer = golden_processor().tokenizer.encode("the answer", add_special_tokens=False).ids[0]
    return int(np.flatnonzero(complete.targets == answer)[0]) + 2


LONG = [
    conversation("x" * 40, "the answer"),
    conversation("<image>\n<image>\nx", "the answer", image=["inputs/img_tiny.png", "inputs/img_rgb.png"]),
    conversation("<image>\nx", "the answer", video="inputs/clip.mp4"),
    conversation("<speech>\nx", "the answer", audio="inputs/a_short.wav"),
    conversation("<speech><image>\nx", "the answer", video="inputs/clip.mp4"),
    conversation(
        "<speech><image>\nx", "the answer", "y", video="inputs/clip.mp4", audio="inputs/a_short.wav"
    ),
    conversation("<image>\nx", "the answer", "<image>\ny", "b", image=["inputs/img_tiny.png"] * 2),
]


@pytest.mark.parametrize("record", LONG)
def test_media_that_leave_no_token_of_an_answer_are_too_large(record):
    least = least_length(record)
    sample = golden_processor(max_length=least).sample(record, ROOT, training=True)
    assert len(sample.tokens) == least
    with pytest.raises(TooLargeError, match=f"before the first answer and max_length is {least - 1}: no"):
        golden_processor(max_length=least - 1).sample(record, ROOT, training=True)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_records_too_large_by_their_text_or_images_are_not_decoded(number):
    record = LONG[number]
    least = least_length(record)
    limit = {0: least - 1, 1: least - 30, 3: 20}[number]  # images may be turned; audio has an unknown length
    with pytest.raises(TooLargeError, match=f"max_length is {limit}"):
        decoding_no_media(golden_processor(max_length=limit)).sample(record, ROOT, training=True)


def test_the_audio_of_a_video_too_large_by_its_frames_is_not_decoded():
    decoded = []

    def decode(function, *arguments):
        decoded.append(function.__name__)
        return function(*arguments)

    processor = golden_processor(max_length=least_length(LONG[2]) - 1)
    with pytest.raises(TooLargeError):
        dataclasses.replace(processor, decode=decode).sample(LONG[4], ROOT, training=True)
    assert decoded == ["decode_video"]


def test_a_silent_video_needs_no_room_for_its_mark(tmp_path):
    write_video(tmp_path / "silent.mp4", frames=3)
    video = str(tmp_path / "silent.mp4")
    least = least_length(conversation("<image>\nx", "the answer", video=video))
    record = conversation("<speech><image>\nx", "the answer", video=video)
    golden_processor(max_length=least).sample(record, training=True)
    with pytest.raises(TooLargeError):
        golden_processor(max_length=least - 1).sample(record, training=True)


def test_marks_may_be_plain_text():
    processor = golden_processor()
    record = conversation("What is <image>?", "the <video> and <speech> marks")
    with pytest.raises(OlaError, match="'<image>' in the text and no image"):
        processor.sample(record, training=True)
    sample = processor.sample(record, training=True, marks_are_text=True)
    assert (sample.source == TEXT).all()
    assert "What is <image>?" in processor.tokenizer.decode(sample.tokens.tolist())
    seen = conversation("<image>\nIs it <speech>?", "a", image="inputs/img_tiny.png")
    sample = processor.sample(seen, ROOT, training=True, marks_are_text=True)
    assert sample.counts["image"] > 0
    assert "Is it <speech>?" in processor.tokenizer.decode(sample.tokens[sample.source == TEXT].tolist())
