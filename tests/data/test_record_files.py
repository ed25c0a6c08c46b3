import codecs
import gzip
import json

import pytest

from ola_jax.data.record_files import Malformed, load
from ola_jax.errors import OlaError

RECORDS = [{"id": "a", "text": "x\u2028y\x85z\u000cé\u0000"}, {"id": "b"}]


def write(folder, name, data):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


def lines(records, end="\n"):
    return "".join(json.dumps(record, ensure_ascii=False) + end for record in records)


@pytest.mark.parametrize("name", ["r.jsonl", "r.JSONL", "r.ndjson"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \r\n\t\n"])
@pytest.mark.parametrize("front", ["", "\ufeff"])
def test_lines_end_at_line_feeds_only(tmp_path, name, end, front):
    assert load(write(tmp_path, name, front + lines(RECORDS, end))) == RECORDS
    assert load(write(tmp_path, name, front + lines(RECORDS, end).rstrip())) == RECORDS


def test_concatenated_files_may_each_have_a_byte_order_mark(tmp_path):
    data = "\ufeff" + lines(RECORDS) + "\ufeff" + lines(RECORDS) + "\ufeff"
    assert load(write(tmp_path, "r.jsonl", data)) == RECORDS * 2


@pytest.mark.parametrize("front", [b"", codecs.BOM_UTF8])
def test_an_array_is_read_with_and_without_a_byte_order_mark(tmp_path, front):
    data = front + json.dumps(RECORDS, ensure_ascii=False, indent=1).replace("\n", "\r\n").encode()
    assert load(write(tmp_path, "r.json", data)) == RECORDS


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": }', r"line 3: not valid JSON: Expecting value: column 7 \(char 6\)"),
        (b'{"a": "\xe9"}', "line 3: not valid JSON: byte 0xe9 is not UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "line 3: not valid JSON: brackets are nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 3: not valid JSON: Exceeds the limit"),
        (b'{"a": 1} {"b": 2}', "line 3: not valid JSON: Extra data"),
        (b"[1]", "line 3: expected a JSON object, found list"),
        (b"null", "line 3: expected a JSON object, found NoneType"),
        (b'{"a": 1, "b": 2, "a": 3}', "line 3: key 'a' occurs twice"),
    ],
)
def test_a_bad_line_is_kept_with_its_number(tmp_path, line, reason):
    path = write(tmp_path, "r.jsonl", b'{"id": 1}\n\n' + line + b'\n{"id": 2}')
    first, bad, last = load(path)
    assert (first, last) == ({"id": 1}, {"id": 2})
    assert isinstance(bad, Malformed)
    assert bad.reason.startswith(reason.split("\\")[0].split(" (")[0])


def test_elements_of_an_array_that_are_not_objects_are_kept(tmp_path):
    found = load(write(tmp_path, "r.json", '[{"id": 1}, 2, [], {"k": 1, "k": 2}]'))
    assert found[0] == {"id": 1}
    assert [bad.reason for bad in found[1:]] == [
        "expected a JSON object, found int",
        "expected a JSON object, found list",
        "key 'k' occurs twice; remove one",
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("r.json", b"", "the file is empty"),
        ("r.jsonl", b" \r\n\xef\xbb\xbf", "the file is empty"),
        ("r.json", b'[{"a": 1},\n {"b": }]', r"not valid JSON: Expecting value: line 2 column 8"),
        ("r.json", b'[{"a": 1},\n "\xff"]', "not valid JSON: line 2: byte 0xff is not UTF-8"),
        ("r.json", b"[" * 100_000, "not valid JSON: brackets are nested too deeply"),
        ("r.json", b'[{"a": ' + b"7" * 5000 + b"}]", "not valid JSON: Exceeds the limit"),
        ("r.json", b'{"a": 1}\n{"a": 2}\n', r"Extra data.*; name a file of JSON Lines \.jsonl"),
        ("r.json", b'{"a": 1}', "expected a JSON array of records.*found an object"),
        ("r.json", b'"text"', "expected a JSON array of records.*found str"),
        ("r.json", "[]".encode("utf-16"), "is UTF-16 or UTF-32 text; convert it to UTF-8"),
        ("r.json", "[]".encode("utf-16-be"), "is binary, or UTF-16 or UTF-32 text"),
        ("r.jsonl", "{}".encode("utf-32"), "is UTF-16 or UTF-32 text"),
        ("r.json", gzip.compress(b"[]", mtime=0), "compressed by gzip; unpack it first"),
        ("r.jsonl.gz", gzip.compress(b"{}", mtime=0), "compressed by gzip; unpack it first"),
        ("r.json", b"PK\x03\x04", "a zip archive"),
        ("r.parquet", b"PAR1....", "a Parquet file"),
    ],
)
def test_files_that_cannot_be_read_are_errors_of_one_line(tmp_path, name, data, message):
    with pytest.raises(OlaError, match=message) as caught:
        load(write(tmp_path, name, data))
    assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("path", ["", "none.json", ".", "nul\0.json", "x" * 5000, "a\nb.json"])
def test_paths_without_a_file_are_errors_of_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OlaError, match="cannot be read") as caught:
        load(path)
    assert "\n" not in str(caught.value)
