"""Conversations as token ids: training with labels, and prompts for generation.

The original tokenises the two differently, and the released weights have seen both: training
builds a message piece by piece and puts a newline after every placeholder, inference tokenises the
rendered prompt between the placeholders. Both are kept (quirk P2). Source: `preprocess_qwen` of the
original's ola/train/train.py; `tokenizer_*_token` of its ola/datasets/preprocess.py.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from ola_jax.batch import IGNORE
from ola_jax.data.tokenizer import END, START
from ola_jax.errors import OlaError
from ola_jax.typing import Array, Bool, Int

IMAGE, AUDIO = "<image>", "<speech>"
IMAGE_ID, AUDIO_ID = -300, -200  # placeholders among token ids
ROLES = {"human": "user", "gpt": "assistant"}

Turn = tuple[str, str]  # who ("human" or "gpt"), and the text

# The original takes a placeholder only together with its newline, and so loses an image that ends a
# message; here the end of the message stands for the newline.
_IMAGE_LINE = r"<image>(?:\n|\Z)"
_AUDIO_LINE = r"<speech>(?:\n|\Z)"


def media_first(text: str, has_image: bool = True, has_audio: bool = True) -> str:
    """Move the placeholders of a training message to its front, in the order that training uses (quirk P3).

    Those of media that the record lacks are ordinary text and stay where they are.
    """
    images, audio = text.count(IMAGE) if has_image else 0, has_audio and AUDIO in text
    if not images and not audio:
        return text
    front = (AUDIO if audio else "") + ((IMAGE + "\n") * images or "\n")
    for placeholder, there in ((AUDIO, audio), (IMAGE, images)):
        if there:
            text = text.replace(placeholder, "").strip()
    return (front + text).strip()


def plain_line_ends(text: str, has_image: bool, has_audio: bool) -> str:
    r"""The text with \n in the place of the \r\n or \r after a placeholder of media that there are."""
    for mark, there in ((IMAGE, has_image), (AUDIO, has_audio)):
        text = re.sub(f"{mark}\r\n?", f"{mark}\n", text) if there else text
    return text


def newline_after_audio(text: str) -> str:
    """Give the audio placeholder of a spoken question its newline, leaving it where it is."""
    return text if AUDIO + "\n" in text else text.replace(AUDIO, AUDIO + "\n")


@dataclasses.dataclass(frozen=True, eq=False)
class Conversation:
    """A training conversation as token ids, with IMAGE_ID and AUDIO_ID for its media."""

    ids: Int[Array, "l"]
    labels: Int[Array, "l"]  # not shifted: `labels[i]` belongs to `ids[i]`
    answers: Bool[Array, "l"]  # the labelled tokens of what the assistant says, without the chat marks


def encode_training(
    turns: Sequence[Turn], tokenizer: Tokenizer, system: str, has_image: bool, has_audio: bool
) -> Conversation:
    """A conversation to learn from.

    As in the original, the loss covers the answers and also the start, end and newline tokens of every
    turn, the system's included (quirk P1). Raises OlaError for a placeholder that is left among the text.
    """
    start, end, newline = (_encode(tokenizer, text)[0] for text in (START, END, "\n"))
    head = [start, *_encode(tokenizer, "system"), newline]
    ids = [*head, *_encode(tokenizer, system), end, newline]
    labels = [start, *[IGNORE] * (len(ids) - 3), end, newline]
    answers = [False] * len(ids)
    for who, text in turns:
        head = [*_encode(tokenizer, START + ROLES[who]), newline]
        body: list[int] = []
        for piece in _split_training(text, has_image, has_audio):
            if isinstance(piece, str):
                _check_no_mark(piece, has_image, has_audio)
                body += _encode(tokenizer, piece)
            else:
                body += [piece, newline]
        ids += [*head, *body, end, newline]
        learned = body if who == "gpt" else [IGNORE] * len(body)
        labels += [start, *[IGNORE] * (len(head) - 1), *learned, end, newline]
        answers += [False] * len(head) + [who == "gpt"] * len(body) + [False] * 2
    all_ids, all_labels = np.array(ids, np.int32), np.array(labels, np.int32)
    all_labels[(all_ids == IMAGE_ID) | (all_ids == AUDIO_ID)] = IGNORE
    return Conversation(all_ids, all_labels, np.array(answers) & (all_labels != IGNORE))


def encode_conversation(
    turns: Sequence[Turn], tokenizer: Tokenizer, system: str, has_image: bool, has_audio: bool
) -> tuple[Int[Array, "l"], Int[Array, "l"]]:
    """Token ids and labels of `encode_training`."""
    made = encode_training(turns, tokenizer, system, has_image, has_audio)
    return made.ids, made.labels


def encode_prompt(
    turns: Sequence[Turn], tokenizer: Tokenizer, system: str, has_image: bool, has_audio: bool
) -> Int[Array, "l"]:
    """Token ids (with IMAGE_ID and AUDIO_ID) of a conversation to be continued by the assistant.

    `<|endoftext|>` in it is a token like others; the original masks it out (quirk P4).
    """
    prompt = f"{START}system\n{system}{END}\n"
    for who, text in turns:
        prompt += f"{START}{ROLES[who]}\n" + (f"{text}{END}\n" if text else "")
    prompt += f"{START}assistant\n"
    known = {IMAGE: IMAGE_ID} if has_image else {}
    known |= {AUDIO: AUDIO_ID} if has_audio else {}
    pieces = re.split(f"({'|'.join(known)})", prompt) if known else [prompt]
    ids: list[int] = []
    for piece in pieces:
        ids += [known[piece]] if piece in known else _encode(tokenizer, piece)
    return np.array(ids, np.int32)


def _split_training(text: str, has_image: bool, has_audio: bool) -> list[str | int]:
    """A message as text pieces and placeholders; a placeholder brings its own newline.

    A message that begins with audio keeps the newline that follows the placeholder in its text, so
    that two newlines are seen. A placeholder of media that the record lacks is ordinary text.
    """
    image, audio = has_image and IMAGE in text, has_audio and AUDIO in text
    if image and audio and AUDIO + IMAGE in text:
        if text.startswith(AUDIO + IMAGE):
            pieces = [AUDIO_ID, IMAGE_ID, text[len(AUDIO + IMAGE) :]]
        else:
            pieces = _join(re.split(AUDIO + _IMAGE_LINE, text), [AUDIO_ID, IMAGE_ID])
        return [part for piece in pieces for part in _split_images(piece)]  # further images
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


def _check_no_mark(piece: str, has_image: bool, has_audio: bool) -> None:
    for mark, there in ((IMAGE, has_image), (AUDIO, has_audio)):
        if there and mark in piece:
            raise OlaError(
                f"'conversations': a {mark!r} placeholder is not followed by a line end and would be read as "
                "text; expected one for each of its media, and a line end after it"
            )


def _join(pieces: list[str], placeholders: list[int]) -> list[str | int]:
    joined: list[str | int] = [pieces[0]]
    for piece in pieces[1:]:
        joined += [*placeholders, piece]
    return joined


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids
