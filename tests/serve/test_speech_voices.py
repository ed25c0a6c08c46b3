"""Which voice a server has."""

import pytest

from ola_jax.errors import OlaError
from ola_jax.serve.voices import ServedVoice, load_voice
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.http_voice import HttpVoice


def test_the_voices_of_the_command_line() -> None:
    assert load_voice("none") is None
    for kind in ("auto", "hibari"):
        found = load_voice(kind)
        assert found is not None
        assert (found.name, type(found.voice)) == ("heart", HibariVoice)
    found = load_voice("http", url="http://localhost:8091/v1", model="cosy", name="anna")
    assert found is not None
    assert (found.name, type(found.voice)) == ("anna", HttpVoice)


def test_a_voice_that_is_not_installed_is_an_error_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_voice("auto") is None
    for kind, name, extra in (
        ("hibari", None, "speech"),
        ("auto", "heart", "speech"),
        ("espeak", None, "espeak"),
    ):
        with pytest.raises(OlaError, match=rf"pip install 'ola_jax\[{extra}\]'"):
            load_voice(kind, name=name)


@pytest.mark.parametrize(
    "options",
    [{"kind": "http"}, {"kind": "http", "url": "http://x/v1"}, {"kind": "hibari", "url": "http://x/v1"}],
)
def test_options_that_do_not_fit_are_named(options: dict) -> None:
    with pytest.raises(OlaError, match="--voice-url"):
        load_voice(**options)


def test_speeds_share_one_voice() -> None:
    hibari = HibariVoice()
    served = ServedVoice("heart", hibari)
    assert served.at_speed(1.0) is hibari
    slow, usual, fast = (
        sum(map(len, served.at_speed(s).speak("Hello there, it is me."))) for s in (0.5, 1.0, 2.0)
    )
    assert slow > 1.3 * usual > 1.6 * fast
    assert sum(map(len, hibari.speak("Hello there, it is me."))) == usual
    http = HttpVoice("http://localhost:1/v1", model="m")
    assert http.at_speed(2.0)._request["speed"] == 2.0
    assert http._request["speed"] == 1.0
