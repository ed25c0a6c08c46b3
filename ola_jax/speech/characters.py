"""Classes of characters that matter for finding the ends of sentences."""

import unicodedata

# Ends of sentences of scripts that put no space, or none that matters, behind them.
WIDE_STOPS = frozenset("。！？｡")
# Ends of sentences of scripts that put a space behind them. The last four: Arabic, Urdu, Hindi.
NARROW_STOPS = frozenset(".!?…؟۔।॥")
STOPS = WIDE_STOPS | NARROW_STOPS
# Signs that belong to the sentence before them when they follow its stop directly.
CLOSERS = frozenset("\"'”’»«›)]}）］】」』》〉〕*_~")
# These do so behind a space as well.
SPACED_CLOSERS = frozenset("»”’」』）】")
OPENING_BRACKETS = frozenset("([（［【〔")
CLOSING_BRACKETS = frozenset(")]）］】〕")
# Between clauses, where a voice may pause.
CLAUSE_ENDS = frozenset(",;:，；：、—،؛")


def is_emoji(character: str) -> bool:
    """True for pictographs and for the signs that modify or join them."""
    code = ord(character)
    if code < 0x200D:
        return False
    return (
        code in (0x200D, 0xFE0F, 0x20E3)
        or 0x1F000 <= code <= 0x1FAFF
        or 0x2600 <= code <= 0x27BF
        or 0x2B00 <= code <= 0x2BFF
        or 0xE0020 <= code <= 0xE007F
    )


def is_cased(character: str) -> bool:
    """True for letters of scripts that have capitals."""
    return character.lower() != character.upper()


def is_ideograph(character: str) -> bool:
    """True for Chinese characters and Japanese kana, which are written without spaces."""
    code = ord(character)
    return 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000


def is_letter(character: str) -> bool:
    """True for letters of any script, and for the marks that Indic and Arabic letters carry."""
    return unicodedata.category(character)[0] in "LM"
