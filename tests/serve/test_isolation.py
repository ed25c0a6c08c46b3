"""Files that stall or crash their decoder cost one request, and nothing else."""

import concurrent.futures
import io

import psutil
import pytest
from PIL import Image

from ola_jax.serve.limits import Limits
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import INPUTS, Running, chat, image, running, wait_for

SMALL = image(INPUTS / "img_rgb.png")


@pytest.fixture(scope="module")
def large() -> dict:
    """An image that takes a second to decode."""
    out = io.BytesIO()
    Image.new("L", (7900, 7900)).save(out, "PNG")
    return image(out.getvalue())


def decoders() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "ola_jax.data.decoding_process" in " ".join(child.cmdline())]


def ask(server: Running, part: dict) -> tuple[int, str]:
    status, reply, _ = server.post(chat("What?", part))
    return status, reply["error"]["message"] if status != 200 else ""


def test_a_file_that_takes_too_long_is_given_up(large: dict) -> None:
    limits = Limits(decode_seconds=0.3)
    with running(FakeEngine(parity.processor("infer")), limits) as server:
        status, message = ask(server, large)
        assert (status, "took too long" in message) == (400, True)


def test_a_file_that_crashes_its_decoder_is_refused_and_others_are_not(large: dict) -> None:
    with (
        running(FakeEngine(parity.processor("infer"))) as server,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        before = {child.pid for child in decoders()}
        assert ask(server, SMALL)[0] == 200  # its decoder has started
        (worker,) = [child for child in decoders() if child.pid not in before]
        used = worker.cpu_times().user
        reply = pool.submit(ask, server, large)
        wait_for(lambda: worker.cpu_times().user > used + 0.2)
        worker.kill()
        status, message = reply.result(60)
        assert (status, "made its decoder fail" in message) == (400, True)
        assert "SIGKILL" not in message
        assert ask(server, SMALL)[0] == 200


def test_decoders_end_with_the_server() -> None:
    before = {child.pid for child in decoders()}
    with running(FakeEngine(parity.processor("infer"))) as server:
        assert ask(server, SMALL)[0] == 200
        assert {child.pid for child in decoders()} > before
    assert {child.pid for child in decoders()} <= before
