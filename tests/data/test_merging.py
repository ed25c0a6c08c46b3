import numpy as np
import pytest

from ola_jax.batch import IGNORE, TEXT
from ola_jax.data.chat import AUDIO_ID, IMAGE_ID
from ola_jax.data.layout import audio_rows, block_order, image_rows, video_rows
from ola_jax.data.merging import merge
from ola_jax.errors import OlaError

NEWLINE, BEGIN, END, SEP, SPEECH_NEWLINE, SPEECH_BEGIN, SPEECH_END = range(100, 107)


def test_an_image_is_two_views_of_lines():
    rows = image_rows((0, 4), ((4, 4), (2, 6)), marks=100)
    assert rows.tolist() == [BEGIN, 0, 1, NEWLINE, 2, 3, NEWLINE, SEP, 4, 5, 6, NEWLINE, END]


def test_a_video_is_frames_of_lines():
    rows = video_rows([0, 0, 2], (4, 2), marks=100)
    frame = lambda start: [start, NEWLINE, start + 1, NEWLINE, SEP]
    assert rows.tolist() == [BEGIN, *frame(0), *frame(0), *frame(2), END]


def test_audio_is_chunks_with_newlines():
    rows = audio_rows(10, 2, chunk_tokens=3, marks=100)
    assert rows.tolist() == [SPEECH_BEGIN, 10, 11, 12, SPEECH_NEWLINE, 13, 14, 15, SPEECH_NEWLINE, SPEECH_END]


def test_patches_of_a_block_are_neighbours():
    rows, columns = block_order((2, 4))
    assert rows.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert columns.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_visuals_take_the_first_placeholders_whatever_their_kind():
    ids = np.array([7, AUDIO_ID, 8, IMAGE_ID, 9], np.int32)
    labels = np.array([7, IGNORE, 8, IGNORE, 9], np.int32)
    video, audio = np.array([0, 1], np.int32), np.array([2, 3, 4], np.int32)
    tokens, merged, source, modality = merge(
        ids, labels, visuals=[video], audio=[audio], visual_modality="video"
    )
    assert source.tolist() == [TEXT, 0, 1, TEXT, 2, 3, 4, TEXT]
    assert tokens[source == TEXT].tolist() == [7, 8, 9]
    assert merged.tolist() == [7, IGNORE, IGNORE, 8, IGNORE, IGNORE, IGNORE, 9]
    assert modality.tolist() == [0, 2, 2, 0, 3, 3, 3, 0]


def test_placeholders_must_match_the_media():
    ids = np.array([1, IMAGE_ID, 2], np.int32)
    with pytest.raises(OlaError, match="1 '<image>' placeholders for 0 of image"):
        merge(ids, ids, visuals=[], audio=[], visual_modality="image")
    with pytest.raises(OlaError, match="0 '<speech>' placeholders for 1 of audio"):
        merge(ids[:1], ids[:1], visuals=[], audio=[ids], visual_modality="image")
