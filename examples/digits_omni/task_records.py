"""The records of each task, in Ola's JSON format."""

from collections.abc import Callable
from typing import Any

import numpy as np

from examples.digits_omni.facts import TextQuestion
from examples.digits_omni.media_files import Clip, Picture, Speech
from examples.digits_omni.questions import (
    AUDIO,
    CAPTION,
    IMAGE,
    TRANSCRIBE,
    TWO_IMAGES,
    VIDEO,
    VIDEO_AUDIO,
    both,
    choose,
    parity,
)

Record = dict[str, Any]  # in Ola's JSON format
Answers = dict[str, int | str]  # by topic
SPOKEN_PROMPT = "<image>\nUser's question in speech: <speech>"


def text_record(fact: TextQuestion, rng: np.random.Generator) -> Record:
    """A text-only question."""
    return _conversation(fact.text, fact.answer)


def image_record(picture: Picture, rng: np.random.Generator) -> Record:
    """A written question about one image."""
    topic, wording = choose(IMAGE, rng)
    return {"image": picture.file} | _conversation(f"<image>\n{wording}", _about(picture, topic))


def two_images_record(first: Picture, second: Picture, rng: np.random.Generator) -> Record:
    """A written question about two images, answered in their order."""
    topic, wording = choose(TWO_IMAGES, rng)
    answers: Answers = {
        "digits": both(first.digit, second.digit),
        "colours": both(first.colour, second.colour),
        "first": first.digit,
        "second": second.digit,
    }
    question = f"<image>\n<image>\n{wording}"
    return {"image": [first.file, second.file]} | _conversation(question, answers[topic])


def video_record(clip: Clip, rng: np.random.Generator) -> Record:
    """A written question about a video."""
    topic, wording = choose(VIDEO, rng)
    answers: Answers = {"digits": both(*clip.digits), "first": clip.digits[0], "last": clip.digits[1]}
    return {"video": clip.file} | _conversation(f"<image>\n{wording}", answers[topic])


def audio_record(speech: Speech, rng: np.random.Generator) -> Record:
    """A written question about a spoken digit."""
    topic, wording = choose(AUDIO, rng)
    digit = int(speech.meaning)
    answer = digit if topic == "digit" else parity(digit)
    return {"audio": speech.file} | _conversation(f"<speech>\n{wording}", answer)


def image_speech_record(picture: Picture, question: Speech, rng: np.random.Generator) -> Record:
    """A spoken question about an image; the human's text is its transcript, which `text_q` replaces."""
    keys = {"image": picture.file, "audio_q": question.file, "text_q": SPOKEN_PROMPT}
    return keys | _conversation(f"<image>\n{question.text}", _about(picture, question.meaning))


def video_audio_record(clip: Clip, rng: np.random.Generator) -> Record:
    """A written question about the pictures and the sound track of a video."""
    if clip.sound is None:
        raise ValueError(f"{clip.file} has no sound track")
    topic, wording = choose(VIDEO_AUDIO, rng)
    heard = int(clip.sound.meaning)
    answers: Answers = {
        "first": both(clip.digits[0], heard),
        "last": both(clip.digits[1], heard),
        "seen": clip.digits[0],
        "heard": heard,
    }
    files = {"video": clip.file, "audio": clip.sound.file}
    return files | _conversation(f"<speech><image>\n{wording}", answers[topic])


def caption_record(picture: Picture, rng: np.random.Generator) -> Record:
    """A description of an image, for aligning the vision encoder."""
    return {"image": picture.file} | _conversation(f"<image>\n{CAPTION}", _describe(picture))


def transcript_record(speech: Speech, rng: np.random.Generator) -> Record:
    """A transcript of speech, for aligning the audio encoders."""
    return {"audio": speech.file} | _conversation(f"<speech>\n{TRANSCRIBE}", speech.text)


RECORDS: dict[str, Callable[..., Record]] = {
    "text": text_record,
    "image": image_record,
    "two_images": two_images_record,
    "video": video_record,
    "audio": audio_record,
    "image_speech": image_speech_record,
    "video_audio": video_audio_record,
    "audio_other": audio_record,
    # for training only
    "captions": caption_record,
    "transcripts": transcript_record,
}


def described_record(
    task: str, items: tuple[Picture | Speech | Clip, ...], rng: np.random.Generator
) -> Record:
    """A text-only record of `task` with words instead of its media.

    It teaches the decoder to answer from a description, which a pretrained language model can do already, so
    that aligning an encoder only has to teach the description.
    """
    record = RECORDS[task](*items, rng)
    question: str = record.get("text_q") or record["conversations"][0]["value"]
    seen = [_describe(item) for item in items if not isinstance(item, Speech)]
    heard = [item.text for item in items if isinstance(item, Speech)]
    heard += [item.sound.text for item in items if isinstance(item, Clip) and item.sound]
    question = question.replace("<speech><image>", "<image>\n<speech>")  # as features are merged
    for placeholder, words in (("<image>", seen), ("<speech>", heard)):
        for text in words:
            question = question.replace(placeholder, text, 1)
    return _conversation(question, record["conversations"][1]["value"])


def _describe(item: Picture | Clip) -> str:
    shown = (item.digit,) if isinstance(item, Picture) else item.digits
    return " then ".join(f"{item.colour} {digit}" for digit in shown)


def _about(picture: Picture, topic: str) -> int | str:
    number = parity(picture.digit)
    answers: Answers = {
        "digit": picture.digit,
        "colour": picture.colour,
        "parity": number,
        "account": f"It is the digit {picture.digit}. It is {number}. Its colour is {picture.colour}.",
    }
    return answers[topic]


def _conversation(question: str, answer: int | str) -> Record:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": str(answer)}]}
