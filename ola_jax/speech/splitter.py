"""Sentences of a text that is still being written: one pass, at constant cost for each character."""

from ola_jax.speech.blocks import Blocks
from ola_jax.speech.boundaries import Kind, Stop, at_character, at_word, is_marker
from ola_jax.speech.characters import (
    CLOSERS,
    CLOSING_BRACKETS,
    OPENING_BRACKETS,
    SPACED_CLOSERS,
    STOPS,
    WIDE_STOPS,
    is_emoji,
    is_letter,
)

WORD = 64  # characters of a word that are remembered
REACH = 200  # characters after which an open bracket or backquote is taken for a slip
EYES = (":", ":-", ";", ";-")  # before a bracket that is a mouth
MARKUP = frozenset("#>*+-•·◦▪–—_~|")
QUOTES = frozenset('"“”„«»‘‚*_')


class SentenceSplitter:
    """Cuts a growing text behind its sentences, list items, lines, code blocks and tables.

    A sentence keeps the space behind it, so that all sentences together are the text. Whether a stop ends a
    sentence is decided when the next character that is no space is known, and sometimes the next word. No
    cut within code, a table, a round or square bracket, an address or a number.
    """

    def __init__(self) -> None:
        self._text: list[str] = []  # of the sentence under way
        self._blocks = Blocks()
        self._stop: Stop | None = None  # which may end it
        self._cut: int | None = None  # where to cut if the next word says so
        self._start_line()
        self._word = ""

    def _start_line(self) -> None:
        self._words = 0  # of the line, without markup and an item's number; counted up to 1
        self._brackets = self._bracket_age = 0  # open; characters since the last was opened
        self._backquotes = self._run = self._code_age = 0  # open; just being read; characters since
        self._low_quote = False  # „ is open, which “ closes
        self._note = False  # within "[1]" behind a stop

    @property
    def pending(self) -> str:
        """The text since the end of the last sentence."""
        return "".join(self._text)

    @property
    def may_end(self) -> bool:
        """True if the text written so far ends like a sentence, as far as is known without more."""
        stop = self._stop
        return stop is not None and not stop.marker and self._cut is None and not self._brackets

    @property
    def can_cut(self) -> bool:
        """True outside of code, tables and brackets."""
        return not (self.in_block or self._brackets or self._backquotes or self._run)

    @property
    def in_block(self) -> bool:
        """True within a code block or a table; each is one sentence."""
        return self._blocks.code or self._blocks.fence or self._blocks.table

    def add(self, text: str) -> list[str]:
        """The sentences that this text completes."""
        done: list[str] = []
        for character in text:
            self._add(character, done)
        return done

    def cut(self, length: int | None = None) -> str:
        """End the sentence after so many characters, or here, whatever it is; returns its text."""
        if length is None or length >= len(self._text):
            length, self._word = len(self._text), ""
        sentence = "".join(self._text[:length])
        del self._text[:length]
        self._stop = self._cut = None
        return sentence

    def flush(self) -> list[str]:
        """The end of the text: the sentences that are left, at most two."""
        done: list[str] = []
        if self._cut is not None:
            self._judge_word(done)
        return [*done, self.cut()] if self._text else done

    def _add(self, c: str, done: list[str]) -> None:
        in_code = self._blocks.code
        if not in_code:
            if self._run and c != "`":
                self._end_run()
            if self._cut is not None and not is_letter(c) and not c.isdigit():
                self._judge_word(done)
            elif self._stop and self._cut is None:
                self._judge_character(self._stop, c, done)
        row = self._blocks.table
        self._text.append(c)
        self._blocks.add(c)
        if c == "\n":
            self._end_line(row)
        elif not in_code and not self._blocks.fence:
            self._track(c)

    def _judge_word(self, done: list[str]) -> None:
        if self._stop and at_word(self._stop, self._word) == "end":
            self._emit(self._cut or 0, done)
        self._stop = self._cut = None

    def _judge_character(self, stop: Stop, c: str, done: list[str]) -> None:
        """Extend the stop by a closer, an emoji or space, or judge it by what follows."""
        if self._note and c == " ":
            pass
        elif c.isspace():
            stop.gap, stop.line = True, stop.line or c == "\n"
        elif stop.line:
            if not (stop.row and c == "|"):  # the next row of a table
                self._emit(len(self._text), done, line=True)
            self._stop = None
        elif not stop.gap and self._extend(stop, c):
            pass
        elif is_emoji(c):
            stop.emoji, stop.gap = True, False
        elif c in SPACED_CLOSERS:
            stop.closed, stop.gap = True, False
        else:
            verdict = "inside" if self._brackets else at_character(stop, c)
            if verdict == "word":
                self._cut, self._word = len(self._text), ""
                return
            if verdict == "end":
                self._emit(len(self._text), done)
            self._stop = None

    def _extend(self, stop: Stop, c: str) -> bool:
        """True if the character belongs to the stop that it follows directly."""
        if c in STOPS:
            if c in WIDE_STOPS:
                stop.kind, stop.word = "wide", c
            elif c in "!?؟":
                stop.kind = "mark"
            elif stop.kind == "dot":
                stop.kind = "ellipsis"
            return True
        if c in CLOSERS or (c == "“" and self._low_quote):
            stop.closed, self._note, stop.label = True, False, c == "]"
            stop.quoted = stop.quoted or c in "\"'”’“»」』"
            return True
        if c == "[" and stop.word:
            self._note = True
            return True
        return self._note and (c.isdigit() or c in ",-–^")

    def _emit(self, end: int, done: list[str], line: bool = False) -> None:
        """Complete the sentence that ends there, unless it is but markup or an item's number."""
        sentence = "".join(self._text[:end])
        bare = sentence.strip(" \t\n#>*+-•·_~.)")
        if bare and not (line and end <= 8 and is_marker(bare)):
            done.append(sentence)
            del self._text[:end]

    def _track(self, c: str) -> None:
        """Update the state by what the character begins, opens or closes."""
        if c == "`":
            self._run += 1
        elif self._backquotes:
            self._code_age += 1
            if self._code_age > REACH:
                self._backquotes = 0
        elif self._blocks.table:
            pass
        else:
            self._track_brackets(c)
            if c in STOPS and self._stop is None:
                self._begin_stop(c)
            else:
                self._track_word(c)

    def _track_word(self, c: str) -> None:
        if c.isspace():
            if set(self._word) - MARKUP and not is_marker(self._word.rstrip(".)")):
                self._words = 1
            self._word = ""
        elif c in OPENING_BRACKETS or c in QUOTES:
            self._word = ""
        elif self._stop is None or self._cut is not None:
            self._word = (self._word + c)[-WORD:]

    def _begin_stop(self, c: str) -> None:
        kind: Kind = "dot" if c == "." else "ellipsis" if c == "…" else "mark"
        if c in WIDE_STOPS or c in "।॥":
            self._stop = Stop("wide", c)
            self._word = ""
        else:
            self._stop = Stop(kind, self._word, marker=not self._words and is_marker(self._word))
            self._word = (self._word + c)[-WORD:]

    def _track_brackets(self, c: str) -> None:
        if c in OPENING_BRACKETS and not self._note and self._word not in EYES:
            self._brackets, self._bracket_age = self._brackets + 1, 0
        elif c in CLOSING_BRACKETS:
            self._brackets = max(0, self._brackets - 1)
        elif self._brackets:
            self._bracket_age += 1
            if self._bracket_age > REACH:
                self._brackets = 0
        if c in "„‚“‘”":
            self._low_quote = c in "„‚"

    def _end_run(self) -> None:
        """The end of a row of backquotes: it opens code within the line, or closes what as many opened."""
        if not self._backquotes and self._run < 3:
            self._backquotes, self._code_age = self._run, 0
        elif self._run == self._backquotes:
            self._backquotes = 0
        self._word, self._words, self._run = "`", 1, 0

    def _end_line(self, row: bool) -> None:
        self._start_line()
        self._word = ""
        if self._blocks.code:
            self._stop = self._cut = None
        elif self._stop is None or not self._stop.line:
            self._stop, self._cut = Stop("line", "", gap=True, line=True, row=row), None
