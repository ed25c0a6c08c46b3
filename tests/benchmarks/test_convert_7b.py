import json
import pathlib
import subprocess
import sys

from tests.convert import checkpoints
from tests.convert.checkpoints import HF

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "convert_7b.py"


def test_a_small_model_goes_there_and_back(tmp_path: pathlib.Path) -> None:
    shapes = lambda tensors: {key: list(value.shape) for key, value in tensors.items()}
    whisper, beats = checkpoints.whisper_content(), checkpoints.beats_content()
    tensors = checkpoints.golden_tensors()
    checkpoints.without_speech_encoder(tensors)
    manifest = {
        "llm_vision_projectors": shapes(tensors),
        "whisper_pt_model_state_dict": shapes(whisper["model_state_dict"]),
        "beats_pt_model": shapes(beats["model"]),
        "whisper_dims": whisper["dims"],
        "beats_cfg": beats["cfg"],
        "config": json.loads((HF / "config.json").read_text()),
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    work = tmp_path / "work"
    command = [sys.executable, SCRIPT, "--workdir", work, "--manifest", tmp_path / "manifest.json"]
    command += ["--json", tmp_path / "figures.json"]
    process = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    of_files = (*whisper["model_state_dict"].values(), *beats["model"].values())
    assert figures["bytes"] == sum(t.numel() * 2 for t in tensors.values()) + sum(t.nbytes for t in of_files)
    assert figures["tensors"] == len(tensors) + len(of_files)
    assert figures["different"] == []
    assert 10**8 < figures["import"]["rss"] < 4 * 10**9
    assert "0 tensors differ after import and export" in process.stdout
    assert "| export |" in process.stdout
    assert not list(work.iterdir())
