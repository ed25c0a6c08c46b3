"""The command line as a user runs it: a process of its own, on the imported golden checkpoint."""

import json
import pathlib
import subprocess
import sys

import pytest

from ola_jax import checkpoint
from tests import golden, parity
from tests.released import released

INPUTS = golden.VISIBLE / "inputs"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    r, directory = released(), tmp_path_factory.mktemp("imported") / "model"
    checkpoint.save(
        directory, r.config, r.processor_config, r.params, golden.VISIBLE / "hf", r.generation_config
    )
    return directory


def infer(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ola_jax.infer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_json_object_with_the_originals_tokens(model_dir: pathlib.Path) -> None:
    case = golden.case("infer_image_gray")
    out = infer(
        *("--checkpoint", model_dir, "--image", INPUTS / "img_gray.png", "--text", case["cli"]["text"]),
        *("--temperature", 0, "--max-new-tokens", 24, "--json"),
    )
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout)
    assert report["generated_ids"] == case["generated_ids_gencfg"]  # the penalty of generation_config.json
    assert report["prompt_ids"] == golden.arrays("cases/infer_image_gray.npz")["input_ids"][0].tolist()
    tokens = report["tokens"]
    assert sum(tokens.values()) == int(golden.arrays("cases/infer_image_gray.npz")["merged_len"])
    assert tokens["image"] > 0
    assert (tokens["video"], tokens["audio"]) == (0, 0)
    assert report["text"] == parity.processor("infer").tokenizer.decode(report["generated_ids"]).strip()
    assert report["prefill_seconds"] > 0
    assert report["decode_seconds"] > 0


def test_text_streams_to_the_terminal_and_a_seed_repeats_it(model_dir: pathlib.Path) -> None:
    asked = ("--checkpoint", model_dir, "--text", "Who are you?", "--max-new-tokens", 8)
    first, again = infer(*asked, "--seed", 3), infer(*asked, "--seed", 3)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip()
    assert first.stdout == again.stdout


@pytest.fixture
def broken(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of files that are not what their names say."""
    (tmp_path / "cut.png").write_bytes((INPUTS / "img_rgb.png").read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.wav").write_bytes((INPUTS / "a_short.wav").read_bytes()[:44])
    return tmp_path


BAD = {
    "empty prompt": ([], "the prompt is empty"),
    "no such image": (["--image", "{broken}/none.png"], "none.png"),
    "truncated image": (["--image", "{broken}/cut.png"], "cut.png"),
    "not an image": (["--image", "{broken}/text.jpg"], "text.jpg"),
    "not a video": (["--video", "{broken}/text.mp4"], "text.mp4"),
    "audio without samples": (["--audio", "{broken}/empty.wav"], "empty.wav"),
    "image and video": (["--image", "a.png", "--video", "b.mp4"], "exclude each other"),
    "two questions": (["--image", "a.png", "--audio", "b.wav", "--text", "c"], "leave out --text"),
    "half a character": (["--text", "caf\udce9"], "half of a surrogate pair (U+DCE9)"),
    "a path with a line end": (["--image", "{broken}/a\nb.png"], r"a\nb.png"),
    "a very long path": (["--image", "{broken}/" + "a" * 20_000], "a ... a"),
    "a mark without media": (["--text", "<image> What?"], "'<image>' in the text and no image"),
    "impossible top-p": (["--text", "a", "--top-p", "1.5"], "top_p is 1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name: str, model_dir: pathlib.Path, broken: pathlib.Path) -> None:
    arguments, expected = BAD[name]
    out = infer("--checkpoint", model_dir, *[a.format(broken=broken) for a in arguments])
    assert out.returncode == 2
    assert out.stderr.startswith("error: ")
    assert out.stderr.count("\n") == 1, out.stderr
    assert expected in out.stderr
    assert not out.stdout


def test_a_directory_that_is_no_checkpoint_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    out = infer("--checkpoint", tmp_path, "--text", "Hello")
    assert (out.returncode, out.stderr.count("\n")) == (2, 1)
    assert str(tmp_path) in out.stderr
