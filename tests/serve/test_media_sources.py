"""Bytes from data URLs, base64 and local files, and what they are by their first bytes."""

import os
import pathlib
from base64 import b64encode

import pytest

from ola_jax.serve.api_error import ApiError
from ola_jax.serve.data_urls import read_base64, read_data_url
from ola_jax.serve.local_files import read_local_file
from ola_jax.serve.sniffing import sniff
from tests.serve.running import INPUTS

DATA = b"\x89PNG\r\n\x1a\n some more"
CODED = b64encode(DATA).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{CODED}",
        f"DATA:IMAGE/PNG;BASE64,{CODED}",
        f"data:;base64,{CODED}",
        f"data:audio/webm;codecs=opus;base64,{CODED}",
        f'data:audio/webm;codecs="opus";charset=utf-8; base64,{CODED}',
        f"data:image/png;base64,{CODED.rstrip('=')}",
        f"data:image/png;base64, {CODED[:8]}\n{CODED[8:]}\r\n",
        f"data:image/png;base64,{CODED.replace('=', '%3D').replace('+', '%2B').replace('/', '%2F')}",
    ],
)
def test_data_urls(url: str) -> None:
    assert read_data_url(url, "here", 100) == DATA


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png,abc",
        f"data:image/png;base64;x=y,{CODED}",
        f"data:image/png;base64{CODED}",
        "data:",
        "data:image/png;base64,",
        "data:image/png;base64,====",
        "data:image/png;base64,not*base64",
        "data:image/png;base64,abc=def",
        "data:image/png;base64,ab\u00e9d",
        "data:image/png;base64,a",
        f"data:{'x' * 1000};base64,{CODED}",
    ],
)
def test_what_is_no_data_url_is_refused(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_data_url(url, "here", 100)
    assert caught.value.status == 400


@pytest.mark.parametrize("size", range(1, 10))
def test_base64_of_any_length_with_and_without_padding(size: int) -> None:
    coded = b64encode(bytes(range(size))).decode()
    for text in (coded, coded.rstrip("="), coded + "\n"):
        assert read_base64(text, "here", size) == bytes(range(size))
        with pytest.raises(ApiError) as caught:
            read_base64(text, "here", size - 1)
        assert caught.value.status == 413


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "media" / "deep").mkdir(parents=True)
    (tmp_path / "media" / "deep" / "a b.png").write_bytes(DATA)
    (tmp_path / "secret.png").write_bytes(DATA)
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "a.png").write_bytes(DATA)
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "media" / "up").symlink_to(tmp_path)
    (tmp_path / "media" / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "media" / "pipe")
    return tmp_path / "media"


def test_a_file_below_the_folder(folder: pathlib.Path) -> None:
    for path in (
        f"{folder}/deep/a%20b.png",
        f"{folder}/deep/../deep/a b.png",
        f"{folder}/up/media/deep/a b.png",
    ):
        assert read_local_file(f"file://{path}", folder, "here", 100) == DATA


@pytest.mark.parametrize(
    "path",
    [
        "{}/../secret.png",
        "{}/%2e%2e/secret.png",
        "{}/deep/../../secret.png",
        "{}/link.png",
        "{}/up/secret.png",
        "{}2/a.png",
        "{}",
        "{}/",
        "{}/deep",
        "{}/empty",
        "{}/pipe",
        "{}/missing.png",
        "{}/a%00.png",
        "{}/%ff%fe",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
    ],
)
def test_other_files_are_refused_all_alike(folder: pathlib.Path, path: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_local_file("file://" + path.format(folder), folder, "here", 100)
    assert caught.value.message == "here: no such file below the folder that this server reads from"


@pytest.mark.parametrize("url", ["file:deep/a.png", "file://host/a.png", "file:/etc/passwd", "file:///\\x"])
def test_other_forms_of_file_urls_are_refused(folder: pathlib.Path, url: str) -> None:
    with pytest.raises(ApiError, match="expected"):
        read_local_file(url, folder, "here", 100)


def test_no_files_without_a_folder_and_none_too_large(folder: pathlib.Path) -> None:
    url = f"file://{folder}/deep/a b.png"
    with pytest.raises(ApiError, match="reads no local files"):
        read_local_file(url, None, "here", 100)
    with pytest.raises(ApiError) as caught:
        read_local_file(url, folder, "here", len(DATA) - 1)
    assert caught.value.status == 413


def test_the_formats_of_the_goldens_are_known() -> None:
    kinds = {".png": "image", ".jpg": "image", ".wav": "audio", ".mp4": "video"}
    for file in INPUTS.iterdir():
        assert kinds[file.suffix] in sniff(file.read_bytes()), file.name


@pytest.mark.parametrize(
    ("head", "kinds"),
    [
        (b"GIF89a", {"image", "video"}),
        (b"RIFF\0\0\0\0WEBPVP8 ", {"image", "video"}),
        (b"RIFF\0\0\0\0AVI LIST", {"audio", "video"}),
        (b"\x1aE\xdf\xa3webm", {"audio", "video"}),
        (b"OggS\0\x02", {"audio", "video"}),
        (b"\0\0\0\x20ftypM4A ", {"audio", "video"}),
        (b"\0\0\0\x20ftypavif", {"image"}),
        (b"ID3\x04", {"audio"}),
        (b"\xff\xfb\x90\x64", {"audio"}),
        (b"\xff\xf1\x50\x80", {"audio"}),
        (b"fLaC", {"audio"}),
        (b"FORM\0\0\0\0AIFF", {"audio"}),
        (b"\xff\xd8\xff\xe0", {"image"}),
        (b"\0\0\0\x0cjP  \r\n\x87\n", set()),  # JPEG 2000
        (b"\xff\x4f\xff\x51", set()),
        (b"%!PS-Adobe-3.0 EPSF", set()),
        (b"8BPS", set()),
        (b"<svg xmlns", set()),
        (b"#EXTM3U\n", set()),
        (b"[playlist]", set()),
        (b"ffconcat version 1.0", set()),
        (b"\x80\x04\x95", set()),  # a pickle
        (b"PK\x03\x04", set()),
        (b"RIFF\0\0\0\0RMID", set()),
        (b"", set()),
        (b"\xff", set()),
    ],
)
def test_bytes_are_what_they_begin_with(head: bytes, kinds: set) -> None:
    assert set(sniff(head)) == kinds
