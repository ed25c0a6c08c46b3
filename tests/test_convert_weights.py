import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import convert_weights
from ola_jax import checkpoint
from ola_jax.convert import orbax_store
from tests.convert.checkpoints import (
    BEATS_FILE,
    HF,
    SPEECH,
    WHISPER_FILE,
    read_released,
    without_speech_encoder,
    write,
)
from tests.convert.command import run

SPEECH_OPTIONS = ["--whisper", str(WHISPER_FILE), "--beats", str(BEATS_FILE)]


@pytest.mark.parametrize("chunk_bytes", [2000, 2**30])
def test_imported_checkpoint_loads_bit_for_bit(
    chunk_bytes: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orbax_store, "CHUNK_BYTES", chunk_bytes)
    target = tmp_path / "new" / "ola"
    assert run("import", "--from", HF, "--to", target, *SPEECH_OPTIONS) == 0
    expected = read_released(HF, **SPEECH)
    config, params = checkpoint.load(target)
    assert config == expected.config
    assert checkpoint.load_configs(target)[1:] == (expected.processor_config, expected.generation_config)
    assert jax.tree.structure(params) == jax.tree.structure(expected.params)
    for actual, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(expected.params), strict=True):
        assert np.asarray(actual).tobytes() == leaf.tobytes()
    output = capsys.readouterr().out
    assert "assumed 4 attention heads" in output
    assert output.endswith(f"wrote {target}\n")


def test_options_take_effect(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "ola"
    options = ["--vision-heads", 2, "--whisper-heads", 4, "--dtype", "float32"]
    assert run("import", "--from", HF, "--to", target, *options) == 0
    config, params = checkpoint.load(target)
    assert (config.vision.num_heads, config.whisper.num_heads) == (2, 4)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


def test_mistakes_are_one_line_and_status_2(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    bare = write(tmp_path / "bare", without_speech_encoder)
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").touch()
    target = tmp_path / "ola"
    for arguments, message in [
        (("--from", tmp_path, "--to", target), "config.json: no such file"),
        (("--from", tmp_path / "none", "--to", target), "config.json: no such file"),
        (("--from", bare, "--to", target), "give --whisper large-v3.pt and --beats BEATs.pt"),
        (("--from", bare, "--to", target, *SPEECH_OPTIONS[:2]), "give --beats BEATs.pt"),
        (("--from", HF, "--to", occupied), "is not overwritten"),
        (("--from", HF, "--to", target, "--vision-heads", 7), "48 is not a multiple of 7"),
    ]:
        assert run("import", *arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err
        assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "occupied"]


def test_command_exits_with_status_2_and_no_traceback(tmp_path: pathlib.Path) -> None:
    command = [
        sys.executable,
        convert_weights.__file__,
        "import",
        "--from",
        tmp_path,
        "--to",
        tmp_path / "ola",
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
