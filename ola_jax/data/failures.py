"""The ways in which a record can fail to become a sample, and the kinds by which they are counted."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from ola_jax.data.media import BadMediaError, CrashedError, MissingFileError, TimedOutError
from ola_jax.errors import OlaError, describe, quote


class TooLargeError(OlaError):
    """A training record whose media and questions leave no room for an answer."""


class NothingToLearnError(OlaError):
    """A training record without an answer."""


FailureKind = Literal[
    "missing file",
    "timed out",
    "decoder crashed",
    "unreadable media",
    "too large",
    "nothing to learn",
    "malformed record",
    "changed record",  # its size is not that of the index
]
_KINDS: dict[type[OlaError], FailureKind] = {
    MissingFileError: "missing file",
    TimedOutError: "timed out",
    CrashedError: "decoder crashed",
    BadMediaError: "unreadable media",
    TooLargeError: "too large",
    NothingToLearnError: "nothing to learn",
}


def failure_kind(error: OlaError) -> FailureKind:
    """The kind by which a record is counted that failed with this error."""
    return next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "malformed record")


@contextlib.contextmanager
def errors_naming_media(key: str, refs: object) -> Iterator[None]:
    """A context in which any exception of a decoder becomes BadMediaError, naming the media."""
    try:
        yield
    except (OlaError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # decoders raise nearly anything on broken files
        refs = refs[0] if isinstance(refs, list | tuple) and len(refs) == 1 else refs
        raise BadMediaError(f"{key!r} {quote(refs)}: cannot be read ({describe(error)})") from error
