import pytest

from ola_jax.data.foreign import check_foreign_marks, check_keys, check_marks
from ola_jax.errors import OlaError


@pytest.mark.parametrize(
    "key",
    [
        *("images", "videos", "audios", "image_path", "video_path", "speech", "img", "imgs", "pictures"),
        *("image_file", "audio_file_name", "imagePath", "image_url", "Image", "VIDEO", "wav", "frames"),
        *("image_list", "image_1", "image2", "img_path", "audio_path", "video_frames", "media", " image"),
        *("audio_question", "input_image", "image_base64", "sound", "audios_url", "wav_path"),
    ],
)
@pytest.mark.parametrize("value", ["a.png", ["a.png"], {"path": "a.png"}, [{"bytes": "x"}]])
def test_keys_of_other_projects_that_hold_media_are_named(key, value):
    with pytest.raises(OlaError, match=f"'{key}' is not a key of Ola's records"):
        check_keys({key: value})


@pytest.mark.parametrize(
    "metadata",
    [
        {"images": [], "videos": None, "audio_path": "", "speech": {}, "frames": [""]},
        {"image_width": "640", "image_id": "coco_1", "video_duration": 3.5, "has_image": "yes"},
        {
            "source": "x.png",
            "task": "video captioning",
            "frames": 16,
            "image_caption": "a dog",
            "voice": "alloy",
        },
        {"image": "a.png", "image_url": "https://x/a.png", "img_path": "/data/a.png", "image_file": "a.png"},
        {"video": "v.mp4", "video_path": "/data/v.mp4", "video_name": "v"},
        {"audio_q": "q.wav", "audio_path": "q.wav"},
        {7: "x", None: "y", "meta": {"images": ["a.png"]}},
    ],
)
def test_keys_about_media_and_empty_ones_are_ignored(metadata):
    check_keys(metadata)


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a.png", "audio_path": "a.wav"},
        {"image": "a.png", "image2": "b.png"},
        {"image": "a.png", "images": ["a.png", "b.png"]},
        {"video": "v.mp4", "wav": "a.wav"},
        {"Text_Q": "spoken?"},
        {"CONVERSATIONS": [{}]},
    ],
)
def test_other_media_beside_olas_own_are_named(record):
    with pytest.raises(OlaError, match=r"is not a key of Ola's records"):
        check_keys(record)


@pytest.mark.parametrize(
    "mark",
    ["<video>", "<audio>", "<Image>", "<SPEECH>", "<image_1>", "<|image|>", "<|audio|>", "<|video_pad|>"],
)
def test_marks_of_other_projects_are_named(mark):
    with pytest.raises(OlaError, match=r"'conversations'\[3\]: .* in the text; the mark of an image"):
        check_foreign_marks([("gpt", "x"), ("human", f"a {mark}\nb")], 2)


def test_other_angle_brackets_are_text():
    text = 'x <videos> <imagery> if a<image and b>c: <img src="a"> <|endoftext|> < video > <image>'
    check_foreign_marks([("human", text), ("human", "What is the <video> tag?"), ("gpt", "<video>")], 0)


def test_marks_without_their_media_are_named():
    turns = [("human", "x"), ("gpt", "<image>")]
    with pytest.raises(OlaError, match=r"'conversations'\[1\]: '<image>' in the text and no image or video"):
        check_marks(turns, 0, has_image=False, has_audio=True)
    check_marks(turns, 0, has_image=True, has_audio=False)
    with pytest.raises(
        OlaError, match=r"'conversations'\[1\]: '<speech>' .* no audio .* marks_are_text=True"
    ):
        check_marks([("human", "hi <speech>")], 1, has_image=True, has_audio=False)
