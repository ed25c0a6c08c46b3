import pickle
import subprocess
import sys

import pytest

from ola_jax.errors import MAX_MESSAGE, MAX_VALUE, OlaError, describe, first_line, quote


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("half \ud83d, \udcff", r"half \ud83d, \udcff"),
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("näin C:\\x 日本 😀", "näin C:\\x 日本 😀"),
    ],
)
def test_a_message_is_one_line_that_can_be_printed(text, shown):
    error = OlaError(text)
    assert str(error) == shown
    assert str(OlaError(str(error))) == shown  # unchanged when it is raised again
    str(error).encode()


def test_a_long_message_keeps_its_beginning_and_its_end():
    error = OlaError("file.json: " + "x" * 200_000 + "; do this instead")
    assert len(str(error)) == MAX_MESSAGE
    assert str(error).startswith("file.json: x")
    assert str(error).endswith("x; do this instead")
    assert str(OlaError(str(error))) == str(error) == str(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "ascii:strict", "latin-1:strict"])
def test_a_tool_ends_with_one_line_whatever_the_terminal(encoding):
    code = (
        "from ola_jax.errors import OlaError, run\n"
        "def main(): raise OlaError('caf\\u00e9 \\ud83d\\nsecond \\u65e5')\n"
        "run(main)"
    )
    env = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: caf")
    assert done.stderr.count(b"\n") == 1
    assert b"Traceback" not in done.stderr


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


@pytest.mark.parametrize(
    "value",
    [["x" * 99] * 9999, {"a": {"b": [1] * 999}}, 10**6000, "\ud83d\n" * 99, Unprintable(), b"x" * 999],
    ids=["list", "dict", "int", "str", "object", "bytes"],
)
def test_a_quoted_value_is_short(value):
    assert 0 < len(quote(value)) <= MAX_VALUE
    assert quote(value).isprintable()


def test_short_values_are_quoted_as_python_writes_them():
    assert [quote(x) for x in ("a", 7, ["b"], {"c": None})] == ["'a'", "7", "['b']", "{'c': None}"]


def test_other_exceptions_are_described_in_one_line():
    assert describe(ValueError("a\nb")) == "ValueError: a"
    assert describe(MemoryError()) == "MemoryError"
    assert first_line(KeyError("k")) == "'k'"
    assert first_line(Exception(Unprintable())) == "Exception"
    assert len(first_line(ValueError("x" * 10_000))) <= MAX_MESSAGE
