"""Spoken answers as files and through programs that play audio."""

import pathlib
import stat
import time

import numpy as np
import pytest
import soundfile

from ola_jax.errors import OlaError
from ola_jax.speech import outputs
from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.outputs import Player, WavFile
from ola_jax.speech.speaker import Speaker
from ola_jax.speech.voice import SPEECH_RATE

TONE = (0.1 * np.sin(np.arange(SPEECH_RATE) / 20)).astype(np.float32)


def test_a_wav_file_appears_when_it_is_complete(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "answer.wav"
    output = WavFile(file)
    output.write(TONE[:100])
    assert not file.exists()
    output.write(TONE[100:])
    output.close()
    samples, rate = soundfile.read(file, dtype="float32")
    assert rate == SPEECH_RATE
    np.testing.assert_allclose(samples, TONE, atol=1e-4)
    assert list(tmp_path.iterdir()) == [file]


def test_a_wav_file_that_is_discarded_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "answer.wav").write_text("the one before")
    output = WavFile(tmp_path / "answer.wav")
    output.write(TONE)
    output.discard()
    assert [f.read_text() for f in tmp_path.iterdir()] == ["the one before"]


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="a directory"):
        WavFile(tmp_path)
    with pytest.raises(OlaError, match=r"none/answer.wav: cannot be written \(No such file"):
        WavFile(tmp_path / "none" / "answer.wav")


@pytest.fixture
def player(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A program that writes what it is to play into a file."""
    program = tmp_path / "bin" / "standin"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = "fail" ] && exit 3\nexec cat > {tmp_path}/played\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(outputs, "PLAYERS", (("missing-player",), ("standin",)))
    return tmp_path / "played"


def test_audio_is_played_by_the_first_program_that_is_there(player: pathlib.Path) -> None:
    output = Player()
    output.write(TONE)
    output.close()
    assert np.frombuffer(player.read_bytes(), "<i2").size == SPEECH_RATE


def test_without_a_program_that_plays_the_names_of_some_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PLAYERS", (("missing-player",),))
    with pytest.raises(OlaError, match="install one of missing-player"):
        Player()


def test_a_player_that_ends_is_reported(player: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PLAYERS", (("standin", "fail"),))
    output = Player()
    time.sleep(0.5)
    with pytest.raises(OlaError, match="standin ended with status 3"):
        output.write(np.tile(TONE, 10))


def test_a_speaker_writes_all_outputs_and_reports_what_is_not_spoken(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = CallableVoice(lambda text: TONE, name="english", scripts=frozenset({"latin"}))
    files = [WavFile(tmp_path / "a.wav"), WavFile(tmp_path / "b.wav")]
    speaker = Speaker(voice, files)
    speaker.stream.write("This is English, as one can hear.\n\n你好，我是一个很好的朋友。\n")
    report = speaker.finish()
    assert report.skipped == 1
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert soundfile.info(tmp_path / "a.wav").duration == pytest.approx(report.audio_seconds)
    said = capsys.readouterr().err
    assert "not fully spoken: '你好，我是一个很好的朋友。' (english does not read chinese)" in said
