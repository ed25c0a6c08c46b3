import json
import os
import pathlib
import sys

import numpy as np
import pytest
import torch

from ola_jax.convert.pickles import read_beats, read_whisper
from ola_jax.convert.safetensors_reader import read_safetensors
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import BEATS_FILE, HF, WHISPER_FILE, write


def test_safetensors_are_read_bit_by_bit() -> None:
    tensors, expected = read_safetensors(HF), checkpoints.golden_tensors()
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        values = tensor.read()
        assert (tensor.shape, tensor.dtype) == (values.shape, str(values.dtype))
        assert values.tobytes() == expected[key].view(torch.int16).numpy().tobytes(), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pt_tensors_are_read_bit_by_bit(dtype: torch.dtype, tmp_path: pathlib.Path) -> None:
    value = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)).to(dtype).T  # not contiguous
    file = tmp_path / "whisper.pt"
    torch.save({"encoder.a": value}, file)
    dims, tensors = read_whisper(file)
    tensor = tensors["model.speech_encoder.whisper_model.a"]
    assert dims is None
    assert f"torch.{tensor.dtype}" == str(dtype)
    np.testing.assert_array_equal(tensor.read().astype(np.float32), value.float().numpy())


def test_pt_of_the_old_format_is_read(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "beats.pt"
    torch.save(checkpoints.beats_content(), file, _use_new_zipfile_serialization=False)
    cfg, tensors = read_beats(file)
    assert cfg["encoder_layers"] == 2
    assert len(tensors) == len(checkpoints.beats_content()["model"])


def test_only_the_encoder_of_whisper_is_used() -> None:
    dims, tensors = read_whisper(WHISPER_FILE)
    assert dims["n_audio_head"] == 2
    assert len(tensors) == sum(
        k.startswith("encoder.") for k in checkpoints.whisper_content()["model_state_dict"]
    )


class Command:
    """What unpickles into a call."""

    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def test_pickle_that_runs_code_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "whisper.pt"
    torch.save({"dims": Command(), "model_state_dict": {}}, file)
    with pytest.raises(OlaError, match=r"whisper\.pt: refused: .* it asks for \w+\.system"):
        read_whisper(file)


def test_torch_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OlaError, match=r"needs PyTorch: pip install 'ola_jax\[convert\]'"):
        read_whisper(WHISPER_FILE)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_cut_pt_file_is_told(share: float, tmp_path: pathlib.Path) -> None:
    content, file = BEATS_FILE.read_bytes(), tmp_path / "beats.pt"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(OlaError, match=r"beats\.pt: not a whole PyTorch file"):
        read_beats(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"found a list, expected a dict of tensors"),
        ({}, r"found nothing, expected \{dims, model_state_dict\}"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, r"found a, b, c, d and 1 more"),
        ({"model_state_dict": 7}, r"found model_state_dict"),
        ({"dims": [1], "encoder.a": torch.zeros(1)}, r"dims is \[1\], expected a dict"),
    ],
)
def test_pt_that_is_something_else_is_told(content: object, message: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "whisper.pt"
    torch.save(content, file)
    with pytest.raises(OlaError, match=message):
        read_whisper(file)


def test_files_given_for_each_other_are_told() -> None:
    with pytest.raises(OlaError, match=r"not a Whisper checkpoint: found cfg, model"):
        read_whisper(BEATS_FILE)
    with pytest.raises(OlaError, match=r"not a BEATs checkpoint: found dims, model_state_dict"):
        read_beats(WHISPER_FILE)
    with pytest.raises(OlaError, match=r"no such file"):
        read_beats(WHISPER_FILE.with_name("none.pt"))


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_cut_safetensors_file_is_told(share: float, tmp_path: pathlib.Path) -> None:
    content = (HF / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(OlaError, match=r"model\.safetensors: not a whole safetensors file"):
        read_safetensors(tmp_path)


def test_directory_without_weights_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(OlaError, match=r"found pytorch_model\.bin, expected model\.safetensors"):
        read_safetensors(tmp_path)


def change_index(source: pathlib.Path, change: dict[str, str | None]) -> None:
    """Entries of weight_map set, or taken out where None."""
    file = source / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    names = index["weight_map"] | change
    file.write_text(json.dumps(index | {"weight_map": {k: v for k, v in names.items() if v is not None}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_head.weight": "../model.safetensors"}, r"shard name '\.\./model\.safetensors' .* refused"),
        ({"lm_head.weight": "/etc/passwd"}, r"shard name '/etc/passwd' .* refused"),
        ({"lm_head.weight": "model-00009.safetensors"}, r"model-00009\.safetensors: no such file, but"),
        ({"lm_head.weight": None}, r"holds 'lm_head\.weight', which .* does not list for it"),
        ({"new.weight": "model-00001-of-00002.safetensors"}, r"lacks 'new\.weight', which .* lists for it"),
    ],
)
def test_index_that_lies_is_told(change: dict, message: str, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "hf", shards=2)
    change_index(source, change)
    with pytest.raises(OlaError, match=message):
        read_safetensors(source)


def test_index_that_is_not_one_is_told(tmp_path: pathlib.Path) -> None:
    for text in ("{", "[]", '{"weight_map": 3}', "{}"):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(OlaError, match=r"index\.json: no readable weight_map"):
            read_safetensors(tmp_path)
