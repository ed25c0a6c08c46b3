"""The demo's trained model, talked to through the page of `ola serve --ui`; `make demo` trains it."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile

from examples.digits_omni.build import load_records
from ola_jax.speech.voice import SPEECH_RATE
from tests.browser.test_page import BROWSER, FLAGS, answers, ask, finish, playwright, recorded, tap, wait

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / "runs" / "digits_omni"
MODEL = next(iter(sorted(RUN.glob("*_omni/model"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(MODEL is None, reason="needs the trained model: make demo"),
]
RATE = 48_000  # Hz, of Chromium's microphone


def records(task: str, topic: str) -> list[dict[str, Any]]:
    """The held-out records with this question."""
    found = load_records(RUN / "data", "heldout", task)
    return [record for record in found if topic in record["conversations"][0]["value"]]


def answer_of(record: dict[str, Any]) -> str:
    return record["conversations"][1]["value"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server as a user starts it."""
    command = [sys.executable, "-m", "ola_jax.cli.main", "serve", "--checkpoint", str(MODEL), "--port", "0"]
    with subprocess.Popen([*command, "--ui"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("listening at "):
                break
        else:
            raise AssertionError("the server has ended")
        yield line.removeprefix("listening at ").strip()
        server.terminate()


def microphone(record: dict[str, Any], file: pathlib.Path) -> tuple[str, float]:
    """A flag for Chromium, with what is said into its microphone; and the seconds until it is said."""
    audio, rate = soundfile.read(RUN / "data" / (record.get("audio_q") or record["audio"]))
    positions = np.arange(0, len(audio), rate / RATE)
    spoken = np.interp(positions, np.arange(len(audio)), audio)
    soundfile.write(file, np.concatenate([np.zeros(RATE // 10), spoken, np.zeros(RATE * 30)]), RATE)
    return f"--use-file-for-fake-audio-capture={file}", 0.2 + len(spoken) / RATE


def say(page: Any, seconds: float) -> None:
    """Record what comes from the microphone, from the beginning of its file."""
    page.get_by_role("button", name="Record").click()
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_timeout(int(1000 * seconds))
    page.get_by_role("button", name="Send recording").click()


@pytest.mark.parametrize("task", ["image_speech", "audio"])
def test_spoken_questions_are_answered_aloud(address: str, tmp_path: pathlib.Path, task: str) -> None:
    """Most of ten questions by voices that the model has not heard, through the browser's own processing."""
    right = []
    for number, record in enumerate(load_records(RUN / "data", "heldout", task)[:10]):
        flag, seconds = microphone(record, tmp_path / f"{number}.wav")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=BROWSER, args=[*FLAGS, flag])
            context = browser.new_context(permissions=["microphone"], bypass_csp=True)
            page = context.new_page()
            page.goto(address)
            wait(page, "document.querySelector('#model:not(:empty)') !== null")
            tap(page)
            if "image" in record:
                page.locator("#files").set_input_files(RUN / "data" / record["image"])
            else:
                page.get_by_label("Message").fill(record["conversations"][0]["value"].split("\n")[1])
            say(page, min(seconds, 1.9))  # an audio chunk of the demo has 2 s
            finish(page, 1)
            right.append((answers(page)[0], answer_of(record)))
            assert page.evaluate("olaPlayer.gaps") == 0
            assert np.abs(recorded(page)).max() > 0.05
            browser.close()
    assert sum(found == expected for found, expected in right) >= 6, right


def test_a_picture_a_sum_and_a_video_with_sound(address: str) -> None:
    """An answer of several sentences; each question in a conversation of its own, as in training."""
    picture = records("image", "Tell me about the picture.")[0]
    clip = records("video_audio", "Which digit do you hear?")[0]
    asked = [
        ("Tell me about the picture.", picture["image"], answer_of(picture)),
        ("3 plus 4?", None, "7"),
        ("Which digit do you hear?", clip["video"], answer_of(clip)),
    ]
    found = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_context(bypass_csp=True).new_page()
        page.goto(address)
        wait(page, "document.querySelector('#model:not(:empty)') !== null")
        tap(page)
        for text, file, _ in asked:
            page.get_by_role("button", name="New conversation").click()
            if file is not None:
                page.locator("#files").set_input_files(RUN / "data" / file)
            ask(page, text)
            finish(page, 1)
            found += answers(page)
        assert page.evaluate("olaPlayer.gaps") == 0
        assert np.count_nonzero(np.abs(recorded(page)) > 0.01) > 1.5 * SPEECH_RATE
        browser.close()
    right = [expected for _, _, expected in asked]
    assert sum(map(str.__eq__, found, right)) >= 2, (found, right)
