"""Time from the end of a prompt to the first audio of the answer, with a trained model and the default voice.

    make demo
    python benchmarks/first_audio.py --checkpoint runs/digits_omni/5_omni/model

Asks each kind of question of the demo a few times (the first round is not counted), and says how much of the
time the language model takes. `--plot FILE` also draws when the pieces of a long text, written at 10 words a
second, are written and spoken.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import ola_jax
from examples.digits_omni.build import load_records
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.pipeline import PieceSpoken, SpeechAudio, SpeechEvent, SpeechStream

TASKS = ("text", "image", "audio", "image_speech", "video_audio")
WORDS_PER_SECOND = 10
TEXT = (
    "A language model writes its answer word by word, and a voice could wait until the last of them. "
    "Nobody wants to listen to silence for that long. So each sentence is spoken as soon as it is finished. "
    "While it is heard, the next one is written. The first piece is short, because it decides how long one "
    "waits. Later pieces may be longer, since there is audio to bridge the time."
)


class Timeline:
    """The events of one spoken answer, in seconds since `start`."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.first_text: float | None = None
        self.first_audio: float | None = None
        self.pieces: list[PieceSpoken] = []

    def text(self, _: str) -> None:
        if self.first_text is None:
            self.first_text = time.monotonic() - self.start

    def event(self, event: SpeechEvent) -> None:
        if isinstance(event, SpeechAudio) and self.first_audio is None:
            self.first_audio = time.monotonic() - self.start
        if isinstance(event, PieceSpoken):
            self.pieces.append(event)


def question(record: dict, root: pathlib.Path) -> dict:
    """The arguments of `Assistant.ask` for a record of the demo."""
    text = record.get("text_q") or record["conversations"][0]["value"]
    for mark in ("<speech>", "<image>", "User's question in speech: "):
        text = text.replace(mark, "")
    found: dict = {"text": text.strip()}
    if "image" in record:
        found["images"] = [str(root / record["image"])]
    if "video" in record:
        found["video"] = str(root / record["video"])
    if audio := record.get("audio") or record.get("audio_q"):
        found["audio"] = str(root / audio)
    return found


def measure(assistant: ola_jax.Assistant, voice: HibariVoice, asked: dict) -> tuple[float, float, float]:
    """Seconds to the first text, to the first audio, and of synthesis for a second of audio."""
    timeline = Timeline(time.monotonic())
    speech = SpeechStream(voice, timeline.event)
    assistant.ask(**asked, stream=timeline.text, speech=speech, temperature=0.0, max_new_tokens=12)
    report = speech.wait()
    return timeline.first_text or 0.0, timeline.first_audio or 0.0, report.real_time_factor


def write_slowly(write: Callable[[str], None]) -> list[float]:
    """Writes TEXT at WORDS_PER_SECOND; returns when each character was written."""
    start, written = time.monotonic(), []
    for number, word in enumerate(TEXT.split(" ")):
        time.sleep(max(0.0, start + number / WORDS_PER_SECOND - time.monotonic()))
        write(word + " ")
        written += [time.monotonic() - start] * (len(word) + 1)
    return written


def plot(voice: HibariVoice, file: pathlib.Path) -> None:
    """Draws when each piece is written, synthesized and heard."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timeline = Timeline(time.monotonic())
    speech = SpeechStream(voice, timeline.event)
    written = write_slowly(speech.write)
    speech.finish()
    report = speech.wait()
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    first = timeline.first_audio or 0.0
    heard_until = 0.0
    for event in timeline.pieces:
        begin, end = event.piece.start, min(event.piece.start + len(event.piece.text), len(written)) - 1
        heard = max(heard_until, event.began, first + event.start / 24_000)
        heard_until = heard + (event.end - event.start) / 24_000
        bars = (
            (written[begin], written[end] - written[begin], "tab:blue"),
            (event.began, event.ended - event.began, "tab:orange"),
            (heard, heard_until - heard, "tab:green"),
        )
        for row, (left, width, colour) in enumerate(bars):
            axes.barh(row, width, left=left, color=colour, alpha=0.55 + 0.4 * (event.number % 2))
    axes.axvline(first, color="black", linewidth=1, linestyle=":")
    axes.set_yticks(range(3), ["written", "synthesized", "heard"])
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the first word")
    title = f"{report.pieces} pieces at {WORDS_PER_SECOND} words a second: first audio after {first:.2f} s"
    axes.set_title(f"{title}, {report.underruns} underruns", fontsize=10)
    figure.savefig(file, dpi=130)
    print(f"wrote {file}; first audio after {first:.2f} s, the text is complete after {written[-1]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first audio of spoken answers.")
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("runs/digits_omni/data"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=pathlib.Path)
    args = parser.parse_args()
    voice = HibariVoice()
    if args.plot:
        plot(voice, args.plot)
    assistant = ola_jax.Assistant.from_pretrained(args.checkpoint)
    print("| question | first text | first audio | of it by the model | real-time factor |")
    print("|---|---|---|---|---|")
    for task in TASKS:
        records = load_records(args.data, "heldout", task)[: args.rounds + 1]
        found = [measure(assistant, voice, question(record, args.data)) for record in records][1:]
        text, audio, factor = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {task} | {text:.2f} s | {audio:.2f} s | {text / audio:.0%} | {factor:.2f} |")
    assistant.close()


if __name__ == "__main__":
    main()
