"""The voice of a server at other speeds."""

from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.http_voice import HttpVoice


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
