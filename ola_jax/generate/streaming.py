"""Text from token ids as they arrive."""

import codecs
import functools
from collections.abc import Callable

from tokenizers import Tokenizer, decoders

from ola_jax.errors import OlaError


class TextStream:
    """Emits text as soon as it is complete: a character of several tokens waits for its last byte.

    The pieces together are what the tokenizer decodes all ids to, special tokens left out. At most three
    bytes wait; each token costs its own length. Raises OlaError for a tokenizer that is not byte-level.
    """

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]):
        if not isinstance(tokenizer.decoder, decoders.ByteLevel):
            found = type(tokenizer.decoder).__name__
            raise OlaError(f"tokenizer: its decoder is {found}, expected ByteLevel; use a Qwen2 tokenizer")
        self._tokenizer, self._write = tokenizer, write
        added = tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        # Replaces what is not UTF-8 by as many U+FFFD as the tokenizer does.
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> None:
        """The next token of the answer."""
        if token not in self._special:
            self._hand_on(self._text.decode(token_bytes(self._tokenizer, token)))

    def close(self) -> None:
        """Emit the rest, even an incomplete character."""
        self._hand_on(self._text.decode(b"", final=True))

    def _hand_on(self, text: str) -> None:
        if text:
            self._write(text)


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes that a token of a byte-level tokenizer stands for; none if there is no such id."""
    text, alphabet = tokenizer.id_to_token(token) or "", _alphabet()
    if all(character in alphabet for character in text):
        return bytes(alphabet[character] for character in text)
    return text.encode()  # an added token is written as it is


@functools.cache
def _alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (source: GPT-2's encoder).

    Printable characters stand for themselves, the other bytes are numbered from U+0100.
    """
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + i): byte for i, byte in enumerate(others)}
