"""Pieces of a growing text that are handed to the voice: sentences, joined or cut to a good length."""

import dataclasses
import math

from ola_jax.speech.characters import CLAUSE_ENDS, is_ideograph, is_letter
from ola_jax.speech.language import main_script
from ola_jax.speech.splitter import SentenceSplitter

OVERLONG = 8  # times the longest piece, at which a word without end is cut


@dataclasses.dataclass(frozen=True)
class PieceConfig:
    """Lengths of pieces, in tokens (estimated, see `TokenEstimate`), and their waiting times, in seconds.

    With both times None the pieces are a function of the text alone, however fast it comes.
    """

    first_tokens: int = 4  # shortest first piece, so that the voice begins early
    min_tokens: int = 8  # shorter sentences are joined with the next one
    max_tokens: int = 40  # longer sentences are cut, between clauses or words
    first_seconds: float | None = 0.45  # after which the first piece ends behind any word
    idle_seconds: float | None = 0.6  # without new text, after which what looks complete is a piece


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of the text; all pieces together are the text."""

    text: str
    start: int  # characters before it


class TokenEstimate:
    """About the number of tokens of a text in Qwen2.5's vocabulary, from its characters.

    So pieces do not depend on how many tokens come at a time. A word counts 1 for every 6 letters, a digit
    or other sign 1, a Chinese character or kana 0.7.
    """

    def __init__(self) -> None:
        self.tokens = 0.0
        self._letters = 0  # of the word under way

    def add(self, character: str) -> None:
        """Count the next character."""
        if is_ideograph(character):
            self.tokens, self._letters = self.tokens + 0.7, 0
        elif is_letter(character):
            self.tokens += self._letters % 6 == 0
            self._letters += 1
        else:
            self.tokens += not character.isspace()
            self._letters = 0


def estimate_tokens(text: str) -> float:
    """About the number of tokens of a text (see `TokenEstimate`)."""
    estimate = TokenEstimate()
    for character in text:
        estimate.add(character)
    return estimate.tokens


class PieceCutter:
    """Turns text, as it is written, into pieces. Times are seconds of any clock that does not run back."""

    def __init__(self, config: PieceConfig = PieceConfig()):
        self.config = config
        self._splitter = SentenceSplitter()
        self._held = ""  # sentences that are complete and too short
        self._held_tokens = 0.0
        self._start = 0  # characters of all pieces so far
        self._first_at: float | None = None  # time of the first text
        self._last_at = -math.inf
        self._start_sentence()

    def _start_sentence(self) -> None:
        self._estimate = TokenEstimate()  # of the sentence under way
        self._length = 0  # its characters
        self._break = 0  # its length at the last good place for a cut
        self._break_tokens = 0.0
        self._clause = False  # that place is between clauses
        self._previous = ""

    def add(self, text: str, now: float) -> list[Piece]:
        """The pieces that this text completes."""
        pieces: list[Piece] = []
        if text:
            self._first_at = now if self._first_at is None else self._first_at
            self._last_at = now
        for character in text:
            for sentence in self._splitter.add(character):
                self._complete(sentence, pieces)
            self._follow(character)
            self._cut_long(pieces)
        return pieces + self.poll(now)

    def poll(self, now: float) -> list[Piece]:
        """The pieces that have waited long enough; to be called at `deadline()`."""
        pieces: list[Piece] = []
        config = self.config
        if self._is_due(self._first_at if self._is_first else None, config.first_seconds, now):
            tokens = self._held_tokens + self._break_tokens
            if tokens >= config.first_tokens and (self._break or self._held):
                self._emit(self._cut(self._break), pieces)
        if self._is_due(self._last_at, config.idle_seconds, now):
            if self._splitter.may_end:
                self._emit(self._cut(), pieces)
            elif self._held:
                self._emit("", pieces)
        return pieces

    def deadline(self) -> float | None:
        """The next time at which `poll` may have a piece although no text comes; None if there is none."""
        times = []
        if self._is_first and self._first_at is not None and self.config.first_seconds is not None:
            waits = self._held_tokens + self._break_tokens >= self.config.first_tokens
            times += [self._first_at + self.config.first_seconds] * waits
        if self.config.idle_seconds is not None and (self._held or self._splitter.may_end):
            times.append(self._last_at + self.config.idle_seconds)
        return min(times, default=None)

    def finish(self) -> list[Piece]:
        """The end of the text: what is left of it."""
        pieces: list[Piece] = []
        for sentence in self._splitter.flush():
            self._complete(sentence, pieces)
        if self._held:
            self._emit("", pieces)
        return pieces

    @property
    def _is_first(self) -> bool:
        return self._start == 0

    @staticmethod
    def _is_due(since: float | None, wait: float | None, now: float) -> bool:
        return since is not None and wait is not None and now - since >= wait

    def _follow(self, character: str) -> None:
        """Count the character, and remember the last place where the sentence may be cut."""
        self._estimate.add(character)
        self._length += 1
        wide = character in CLAUSE_ENDS and ord(character) > 0x2E80
        clause = wide or (character.isspace() and self._previous in CLAUSE_ENDS)
        if self._splitter.can_cut:
            long_enough = self._held_tokens + self._estimate.tokens >= self.config.min_tokens
            if clause or (character.isspace() and not (self._clause and long_enough)):
                self._break, self._break_tokens = self._length, self._estimate.tokens
                self._clause = clause
        self._previous = character

    def _cut_long(self, pieces: list[Piece]) -> None:
        if not self._splitter.can_cut:
            return
        tokens = self._held_tokens + self._estimate.tokens
        at_clause = self._clause and self._break == self._length
        if self._is_first and at_clause and tokens >= self.config.first_tokens:
            self._emit(self._cut(), pieces)
        elif tokens > self.config.max_tokens:
            if self._break:
                self._emit(self._cut(self._break), pieces)
            elif is_ideograph(self._previous) or tokens > OVERLONG * self.config.max_tokens:
                self._emit(self._cut(), pieces)
            elif self._held:
                self._emit("", pieces)

    def _cut(self, length: int | None = None) -> str:
        """Cut the sentence under way; what is behind the cut begins a new one."""
        text = self._splitter.cut(length) if length != 0 else ""
        if text:
            self._start_sentence()
            for character in self._splitter.pending:
                self._follow(character)
        return text

    def _complete(self, sentence: str, pieces: list[Piece]) -> None:
        """A sentence has ended, before the character that is being added."""
        tokens = estimate_tokens(sentence)
        too_long = self._held_tokens + tokens > self.config.max_tokens
        if self._held and (too_long or main_script(sentence) not in (None, main_script(self._held))):
            self._emit("", pieces)
        self._held += sentence
        self._held_tokens += tokens
        self._start_sentence()
        for character in self._splitter.pending[:-1]:
            self._follow(character)
        least = self.config.first_tokens if self._is_first else self.config.min_tokens
        if self._held_tokens >= least:
            self._emit("", pieces)

    def _emit(self, text: str, pieces: list[Piece]) -> None:
        text = self._held + text
        self._held, self._held_tokens = "", 0.0
        if text:
            pieces.append(Piece(text, self._start))
            self._start += len(text)
