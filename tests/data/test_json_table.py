import json
import pickle
import random
import tracemalloc

import pytest

from ola_jax.data import json_table
from ola_jax.data.json_table import JsonTable, open_json
from ola_jax.data.record_files import Malformed, load
from ola_jax.errors import OlaError

TEXTS = ['a "quoted" \\ [text], {x}', "é\u2028日本", "", "ends with \\\\", "\n,]\t[{"]


def records(count, seed=0):
    rng = random.Random(seed)
    return [
        {"id": i, "text": rng.choice(TEXTS) * rng.randrange(4), "l": [[], {}, [1, {"a": []}]]}
        for i in range(count)
    ]


def write(path, found, style):
    text = {
        "array": lambda: json.dumps(found),
        "indented": lambda: (
            "\ufeff" + json.dumps(found, indent=1, ensure_ascii=False).replace("\n", "\r\n") + "\n "
        ),
        "lines": lambda: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in found),
        "blank lines": lambda: "\n\r\n" + "\r\n \n".join(json.dumps(r) for r in found),
    }[style]()
    path.write_bytes(text.encode())
    return str(path)


@pytest.fixture(params=[7, 64, 2**22])
def block(request, monkeypatch):
    monkeypatch.setattr(json_table, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("style", ["array", "indented", "lines", "blank lines"])
def test_a_large_file_has_the_records_of_a_small_one(tmp_path, style):
    expected = records(40)
    path = write(tmp_path / "r.json", expected, style)
    table = open_json(path, small=0)
    assert isinstance(table, JsonTable)
    assert [table[i] for i in range(len(table))] == expected == list(open_json(path))
    assert [pickle.loads(pickle.dumps(table))[i] for i in (39, 0)] == [expected[39], expected[0]]


@pytest.mark.usefixtures("block")
def test_elements_that_are_no_records_are_kept_where_they_stand(tmp_path):
    (tmp_path / "r.json").write_text('[{"a": 1}, 2, "x,]", {"k": 1, "k": 2}, {"a": }, , {"b": 2}]')
    table = open_json(str(tmp_path / "r.json"), small=0)
    found = [table[i] for i in range(len(table))]
    assert [found[0], found[-1]] == [{"a": 1}, {"b": 2}]
    assert [bad.reason.split(": ", 1)[1] for bad in found[1:-1]] == [
        "expected a JSON object, found int",
        "expected a JSON object, found str",
        "key 'k' occurs twice; remove one",
        "not valid JSON: Expecting value: column 7 (char 6)",
        "not valid JSON: Expecting value: column 1 (char 0)",
    ]
    assert all(isinstance(bad, Malformed) for bad in found[1:-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"b"', "the array does not end; the file may be cut off"),
        ('[{"a": 1}] [2]', r"more text after the end of the array \(byte 11\)"),
        ('"text"', r"more text after the end of the array|expected a JSON array"),
        ("PK\x03\x04", "a zip archive"),
    ],
)
def test_a_large_file_that_is_no_array_is_an_error(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(OlaError, match=message):
        open_json(str(tmp_path / "r.json"), small=0)


def test_an_empty_array_has_no_records(tmp_path):
    (tmp_path / "r.json").write_text(" [ ]\n")
    assert len(open_json(str(tmp_path / "r.json"), small=0)) == 0


def test_a_file_that_changes_is_an_error(tmp_path):
    path = write(tmp_path / "r.jsonl", records(3), "lines")
    table = open_json(path, small=0)
    write(tmp_path / "r.jsonl", records(2), "lines")
    with pytest.raises(OlaError, match="has changed"):
        table[0]


def test_the_memory_of_a_large_file_is_that_of_its_positions(tmp_path):
    path = write(tmp_path / "r.json", [{"text": "x" * 2000} for _ in range(10_000)], "array")
    open_json(path, small=0)  # compiled
    tracemalloc.start()
    table = open_json(path, small=0)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 10_000
    assert kept < 20 * len(table)


def test_lines_are_recognized_under_any_name(tmp_path):
    path = write(tmp_path / "r.json", records(5), "lines")
    assert open_json(path) == records(5) == load(path, is_lines=True)
