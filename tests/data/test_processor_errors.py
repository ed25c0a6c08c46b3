"""Errors of the processor: of one line, with the record and the media that caused them."""

import dataclasses

import pytest

from ola_jax.config import ProcessorConfig
from ola_jax.data.media import BadMediaError
from ola_jax.errors import OlaError
from tests.data.golden_processor import golden_processor
from tests.data.made_up import conversation
from tests.golden import VISIBLE

ROOT = str(VISIBLE)


def training(text, **keys):
    return conversation(text, "ok", id="r1", **keys)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (training("<image>\nx", image="none.png"), r"record 'r1': .*none\.png: no such file"),
        (
            training("<image>\nx", image="a_short.wav"),
            r"record 'r1': .*a_short\.wav: cannot be read as an image",
        ),
        (training("<image>\nx", video="img_rgb.png"), r"img_rgb\.png: is a single image, not a video"),
        (
            training("<speech>\nx", audio="img_rgb.png"),
            r"img_rgb\.png: cannot be read as audio \(it is an image\)",
        ),
        (training("x", image="img_rgb.png"), "0 '<image>' placeholders for 1 of image"),
        (training("<image>\n<image>\nx", image="img_rgb.png"), "2 '<image>' placeholders for 1 of image"),
        (
            training("<image>\nx", video=["img_rgb.png", "vframe2.png"]),
            "the frames of the video differ in size",
        ),
        (conversation(""), "^the prompt is empty"),
        ({"id": 7}, "record 7: 'conversations'"),
        ("text", "expected a JSON object, found str"),
    ],
)
def test_bad_records_are_errors_of_one_line(record, message):
    processor = golden_processor()
    root = str(VISIBLE / "inputs")
    with pytest.raises(OlaError, match=message) as caught:
        processor.sample(record, root)
    assert "\n" not in str(caught.value)


def test_a_prompt_is_never_cut_short():
    with pytest.raises(OlaError, match=r"the prompt has \d+ tokens, at most 16 are allowed"):
        golden_processor(max_length=16).sample(conversation("hello"))
    assert len(golden_processor(max_length=16).sample(training("hello")).tokens) == 16


class Failing(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (TypeError("not\nthis"), "TypeError: not"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (Failing("x" * 9999), "Failing: xxx"),
        (BaseException("a panic"), "BaseException: a panic"),
        (StopIteration(), "StopIteration"),
    ],
)
@pytest.mark.parametrize(
    ("mark", "key", "file"), [("<image>", "image", "img_tiny.png"), ("<speech>", "audio", "a_short.wav")]
)
def test_any_exception_of_a_decoder_is_bad_media_of_that_record(mark, key, file, error, found):
    def fail(*_):
        raise error

    processor = dataclasses.replace(golden_processor(), decode=fail)
    record = training(f"{mark}\nx", **{key: f"inputs/{file}"})
    with pytest.raises(BadMediaError, match=rf"^record 'r1': '{key}' 'inputs/{file}'.*\({found}") as caught:
        processor.sample(record, ROOT)
    assert len(str(caught.value)) <= 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_request_to_stop_is_not_caught(monkeypatch, stop):
    def fail(*_, **__):
        raise stop

    record = training("<image>\nx", image="inputs/img_tiny.png")
    with pytest.raises(stop):
        dataclasses.replace(golden_processor(), decode=fail).sample(record, ROOT)
    monkeypatch.setattr("ola_jax.data.processor.encode_training", fail)
    with pytest.raises(stop):
        golden_processor().sample(record, ROOT)


def test_other_failures_name_the_record(monkeypatch):
    def fail(*_, **__):
        raise ValueError("no\nway")

    monkeypatch.setattr("ola_jax.data.processor.merge", fail)
    message = r"^record \['a', 1\]: cannot be turned into a sample \(ValueError: no\)$"
    with pytest.raises(OlaError, match=message):
        golden_processor().sample(training("x") | {"id": ["a", 1]})


def test_text_that_the_tokenizer_cannot_encode_is_an_error():
    with pytest.raises(OlaError, match=r"record 'r1': 'conversations'\[0\]: 'value': character 1 is half"):
        golden_processor().sample(training("x\ud83d"))
    strange = dataclasses.replace(
        golden_processor(), processor_config=ProcessorConfig(system_prompt="\ud83d")
    )
    with pytest.raises(OlaError, match="record 'r1': cannot be turned into a sample"):
        strange.sample(training("x"))
    assert len(golden_processor().sample(training("a\0b\x07")).tokens)
