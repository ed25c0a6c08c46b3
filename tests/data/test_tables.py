import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from ola_jax.data.media import MediaBytes
from ola_jax.data.mixtures import Part, read_mixture
from ola_jax.data.record_files import Malformed
from ola_jax.data.sources import Source, open_table
from ola_jax.data.tables import open_records
from ola_jax.errors import OlaError
from tests.data.made_up import conversation, tiny_processor, write_json


def png(colour, size=(10, 12)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def write_parquet(path, rows, group=4):
    talk = pyarrow.list_(pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())]))
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("id", pyarrow.string()), ("image", picture), ("conversations", talk)])
    table = pyarrow.Table.from_pylist(rows, schema)
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return str(path)


def rows(count):
    return [
        conversation(
            f"<image>\nNumber {i}?", "yes", id=f"r{i}", image={"bytes": png((i, 2, 3)), "path": f"{i}.png"}
        )
        for i in range(count)
    ]


def assert_equal_samples(one, other):
    for name in ("tokens", "targets", "source", "audio"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert len(one.images) == len(other.images)
    for a, b in zip(one.images, other.images, strict=True):
        np.testing.assert_array_equal(a.patches, b.patches)


def test_rows_of_parquet_are_records_with_their_bytes(tmp_path):
    path = write_parquet(tmp_path / "train-0.parquet", rows(11))
    table = pickle.loads(pickle.dumps(open_records(path)))
    assert len(table) == 11
    for index in (0, 5, 6, 2, 10, 10, 3):
        assert table[index]["id"] == f"r{index}"
        assert table[index]["image"].data == png((index, 2, 3))
    (tmp_path / "7.png").write_bytes(png((7, 2, 3)))
    in_file = conversation("<image>\nNumber 7?", "yes", image="7.png")
    processor = tiny_processor()
    assert_equal_samples(
        processor.sample(table[7], training=True), processor.sample(in_file, str(tmp_path), training=True)
    )


def test_a_row_of_a_path_alone_and_one_without_an_image(tmp_path):
    found = [conversation("Hi?", "Yes", image=None), conversation("<image>\n?", "A", image={"path": "a.png"})]
    table = open_records(write_parquet(tmp_path / "a.parquet", found))
    assert [table[0]["image"], table[1]["image"]] == [None, "a.png"]


@pytest.mark.parametrize("as_text", [False, True])
def test_columns_named_as_members_of_webdataset_are_a_record(tmp_path, as_text):
    """Such as `mp4` and `json`; FineVideo's objects have no conversations, which is an error at once."""
    turns = conversation("<image>\nWhat?", "It.", id="7")
    objects = [turns, turns | {"video": "clips/7.mp4"}]
    text = lambda value: json.dumps(value) if as_text else value
    table = pyarrow.Table.from_pylist([{"mp4": b"clip", "json": text(each)} for each in objects])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for record in (found := open_records(str(tmp_path / "a.parquet")))[0], found[1]:
        assert (record["id"], record["video"].data, record["video"].is_file) == ("7", b"clip", True)
        assert record["conversations"][1]["value"] == "It."
    rows = [{"mp4": b"clip", "json": {"content_metadata": {"title": "a"}}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    with pytest.raises(
        OlaError, match=r"columns mp4, json, json\.content_metadata; expected 'conversations'"
    ):
        open_records(str(tmp_path / "b.parquet"))
    for value in (None, "[1]", "{"):
        pyarrow.parquet.write_table(pyarrow.table({"json": pyarrow.array([value], "string")}), tmp_path / "c")
        assert isinstance(open_records(str(tmp_path / "c"))[0], Malformed)


def test_parquet_without_conversations_or_damaged_is_an_error(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(OlaError, match=r"a\.parquet: has the columns text; expected 'conversations'"):
        open_records(str(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1....")
    with pytest.raises(OlaError, match=r"b\.parquet: cannot be read as Parquet"):
        open_records(str(tmp_path / "b.parquet"))


def test_a_damaged_row_group_is_malformed_rows_not_fewer_rows(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", rows(8))
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:700] = b"\xff" * 696  # the first row group
    (tmp_path / "a.parquet").write_bytes(data)
    table = open_records(path)
    found = [table[i] for i in range(8)]
    assert len(table) == 8
    bad = [row for row in found if isinstance(row, Malformed)]
    assert bad == found[:4]
    assert all("cannot be read" in row.reason for row in bad)


def test_members_of_a_tar_file_that_share_a_name_are_a_record(tmp_path):
    talk = conversation("<image>\nWhat?", "A b.")
    members = {
        "x/a.jpg": png((1, 2, 3)),
        "x/a.json": json.dumps(talk | {"id": "own"}).encode(),
        "x/b.txt": b"a dog",
        "x/b.input.png": png((4, 5, 6)),
        "x/c.json": json.dumps(talk | {"image": "elsewhere/c.png"}).encode(),
        "x/c.png": png((7, 8, 9)),
        "x/lonely.png": png((1, 1, 1)),
        "x/d.json": b"{",
        "x/e.0.png": png((0, 0, 0)),
        "x/e.1.png": png((1, 0, 0)),
        "x/e.json": json.dumps(
            conversation("<image>\n<image>\nWhich?", "This.", image=["e.1.png", "e.0.png"])
        ).encode(),
    }
    table = pickle.loads(pickle.dumps(open_records(write_tar(tmp_path / "a.tar", members))))
    a, b, c, lonely, d, e = (table[i] for i in range(len(table)))
    assert (a["id"], a["image"].data) == ("own", png((1, 2, 3)))
    assert b == {
        "id": "x/b",
        "image": MediaBytes(f"{tmp_path}/a.tar: x/b.input.png", png((4, 5, 6)), is_file=True),
        "conversations": [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": "a dog"}],
    }
    assert c["image"].data == png((7, 8, 9))
    assert lonely == Malformed(f"{tmp_path}/a.tar: x/lonely.png: no .json or .txt member of this name")
    assert "not valid JSON" in d.reason
    assert [item.data for item in e["image"]] == [png((1, 0, 0)), png((0, 0, 0))]
    for record in (a, b, c, e):
        tiny_processor().sample(record, training=True)


def test_a_tar_file_that_is_cut_off_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.png": png((1, 2, 3)) * 50, "a.txt": b"x"})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:1000])
    with pytest.raises(OlaError, match="tar file"):
        open_records(path)


def test_files_of_a_folder_and_of_a_pattern_follow_each_other(tmp_path):
    for number in (1, 0):
        write_parquet(tmp_path / f"train-{number}.parquet", rows(3))
    write_parquet(tmp_path / "test-0.parquet", rows(1))
    assert len(open_records(str(tmp_path))) == 7
    table = open_records(str(tmp_path / "train-*.parquet"))
    assert [table[i]["id"] for i in range(6)] == ["r0", "r1", "r2"] * 2
    with pytest.raises(OlaError, match="no file has a name of this pattern"):
        open_records(str(tmp_path / "none-*.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OlaError, match="expected prepared shards"):
        open_records(str(tmp_path / "empty"))


def test_a_mixture_takes_what_its_strategies_say(tmp_path):
    for name in "abcde":
        write_json(tmp_path, f"{name}.json", [{"id": f"{name}{i}"} for i in range(10)])
    lines = ["datasets:", "- json_path: a.json"]
    for name, strategy in (("b", "first:3"), ("c", "end:20%"), ("d", "random:25%"), ("e", "first:99")):
        lines += [f"- json_path: {name}.json", f"  sampling_strategy: {strategy}"]
    (tmp_path / "mix.yaml").write_text("\n".join(lines))
    path = str(tmp_path / "mix.yaml")
    ids = lambda seed: [record["id"] for record in map(open_records(path, seed=seed).__getitem__, range(28))]
    assert ids(0)[:15] == [f"a{i}" for i in range(10)] + ["b0", "b1", "b2", "c8", "c9"]
    assert len(open_records(path)) == 10 + 3 + 2 + 3 + 10
    assert ids(0) == ids(0) != ids(1)
    assert read_mixture(path)[2] == Part(f"{tmp_path}/c.json", "end", 20.0, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read as YAML"),
        ("a: 1", "expected 'datasets'"),
        ("datasets: [{sampling_strategy: all}]", r"datasets\[0\]: expected json_path"),
        (
            "datasets: [{json_path: a.json, sampling_strategy: 'last:3'}]",
            r"sampling_strategy is 'last:3'; expected all",
        ),
        ("datasets: [{json_path: a.json, sampling_strategy: 'first:0'}]", "N above 0"),
        ("datasets: [{json_path: a.json, sampling_strategy: 'first:1.5'}]", "N above 0"),
        ("datasets: [{json_path: a.json, weight: 3}]", "'weight' is not known"),
    ],
)
def test_a_mixture_that_is_wrong_is_an_error(tmp_path, text, message):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(OlaError, match=message):
        open_records(str(tmp_path / "mix.yaml"))


def test_beginnings_of_paths_are_rewritten_everywhere(tmp_path):
    patch = {"patch": "/mnt/a/nextqa/1", "start_num": 0, "size": [4]}
    found = [
        {
            "image": "/mnt/a/1.png",
            "audio": {"patch": "/mnt/b/2", "start_num": 0, "size": 1},
            "conversations": [],
        },
        {"video": [patch, "other/2.png"], "audio_q": {"img_path": ["/mnt/a/x", "y"]}},
    ]
    rewrite = (("/mnt/a/", "here/"), ("/mnt/", "/there/"))
    path = write_json(tmp_path, "r.json", [*found, 3])
    table = open_table(Source(path, rewrite=rewrite))
    assert table[0]["image"] == "here/1.png"
    assert table[0]["audio"]["patch"] == "/there/b/2"
    assert table[1]["video"] == [patch | {"patch": "here/nextqa/1"}, "other/2.png"]
    assert table[1]["audio_q"] == {"img_path": ["here/x", "y"]}
    assert isinstance(table[2], Malformed)
    assert open_table(Source(path, bgr=True))[1]["video"] == [patch | {"bgr": True}, "other/2.png"]
    with pytest.raises(OlaError, match="expected pairs of the beginning"):
        open_table(Source(path, rewrite=(("", "x"),)))


def test_frames_of_five_sources_are_bgr_where_that_is_asked_for(tmp_path):
    data = png((200, 30, 4), (16, 16))
    (tmp_path / "cinepile_1").write_bytes(data * 2)
    record = conversation(
        "<image>\nWhat?", "It.", video={"patch": "cinepile_1", "start_num": 0, "size": [len(data)] * 2}
    )
    path = write_json(tmp_path, "r.json", [record])
    pixels = {}
    for bgr in (False, True):
        source = Source(path, str(tmp_path), bgr=bgr)
        sample = tiny_processor().sample(open_table(source)[0], source.root, training=True)
        pixels[bgr] = sample.images[0].patches.reshape(-1, 3)[0].tolist()
    assert pixels == {False: [200, 30, 4], True: [4, 30, 200]}
