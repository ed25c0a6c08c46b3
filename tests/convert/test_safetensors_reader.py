import pathlib

import pytest
import torch

from ola_jax.convert.safetensors_reader import read_safetensors
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import HF


def test_safetensors_are_read_bit_for_bit() -> None:
    tensors, expected = read_safetensors(HF), checkpoints.golden_tensors()
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        values = tensor.read()
        assert (tensor.shape, tensor.dtype) == (values.shape, str(values.dtype))
        assert values.tobytes() == expected[key].view(torch.int16).numpy().tobytes(), key


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_truncated_safetensors_file_is_refused(share: float, tmp_path: pathlib.Path) -> None:
    content = (HF / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(OlaError, match=r"model\.safetensors: not a complete safetensors file"):
        read_safetensors(tmp_path)


def test_directory_without_weights_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(OlaError, match=r"found pytorch_model\.bin, expected model\.safetensors"):
        read_safetensors(tmp_path)


def test_index_without_a_weight_map_is_refused(tmp_path: pathlib.Path) -> None:
    for text in ("{", "[]", '{"weight_map": 3}', "{}"):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(OlaError, match=r"index\.json: no readable weight_map"):
            read_safetensors(tmp_path)
