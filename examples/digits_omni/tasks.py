"""The tasks of digits_omni, and how answers are scored."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of record, with its numbers in a full-size dataset."""

    name: str  # of its JSON file
    title: str  # for tables
    modalities: str  # of the input
    train: int  # records; 0: there are held-out ones only
    train_files: int = 0  # media files of the training records, which use them in turn
    heldout: int = 200  # records, each with media of its own


TASKS = (
    Task("text", "text only", "text", 3000),
    Task("image", "image + text", "image, text", 6000, train_files=8000, heldout=300),
    Task("two_images", "two images", "2 images, text", 3000),
    Task("video", "video", "video, text", 3000, train_files=800),
    Task("audio", "audio + text", "audio, text", 4000, train_files=3500),
    Task("image_speech", "image + spoken question", "image, audio", 4000, train_files=1500),
    Task("video_audio", "video + audio", "video, audio, text", 3000, train_files=1600),
    # Spoken by a synthesizer that is not in training, from pieces of human speech.
    Task("audio_other", "audio of another kind", "audio, text", 0, heldout=100),
)
SPLITS = ("train", "heldout")
# Other training records, with their numbers: descriptions of images, transcripts of speech, and text with
# words instead of media. They are not tasks of their own.
AIDS = {"captions": 8000, "transcripts": 5000, "described": 6000}


def tasks_of(split: str) -> list[Task]:
    """The tasks that have records in this split."""
    return [task for task in TASKS if getattr(task, split)]


def question(record: dict[str, Any]) -> str:
    """The human's text; in an `image_speech` record, the transcript of the spoken question."""
    return record["conversations"][0]["value"]


def expected_answer(record: dict[str, Any]) -> str:
    """The expected answer."""
    return record["conversations"][1]["value"]


def is_correct(answer: str, expected: str) -> bool:
    """True if the two are equal except for surrounding white space."""
    return answer.strip() == expected.strip()


def chance_level(records: Sequence[dict[str, Any]]) -> float:
    """The best accuracy that is possible without the media.

    It is that of answering each question with its most common answer in `records`; in text-only records,
    where the question is the whole input, with the most common answer of all.
    """
    answers: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for record in records:
        has_media = not {"image", "video", "audio", "audio_q"}.isdisjoint(record)
        answers[question(record) if has_media else ""][expected_answer(record)] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(records)
