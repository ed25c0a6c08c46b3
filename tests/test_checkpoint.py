import dataclasses
import errno
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, PixelLimits, ProcessorConfig, Qwen2Config
from ola_jax.errors import OlaError
from tests import golden
from tests.full_disk import files_of_at_most

TOKENIZER = golden.VISIBLE / "hf"
CONFIG = OlaConfig(llm=Qwen2Config(num_layers=2), whisper=None, beats=None, dtype="bfloat16")
PROCESSOR = ProcessorConfig(train=PixelLimits(max_frames=7), max_length=99, system_prompt="é")
GENERATION = {"top_p": 0.5, "eos_token_id": [1, 2]}


def random_params(seed: int = 0) -> dict:
    """Every kind of dtype, all bit patterns of finite and other values, numpy and jax arrays."""
    rng = np.random.default_rng(seed)
    bits = lambda n, kind: np.frombuffer(rng.bytes(n), kind)
    return {
        "llm": {
            "a": {"kernel": bits(24, jnp.bfloat16).reshape(3, 4), "bias": jnp.asarray(bits(8, np.float16))},
            "scale": bits(16, np.float32),
        },
        "whisper": {"b": jnp.asarray(bits(64, jnp.bfloat16).reshape(2, 4, 4))},
    }


def save(directory: pathlib.Path, params: dict | None = None, **changes: object) -> None:
    values = {"config": CONFIG, "processor_config": PROCESSOR, "tokenizer_dir": TOKENIZER}
    values |= {"generation_config": GENERATION, "params": params or random_params()}
    checkpoint.save(directory, **(values | changes))


def test_saved_parameters_and_configs_are_loaded_bit_for_bit(tmp_path: pathlib.Path) -> None:
    directory, params = tmp_path / "new" / "parents" / "model", random_params()
    save(directory, params)
    config, loaded = checkpoint.load(directory)
    assert config == CONFIG
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for actual, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert isinstance(actual, jax.Array)
        assert actual.dtype == expected.dtype
        assert np.asarray(actual).tobytes() == np.asarray(expected).tobytes()
    assert checkpoint.load_configs(directory) == (CONFIG, PROCESSOR, GENERATION)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_relative_paths_and_strings_are_accepted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save("model")
    assert checkpoint.load("model")[0] == CONFIG


def test_dtype_can_be_set_on_loading(tmp_path: pathlib.Path) -> None:
    params = {"a": np.linspace(0, 1, 7, dtype=np.float32), "b": np.ones(3, jnp.bfloat16)}
    save(tmp_path / "model", params)
    loaded = checkpoint.load(tmp_path / "model", dtype=jnp.bfloat16)[1]
    assert {str(leaf.dtype) for leaf in loaded.values()} == {"bfloat16"}
    np.testing.assert_array_equal(loaded["a"], params["a"].astype(jnp.bfloat16))
    assert checkpoint.load(tmp_path / "model", dtype="float32")[1]["b"].dtype == np.float32


def test_tokenizer_is_copied_and_the_checkpoint_stands_alone(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "first")
    copied = {file.name for file in (tmp_path / "first" / "tokenizer").iterdir()}
    assert copied == {file.name for file in TOKENIZER.iterdir()} - {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    save(tmp_path / "second", tokenizer_dir=tmp_path / "first" / "tokenizer")
    assert {file.name for file in (tmp_path / "second" / "tokenizer").iterdir()} == copied


def test_checkpoint_is_replaced_even_with_its_own_tokenizer(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "model"
    save(directory)
    newer = dataclasses.replace(CONFIG, remat="full")
    save(directory, random_params(1), config=newer, tokenizer_dir=directory / "tokenizer")
    config, params = checkpoint.load(directory)
    assert config == newer
    np.testing.assert_array_equal(params["llm"]["scale"], random_params(1)["llm"]["scale"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_failed_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "model"
    save(directory)
    with pytest.raises(ValueError, match="TypeHandler lookup failed"):
        save(directory, {"a": object()})
    assert checkpoint.load(directory)[0] == CONFIG
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("size", [100, 1_000])
def test_a_full_disk_is_reported_in_one_line_and_leaves_the_old_checkpoint(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, size: int
) -> None:
    for directory, left in ((tmp_path / "new", []), (tmp_path / "model", ["model"])):
        if left:
            save(directory)
        with files_of_at_most(size), pytest.raises(OlaError) as raised:
            save(directory, random_params(1) | {"large": np.arange(9999.0)})
        assert str(raised.value).startswith(
            f"{directory}: cannot be written (File too large); nothing there "
        )
        assert "\n" not in str(raised.value)
        assert "Traceback" not in "".join(capfd.readouterr())
        assert [path.name for path in tmp_path.iterdir()] == left
    np.testing.assert_array_equal(
        np.asarray(checkpoint.load(directory)[1]["llm"]["scale"]), random_params()["llm"]["scale"]
    )


def test_a_save_that_was_killed_between_its_renames_is_undone(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.old")
    with pytest.raises(OlaError, match="cannot be written"), files_of_at_most(100):
        save(tmp_path / "model", random_params(1))
    assert checkpoint.load(tmp_path / "model")[0] == CONFIG
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory"),
        (ValueError("Error reading [os_error_code='24']"), "Too many open files"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_of_storage_are_not_reported_as_damage(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    save(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail)
    with pytest.raises(OlaError, match=rf"/params: cannot be read now \({reason}\); nothing was changed"):
        checkpoint.load(tmp_path)


def test_remains_of_a_killed_save_are_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "junk").touch()
    save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_directories_are_not_overwritten(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        OlaError, match=r"holds thesis\.tex, not an ola_jax checkpoint, and is not overwritten"
    ):
        save(tmp_path)
    with pytest.raises(OlaError, match="found a file, expected a directory"):
        save(tmp_path / "thesis.tex")
    with pytest.raises(OlaError, match="cannot be written"):
        save(tmp_path / "thesis.tex" / "model")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty")
    assert checkpoint.is_checkpoint(tmp_path / "empty")
    assert not checkpoint.is_checkpoint(tmp_path)


def test_missing_tokenizer_is_reported_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").touch()
    with pytest.raises(OlaError, match=r"no tokenizer: found vocab\.json, expected tokenizer\.json, or"):
        save(tmp_path / "model", tokenizer_dir=tmp_path / "tokenizer")
    assert not (tmp_path / "model").exists()


def test_directory_that_is_no_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="found nothing, expected a directory"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(OlaError, match=r"found nothing, expected config\.json"):
        checkpoint.load(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OlaError, match=r"found a file, expected a directory"):
        checkpoint.load(tmp_path / "notes.txt")
    with pytest.raises(OlaError, match=r"found notes\.txt, expected config\.json; give the directory that"):
        checkpoint.load(tmp_path)
    with pytest.raises(
        OlaError, match=r"a released PyTorch checkpoint is imported by `python convert_weights"
    ):
        checkpoint.load(TOKENIZER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"found version 2, expected 1"),
        ({"model": None}, r"found no 'model' section"),
        ({"files": None}, r"found no 'files' section"),
        ({"model": {"llm": {"layers": 3}}}, r"config\.json: model\.llm: unknown field 'layers'"),
        ({"processor": {"max_length": "9"}}, r"processor\.max_length: expected int, found '9'"),
    ],
)
def test_damaged_config_is_reported(change: dict, message: str, tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(OlaError, match=message):
        checkpoint.load(tmp_path / "model")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_config_that_is_not_json_is_reported(text: str, tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(OlaError, match=r"config\.json: (not readable as JSON|expected a JSON object)"):
        checkpoint.load(tmp_path / "model")


def test_checkpoint_without_tokenizer_is_reported(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    with pytest.raises(OlaError, match="not a complete checkpoint: found no tokenizer/"):
        checkpoint.load(tmp_path / "model")


@pytest.mark.parametrize("cut", [True, False])
def test_unfinished_copy_is_reported_with_its_file(cut: bool, tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model")
    for file in [path for path in (tmp_path / "model" / "params").rglob("*") if path.is_file()]:
        content = file.read_bytes()
        if cut and content:
            file.write_bytes(content[:-1])
        else:
            file.unlink()
        found = f"found {len(content) - 1} bytes" if cut and content else "found nothing"
        with pytest.raises(OlaError, match=f"{file.name}: not a complete checkpoint: {found}, expected"):
            checkpoint.load(tmp_path / "model")
        file.write_bytes(content)
    assert checkpoint.load(tmp_path / "model")[0] == CONFIG


def test_damaged_parameters_are_reported(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model", {"scale": np.arange(1000, dtype=np.float32)})
    for file in (tmp_path / "model" / "params").rglob("d/*"):
        file.write_bytes(bytes(reversed(file.read_bytes())))
    with pytest.raises(OlaError, match=r"params: the parameters cannot be read \(.*copy or convert"):
        checkpoint.load(tmp_path / "model")
