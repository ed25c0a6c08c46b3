"""State of earlier turns of a conversation that a later turn may reuse."""

import collections
import dataclasses

import numpy as np

from ola_jax.typing import Array, Float, HostArray, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Remains:
    """The reusable content of a slot's cache: tokens of complete chunks that prefill wrote.

    What decoding wrote is not used again: another program computed it, and its last bits may differ.
    """

    conversation: str
    identity: UInt8[HostArray, "tokens bytes"]


class SlotRemains:
    """The remains in the slots, and which free slot a request had best take."""

    def __init__(self, slots: int, chunk: int):
        self._chunk, self._slots = chunk, slots
        self._remains: dict[int, Remains] = {}
        self._free = list(range(slots))  # those that were used longest ago first

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def take(self, conversation: str | None, identity: HostArray | None) -> tuple[int, int]:
        """A free slot, and how many tokens of its cache serve a prompt of this identity.

        Always whole chunks, and never all of the prompt: its last token yields the first of the answer.
        """
        match = {slot: self._match(slot, conversation, identity) for slot in self._free}
        # The best match; without one, an empty slot, or the one whose remains are the oldest.
        # Of empty ones the first: those in use then lie together, and are advanced by fewer calls.
        empty = lambda slot: 0 if slot in self._remains else self._slots - slot
        slot = max(self._free, key=lambda slot: (match[slot], empty(slot)))
        self._free.remove(slot)
        self._remains.pop(slot, None)
        return slot, match[slot]

    def give_back(self, slot: int, remains: Remains | None) -> None:
        """The slot is free; what it holds may be used until another request takes it."""
        self._free.append(slot)
        if remains is not None and len(remains.identity):
            self._remains[slot] = remains

    def _match(self, slot: int, conversation: str | None, identity: HostArray | None) -> int:
        remains = self._remains.get(slot)
        if remains is None or conversation is None or identity is None:
            return 0
        if remains.conversation != conversation:
            return 0
        longest = min(len(remains.identity), len(identity) - 1)
        equal = (remains.identity[:longest] == identity[:longest]).all(axis=1)
        same = longest if equal.all() else int(np.argmin(equal))
        return same // self._chunk * self._chunk


class KeptFeatures:
    """Features of media of earlier turns, by conversation and digest; those not used for longest go first."""

    def __init__(self, most: int):
        self._most, self._rows = most, 0
        self._features: collections.OrderedDict[tuple[str, bytes], Array] = collections.OrderedDict()

    def get(self, conversation: str, digest: bytes) -> Float[Array, "rows D"] | None:
        """The features, if they are still there."""
        features = self._features.get((conversation, digest))
        if features is not None:
            self._features.move_to_end((conversation, digest))
        return features

    def add(self, conversation: str, digest: bytes, features: Float[Array, "rows D"]) -> None:
        """Keep features, in the place of others if there are too many."""
        if len(features) > self._most or (conversation, digest) in self._features:
            return
        self._features[conversation, digest] = features
        self._rows += len(features)
        while self._rows > self._most:
            self._rows -= len(self._features.popitem(last=False)[1])
