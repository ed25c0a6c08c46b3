"""`ola serve`: its options, and a server from start to end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from ola_jax import checkpoint
from ola_jax.cli import serve
from ola_jax.errors import OlaError
from tests import golden
from tests.generate import small

REPOSITORY = pathlib.Path(__file__).parents[2]


def arguments(tmp_path: pathlib.Path, **options: object) -> serve.Arguments:
    return serve.Arguments(checkpoint=tmp_path / "model", **options)


def test_keys_are_lines_of_a_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "keys").write_text("# of me\nsk-123456\n\n  sk-abcdefgh  \n")
    config = serve.server_config(arguments(tmp_path, api_key_file=tmp_path / "keys"))
    assert config.api_keys == ("sk-123456", "sk-abcdefgh")
    assert config.model_name == "model"


@pytest.mark.parametrize("text", ["", "# only\n", "short\n", "with space in\n", "k\u00e9ys-are-ascii\n"])
def test_a_file_without_good_keys_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    """An empty file must not open the server to all."""
    (tmp_path / "keys").write_text(text)
    with pytest.raises(OlaError, match="key"):
        serve.read_keys(tmp_path / "keys")


def test_a_missing_file_of_keys_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="API keys cannot be read"):
        serve.read_keys(tmp_path / "keys")


@pytest.mark.parametrize(
    "options",
    [
        {"media_folder": pathlib.Path("/no/such/folder")},
        {"media_host": ("http://a.test/",)},
        {"media_host": ("",)},
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: pathlib.Path, options: dict) -> None:
    with pytest.raises(OlaError):
        serve.server_config(arguments(tmp_path, **options))


def test_mistakes_are_found_before_the_model_is_loaded(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OlaError, match=f"127.0.0.1 port {port}: cannot be listened at"):
            serve.serve(arguments(tmp_path, port=port))
    with pytest.raises(OlaError, match=r"not an ola_jax checkpoint|no such"):
        serve.serve(arguments(tmp_path, port=0, compilation_cache="none"))


def test_a_server_from_start_to_end(tmp_path: pathlib.Path) -> None:
    settings = small.processor().processor_config
    directory = tmp_path / "model"
    checkpoint.save(
        directory,
        config=small.CONFIG,
        processor_config=settings,
        params=small.params(),
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config={"do_sample": False},
    )
    options = ["--port=0", "--slots=2", "--length=256", "--prefill-chunk=32", "--compilation-cache=none"]
    command = [sys.executable, "-P", "-m", "ola_jax.cli.main", "serve", f"--checkpoint={directory}", *options]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("listening at http://127.0.0.1:"), process.stderr.read()
            body = {"model": "model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
            request = urllib.request.Request(
                line.removeprefix("listening at ").strip() + "/v1/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                found = json.load(reply)
            assert found["usage"]["completion_tokens"] <= 5
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (out, errors) == ("", "")
    assert process.returncode in (0, -signal.SIGTERM)
