"""Which voice the options of a command name."""

import pathlib
import sys
from typing import Any

import numpy as np
import pytest

from ola_jax.errors import OlaError
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.http_voice import HttpVoice
from ola_jax.speech.loading import VoiceKind, VoiceOptions, load_voice
from ola_jax.speech.process_voice import WORKER


def test_no_voice() -> None:
    assert load_voice(VoiceOptions("none")) is None


@pytest.mark.parametrize("kind", ["auto", "hibari"])
def test_hibari_is_the_default(kind: VoiceKind) -> None:
    found = load_voice(VoiceOptions(kind))
    assert found is not None
    assert (found[0], type(found[1])) == ("heart", HibariVoice)


def test_a_voice_of_another_server() -> None:
    options = VoiceOptions(
        "http", voice_url="http://localhost:8091/v1", voice_model="cosy", voice_name="anna"
    )
    found = load_voice(options)
    assert found is not None
    assert (found[0], type(found[1])) == ("anna", HttpVoice)


def test_a_voice_in_a_process(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "speak.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(WORKER.parent)!r})\nfrom voice_worker import serve\n"
        "serve(lambda text: [0.5] * (100 * len(text)), rate=24000)\n"
    )
    found = load_voice(VoiceOptions("process", voice_command=(sys.executable, "-S", str(script))))
    assert found is not None
    name, voice = found
    assert name == "default"
    assert len(np.concatenate(list(voice.speak("four")))) == 400
    voice.close()


def test_a_voice_that_is_not_installed_is_an_error_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_voice(VoiceOptions("auto")) is None
    for options, extra in (
        (VoiceOptions("hibari"), "speech"),
        (VoiceOptions("auto", voice_name="heart"), "speech"),
        (VoiceOptions("espeak"), "espeak"),
    ):
        with pytest.raises(OlaError, match=rf"pip install 'ola_jax\[{extra}\]'"):
            load_voice(options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"voice": "http"}, "--voice-url"),
        ({"voice": "http", "voice_url": "http://x/v1"}, "--voice-model"),
        ({"voice": "hibari", "voice_url": "http://x/v1"}, "--voice-url"),
        ({"voice": "process"}, "--voice-command"),
        ({"voice": "hibari", "voice_command": ("python",)}, "--voice-command"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OlaError, match=named):
        load_voice(VoiceOptions(**options))
