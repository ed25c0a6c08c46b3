"""Ends of sentences: a stop is judged by the word before it and by what follows."""

import dataclasses
import re
from typing import Literal

from ola_jax.speech import abbreviations as words
from ola_jax.speech.characters import is_cased, is_ideograph, is_letter

Kind = Literal["wide", "dot", "mark", "ellipsis", "line"]
# "word": the next word decides.
Verdict = Literal["end", "inside", "word"]

_MARKER = re.compile(r"[#>*+\-•·\[(]*(\d{1,3}(\.\d+)*|[A-Za-z]|[ivxIVX]{1,4})[\])]?")
_ACRONYM = re.compile(r"\w(\.\w)+")
_OPENERS = frozenset("“‘„«「『《¿¡")


@dataclasses.dataclass
class Stop:
    """A stop that may end a sentence, and what has been seen since."""

    kind: Kind
    word: str  # that it follows, at most the last 64 characters
    marker: bool = False  # the word is the number of a list's item
    closed: bool = False  # a quotation or bracket was closed behind it
    quoted: bool = False  # that was a quotation
    label: bool = False  # that was a square bracket, perhaps the text of a link
    emoji: bool = False
    gap: bool = False  # there is a space, or the end of a line
    line: bool = False  # the end of a line
    row: bool = False  # of a table


def is_marker(word: str) -> bool:
    """True for the number or letter of a list's item, such as "1", "2.3", "b", "iv"."""
    return _MARKER.fullmatch(word) is not None


def at_character(stop: Stop, following: str) -> Verdict:
    """Judge by the first character that is neither space, closer nor emoji."""
    if stop.kind == "wide":
        return _wide(stop, following)
    if stop.label and following == "(" and not stop.gap:
        return "inside"
    direct = not (stop.gap or stop.closed or stop.emoji)
    if direct:
        return _direct(stop, following)
    if stop.marker:
        return "inside"
    if stop.kind == "ellipsis":
        return _ellipsis(stop, following)
    if stop.kind == "dot" and (verdict := _abbreviation(stop.word, following)):
        return verdict
    if is_cased(following) and following.islower():
        return "word"  # unless it is a name such as iPhone
    return "inside" if following in ",;:)]}/&+=—–%" else "end"


def at_word(stop: Stop, following: str) -> Verdict:
    """Judge by the next word, for stops of which `at_character` says so."""
    word, after = stop.word.lower(), following.lower()
    if following[:1].islower():
        return "end" if any(c.isupper() for c in following) else "inside"
    if stop.kind == "ellipsis":
        starts = after in words.SENTENCE_STARTERS and after not in ("i", word)
        return "end" if starts and word not in words.INTERJECTIONS else "inside"
    if word in words.TIMES:
        return "inside" if after in words.AFTER_TIMES else "end"
    if word.isdigit():
        return "inside" if after in words.AFTER_ORDINALS else "end"
    return "end" if after in words.SENTENCE_STARTERS else "inside"


def _wide(stop: Stop, following: str) -> Verdict:
    if stop.gap:
        return "end"
    if following in "，、；：,;:）)":
        return "inside"
    if stop.quoted and is_letter(following):
        # What is said, and then who says it: “真的？”他问。「はい。」と答えた。
        return "inside" if stop.word.endswith(("？", "！")) or following in "とっ" else "end"
    return "end"


def _direct(stop: Stop, following: str) -> Verdict:
    """No space between: a number, an address, a name of a file, or a space that was forgotten."""
    word = stop.word
    if following in _OPENERS:
        return "end"
    if not is_letter(following) or any(c in word for c in "/@=_:\\"):
        return "inside"
    if stop.kind == "ellipsis" and not is_cased(following):
        return "inside"
    if not is_cased(following):
        return "inside" if not word or word[-1].isdigit() or not is_ideograph(following) else "end"
    whole_word = len(word) >= 3 and word.isalpha() and (stop.kind != "dot" or word[1:].islower())
    return "end" if following.isupper() and whole_word and word.lower() not in words.NEVER_LAST else "inside"


def _ellipsis(stop: Stop, following: str) -> Verdict:
    if is_cased(following):
        return "word" if following.isupper() else "inside"
    return "inside" if is_letter(following) else "end"


def _abbreviation(word: str, following: str) -> Verdict | None:
    """The verdict for a word that is often followed by a full stop; None for others."""
    lower, capital = word.lower(), is_cased(following) and following.isupper()
    if lower in words.NEVER_LAST:
        return "inside"
    if (lower in words.BEFORE_NUMBERS or lower.endswith("str")) and (
        following.isdigit() or following in "(#§"
    ):
        return "inside"
    if lower in words.LAST_BEFORE_CAPITALS:
        return "end" if capital or not is_cased(following) else "inside"
    if following.isdigit() and 2 <= len(word) <= 4 and word.isalpha() and word.istitle():
        return "inside"  # Matt. 5:3
    initial = len(word) == 1 and is_letter(word)
    ordinal = word.isdigit() and len(word) <= 2
    if initial and word.islower() and is_cased(word):
        return "inside"  # z. B.
    if initial and not is_cased(word):
        return None
    if initial or _ACRONYM.fullmatch(lower) or lower in words.SOMETIMES_LAST or (ordinal and capital):
        return "word" if capital else None if ordinal or (initial and not is_cased(following)) else "inside"
    return None
