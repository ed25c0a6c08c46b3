"""Subtitles of videos: .srt files, and the JSON lists of LongVideoBench."""

import dataclasses
import pathlib
import re

from ola_jax.errors import OlaError, first_line

_TIME = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})")
_TAG = re.compile(r"<[^>]+>")


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of text, shown from `start` to `end` seconds."""

    start: float
    end: float
    text: str


def read_srt(file: pathlib.Path) -> list[Line]:
    """The lines of an .srt file, without markup. Raises OlaError for a file that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise OlaError(f"{file}: subtitles cannot be read ({first_line(error)})") from error
    lines = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        rows = block.strip().split("\n")
        at = next((i for i, row in enumerate(rows) if "-->" in row), None)
        if at is None:
            continue
        times = [_seconds(*match) for match in _TIME.findall(rows[at])]
        words = _TAG.sub("", " ".join(rows[at + 1 :])).strip()
        if len(times) == 2 and words:
            lines.append(Line(times[0], times[1], words))
    return lines


def at_times(lines: list[Line], times: list[float]) -> list[str]:
    """The line shown at each time, for the times at which there is one, as VLMEvalKit takes them."""
    shown = [next((line.text for line in lines if line.start < t < line.end), "") for t in times]
    return [text for text in shown if text]


def covering(lines: list[Line], times: list[float]) -> list[str]:
    """Each line that is shown at one of the times, once, in order, as lmms-eval takes them."""
    return [line.text for line in lines if any(line.start <= t < line.end for t in times)]


def _seconds(hours: str, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
