"""The tasks of digits_omni, and how answers are scored."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of record, with the numbers of a full-size dataset."""

    name: str  # of its JSON file
    title: str  # for tables
    modalities: str  # what goes in
    train: int  # records
    train_files: int = 0  # media files made for the training records, which share them in turn
    heldout: int = 200  # records, each with media of its own


TASKS = (
    Task("text", "text only", "text", 3000),
    Task("image", "image + text", "image, text", 6000, train_files=8000, heldout=300),
    Task("two_images", "two images", "2 images, text", 3000),
    Task("video", "video", "video, text", 3000, train_files=800),
    Task("audio", "audio + text", "audio, text", 4000, train_files=2400),
    Task("image_speech", "image + spoken question", "image, audio", 4000, train_files=1000),
    Task("video_audio", "video + audio", "video, audio, text", 2500, train_files=600),
)
SPLITS = ("train", "heldout")
# Further training records, by their numbers: what images show and recordings say, in words; and text
# with words in the place of media. They are no tasks of their own.
AIDS = {"captions": 8000, "transcripts": 4000, "described": 6000}


def question_of(record: dict[str, Any]) -> str:
    """What the human says; in an `image_speech` record, the transcript of the spoken question."""
    return record["conversations"][0]["value"]


def answer_of(record: dict[str, Any]) -> str:
    """The expected answer."""
    return record["conversations"][1]["value"]


def is_correct(answer: str, expected: str) -> bool:
    """Whether the two are the same but for the space around them."""
    return answer.strip() == expected.strip()


def chance_level(records: Sequence[dict[str, Any]]) -> float:
    """The best accuracy that is possible without looking or listening.

    To each question its most common answer in `records`; to text-only records, whose question is
    all there is, the one most common answer.
    """
    answers = collections.defaultdict(collections.Counter)
    for record in records:
        has_media = not {"image", "video", "audio", "audio_q"}.isdisjoint(record)
        answers[question_of(record) if has_media else ""][answer_of(record)] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(records)
