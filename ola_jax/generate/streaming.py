"""Text from token ids as they arrive."""

from collections.abc import Callable

from tokenizers import Tokenizer


class TextStream:
    """Hands text on as soon as it is whole: a character of several tokens waits for its last one."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]):
        self._tokenizer, self._write = tokenizer, write
        self._ids: list[int] = []
        self._shown = 0  # characters handed on

    def add(self, token: int) -> None:
        """The next token of the answer."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            self._hand_on(text)

    def close(self) -> None:
        """Hand on what is left, be it whole or not."""
        self._hand_on(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _hand_on(self, text: str) -> None:
        if len(text) > self._shown:
            self._write(text[self._shown :])
            self._shown = len(text)
