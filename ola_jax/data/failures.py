"""The ways in which a record fails to become a sample, and the kinds under which they are counted."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ola_jax.data.media import BadMediaError, CrashedError, MissingFileError, TimedOutError
from ola_jax.errors import OlaError, describe, quote


class TooLargeError(OlaError):
    """A record to learn from, whose media and questions leave no room for an answer."""


class NothingToLearnError(OlaError):
    """A record to learn from, without an answer."""


_KINDS = {
    MissingFileError: "missing file",
    TimedOutError: "timed out",
    CrashedError: "decoder crashed",
    BadMediaError: "unreadable media",
    TooLargeError: "too large",
    NothingToLearnError: "nothing to learn",
}


def kind_of(error: OlaError) -> str:
    """The kind of a skip that an error of a sample makes."""
    return next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "malformed record")


@contextlib.contextmanager
def reading(key: str, refs: Any) -> Iterator[None]:
    """While media are read: whatever a decoder raises becomes BadMediaError, naming the media."""
    try:
        yield
    except (OlaError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # decoders raise nearly anything on broken files
        refs = refs[0] if isinstance(refs, list | tuple) and len(refs) == 1 else refs
        raise BadMediaError(f"{key!r} {quote(refs)}: cannot be read ({describe(error)})") from error
