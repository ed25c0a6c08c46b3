"""Damaged checkpoints: each is reported in one clear line with status 2, and nothing is written."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import convert_weights
from ola_jax import checkpoint, errors
from ola_jax.convert import importer, orbax_store
from ola_jax.convert.import_job import prepare_import
from tests.convert import checkpoints
from tests.convert.checkpoints import BEATS_FILE, WHISPER_FILE, write
from tests.convert.command import run

SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
INCOMPLETE = r"not a complete safetensors file"
FLAGS = {"whisper.pt": "--whisper", "beats.pt": "--beats"}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A checkpoint in two shards, with its speech files."""
    directory = write(tmp_path_factory.mktemp("intact") / "hf", checkpoints.without_speech_encoder, shards=2)
    shutil.copyfile(WHISPER_FILE, directory / "whisper.pt")
    shutil.copyfile(BEATS_FILE, directory / "beats.pt")
    return directory


@pytest.fixture(scope="module")
def imported(intact: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The same checkpoint, imported with the check for NaN."""
    directory = tmp_path_factory.mktemp("imported") / "ola"
    assert run_import(intact, directory, "--check-finite") == 0
    return directory


def run_import(source: pathlib.Path, target: pathlib.Path, *options: str) -> int:
    speech = [part for name, flag in FLAGS.items() for part in (flag, source / name)]
    return run("import", "--from", source, "--to", target, *speech, *options)


def delete(name: str) -> Callable:
    return lambda directory: (directory / name).unlink()


def text(name: str, content: str) -> Callable:
    return lambda directory: (directory / name).write_text(content)


def cut(name: str, share: float) -> Callable:
    def damage(directory: pathlib.Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(share * len(content))])

    return damage


def append(name: str, content: bytes) -> Callable:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes() + content)


def edit_json(name: str, change: Callable[[dict], Any]) -> Callable:
    def damage(directory: pathlib.Path) -> None:
        values = json.loads((directory / name).read_text())
        change(values)
        (directory / name).write_text(json.dumps(values))

    return damage


def mapped(key: str, shard: str) -> Callable:
    """One entry of the index."""
    return edit_json(INDEX, lambda index: index["weight_map"].__setitem__(key, shard))


def header(change: Callable[[dict], Any], encode: Callable[[dict], str] = json.dumps) -> Callable:
    """The header of a shard changed, its data left."""

    def damage(directory: pathlib.Path) -> None:
        content = (directory / SHARD).read_bytes()
        length = int.from_bytes(content[:8], "little")
        values = json.loads(content[8 : 8 + length])
        change(values)
        new = encode(values).encode()
        new += b" " * (-len(new) % 8)
        (directory / SHARD).write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])

    return damage


def first(values: dict, number: int = 0) -> dict:
    """An entry of a header, in the order of the data."""
    entries = [entry for key, entry in values.items() if key != "__metadata__"]
    return sorted(entries, key=lambda entry: entry["data_offsets"])[number]


def overlap(values: dict) -> None:
    first(values, 1)["data_offsets"] = first(values, 0)["data_offsets"]


def beyond(values: dict) -> None:
    first(values, -1)["data_offsets"][1] += 2


def twice(values: dict) -> str:
    key = next(key for key in values if key != "__metadata__")
    return json.dumps(values)[:-1] + f", {json.dumps(key)}: {json.dumps(values[key])}}}"


def tensors(change: Callable[[dict], Any]) -> Callable:
    """The tensors of the shard that holds the decoder's last norm, changed."""

    def damage(directory: pathlib.Path) -> None:
        for file in directory.glob("*.safetensors"):
            if NORM in (found := load_file(file)):
                change(found)
                save_file(found, file)

    return damage


def spoil_norm(value: float) -> Callable:
    def change(found: dict) -> None:
        found[NORM][3] = value

    return tensors(change)


def into_both_shards(directory: pathlib.Path) -> None:
    for file in directory.glob("*.safetensors"):
        save_file(load_file(file) | {NORM: torch.zeros(64, dtype=torch.bfloat16)}, file)


def saved(name: str, content: Any) -> Callable:
    return lambda directory: torch.save(content() if callable(content) else content, directory / name)


class Command:
    """An object that unpickles into a call."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/never",)


def bias_that_differs() -> dict:
    content = checkpoints.beats_content()
    key = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    return content | {"model": content["model"] | {key: torch.zeros(320, 4)}}


def whisper_of_three() -> dict:
    content = checkpoints.whisper_content()
    return content | {"dims": content["dims"] | {"n_audio_layer": 3}}


DAMAGES: dict[str, tuple[Callable, str]] = {
    "no config": (delete("config.json"), r"config\.json: no such file"),
    "config cut": (cut("config.json", 0.5), r"config\.json: not readable as JSON"),
    "config a list": (text("config.json", "[]"), r"config\.json: expected a JSON object, found a list"),
    "config of brackets": (
        text("config.json", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        r"config\.json: not readable as JSON \(brackets are nested too deeply",
    ),
    "config key twice": (
        lambda d: (d / "config.json").write_text('{"hidden_size": 1,' + (d / "config.json").read_text()[1:]),
        r"config\.json: not readable as JSON \(key 'hidden_size' occurs twice\)",
    ),
    "config of another size": (
        edit_json("config.json", lambda values: values.update(intermediate_size=145)),
        r"mis-shaped: model\.layers\.0\.mlp\..* expected \[145, 64\]",
    ),
    "config without a size": (
        edit_json("config.json", lambda values: values.pop("num_hidden_layers")),
        r"num_hidden_layers: found nothing",
    ),
    "generation config cut": (cut("generation_config.json", 0.5), r"generation_config\.json: not readable"),
    "no tokenizer": (
        lambda d: [(d / name).unlink() for name in ("tokenizer.json", "vocab.json")],
        r"no tokenizer: found .*expected tokenizer\.json",
    ),
    "no weights": (
        lambda d: [file.unlink() for file in d.glob("model*")],
        r"no weights: found .*, expected model\.safetensors or",
    ),
    "shard missing": (delete(SHARD), rf"{SHARD}: no such file, but {INDEX} lists it"),
    "shard empty": (cut(SHARD, 0), r"not a complete safetensors file \(.*[Hh]eader"),
    "shard cut in its header": (cut(SHARD, 0.0002), INCOMPLETE),
    "shard cut in its data": (cut(SHARD, 0.9), r"not a complete safetensors file \(.*(ncomplete|not fully)"),
    "shard longer than its header says": (append(SHARD, bytes(64)), INCOMPLETE),
    "shard of another kind": (text(SHARD, "<html>Not found</html>"), INCOMPLETE),
    "header longer than the file": (
        lambda d: (d / SHARD).write_bytes(b"\xff" * 7 + b"\x00" + (d / SHARD).read_bytes()[8:]),
        INCOMPLETE,
    ),
    "header not JSON": (header(lambda v: None, lambda v: "{" + json.dumps(v)), INCOMPLETE),
    "header key twice": (header(lambda v: None, twice), INCOMPLETE),
    "overlapping offsets": (header(overlap), r"not a complete safetensors file \(.*offset"),
    "offsets beyond the file": (header(beyond), INCOMPLETE),
    "negative shape": (header(lambda v: first(v).update(shape=[-1, 64])), INCOMPLETE),
    "dtype of another width": (header(lambda v: first(v).update(dtype="F32")), INCOMPLETE),
    "unknown dtype": (header(lambda v: first(v).update(dtype="F7")), r"not a complete safetensors file .*F7"),
    "dtype of integers": (
        header(lambda v: first(v).update(dtype="I16")),
        r"has dtype I16; expected float32, float16 or bfloat16",
    ),
    "axes swapped": (
        header(lambda v: v["lm_head.weight"].update(shape=[64, 768])),
        r"1 mis-shaped: lm_head\.weight \[64, 768\], expected \[768, 64\]",
    ),
    "index not JSON": (text(INDEX, "{"), r"index\.json: no readable weight_map"),
    "index without a map": (text(INDEX, "{}"), r"index\.json: no readable weight_map"),
    "index key twice": (
        lambda d: (d / INDEX).write_text(
            (d / INDEX).read_text().replace('"weight_map": {', f'"weight_map": {{"{NORM}": "{SHARD}", ')
        ),
        r"index\.json: no readable weight_map .*occurs twice",
    ),
    "path that climbs": (mapped(NORM, f"../hf/{SHARD}"), r"shard name '\.\./hf/.* refused"),
    "absolute path": (mapped(NORM, "/etc/passwd"), r"shard name '/etc/passwd' .* refused"),
    "path of another kind": (mapped(NORM, 7), r"shard name 7 .* refused"),
    "key that no shard holds": (mapped("model.new.weight", SHARD), r"lacks 'model\.new\.weight'"),
    "key that the index lacks": (
        edit_json(INDEX, lambda index: index["weight_map"].pop(NORM)),
        rf"holds '{re.escape(NORM)}', which .* does not list",
    ),
    "key in two shards": (into_both_shards, rf"holds '{re.escape(NORM)}', which .* does not list"),
    "tensor of another shape": (
        tensors(lambda found: found.update({NORM: torch.zeros(65)})),
        r"1 mis-shaped: model\.norm\.weight \[65\], expected \[64\]",
    ),
    "NaN": (spoil_norm(float("nan")), r"model\.norm\.weight holds 1 values that are NaN or infinite, of 64"),
    "infinity": (spoil_norm(-float("inf")), r"model\.norm\.weight holds 1 values that are NaN or infinite"),
    "no Whisper": (delete("whisper.pt"), r"whisper\.pt: no such file"),
    "Whisper cut": (cut("whisper.pt", 0.7), r"whisper\.pt: not a complete PyTorch file"),
    "Whisper that runs code": (
        saved("whisper.pt", lambda: {"dims": Command(), "model_state_dict": {}}),
        r"whisper\.pt: refused: .* it asks for \w+\.system; loading such a file can run code",
    ),
    "Whisper without a layer": (saved("whisper.pt", whisper_of_three), r"missing: .*_model\.blocks\.2\."),
    "BEATs for Whisper": (
        lambda d: shutil.copyfile(BEATS_FILE, d / "whisper.pt"),
        r"not a Whisper checkpoint: found cfg, model",
    ),
    "BEATs empty": (saved("beats.pt", {}), r"not a BEATs checkpoint: found nothing"),
    "BEATs cut": (cut("beats.pt", 0.99), r"beats\.pt: not a complete PyTorch file"),
    "BEATs copies that differ": (saved("beats.pt", bias_that_differs), r"differs from .*equal copies"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_one_line_and_nothing_is_written(
    name: str, intact: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    damage, message = DAMAGES[name]
    source = tmp_path / "hf"
    shutil.copytree(intact, source)
    damage(source)
    assert run_import(source, tmp_path / "ola", "--check-finite") == 2
    output = capsys.readouterr()
    assert not output.out
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert re.search(message, output.err), output.err
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_damaged_checkpoint_leaves_an_older_one_in_place(
    intact: pathlib.Path, imported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(imported, tmp_path / "ola")
    shutil.copytree(intact, tmp_path / "hf")
    spoil_norm(float("nan"))(tmp_path / "hf")
    before = np.asarray(checkpoint.load(tmp_path / "ola")[1]["llm"]["norm"]["scale"]).tobytes()
    assert run_import(tmp_path / "hf", tmp_path / "ola", "--check-finite") == 2
    assert np.asarray(checkpoint.load(tmp_path / "ola")[1]["llm"]["norm"]["scale"]).tobytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "ola"}


OWN_DAMAGES: dict[str, tuple[Callable, str]] = {
    "no config": (delete("config.json"), r"found .*, expected config\.json"),
    "config cut": (cut("config.json", 0.5), r"config\.json: not readable as JSON"),
    "no tokenizer": (lambda d: shutil.rmtree(d / "tokenizer"), r"found no tokenizer/"),
    "no parameters": (lambda d: shutil.rmtree(d / "params"), r"not a complete checkpoint: found nothing"),
    "parameters cut": (
        cut("params/manifest.ocdbt", 0.5),
        r"ocdbt: not a complete checkpoint: found \d+ bytes",
    ),
    "released.json cut": (cut("released.json", 0.5), r"released\.json: not readable as JSON"),
    "other sizes": (
        edit_json("config.json", lambda values: values["model"]["llm"].update(vocab_size=700)),
        r"llm/embed_tokens/embedding is \[768, 64\], expected \[700, 64\]",
    ),
    "bytes turned": (
        lambda d: [file.write_bytes(file.read_bytes()[::-1]) for file in (d / "params" / "d").iterdir()],
        r"params: .*cannot be read",
    ),
}


@pytest.mark.parametrize("name", OWN_DAMAGES)
def test_damaged_ola_jax_checkpoint_is_one_line_and_nothing_is_written(
    name: str, imported: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    damage, message = OWN_DAMAGES[name]
    shutil.copytree(imported, tmp_path / "ola")
    damage(tmp_path / "ola")
    assert run("export", "--from", tmp_path / "ola", "--to", tmp_path / "hf") == 2
    output = capsys.readouterr()
    assert not output.out
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert re.search(message, output.err), output.err
    assert [path.name for path in tmp_path.iterdir()] == ["ola"]


def test_full_disk_is_reported_before_anything_is_written(
    intact: pathlib.Path,
    imported: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    usage = types.SimpleNamespace(total=10**10, used=10**10, free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for command in (
        lambda: run_import(intact, tmp_path / "other"),
        lambda: run("export", "--from", imported, "--to", tmp_path / "hf"),
    ):
        capsys.readouterr()
        assert command() == 2
        assert re.search(
            r"not enough space: 0\.0 GB free on this disk, 0\.1 GB needed", capsys.readouterr().err
        )
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_conversion_leaves_nothing_and_can_be_run_again(
    stop: type,
    intact: pathlib.Path,
    imported: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, calls = orbax_store.Writer.write, []

    def interrupted(self: orbax_store.Writer, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 20:
            raise stop
        original(self, *arguments)

    job = prepare_import(intact, whisper=intact / "whisper.pt", beats=intact / "beats.pt")
    monkeypatch.setattr(orbax_store.Writer, "write", interrupted)
    with pytest.raises((KeyboardInterrupt, OSError, errors.OlaError)):
        importer.write_checkpoint(job, tmp_path / "ola")
    assert not list(tmp_path.iterdir())
    importer.write_checkpoint(job, tmp_path / "ola")
    again, undisturbed = (orbax_store.Reader(path / "params") for path in (tmp_path / "ola", imported))
    assert again.leaves == undisturbed.leaves
    for path in again.leaves:
        bits = [
            b"".join(piece.tobytes() for _, piece in reader.pieces(path)) for reader in (again, undisturbed)
        ]
        assert bits[0] == bits[1]


def test_killed_conversion_can_be_run_again(intact: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "ola"
    command = [sys.executable, convert_weights.__file__, "import", "--from", intact, "--to", target]
    command += ["--whisper", intact / "whisper.pt", "--beats", intact / "beats.pt"]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / ".ola.partial" / "params").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".ola.partial"]
    assert run_import(intact, target) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ola"]
    checkpoint.load(target)
