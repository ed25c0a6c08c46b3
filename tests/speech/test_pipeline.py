"""Speech while the text is written: overlap, order, one stream, interruption, figures."""

import itertools
import threading
import time

import numpy as np
import pytest

from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.pieces import PieceConfig
from ola_jax.speech.pipeline import (
    PieceSkipped,
    PieceSpoken,
    SpeechAudio,
    SpeechConfig,
    SpeechEvent,
    SpeechStream,
)
from ola_jax.speech.playback import PlaybackClock
from ola_jax.speech.voice import SPEECH_RATE, Samples, VoiceError

BY_TEXT = SpeechConfig(pieces=PieceConfig(first_seconds=None, idle_seconds=None))
TEXT = "This is the first sentence of it. Here is the second one, of course. And that was the third of them."


def tone(seconds: float, pitch: float = 220.0) -> Samples:
    time = np.arange(int(seconds * SPEECH_RATE)) / SPEECH_RATE
    return (0.1 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def letters(text: str) -> Samples:
    """20 ms a character: a pitch for each text."""
    return tone(0.02 * len(text), 200.0 + sum(map(ord, text)) % 400)


def say(text: str, voice: CallableVoice | None = None, config: SpeechConfig = BY_TEXT) -> list[SpeechEvent]:
    events: list[SpeechEvent] = []
    stream = SpeechStream(voice or CallableVoice(letters), events.append, config)
    for word in text.split(" "):
        stream.write(word + " ")
    stream.finish()
    stream.wait(30.0)
    return events


def audio(events: list[SpeechEvent]) -> Samples:
    return np.concatenate([e.samples for e in events if isinstance(e, SpeechAudio)])


def test_each_piece_is_spoken_while_the_next_one_is_written() -> None:
    spoken_pieces: list[str] = []
    ready = threading.Condition()

    def listen(event: SpeechEvent) -> None:
        if isinstance(event, PieceSpoken):
            with ready:
                spoken_pieces.append(event.piece.text)
                ready.notify()

    stream = SpeechStream(CallableVoice(letters), listen, BY_TEXT)
    sentences = [
        "This is the first sentence of it. ",
        "Here is the second of them. ",
        "And this is the third of it. ",
    ]
    for number, sentence in enumerate(sentences):
        stream.write(sentence + "T")  # the next one has begun, and is not finished
        with ready:
            assert ready.wait_for(lambda n=number: len(spoken_pieces) > n, timeout=20), "not before the end"
        stream.write("hat ")
    stream.finish()
    assert stream.wait(20.0).pieces == 4


def test_the_audio_is_one_stream_that_says_which_samples_belong_to_which_text() -> None:
    events = say(TEXT)
    at = 0
    for event in events:
        if isinstance(event, SpeechAudio):
            assert event.start == at
            at += len(event.samples)
    spoken_pieces = [e for e in events if isinstance(e, PieceSpoken)]
    assert "".join(e.piece.text for e in spoken_pieces) == TEXT + " "
    assert [e.number for e in spoken_pieces] == list(range(len(spoken_pieces)))
    pause = int(BY_TEXT.pause_seconds * SPEECH_RATE)
    for before, after in itertools.pairwise(spoken_pieces):
        assert after.start == before.end + pause
        assert not audio(events)[before.end : after.start].any()


def test_the_audio_does_not_depend_on_how_fast_the_text_comes() -> None:
    slow: list[SpeechEvent] = []
    stream = SpeechStream(CallableVoice(letters), slow.append, BY_TEXT)
    for i in range(0, len(TEXT) + 1, 7):
        stream.write((TEXT + " ")[i : i + 7])
        time.sleep(0.002)
    stream.finish()
    stream.wait(20.0)
    np.testing.assert_array_equal(audio(slow), audio(say(TEXT)))


def test_streams_side_by_side_do_not_mix() -> None:
    voice = CallableVoice(letters)
    texts = [
        f"This is stream number {n}, which counts to {n * n}. It ends right here, after all."
        for n in range(16)
    ]
    alone = [audio(say(text, voice)) for text in texts]
    events: list[list[SpeechEvent]] = [[] for _ in texts]
    streams = [SpeechStream(voice, events[n].append, BY_TEXT) for n in range(16)]
    for word in range(20):
        for stream, text in zip(streams, texts, strict=True):
            stream.write("".join(w + " " for w in text.split(" ")[word : word + 1]))
    for stream in streams:
        stream.finish()
    for stream, found, expected in zip(streams, events, alone, strict=True):
        stream.wait(30.0)
        np.testing.assert_array_equal(audio(found), expected)


def test_what_cannot_be_said_is_reported() -> None:
    english = CallableVoice(letters, name="english", scripts=frozenset({"latin"}))
    text = (
        "This is fine.\n\nAs far as I can see it really is.\n\n🎉🎉🎉🎉🎉🎉🎉🎉🎉\n\n"
        "你好，我是一个很好的朋友。\n\nAnd this is fine, too."
    )
    events = say(text, english)
    skipped = [(e.reason, e.detail) for e in events if isinstance(e, PieceSkipped)]
    assert skipped == [("nothing to say", ""), ("language", "english does not read chinese")]
    assert sum(isinstance(e, PieceSpoken) for e in events) == 3


def test_words_of_another_script_within_a_piece_are_reported_and_the_rest_is_said() -> None:
    english = CallableVoice(letters, name="english", scripts=frozenset({"latin"}))
    events = say("The Chinese for hello is 你好, as you may know.", english)
    assert [e.reason for e in events if isinstance(e, PieceSkipped)] == ["language"]
    assert [e.said for e in events if isinstance(e, PieceSpoken)] == [
        "The Chinese for hello is 你好,",
        "as you may know.",
    ]


@pytest.mark.parametrize("failure", ["error", "silence"])
def test_a_voice_that_fails_costs_its_piece_only(failure: str) -> None:
    def speak(text: str) -> Samples:
        if "second" not in text:
            return letters(text)
        if failure == "error":
            raise RuntimeError("no such word")
        return np.zeros(2400, np.float32)

    events = say(TEXT, CallableVoice(speak, name="mine"))
    (skipped,) = [e for e in events if isinstance(e, PieceSkipped)]
    assert "second" in skipped.piece.text
    expected = {
        "error": "voice failed: mine: RuntimeError: no such word",
        "silence": "nothing to say: the voice made no audio of it",
    }
    assert f"{skipped.reason}: {skipped.detail}" == expected[failure]
    assert [e.number for e in events if isinstance(e, PieceSpoken)] == [0, 2]


def test_a_piece_is_never_longer_than_its_bound() -> None:
    config = SpeechConfig(pieces=BY_TEXT.pieces, piece_seconds=1.0)
    events = say("This is one sentence of some length.", CallableVoice(lambda text: tone(5.0)), config)
    assert len(audio(events)) == SPEECH_RATE
    assert [e.detail for e in events if isinstance(e, PieceSkipped)] == ["cut off after 1.0 s"]


def test_an_interruption_ends_the_audio_at_once_and_says_what_was_heard() -> None:
    events: list[SpeechEvent] = []
    heard_first = threading.Event()

    def speak(text: str):
        for _ in range(100):
            yield tone(0.1)
            time.sleep(0.002)

    def listen(event: SpeechEvent) -> None:
        events.append(event)
        if isinstance(event, PieceSpoken):
            heard_first.set()

    stream = SpeechStream(CallableVoice(speak), listen, BY_TEXT)
    stream.write(TEXT)
    assert heard_first.wait(20.0)
    stream.interrupt()
    count = len(events)
    report = stream.wait(20.0)
    assert len(events) <= count + 1
    assert report.audio_seconds < 25  # three pieces would be 30
    assert stream.heard(10 * SPEECH_RATE) == "This is the first sentence of it. "
    assert "This is the first sentence".startswith(stream.heard(5 * SPEECH_RATE).strip())
    stream.write("More.")  # is ignored
    stream.finish()


def test_the_report_has_the_figures() -> None:
    events: list[SpeechEvent] = []
    stream = SpeechStream(CallableVoice(letters), events.append, BY_TEXT)
    stream.write(TEXT)
    stream.finish()
    report = stream.wait(20.0)
    assert report.first_audio_seconds is not None
    assert 0 < report.first_audio_seconds < 10
    assert report.audio_seconds == len(audio(events)) / SPEECH_RATE
    assert report.real_time_factor == report.synthesis_seconds / report.audio_seconds
    assert (report.pieces, report.skipped, report.underruns) == (3, 0, 0)


def test_an_empty_text_is_no_audio() -> None:
    stream = SpeechStream(CallableVoice(letters), lambda event: None, BY_TEXT)
    stream.write("")
    stream.finish()
    assert stream.wait(20.0).first_audio_seconds is None


def test_an_error_of_the_listener_is_raised_by_wait() -> None:
    def fail(event: SpeechEvent) -> None:
        raise ValueError("disk full")

    stream = SpeechStream(CallableVoice(letters), fail, BY_TEXT)
    stream.write(TEXT)
    stream.finish()
    with pytest.raises(ValueError, match="disk full"):
        stream.wait(20.0)


def test_gaps_of_more_than_a_tenth_of_a_second_are_underruns() -> None:
    clock = PlaybackClock()
    for now, seconds in [(10.0, 1.0), (10.5, 1.0), (12.05, 1.0), (13.5, 1.0)]:
        clock.add(now, seconds)
    assert (clock.started, clock.underruns) == (10.0, 1)
    assert clock.underrun_seconds == pytest.approx(0.45)


def test_voice_errors_are_one_line() -> None:
    assert "\n" not in str(VoiceError("a\nb"))
