"""Conversations as token ids: training with labels, and prompts for generation.

The original tokenizes the two differently, and the released weights were trained and used with both:
training builds a message piece by piece and puts a newline after every placeholder, inference tokenizes the
rendered prompt between the placeholders. Both are kept (quirk P2). Source: `preprocess_qwen` of the
original's ola/train/train.py; `tokenizer_*_token` of its ola/datasets/preprocess.py.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from ola_jax.data.tokenizer import END, START
from ola_jax.errors import OlaError
from ola_jax.row import IGNORE
from ola_jax.typing import Bool, HostArray, Int

IMAGE, AUDIO = "<image>", "<speech>"
IMAGE_ID, AUDIO_ID = -300, -200  # placeholders among token ids

Speaker = Literal["human", "gpt"]
Turn = tuple[Speaker, str]  # with the text
ROLES: dict[Speaker, str] = {"human": "user", "gpt": "assistant"}

# The original recognizes a placeholder only together with its newline, and so loses an image at the end of a
# message; here the end of the message counts as the newline.
_IMAGE_LINE = r"<image>(?:\n|\Z)"
_AUDIO_LINE = r"<speech>(?:\n|\Z)"


def move_placeholders_first(text: str, has_image: bool = True, has_audio: bool = True) -> str:
    """Moves the placeholders of a training message to its front, in the order that training uses (quirk P3).

    Placeholders of media that the record lacks are ordinary text and stay where they are.
    """
    images, audio = text.count(IMAGE) if has_image else 0, has_audio and AUDIO in text
    if not images and not audio:
        return text
    front = (AUDIO if audio else "") + ((IMAGE + "\n") * images or "\n")
    for placeholder, found in ((AUDIO, audio), (IMAGE, images)):
        if found:
            text = text.replace(placeholder, "").strip()
    return (front + text).strip()


def normalize_line_ends(text: str, has_image: bool, has_audio: bool) -> str:
    r"""Replaces the \r\n or \r after a placeholder of media that the record has with \n."""
    for placeholder, present in ((IMAGE, has_image), (AUDIO, has_audio)):
        text = re.sub(f"{placeholder}\r\n?", f"{placeholder}\n", text) if present else text
    return text


def add_newline_after_audio(text: str) -> str:
    """Adds the newline after the audio placeholder of a spoken question, which stays where it is."""
    return text if AUDIO + "\n" in text else text.replace(AUDIO, AUDIO + "\n")


@dataclasses.dataclass(frozen=True, eq=False)
class Conversation:
    """A training conversation as token ids, with IMAGE_ID and AUDIO_ID for its media."""

    ids: Int[HostArray, "l"]
    labels: Int[HostArray, "l"]  # not shifted: `labels[i]` belongs to `ids[i]`
    answers: Bool[HostArray, "l"]  # True for labelled tokens of the assistant's text, without the chat marks


def encode_training(
    turns: Sequence[Turn], tokenizer: Tokenizer, system: str, *, has_image: bool, has_audio: bool
) -> Conversation:
    """Tokenizes a conversation for training.

    As in the original, the loss covers the answers and also the start, end and newline tokens of every
    turn, the system's included (quirk P1). Raises OlaError for a placeholder that is left in the text.
    """
    start, end, newline = (_encode(tokenizer, text)[0] for text in (START, END, "\n"))
    head = [start, *_encode(tokenizer, "system"), newline]
    ids = [*head, *_encode(tokenizer, system), end, newline]
    labels = [start, *[IGNORE] * (len(ids) - 3), end, newline]
    answers = [False] * len(ids)
    for speaker, text in turns:
        head = [*_encode(tokenizer, START + ROLES[speaker]), newline]
        body: list[int] = []
        for piece in _split_training(text, has_image, has_audio):
            if isinstance(piece, str):
                _check_no_placeholder(piece, has_image, has_audio)
                body += _encode(tokenizer, piece)
            else:
                body += [piece, newline]
        ids += [*head, *body, end, newline]
        body_labels = body if speaker == "gpt" else [IGNORE] * len(body)
        labels += [start, *[IGNORE] * (len(head) - 1), *body_labels, end, newline]
        answers += [False] * len(head) + [speaker == "gpt"] * len(body) + [False] * 2
    all_ids, all_labels = np.array(ids, np.int32), np.array(labels, np.int32)
    all_labels[(all_ids == IMAGE_ID) | (all_ids == AUDIO_ID)] = IGNORE
    return Conversation(all_ids, all_labels, np.array(answers) & (all_labels != IGNORE))


def encode_prompt(
    turns: Sequence[Turn], tokenizer: Tokenizer, system: str, *, has_image: bool, has_audio: bool
) -> Int[HostArray, "l"]:
    """Token ids (with IMAGE_ID and AUDIO_ID) of a conversation for the assistant to continue.

    `<|endoftext|>` in it is a token like any other; the original masks it out (quirk P4).
    """
    prompt = f"{START}system\n{system}{END}\n"
    for speaker, text in turns:
        prompt += f"{START}{ROLES[speaker]}\n" + (f"{text}{END}\n" if text else "")
    prompt += f"{START}assistant\n"
    known = {IMAGE: IMAGE_ID} if has_image else {}
    known |= {AUDIO: AUDIO_ID} if has_audio else {}
    pieces = re.split(f"({'|'.join(known)})", prompt) if known else [prompt]
    ids: list[int] = []
    for piece in pieces:
        ids += [known[piece]] if piece in known else _encode(tokenizer, piece)
    return np.array(ids, np.int32)


def _split_training(text: str, has_image: bool, has_audio: bool) -> list[str | int]:
    """Splits a message into text and placeholders, whose newlines are removed: the caller adds one to each.

    A message that begins with audio keeps the newline after the placeholder in its text, so that there are
    two. A placeholder of media that the record lacks is ordinary text.
    """
    image, audio = has_image and IMAGE in text, has_audio and AUDIO in text
    if image and audio and AUDIO + IMAGE in text:
        if text.startswith(AUDIO + IMAGE):
            joined: list[str | int] = [AUDIO_ID, IMAGE_ID, text[len(AUDIO + IMAGE) :]]
        else:
            joined = _join(re.split(AUDIO + _IMAGE_LINE, text), [AUDIO_ID, IMAGE_ID])
        return [part for piece in joined for part in _split_images(piece)]  # further images
    if image and audio:  # whatever their order, the original takes the last placeholder for the audio
        pieces = re.split(f"{_IMAGE_LINE}|{_AUDIO_LINE}", text)
        return [*_join(pieces[:-1], [IMAGE_ID]), AUDIO_ID, pieces[-1]] if len(pieces) > 1 else [text]
    if audio:
        if text.startswith(AUDIO):
            return [AUDIO_ID, text[len(AUDIO) :]]
        return _join(re.split(_AUDIO_LINE, text), [AUDIO_ID])
    return _split_images(text) if image else [text]


def _split_images(piece: str | int) -> list[str | int]:
    return _join(re.split(_IMAGE_LINE, piece), [IMAGE_ID]) if isinstance(piece, str) else [piece]


def _check_no_placeholder(piece: str, has_image: bool, has_audio: bool) -> None:
    for placeholder, present in ((IMAGE, has_image), (AUDIO, has_audio)):
        if present and placeholder in piece:
            raise OlaError(
                f"'conversations': a {placeholder!r} placeholder is not followed by a line end and would be "
                "read as text; put a line end after it"
            )


def _join(pieces: list[str], placeholders: list[int]) -> list[str | int]:
    joined: list[str | int] = [pieces[0]]
    for piece in pieces[1:]:
        joined += [*placeholders, piece]
    return joined


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids
