import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from ola_jax.config import MediaLimits, ProcessorConfig
from ola_jax.data import decoding
from ola_jax.data.decoding import DecodeSettings
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.media import BadMediaError, CrashedError, MissingFileError, TimedOutError
from ola_jax.errors import OlaError
from tests.data import decoders
from tests.golden import VISIBLE

SETTINGS = DecodeSettings(ProcessorConfig().train, MediaLimits(), 16, True, 100.0)
INPUTS = VISIBLE / "inputs"


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(60.0) as decoder:
        yield decoder


@pytest.fixture
def children():
    """Processes, dead or alive, that were started since."""
    pids = lambda: {process.pid for process in psutil.Process().children()}
    before = pids()
    return lambda: pids() - before


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(condition, seconds=120.0):  # a busy machine may take long
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


@pytest.mark.parametrize(
    ("function", "ref"),
    [
        (decoding.decode_images, (str(INPUTS / "img_rgba.png"), str(INPUTS / "img_tiny.png"))),
        (decoding.decode_video, str(INPUTS / "clip.mp4")),
        (decoding.decode_audio, str(INPUTS / "a_stereo.wav")),
        (decoding.decode_sound_track, str(INPUTS / "clip.mp4")),
    ],
)
def test_results_are_those_of_the_same_process(decoder, function, ref):
    def flat(value):
        if isinstance(value, list | tuple):
            return [array for item in value for array in flat(item)]
        return [value.patches, np.array(value.grid)] if hasattr(value, "patches") else [np.asarray(value)]

    there, here = flat(decoder(function, ref, None, SETTINGS)), flat(function(ref, None, SETTINGS))
    assert len(there) == len(here)
    for one, other in zip(there, here, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_process_starts_when_needed_and_is_used_again(children):
    with IsolatedDecoder(20.0) as decoder:
        assert not children()
        first = decoder(decoders.pid, "x")
        assert first != os.getpid()
        assert [decoder(decoders.pid, "x") for _ in range(3)] == [first] * 3
        assert children() == {first}
    assert not children()


def test_a_process_starts_without_jax(decoder):
    loaded = decoder(decoders.modules, "x")
    assert "ola_jax.data.decoding" in loaded
    assert not loaded & {"jax", "flax", "grain", "tokenizers", "scipy", "librosa"}


def test_what_hangs_is_ended_and_decoding_continues():
    with IsolatedDecoder(1.0) as decoder:
        before = decoder(decoders.pid, "x")
        with pytest.raises(TimedOutError, match=r"^slow\.mp4: decoding took more than 1 seconds"):
            decoder(decoders.hang, "slow.mp4")  # for 1000 seconds
        assert not psutil.pid_exists(before)
        assert decoder(decoders.pid, "x") != before


@pytest.mark.parametrize(
    ("function", "how"), [(decoders.crash, "SIGSEGV"), (decoders.leave, "exit status 7")]
)
def test_what_crashes_is_an_error_and_decoding_continues(decoder, function, how):
    with pytest.raises(CrashedError, match=rf"^bad\.mp4: the decoder crashed \({how}\)"):
        decoder(function, "bad.mp4")
    assert decoder(decoders.give, 3) == 3


def test_errors_come_as_they_are_and_others_by_name(decoder):
    with pytest.raises(MissingFileError, match=r"^a\.png: no such file$"):
        decoder(decoders.refuse, "a.png")
    with pytest.raises(BadMediaError, match=r"^a\.png: cannot be decoded \(KeyError: .*two") as caught:
        decoder(decoders.fail, "a.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadMediaError, match=r"a\.png: cannot be decoded"):
        decoder(decoders.return_what_cannot_be_pickled, "a.png")
    before = decoder(decoders.pid, "x")
    with pytest.raises((AttributeError, TypeError)):
        decoder(lambda x: x, "a.png")
    assert decoder(decoders.pid, "x") != before


def test_large_results_and_noise_do_not_disturb(decoder):
    array = np.arange(3_000_000)
    np.testing.assert_array_equal(decoder(decoders.give, array), array)
    assert decoder(decoders.write_to_stdout, "x") == "x"


def test_threads_have_processes_of_their_own(children):
    results, decoder = {}, IsolatedDecoder(60.0)

    def work(number):
        results[number] = [decoder(decoders.give, (number, i)) for i in range(20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [(n, i) for i in range(20)] for n in range(3)}
    assert 1 <= len(children()) <= 3
    decoder.close()
    assert not children()


def test_close_ends_what_is_decoding(tmp_path, children):
    decoder = IsolatedDecoder(60.0)
    caught = []

    def work():
        try:
            decoder(decoders.hang_noting_pid, str(tmp_path / "pid"))
        except OlaError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    decoder.close()
    thread.join(120)
    assert caught == ["decoding was closed"]
    assert not children()
    with pytest.raises(OlaError, match="decoding was closed"):
        decoder(decoders.give, 1)
    decoder.close()


def test_a_decoder_that_is_forgotten_leaves_no_process(children):
    decoder = IsolatedDecoder(20.0)
    decoder(decoders.give, 1)
    assert len(children()) == 1
    del decoder
    gc.collect()
    assert not children()


def test_a_process_that_died_while_idle_is_replaced(decoder):
    pid = decoder(decoders.pid, "x")
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: is_gone(pid))
    assert decoder(decoders.give, 5) == 5


def test_signals_meant_for_the_parent_do_not_end_a_process(decoder):
    before = decoder(decoders.pid, "x")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(before, number)
    assert decoder(decoders.pid, "x") == before


@pytest.mark.parametrize(("function", "seconds"), [("hang_noting_pid", 60.0), ("hang_with_the_lock", 1.0)])
def test_a_process_that_hangs_ends_after_its_parent_was_killed(tmp_path, function, seconds):
    program = f"""
from ola_jax.data.isolation import IsolatedDecoder
from tests.data import decoders
IsolatedDecoder({seconds})(decoders.{function}, {str(tmp_path / "pid")!r})
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=pathlib.Path(__file__).parents[2])
    file = tmp_path / "pid"
    assert wait_until(lambda: file.exists() and file.read_text())
    child = int(file.read_text())
    parent.kill()
    parent.wait()
    assert wait_until(lambda: is_gone(child))


def test_a_limit_that_cannot_work_is_an_error():
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(OlaError, match="decode_seconds"):
            IsolatedDecoder(seconds)
