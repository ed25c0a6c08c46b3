"""The command line as a user runs it: a process of its own, on the imported golden checkpoint."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
import tyro
from flax import traverse_util

from ola_jax import checkpoint, errors
from ola_jax.infer import Arguments, main
from ola_jax.speech.process_voice import WORKER
from ola_jax.speech.voice import SPEECH_RATE
from tests import golden, parity
from tests.generate import small
from tests.released import released

INPUTS = golden.VISIBLE / "inputs"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    r, directory = released(), tmp_path_factory.mktemp("imported") / "model"
    checkpoint.save(
        directory,
        config=r.config,
        processor_config=r.processor_config,
        params=r.params,
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config=r.generation_config,
    )
    return directory


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where compiled programs are kept: apart from the user's own."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def infer(programs: pathlib.Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs the command line."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "ola_jax.infer", *map(str, arguments)]
        options = {"capture_output": True, "text": True, "check": False} | options
        return subprocess.run([*command, "--compilation-cache", programs], **options)

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that the command line ends with, run in this process."""

    def line(*arguments: object) -> str:
        command = [*map(str, arguments), "--compilation-cache", "none"]
        with pytest.raises(SystemExit) as ended:
            errors.run(lambda: main(tyro.cli(Arguments, args=command)))
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1), shown
        return shown.err

    return line


def test_one_json_object_with_the_originals_tokens(infer: Callable, model_dir: pathlib.Path) -> None:
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


def test_text_streams_to_the_terminal_and_a_second_start_repeats_it_without_compiling(
    model_dir: pathlib.Path, infer: Callable, programs: pathlib.Path
) -> None:
    asked = ("--checkpoint", model_dir, "--text", "Who are you?", "--max-new-tokens", 8, "--seed", 3)
    kept = lambda: {file.name for file in programs.glob("*-cache")}
    first, compiled, again = infer(*asked), kept(), infer(*asked)
    assert (first.returncode, first.stderr) == (again.returncode, again.stderr) == (0, "")
    assert first.stdout.strip()
    assert first.stdout == again.stdout
    assert {name.split("-")[0] for name in compiled} >= {"jit_read_chunk", "jit_begin", "jit_advance"}
    assert kept() == compiled


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model of text whose generation_config.json says next to nothing."""
    return save_small(tmp_path_factory.mktemp("small") / "model", small.params())


@pytest.fixture
def endless_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    """The same model, but the token that ends a greedy answer is never the likeliest."""
    params = traverse_util.flatten_dict(small.params(), sep="/")
    (end,) = small.processor().tokenizer.encode("<|im_end|>").ids
    params["llm/lm_head/kernel"] = params["llm/lm_head/kernel"].at[:, end].set(0)
    return save_small(tmp_path / "model", traverse_util.unflatten_dict(params, sep="/"))


def save_small(directory: pathlib.Path, params: dict) -> pathlib.Path:
    checkpoint.save(
        directory,
        config=small.CONFIG,
        processor_config=small.processor().processor_config,
        params=params,
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config={"do_sample": False},
    )
    return directory


def test_an_answer_is_spoken_by_a_process(
    infer: Callable, endless_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "speak.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(WORKER.parent)!r})\nfrom voice_worker import serve\n"
        "serve(lambda text: [0.5] * 2400, rate=24000)\n"
    )
    asked = ("--checkpoint", endless_dir, "--text", "Hi", "--max-new-tokens", 24, "--json")
    voice = ("--voice", "process", "--voice-command", sys.executable, script)
    out = infer(*asked, "--speech", tmp_path / "answer.wav", *voice)
    assert out.returncode == 0, out.stderr
    report = json.loads(out.stdout)["speech"]
    audio, rate = soundfile.read(tmp_path / "answer.wav")
    assert rate == SPEECH_RATE
    assert report["pieces"] > 0
    assert np.count_nonzero(audio) >= 2400 * report["pieces"] * 0.9


def test_speech_without_a_voice_is_refused(refused: Callable, small_dir: pathlib.Path) -> None:
    asked = ("--checkpoint", small_dir, "--text", "Hi", "--play")
    assert "leave out --voice none" in refused(*asked, "--voice", "none")


def test_a_reader_that_goes_away_ends_it_quietly(infer: Callable, small_dir: pathlib.Path) -> None:
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    asked = ("--checkpoint", small_dir, "--text", "Hi", "--max-new-tokens", 24)
    out = infer(*asked, capture_output=False, stdout=reader.stdin, stderr=subprocess.PIPE)
    reader.stdin.close()
    assert (out.returncode, out.stderr) == (128 + signal.SIGPIPE, "")


def test_what_the_terminal_cannot_show_is_escaped(infer: Callable, model_dir: pathlib.Path) -> None:
    asked = ("--checkpoint", model_dir, "--text", "你好", "--temperature", 0, "--max-new-tokens", 12)
    out = infer(*asked, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (out.returncode, out.stderr) == (0, "")
    assert "\\uff0c" in out.stdout


def test_ctrl_c_ends_it_quietly(endless_dir: pathlib.Path) -> None:
    command = [sys.executable, "-m", "ola_jax.infer", "--checkpoint", endless_dir, "--text", "Hi"]
    command += ["--max-new-tokens", "30000", "--temperature", "0", "--compilation-cache", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)  # the answer has begun
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (130, b"")


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
    "half a character": (["--text", "caf\udce9"], "--text: not valid UTF-8 at character 4"),
    "a path with a line end": (["--image", "{broken}/a\nb.png"], r"a\nb.png"),
    "a very long path": (["--image", "{broken}/" + "a" * 20_000], "a...a"),
    "a mark without media": (["--text", "<image> What?"], "'<image>' in the text and no image"),
    "impossible top-p": (["--text", "a", "--top-p", "1.5"], "top_p is 1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(
    name: str, infer: Callable, model_dir: pathlib.Path, broken: pathlib.Path
) -> None:
    arguments, expected = BAD[name]
    out = infer("--checkpoint", model_dir, *[a.format(broken=broken) for a in arguments])
    assert out.returncode == 2
    assert out.stderr.startswith("error: ")
    assert out.stderr.count("\n") == 1, out.stderr
    assert expected in out.stderr
    assert not out.stdout


def test_a_directory_that_is_no_checkpoint_is_one_clear_line(infer: Callable, tmp_path: pathlib.Path) -> None:
    out = infer("--checkpoint", tmp_path, "--text", "Hello")
    assert (out.returncode, out.stderr.count("\n")) == (2, 1)
    assert str(tmp_path) in out.stderr


REFUSED = {
    "no number": (["--temperature", "nan"], "temperature is nan"),
    "infinite temperature": (["--temperature", "inf"], "temperature is inf"),
    "top-p no number": (["--top-p", "nan"], "top_p is nan"),
    "infinite penalty": (["--repetition-penalty", "inf"], "repetition_penalty is inf"),
    "no penalty": (["--repetition-penalty", "0"], "repetition_penalty is 0.0"),
    "large seed": (["--seed", str(10**20)], "--seed is 100000000000000000000"),
    "negative seed": (["--seed", "-1"], "--seed is -1"),
    "no token": (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
    "too many tokens": (["--max-new-tokens", str(10**8)], "together at most 32768"),
    "not UTF-8": (["--text", "a\udcff"], "--text: not valid UTF-8 at character 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_out_of_range_are_one_clear_line(
    name: str, small_dir: pathlib.Path, refused: Callable
) -> None:
    options, expected = REFUSED[name]
    assert expected in refused("--checkpoint", small_dir, "--text", "Hi", *options)


def test_a_damaged_generation_config_is_one_clear_line(
    small_dir: pathlib.Path, tmp_path: pathlib.Path, refused: Callable
) -> None:
    shutil.copytree(small_dir, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text('{"do_sample": true, "num_beams": 4}')
    said = refused("--checkpoint", tmp_path / "model", "--text", "Hi")
    assert said == f"error: {file}: num_beams is 4, which is not supported; set it to null\n"


@pytest.mark.parametrize(("options", "status"), [(["--help"], 0), (["--nope"], 2), (["--seed", "1e20"], 2)])
def test_help_succeeds_and_unknown_options_do_not(options: list[str], status: int) -> None:
    with pytest.raises(SystemExit) as ended:
        errors.run(lambda: main(tyro.cli(Arguments, args=["--checkpoint", "x", *options])))
    assert ended.value.code == status
