"""Where figures go, read back by the real libraries."""

import json
import pathlib
import struct
import sys

import pytest

from ola_jax.errors import OlaError
from ola_jax.training.sinks import JsonLines, TensorBoard, WeightsAndBiases
from tests.full_disk import files_of_at_most


def lines(file: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_steps(sink: JsonLines, steps: range) -> None:
    for step in steps:
        sink.write(step, {"loss": step / 2})


def test_a_line_is_on_disk_when_it_has_been_written(tmp_path: pathlib.Path) -> None:
    sink = JsonLines(tmp_path / "m.jsonl", 0)
    sink.write(1, {"loss": 0.5})
    assert lines(tmp_path / "m.jsonl") == [{"step": 1, "loss": 0.5}]
    sink.close()


def test_steps_that_are_done_again_and_a_half_line_are_dropped(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "m.jsonl"
    first = JsonLines(file, 0)
    write_steps(first, range(1, 6))
    first.close()
    with file.open("a") as f:
        f.write('{"step": 6, "lo')  # killed while it was written
    again = JsonLines(file, 3)
    assert [line["step"] for line in lines(file)] == [1, 2, 3]
    write_steps(again, range(4, 8))
    again.close()
    assert [line["step"] for line in lines(file)] == [1, 2, 3, 4, 5, 6, 7]
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize(
    "broken",
    [
        b"\0" * 40,
        b'\0\0\0{"step": 2}',
        b'{"step": 2, "lo',
        b'{"step": 2, "loss": "\xff\xfe"}',
        b"[2]",
        b"null",
        b'{"loss": 0.5}',
        b'{"step": null}',
        b'{"step": "2"}',
        b'{"step": true}',
        b"",
        b"[" * 100_000,
    ],
)
def test_broken_lines_are_left_out_and_reported_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    file = tmp_path / "m.jsonl"
    complete = [json.dumps({"step": step}).encode() for step in range(1, 6)]
    file.write_bytes(b"\n".join([complete[0], broken, *complete[1:], broken]) + b"\n")
    for _ in range(2):
        sink = JsonLines(file, 3)
        sink.close()
    assert file.read_bytes() == b"\n".join(complete[:3]) + b"\n"
    (message,) = caplog.messages
    assert message == f"{file}: 2 broken lines were left out (the first: line 2)"


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.jsonl").mkdir()
    with pytest.raises(OlaError, match=r"m.jsonl: cannot be written \(Is a directory\)"):
        JsonLines(tmp_path / "m.jsonl", 0)
    sink = JsonLines(tmp_path / "n.jsonl", 0)
    sink.write(1, {"loss": 0.5})
    with files_of_at_most((tmp_path / "n.jsonl").stat().st_size + 7):
        with pytest.raises(OlaError, match=r"n.jsonl: cannot be written \(File too large\)"):
            sink.write(2, {"loss": 0.5})
        sink.close()
    JsonLines(tmp_path / "n.jsonl", 2).close()
    assert lines(tmp_path / "n.jsonl") == [{"step": 1, "loss": 0.5}]


def test_figures_that_are_not_finite_become_null(tmp_path: pathlib.Path) -> None:
    sink = JsonLines(tmp_path / "m.jsonl", 0)
    sink.write(1, {"loss": float("nan"), "records": [{"id": "a"}], "more": {"inf": float("inf")}})
    sink.close()
    assert lines(tmp_path / "m.jsonl")[0] == {
        "step": 1,
        "loss": None,
        "records": [{"id": "a"}],
        "more": {"inf": None},
    }


def framed(data: bytes, start: int) -> list[bytes]:
    """Records of a TensorBoard event file: length, its checksum, data, its checksum."""
    found = []
    while start < len(data):
        (size,) = struct.unpack_from("<Q", data, start)
        found.append(data[start + 12 : start + 12 + size])
        start += 16 + size
    return found


def test_tensorboard_files_hold_the_scalars(tmp_path: pathlib.Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    sink = TensorBoard(tmp_path, 4)
    sink.write(5, {"loss": 0.25, "utilization/tokens": 0.5})
    sink.write(6, {"loss": 0.125})
    sink.close()
    (file,) = tmp_path.iterdir()
    events = [Event.FromString(record) for record in framed(file.read_bytes(), 0)]
    scalars = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}
    assert scalars == {(5, "loss"): 0.25, (5, "utilization/tokens"): 0.5, (6, "loss"): 0.125}
    started = [e for e in events if e.session_log.status]
    assert started[0].step == 5  # hides what an earlier run wrote of steps from here on


def test_weights_and_biases_takes_the_figures_offline(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sink = WeightsAndBiases("ola", "mine/tune", folder=tmp_path, config={"steps": 3})
    sink.write(1, {"loss": 0.25})
    sink.write(1, {"eval/loss": 0.75})
    sink.write(2, {"loss": 0.125})
    sink.close()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert file.stem == "run-" + (tmp_path / "wandb_id").read_text()
    assert history(file) == [{"loss": 0.25, "eval/loss": 0.75, "_step": 1}, {"loss": 0.125, "_step": 2}]


def history(file: pathlib.Path) -> list[dict[str, float]]:
    """Rows of a file of Weights & Biases: LevelDB's log, each record after checksum, length and type."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, start, rows, record = file.read_bytes(), 7, [], b""
    while start + 7 <= len(data):
        size, kind = struct.unpack_from("<HB", data, start + 4)
        record += data[start + 7 : start + 7 + size]
        start += 7 + size
        if kind in (1, 4):  # complete, or its last part
            found = Record.FromString(record)
            if found.WhichOneof("record_type") == "history":
                named = {i.key or "/".join(i.nested_key): i.value_json for i in found.history.item}
                rows.append(
                    {k: json.loads(v) for k, v in named.items() if k not in ("_runtime", "_timestamp")}
                )
            record = b""
    return rows


@pytest.mark.parametrize(
    ("library", "make", "option"),
    [
        ("tensorboardX", lambda folder: TensorBoard(folder, 0), "tensorboard"),
        ("wandb", lambda folder: WeightsAndBiases("p", "n", folder=folder, config={}), "wandb"),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, library: str, make: object, option: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(OlaError, match=rf"{option}: the library {library} .*pip install 'ola_jax\[watch\]'"):
        make(tmp_path)
