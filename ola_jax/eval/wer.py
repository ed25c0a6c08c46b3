"""Word and character error rates of transcripts."""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from ola_jax.errors import require

Language = Literal["en", "zh"]
_MARKS = re.compile(r"<\|.*?\|>")


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors of one utterance, and the words (or characters) of its reference."""

    errors: int
    length: int


def transcript_errors(reference: str, hypothesis: str, language: Language = "en") -> Errors:
    """Substitutions, deletions and insertions between two transcripts, both normalized first.

    English: words, by Whisper's English normalizer. Chinese: characters; spaces and punctuation are removed,
    full-width characters become their usual forms. An empty reference counts each inserted word.
    """
    require("eval", "jiwer", "whisper_normalizer")
    import jiwer

    normal = normalizer(language)
    expected, found = normal(reference), normal(hypothesis)
    if language == "zh":
        expected, found = " ".join(expected), " ".join(found)
    words, said = expected.split(), found.split()
    if not words:  # jiwer takes none
        return Errors(len(said), 0)
    alignment = jiwer.process_words(" ".join(words), " ".join(said))
    return Errors(alignment.substitutions + alignment.deletions + alignment.insertions, len(words))


@functools.cache
def normalizer(language: Language) -> Callable[[str], str]:
    """The function that both transcripts go through."""
    if language == "zh":
        return _chinese
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    # As lmms-eval does: its English transcripts go through both.
    english, basic = EnglishTextNormalizer(), BasicTextNormalizer()
    return lambda text: str(basic(english(_MARKS.sub(" ", text))))


def _chinese(text: str) -> str:
    folded = unicodedata.normalize("NFKC", _MARKS.sub(" ", text)).lower()
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c)[0] != "P")
