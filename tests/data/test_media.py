import base64
import json
import os

import pytest

from ola_jax.config import MediaLimits
from ola_jax.data.media import BadMediaError, MissingFileError, locate, short
from ola_jax.errors import OlaError

PARTS = [b"first", b"second one", b"x"]


@pytest.fixture
def patch(tmp_path):
    (tmp_path / "patch_00000").write_bytes(b"before" + b"".join(PARTS) + b"after")
    return {"patch": "patch_00000", "start_num": 6, "size": [len(part) for part in PARTS]}


def test_items_of_a_patch_file_follow_each_other(tmp_path, patch):
    items = locate(patch, str(tmp_path))
    assert [item.open().read() for item in items] == PARTS
    (one,) = locate(patch | {"start_num": "11", "size": 10}, str(tmp_path))
    assert one.data == PARTS[1]
    assert one.name.endswith("patch_00000 [bytes 11 to 21]")


@pytest.mark.parametrize("key", ["image_encoding", "image_encoing"])
def test_base64_is_decoded(tmp_path, key):
    encoded = base64.b64encode(PARTS[1])
    (tmp_path / "p").write_bytes(encoded)
    (item,) = locate({"patch": "p", "start_num": 0, "size": len(encoded), key: "base64"}, str(tmp_path))
    assert item.data == PARTS[1]


def test_paths_are_below_the_root_unless_absolute(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for ref in ("a.png", str(tmp_path / "a.png"), {"img_path": "a.png"}):
        assert [item.open() for item in locate(ref, str(tmp_path))] == [str(tmp_path / "a.png")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": "none"}, "none: no such file"),
        ({"start_num": 20}, r"\[bytes 25 to 35\]: the file has only 2 bytes there"),
        ({"start_num": 10**18}, "only 0 bytes there"),
        ({"start_num": 10**30}, "patch object .* expected"),
        ({"size": -3}, "only 0 bytes there"),
        ({"size": 0}, "only 0 bytes there"),
        ({"size": 10**12}, r"only 21 bytes there"),
        ({"size": [5, 10**5000]}, "patch object .* expected"),
        ({"size": []}, "'size' is an empty list"),
        ({"start_num": -1}, "cannot be read"),
        ({"size": "many"}, "patch object .* expected 'patch', 'start_num' and 'size'"),
        ({"size": "1_0"}, "patch object .* expected"),
        ({"size": "\uff15"}, "patch object .* expected"),
        ({"size": "9" * 5000}, "patch object .* expected"),
        ({"size": None}, "patch object .* expected"),
        ({"size": {}}, "patch object .* expected"),
        ({"size": [[5]]}, "patch object .* expected"),
        ({"size": True}, "patch object .* expected"),
        ({"start_num": False}, "patch object .* expected"),
        ({"start_num": 0.5}, "patch object .* expected"),
        ({"start_num": float("inf")}, "patch object .* expected"),
        ({"start_num": float("nan")}, "patch object .* expected"),
        ({"patch": 5}, "expected the path of a file, found 5"),
        ({"patch": ["p"]}, "expected the path of a file, found"),
        ({"size": 7, "image_encoding": "base64"}, "not base64"),
        ({"img_path": []}, "'img_path' is an empty list"),
        ({"img_path": [7]}, "expected the path of a file, found 7"),
        ({"img_path": {}}, "expected the path of a file, found {}"),
        ({"img_path": None}, "expected the path of a file, found None"),
    ],
)
def test_wrong_patches_are_errors_of_one_short_line(tmp_path, patch, change, message):
    with pytest.raises(OlaError, match=message) as caught:
        locate(patch | change, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_patch_beyond_the_limit_is_not_read(tmp_path, patch):
    limits = MediaLimits(patch_bytes=15)
    with pytest.raises(BadMediaError, match=r"16 bytes in all, at most 15 are read \(patch_bytes\)"):
        locate(patch, str(tmp_path), limits)
    assert len(locate(patch | {"size": [5, 10]}, str(tmp_path), limits)) == 2


@pytest.mark.parametrize("data", [b"Zm9v\nYmFy\n", b"Zm9vYmFy"])
def test_base64_may_have_line_breaks(tmp_path, data):
    (tmp_path / "p").write_bytes(data)
    ref = {"patch": "p", "start_num": 0, "size": len(data), "image_encoding": "base64"}
    assert locate(ref, str(tmp_path))[0].data == b"foobar"


@pytest.mark.parametrize("data", [b"Zm9v*mFy", b"\xff\xd8\xff\xe0", b"Zm9", b"\n\n"])
def test_invalid_base64_is_an_error(tmp_path, data):
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(BadMediaError, match="not base64"):
        locate({"patch": "p", "start_num": 0, "size": len(data), "image_encoding": "base64"}, str(tmp_path))


def test_missing_and_empty_files_are_errors(tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(OlaError, match=r"empty\.wav: the file is empty"):
        locate("empty.wav", str(tmp_path))
    with pytest.raises(OlaError, match="is a directory, not a file"):
        locate(str(tmp_path))
    with pytest.raises(OlaError, match="expected the path of a file"):
        locate("")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data:image/png;base64," + "iVBORw0KGgo" * 1000, "data URIs are not read"),
        ("https://example.org/a.png", "no such file; URLs"),
        ("x" * 300, "cannot be read .*[Nn]ame too long"),
        ("a/" * 3000, "cannot be read|no such file"),
        ("a\0b", r"a\\x00b: not the path of a file"),
        ("a\nb", r"a\\nb: no such file"),
        ("\ud83d", r"\\ud83d: not the path of a file"),
        ("fifo", "fifo: is not a regular file"),
        ("/dev/zero", "/dev/zero: is not a regular file"),
        ("file/inside", "no such file"),
        (True, "expected the path of a file, found True"),
        (None, "expected the path of a file, found None"),
        (1e300, "expected the path of a file, found"),
        ([["x"] * 99] * 99, "expected the path of a file, found"),
    ],
)
def test_anything_but_the_path_of_a_file_is_an_error_of_one_short_line(tmp_path, path, message):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OlaError, match=message) as caught:
        locate(path, str(tmp_path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    if isinstance(path, str):
        assert isinstance(caught.value, MissingFileError)


def test_a_folder_without_permission_is_an_error(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(MissingFileError, match=r"a\.png: cannot be read \(Permission denied\)"):
        locate("a.png", "/locked")


def test_a_name_in_any_script_is_found(tmp_path):
    name = "画像 \u2028é.png"
    (tmp_path / name).write_bytes(b"x")
    assert locate(json.loads(json.dumps(name)), str(tmp_path))[0].path == str(tmp_path / name)


def test_values_in_messages_are_short_and_on_one_line():
    assert short("a\nb\u2028c\x1b[31m\ud800") == r"a\nb\u2028c\x1b[31m\ud800"
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, "x" * 10**6, ["x" * 10**5] * 10**4, 10**10_000, {"k": {"k": {"k": {"k": 1}}}}):
        assert len(short(value)) < 170
