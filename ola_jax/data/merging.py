"""Merging: placeholders among token ids are replaced by the features of their media."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ola_jax.data.chat import AUDIO, AUDIO_ID, IMAGE, IMAGE_ID
from ola_jax.errors import OlaError
from ola_jax.row import IGNORE, MODALITIES, TEXT, Modality
from ola_jax.typing import HostArray, Int


class Merged(NamedTuple):
    """The token sequence of a sample."""

    tokens: Int[HostArray, "L"]
    labels: Int[HostArray, "L"]  # not shifted
    source: Int[HostArray, "L"]  # as in Sample
    modality: Int[HostArray, "L"]  # indices of MODALITIES


def check_counts(placeholder: str, *, found: int, expected: int, modality: Modality) -> None:
    """Raises OlaError unless there are as many placeholders as media of this modality."""
    if found != expected:
        raise OlaError(
            f"'conversations': {found} {placeholder!r} placeholders for {expected} of {modality}; expected "
            "one for each, and a line end after it"
        )


def merge(
    ids: Int[HostArray, "l"],
    labels: Int[HostArray, "l"],
    *,
    visuals: Sequence[Int[HostArray, "_"]],
    audio: Sequence[Int[HostArray, "_"]],
    visual_modality: Modality,
) -> Merged:
    """Replaces the placeholders among `ids` with the rows of the feature table that hold their media.

    As in the original, features are placed by count, not by kind: all visuals come first, in the slots of the
    leftmost placeholders, then the audio; in `<speech><image>` the video takes the slot of the speech
    (quirk M1). The released weights were trained this way. Raises OlaError unless there is one placeholder
    for each medium.
    """
    images_found, audio_found = int((ids == IMAGE_ID).sum()), int((ids == AUDIO_ID).sum())
    check_counts(IMAGE, found=images_found, expected=len(visuals), modality=visual_modality)
    check_counts(AUDIO, found=audio_found, expected=len(audio), modality="audio")
    parts: list[tuple[HostArray, HostArray, HostArray, Modality]] = []  # tokens, labels, source

    def add_text(begin: int, end: int) -> None:
        parts.append((ids[begin:end], labels[begin:end], np.full(end - begin, TEXT), "text"))

    features: list[tuple[HostArray, Modality]] = [(rows, visual_modality) for rows in visuals]
    features += [(rows, "audio") for rows in audio]
    slots = np.flatnonzero((ids == IMAGE_ID) | (ids == AUDIO_ID)).tolist()
    begin = 0
    for slot, (rows, modality) in zip(slots, features, strict=True):
        add_text(begin, slot)
        parts.append((np.zeros(len(rows)), np.full(len(rows), IGNORE), rows, modality))
        begin = slot + 1
    add_text(begin, len(ids))
    columns = ([part[0] for part in parts], [part[1] for part in parts], [part[2] for part in parts])
    tokens, merged_labels, source = (np.concatenate(arrays).astype(np.int32) for arrays in columns)
    numbers = [np.full(len(part[2]), MODALITIES.index(part[3]), np.int32) for part in parts]
    return Merged(tokens, merged_labels, source, np.concatenate(numbers))
