"""Sizes of records: those of their samples, or the reason why there is none."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from ola_jax.config import MediaLimits
from ola_jax.data.index import Failure, make_index
from ola_jax.data.measure import describe_settings, measure, measure_or_fail
from ola_jax.data.record_files import Malformed
from ola_jax.errors import OlaError
from tests.data.made_up import conversation, tiny_processor


@pytest.fixture
def records(tmp_path):
    """A record of each kind, by kind."""
    for number in range(3):
        Image.new("RGB", (12 + 4 * number, 10), (number, 0, 9)).save(tmp_path / f"{number}.png")
    soundfile.write(tmp_path / "a.wav", np.zeros(9000), 16000)
    frames = [f"{number}.png" for number in (0, 0)]
    asked = lambda text, **keys: conversation(text, "yes", **keys)
    return {
        "text": asked("a"),
        "image": asked("<image>\n<image>\na", image=["0.png", "1.png"]),
        "video": asked("<image>\na", video=[*frames]),
        "audio": asked("<speech>\na", audio="a.wav"),
        "video with audio": asked("<speech><image>\na", video=[*frames], audio="a.wav"),
        "image with audio": asked("<speech><image>\na", image="2.png", audio="a.wav"),
        "spoken question": asked("a", audio_q="a.wav", text_q="<speech>"),
    }


def test_a_record_has_the_size_of_its_sample(records, tmp_path):
    processor = tiny_processor()
    for kind, record in records.items():
        size = measure(processor, record, str(tmp_path))
        sample = processor.sample(record, str(tmp_path), training=True)
        assert size.kind == kind
        assert size.counts == {"tokens": len(sample.tokens), "audio_chunks": len(sample.audio)}
        assert size.patches == tuple(len(image.patches) for image in sample.images)
    assert measure(processor, records["image"], str(tmp_path)).patches


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"image": "missing.png"}, "missing file"),
        ({"image": "bad.png"}, "unreadable media"),
        ({"conversations": []}, "malformed record"),
    ],
)
def test_a_record_that_fails_has_the_reason_of_its_sample(tmp_path, change, kind):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    record = conversation("<image>\na", "yes", id="r7", image="missing.png") | change
    processor = tiny_processor()
    failure = measure_or_fail(processor, record, str(tmp_path))
    with pytest.raises(OlaError) as error:
        processor.sample(record, str(tmp_path), training=True)
    assert failure == Failure(kind, str(error.value), "image")
    assert "record 'r7'" in failure.reason


def test_an_element_that_is_no_record_has_its_reason():
    failure = measure_or_fail(tiny_processor(), Malformed("line 3: not valid JSON"))
    assert failure == Failure("malformed record", "line 3: not valid JSON")
    assert len(make_index([failure])) == 1


def test_settings_that_decide_sizes_are_described_as_json():
    first = describe_settings(tiny_processor())
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(describe_settings(tiny_processor())))
    for other in (
        describe_settings(tiny_processor(max_length=99)),
        describe_settings(tiny_processor(system_prompt="x")),
        describe_settings(tiny_processor(media=MediaLimits(exif_orientation=True))),
        describe_settings(tiny_processor(), marks_are_text=True),
    ):
        assert other != first
    assert describe_settings(tiny_processor(media=MediaLimits(decode_seconds=1.0))) == first
