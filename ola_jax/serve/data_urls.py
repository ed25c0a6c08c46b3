"""Bytes from base64 and from data URLs."""

import binascii
import re
import urllib.parse

from ola_jax.serve.api_error import ApiError, invalid

HEAD_CHARACTERS = 512  # of a data URL before its comma


def is_data_url(url: str) -> bool:
    """True for a URL that brings the bytes itself."""
    return url[:5].lower() == "data:"


def read_data_url(url: str, where: str, most: int) -> bytes:
    """The bytes of a data URL, at most so many; its media type and other parameters do not count.

    Raises ApiError unless it says ";base64" last.
    """
    head, comma, _ = url[5 : HEAD_CHARACTERS + 5].partition(",")
    if not comma or not re.search(r";\s*base64\s*\Z", head, re.IGNORECASE):
        raise invalid('not a data URL in base64; expected "data:image/png;base64,..."', where)
    return read_base64(url[5 + len(head) + 1 :], where, most)


def read_base64(text: str, where: str, most: int) -> bytes:
    """The bytes, at most so many; space, percent escapes and missing padding are tolerated."""
    if "%" in text:
        text = urllib.parse.unquote(text, "ascii", "replace")
    compact = "".join(text.split()).rstrip("=")
    if len(compact) * 3 // 4 > most:
        raise ApiError(413, f"{where}: more than {most} bytes", param=where)
    try:
        data = binascii.a2b_base64(compact + "=" * (-len(compact) % 4), strict_mode=True)
    except ValueError:  # binascii.Error, or text that is not ASCII
        raise invalid("not valid base64", where) from None
    if not data:
        raise invalid("no bytes in it", where)
    return data
