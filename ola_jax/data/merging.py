"""Merging: placeholders among token ids replaced by the features of their media."""

from collections.abc import Sequence

import numpy as np

from ola_jax.batch import IGNORE, MODALITIES, TEXT
from ola_jax.data.chat import AUDIO, AUDIO_ID, IMAGE, IMAGE_ID
from ola_jax.errors import OlaError
from ola_jax.typing import Array, Int


def check_counts(placeholder: str, found: int, media: int, name: str) -> None:
    """Raise OlaError unless there are as many placeholders as media (of the kind `name`)."""
    if found != media:
        raise OlaError(
            f"'conversations': {found} {placeholder!r} placeholders for {media} of {name}; expected one for "
            f"each, and a line end after it"
        )


def merge(
    ids: Int[Array, "l"],
    labels: Int[Array, "l"],
    visuals: Sequence[Int[Array, "_"]],
    sounds: Sequence[Int[Array, "_"]],
    visual_modality: str,
) -> tuple[Int[Array, "L"], Int[Array, "L"], Int[Array, "L"], Int[Array, "L"]]:
    """Tokens, labels (not shifted), source and modality (an index of MODALITIES) of a merged sample.

    As in the original, features are placed by count, not by kind: all visuals come first, in the
    slots of the leftmost placeholders, then the sounds; in `<speech><image>` the video takes the
    slot of the speech (quirk M1). The released weights were trained so. Raises OlaError when the number of
    placeholders is not the number of media.
    """
    for kind, placeholder, media in ((IMAGE_ID, IMAGE, visuals), (AUDIO_ID, AUDIO, sounds)):
        name = visual_modality if kind == IMAGE_ID else "audio"
        check_counts(placeholder, int((ids == kind).sum()), len(media), name)
    tokens, merged_labels, source, modality = [], [], [], []

    def add(part_tokens: np.ndarray, part_labels: np.ndarray, part_source: np.ndarray, kind: str) -> None:
        tokens.append(part_tokens)
        merged_labels.append(part_labels)
        source.append(part_source)
        modality.append(np.full(len(part_source), MODALITIES.index(kind)))

    features = [(rows, visual_modality) for rows in visuals] + [(rows, "audio") for rows in sounds]
    slots = np.flatnonzero((ids == IMAGE_ID) | (ids == AUDIO_ID))
    begin = 0
    for slot, (rows, kind) in zip(slots, features, strict=True):
        add(ids[begin:slot], labels[begin:slot], np.full(slot - begin, TEXT), "text")
        add(np.zeros(len(rows)), np.full(len(rows), IGNORE), rows, kind)
        begin = slot + 1
    add(ids[begin:], labels[begin:], np.full(len(ids) - begin, TEXT), "text")
    tokens, merged_labels, source, modality = (
        np.concatenate(x).astype(np.int32) for x in (tokens, merged_labels, source, modality)
    )
    return tokens, merged_labels, source, modality
