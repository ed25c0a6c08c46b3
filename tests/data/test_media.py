import base64

import pytest

from ola_jax.data.media import locate
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
        ({"start_num": 20}, r"\[bytes 20 to 25\]: only 5 bytes there|only \d+ bytes"),
        ({"size": -3}, "only 0 bytes there"),
        ({"size": []}, "'size' is an empty list"),
        ({"start_num": -1}, "cannot be read"),
        ({"size": "many"}, "patch object .* expected 'patch', 'start_num' and 'size'"),
        ({"patch": 5}, "expected the path of a file, found 5"),
        ({"size": 7, "image_encoding": "base64"}, "not base64"),
    ],
)
def test_wrong_patches_are_errors(tmp_path, patch, change, message):
    with pytest.raises(OlaError, match=message):
        locate(patch | change, str(tmp_path))


def test_missing_and_empty_files_are_errors(tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(OlaError, match=r"empty\.wav: the file is empty"):
        locate("empty.wav", str(tmp_path))
    with pytest.raises(OlaError, match="is a directory, not a file"):
        locate(str(tmp_path))
    with pytest.raises(OlaError, match="expected the path of a file"):
        locate("")
