"""Containers of audio and video (mp4, mkv, ...), opened so that FFmpeg reads nothing but their bytes."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any

import av

from ola_jax.data.media import Media, MediaFile, short
from ola_jax.errors import first_line

THREADS = 2  # of one decoder, on any number of cores: several records are decoded at the same time

# Before PyAV 19 a tag that is not UTF-8 is an error unless this is given; since then it never is one.
TAGS_OF_ANY_BYTES: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


class _Reader(io.BufferedReader):
    """A file whose name is reduced to its suffix, by which FFmpeg recognizes some formats."""

    name = ""

    def __init__(self, path: str):
        super().__init__(io.FileIO(path))
        self.name = _plain_name(path)


class _Bytes(io.BytesIO):
    """The content of a file, with such a name."""

    name = ""


def _plain_name(path: str) -> str:
    suffix = os.path.splitext(path)[1]
    return "media" + (suffix if re.fullmatch(r"\.\w{1,8}", suffix, re.ASCII) else "")


def _open(media: Media) -> _Reader | io.BytesIO:
    if isinstance(media, MediaFile):
        return _Reader(media.path)
    if not media.is_file:
        return media.open()
    file = _Bytes(media.data)
    file.name = _plain_name(media.name)
    return file


@contextlib.contextmanager
def open_container(media: Media) -> Iterator[av.container.InputContainer]:
    """The container of a file or of bytes.

    It is read through an open file of a plain name, so that a name such as "12:30.mp4" or "%03d.png" is not
    taken for an address or a pattern, and a playlist opens no other file. Tags need not be UTF-8.
    """
    with (
        _open(media) as file,
        av.open(
            file,
            "r",
            buffer_size=2**16,
            container_options={"protocol_whitelist": "none"},
            **TAGS_OF_ANY_BYTES,
        ) as container,
    ):
        yield container


def describe_failure(error: Exception) -> str:
    """The message of FFmpeg or of the system, without the name of the file."""
    return short(getattr(error, "strerror", None) or first_line(error))


def is_picture(container: av.container.InputContainer) -> bool:
    """True for a single encoded image, which FFmpeg takes for a stream of pictures."""
    return container.format.name.endswith("_pipe") or container.format.name == "image2"


def limit_threads(stream: av.VideoStream | av.AudioStream) -> None:
    """Bounds the threads of a decoder, and with them the frames it holds; call before its first packet."""
    stream.codec_context.thread_type = "SLICE"  # does not hold frames back, as threading by frames does
    stream.codec_context.thread_count = THREADS
