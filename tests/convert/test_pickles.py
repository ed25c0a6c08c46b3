import pathlib
import sys

import numpy as np
import pytest
import torch

from ola_jax.convert.pickles import read_beats, read_whisper
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import BEATS_FILE, WHISPER_FILE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pt_tensors_are_read_bit_for_bit(dtype: torch.dtype, tmp_path: pathlib.Path) -> None:
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


def test_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OlaError, match=r"needs PyTorch: pip install 'ola_jax\[convert\]'"):
        read_whisper(WHISPER_FILE)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_pt_file_is_refused(share: float, tmp_path: pathlib.Path) -> None:
    content, file = BEATS_FILE.read_bytes(), tmp_path / "beats.pt"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(OlaError, match=r"beats\.pt: not a complete PyTorch file"):
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
def test_other_pt_files_are_refused(content: object, message: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "whisper.pt"
    torch.save(content, file)
    with pytest.raises(OlaError, match=message):
        read_whisper(file)


def test_files_given_in_the_wrong_place_are_refused() -> None:
    with pytest.raises(OlaError, match=r"not a Whisper checkpoint: found cfg, model"):
        read_whisper(BEATS_FILE)
    with pytest.raises(OlaError, match=r"not a BEATs checkpoint: found dims, model_state_dict"):
        read_beats(WHISPER_FILE)
    with pytest.raises(OlaError, match=r"no such file"):
        read_beats(WHISPER_FILE.with_name("none.pt"))
