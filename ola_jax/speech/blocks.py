"""Code blocks and tables of Markdown, recognized while the text is being written."""

SIGNS = "`~"  # three or more of one of them begin a code block, on a line of their own
LONGEST = 64  # characters of a line that are remembered


class Blocks:
    """Follows the lines of a text; `add` takes every character in order."""

    def __init__(self) -> None:
        self._fence = ""  # the signs that began the code block that is open
        self._line = ""  # the first characters of the current line
        self.table = False  # the current line is a row of a table

    @property
    def code(self) -> bool:
        """True from the end of the line that opens a code block to that of the line that closes it."""
        return bool(self._fence)

    @property
    def fence(self) -> bool:
        """True if the current line opens a code block, as far as it is written."""
        return not self._fence and self._signs() >= 3

    def add(self, character: str) -> None:
        """The next character of the text."""
        if character == "\n":
            self._end_line()
        else:
            self._line = (self._line + character)[:LONGEST]
            self.table = not self._fence and self._line.lstrip(" \t").startswith("|")

    def _end_line(self) -> None:
        line, self._line, self.table = self._line.strip(), "", False
        signs = len(line) - len(line.lstrip(line[0])) if line and line[0] in SIGNS else 0
        if self._fence:
            if line and not line.strip(self._fence[0]) and len(line) >= len(self._fence):
                self._fence = ""
        elif signs >= 3 and "`" not in line[signs:]:
            self._fence = line[:signs]

    def _signs(self) -> int:
        line = self._line.lstrip(" \t")
        return len(line) - len(line.lstrip(line[0])) if line and line[0] in SIGNS else 0
