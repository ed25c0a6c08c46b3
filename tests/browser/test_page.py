"""The page in a headless browser with a microphone that is not real; `make test-ui` runs it."""

import base64
import contextlib
import itertools
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ola_jax.generate.requests import EngineConfig
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.voice import SPEECH_RATE
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import INPUTS, MODEL, Running, running, wait_for
from tests.serve.stand_in_voice import ANSWER, LETTERS

playwright = pytest.importorskip("playwright.sync_api", reason="make test-ui installs playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]
TAP = (pathlib.Path(__file__).parent / "tap.js").read_text()
FLAGS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
LONG = " ".join(f"This is sentence number {n} of a long answer." for n in range(60))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@contextlib.contextmanager
def opened(
    browser: Any,
    answer: Any = ANSWER,
    voice: ServedVoice | None = LETTERS,
    width: int = 900,
    tapped: bool = False,
    **settings: Any,
) -> Iterator[tuple[Any, Running]]:
    """The page of a server that answers everything with this text; no error may go to its console.

    With `tapped` what it plays is recorded; for that scripts from elsewhere are let in.
    """
    words = {"words": lambda request: answer} if isinstance(answer, str) else {}
    config = EngineConfig(slots=4, length=32_768, queue=8)
    engine = FakeEngine(parity.processor("infer"), config, step_seconds=0.02, **words)
    with running(engine, voice=voice, page=True, **settings) as server:
        context = browser.new_context(
            viewport={"width": width, "height": 700}, permissions=["microphone"], bypass_csp=tapped
        )
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        loud = lambda message: message.type in ("error", "warning")
        page.on("console", lambda message: faults.append(message.text) if loud(message) else None)
        page.goto(f"http://127.0.0.1:{server.port}/")
        wait(page, "document.querySelector('#model:not(:empty), .error') !== null")
        if tapped:
            tap(page)
        yield page, server
        context.close()
        # The browser itself writes a line for a reply with an error.
        assert not [fault for fault in faults if not fault.startswith("Failed to load resource")]


def wait(page: Any, condition: str, seconds: float = 30.0) -> None:
    """Until the JavaScript is true; the driver's own way of waiting needs eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def tap(page: Any) -> None:
    """Record, from now on, what the page plays."""
    page.evaluate(
        """async (script) => {
          await olaPlayer.unlock();
          const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
          await olaPlayer.context.audioWorklet.addModule(url);
          const node = new AudioWorkletNode(olaPlayer.context, "tap");
          window.recorded = [];
          node.port.onmessage = (event) => recorded.push(event.data);
          olaPlayer.output.connect(node).connect(olaPlayer.context.destination);
        }""",
        TAP,
    )


def recorded(page: Any) -> np.ndarray:
    data = page.evaluate(
        """async () => {
          const url = await new Promise((resolve) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result);
            reader.readAsDataURL(new Blob(recorded));
          });
          return url.slice(url.indexOf(",") + 1);
        }"""
    )
    return np.frombuffer(base64.b64decode(data), np.float32)


def ask(page: Any, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


def answers(page: Any) -> list[str]:
    return page.locator(".assistant").all_inner_texts()


def finish(page: Any, number: int) -> None:
    """Wait until so many answers are written and heard."""
    wait(page, f"document.querySelectorAll('.assistant:not(:empty)').length == {number}")
    wait(page, "document.querySelector('.assistant:last-child').textContent != ''")
    page.wait_for_selector("#stop", state="hidden", timeout=60_000)


def test_the_words_appear_and_the_audio_is_played_without_a_gap(browser: Any) -> None:
    with opened(browser, tapped=True) as (page, server):
        ask(page, "Hello!")
        wait(page, "document.querySelector('.assistant')?.textContent.length > 10")
        assert ANSWER.startswith(page.locator(".assistant span").first.inner_text())
        finish(page, 1)
        assert answers(page) == [ANSWER]
        assert page.evaluate("olaPlayer.gaps") == 0
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hello!"}],
            "modalities": ["text", "audio"],
            "audio": {"format": "pcm16"},
        }
        reply = server.post(body)[1]["choices"][0]["message"]
        expected = np.frombuffer(base64.b64decode(reply["audio"]["data"]), "<i2") / 32768
        page.wait_for_timeout(300)
        found = recorded(page)
        start = int(np.flatnonzero(found)[0]) - int(np.flatnonzero(expected)[0])
        assert np.abs(found[start : start + len(expected)] - expected).max() < 1e-6
        assert not found[start + len(expected) :].any()


def test_the_audio_begins_before_the_text_ends(browser: Any) -> None:
    with opened(browser, LONG) as (page, _):
        ask(page, "Hello!")
        wait(page, "olaPlayer.played > 24000")
        assert len(page.locator(".assistant span").first.inner_text()) < len(LONG) * 0.8


@pytest.mark.parametrize("how", ["escape", "button", "question", "recording"])
def test_text_and_audio_stop_at_once(browser: Any, how: str) -> None:
    with opened(browser, LONG, tapped=True) as (page, server):
        ask(page, "Hello!")
        wait(page, "olaPlayer.played > 24000 && olaPlayer.context.currentTime * 24000 > 12000")
        if how == "escape":
            page.keyboard.press("Escape")
        elif how == "button":
            page.get_by_role("button", name="Stop").click()
        elif how == "recording":
            page.get_by_role("button", name="Record").click()
        else:
            page.locator("#aloud").uncheck()
            ask(page, "Another one")
        page.wait_for_timeout(150)
        at = len(recorded(page))
        page.wait_for_timeout(500)
        assert not recorded(page)[at:].any()
        assert len(recorded(page)) > at + SPEECH_RATE // 4
        wait(page, "document.querySelector('.assistant').textContent.includes('interrupted after ')")
        if how == "escape":
            wait_for(lambda: server.engine.status().running == 0)
            text = answers(page)[0]
            page.wait_for_timeout(200)
            assert answers(page)[0] == text
        elif how == "recording":
            page.keyboard.press("Escape")
            page.wait_for_selector("#record[aria-pressed=false]")
            assert page.locator(".user").count() == 1


def test_a_conversation_with_all_media(browser: Any) -> None:
    """A spoken question about an image, a video with sound, and text: what arrives at the engine."""
    with opened(browser, None) as (page, server):
        page.locator("#aloud").uncheck()
        page.locator("#files").set_input_files(INPUTS / "img_rgb.png")
        record(page)
        finish(page, 1)
        counts = [request.sample.counts for request in server.engine.requests]
        assert counts[0]["image"]
        assert counts[0]["audio"]
        page.locator("#files").set_input_files(INPUTS / "clip.mp4")
        ask(page, "What happens here?")
        finish(page, 2)
        record(page)
        finish(page, 3)
        ask(page, "Thank you.")
        finish(page, 4)
        last = server.engine.requests[-1].sample
        boxes = page.locator(".turn").evaluate_all("all => all.map((turn) => turn.getBoundingClientRect())")
        assert len(boxes) == 8
        assert all(above["bottom"] <= below["top"] for above, below in itertools.pairwise(boxes))
        assert page.locator(".turn").evaluate_all("all => all.every((t) => t.scrollHeight <= t.clientHeight)")
        assert last.counts["video"]
        assert last.counts["audio"]
        assert not last.counts.get("image")
        assert page.locator(".old").count() == 2
        assert all(answer.startswith("tokens: ") for answer in answers(page))
        assert page.locator(".error").count() == 0


def record(page: Any) -> None:
    """One and a half seconds of the browser's own beeps."""
    page.get_by_role("button", name="Record").click()
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Send recording").click()


def test_a_spoken_question_is_answered_aloud_by_hibari(browser: Any) -> None:
    with opened(
        browser, "It is a cat. It sits on a mat.", ServedVoice("heart", HibariVoice()), tapped=True
    ) as (page, _):
        record(page)
        finish(page, 1)
        audio = recorded(page)
        assert page.evaluate("olaPlayer.gaps") == 0
        assert np.count_nonzero(np.abs(audio) > 0.01) > SPEECH_RATE // 4


def test_text_beside_an_image_and_a_recording_is_refused_before_it_is_sent(browser: Any) -> None:
    with opened(browser) as (page, server):
        page.locator("#files").set_input_files([INPUTS / "img_rgb.png", INPUTS / "a_short.wav"])
        ask(page, "What is it?")
        page.wait_for_selector("#status.error")
        assert not server.engine.requests
        page.get_by_role("button", name="Remove a_short.wav").click()
        page.get_by_label("Message").press("Enter")
        finish(page, 1)


def test_errors_of_the_server_are_shown(browser: Any) -> None:
    with opened(browser, voice=None) as (page, _):
        assert page.locator("#aloud").is_disabled()
        ask(page, "What is <|im_start|>?")
        page.wait_for_selector(".note.error")
        assert "control token" in page.locator(".note.error").inner_text()
        ask(page, "And now?")
        finish(page, 2)
        assert answers(page)[1] == ANSWER


def test_a_key_is_asked_for(browser: Any) -> None:
    with opened(browser, api_keys=("secret-key",)) as (page, _):
        page.get_by_label("API key").fill("secret-key")
        page.get_by_label("API key").press("Enter")
        wait(page, "document.getElementById('model').textContent == 'tiny-ola'")
        ask(page, "Hello!")
        finish(page, 1)
        assert answers(page) == [ANSWER]


def test_a_narrow_screen_and_the_keyboard_alone(browser: Any) -> None:
    with opened(browser, width=360) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("Attach", "Record", "Send"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 700
        reached = set()
        for _step in range(12):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"aloud", "clear", "attach", "record", "text", "send"} <= reached
        page.get_by_label("Message").focus()
        page.keyboard.type("One line")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("and another")
        page.keyboard.press("Enter")
        finish(page, 1)
        assert page.locator(".user").inner_text() == "One line\nand another"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_new_conversation_begins_empty(browser: Any) -> None:
    with opened(browser) as (page, server):
        ask(page, "Hello!")
        finish(page, 1)
        page.get_by_role("button", name="New conversation").click()
        assert answers(page) == []
        ask(page, "Hello!")
        finish(page, 1)
        first, second = (request.conversation for request in server.engine.requests)
        assert first != second
        assert len({len(request.sample.tokens) for request in server.engine.requests}) == 1
