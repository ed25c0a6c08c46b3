"""Questions as browsers record them: Opus in WebM or Ogg, AAC in a fragmented MP4."""

import io

import av
import numpy as np
import pytest

from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import Running, audio, chat, running

SECONDS = 1.5


def recording(container: str, codec: str, options: dict[str, str], rate: int = 48_000) -> bytes:
    """A tone, in small packets and without a duration in the header, as a recorder writes it."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        wave = (np.sin(np.arange(int(SECONDS * rate)) / 20) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = rate
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


RECORDERS = {
    "Chromium": ("webm", "libopus", {"live": "1"}),
    "Firefox": ("ogg", "libopus", {}),
    "Safari": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
}


@pytest.mark.parametrize("browser", RECORDERS)
def test_what_a_browser_records_is_a_question(browser: str) -> None:
    engine = FakeEngine(parity.processor("infer"))
    with running(engine) as server:
        status, reply, _ = server.post(chat(audio(recording(*RECORDERS[browser]))))
        assert status == 200, reply
        assert_seconds(server)


def assert_seconds(server: Running) -> None:
    """All of the recording has arrived; AAC and Opus add up to a tenth of a second."""
    lines = server.get("/metrics")[1].splitlines()
    (found,) = (line for line in lines if line.startswith('ola_media_seconds_total{kind="audio"'))
    assert SECONDS - 0.01 <= float(found.rpartition(" ")[2]) < SECONDS + 0.1
