"""Parts that several benchmarks share: reading choices of a TSV row, wordings, rules."""

import ast
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ola_jax.errors import OlaError, quote
from ola_jax.eval.items import LETTERS, EmbeddedMedia, Item, Prompt, Wording, after_media
from ola_jax.eval.published import base64_media
from ola_jax.eval.rules.letters import inferred_letter, ranked_letter
from ola_jax.eval.rules.reading import Reading, Rule, of_letter

REFERENCE_LENGTH = 64  # an image cell of at most this many characters names the row that holds it
LETTER_DIRECTLY = "Answer with the option's letter from the given choices directly."


def lettered(item: Item) -> str:
    """The options, one a line: "A. text"."""
    return "\n".join(f"{letter}. {text}" for letter, text in item.choices.items())


def constant(before: str = "", after: str = "") -> Wording:
    """All media, then the question between two texts."""
    return lambda item: after_media(f"{before}{item.question}{after}")


def vlmevalkit_choice(item: Item) -> Prompt:
    """VLMEvalKit, `ImageMCQDataset.build_prompt` of dataset/image_mcq.py."""
    return after_media(vlmevalkit_choice_text(item))


def vlmevalkit_choice_text(item: Item) -> str:
    """Its text, without the media."""
    hint = f"Hint: {item.hint}\n" if item.hint else ""
    options = f"Options:\n{lettered(item)}\nPlease select the correct answer from the options above. \n"
    return f"{hint}Question: {item.question}\n{options if item.options else ''}"


def ola_choice(item: Item) -> Prompt:
    """VLMEvalKit, `Ola.build_prompt` of vlm/ola/ola_model.py.

    It is written there for data sets of the type "multi-choice", and ms-vlmeval 0.0.20 calls them "MCQ": that
    version never uses it, and asks Ola as any model.
    """
    return after_media(ola_choice_text(item))


def ola_choice_text(item: Item) -> str:
    """Its text, without the media."""
    hint = f"{item.hint}\n" if item.hint else ""
    options = "".join(f"\n{letter}. {text}" for letter, text in item.choices.items())
    last = "Answer with the option letter from the given choices directly."
    if not item.options:
        last = "Answer the question using a single word or phrase."
    return f"{hint}{item.question}{options}\n{last}"


def inferred(item: Item, answer: str) -> Reading:
    """The rule of VLMEvalKit for choices."""
    return of_letter(item, inferred_letter(answer, item.choices))


def ranked(item: Item, answer: str) -> Reading:
    """The rule of lmms-eval that several of its tasks share, for the letters A to D."""
    return of_letter(item, ranked_letter(answer, LETTERS[:4]))


def letter_rule(find: Callable[[str, Sequence[str]], str | None]) -> Rule:
    """The rule that finds one of the item's letters."""
    return lambda item, answer: of_letter(item, find(answer, item.letters))


def choice_rule(find: Callable[[str, Mapping[str, str]], str | None]) -> Rule:
    """The rule that finds one of the item's options by letter or text."""
    return lambda item, answer: of_letter(item, find(answer, item.choices))


def row_options(row: Mapping[str, str]) -> tuple[str, ...]:
    """The options of a TSV row: columns A, B, ... as far as they are filled without a gap."""
    filled = [letter for letter in LETTERS if letter in row]
    if filled != list(LETTERS[: len(filled)]):
        raise OlaError(f"row {row.get('index')}: it has options {', '.join(filled)}; expected A, B, ...")
    return tuple(row[letter] for letter in filled)


def row_images(rows: Sequence[Mapping[str, str]], file: pathlib.Path) -> list[tuple[EmbeddedMedia, ...]]:
    """The images of TSV rows: base64, a list of them, or the index of the row that has them."""
    cells = {row["index"]: row.get("image", "") for row in rows}
    found = []
    for row in rows:
        cell, where = cells[row["index"]], f"{file} row {row['index']}"
        seen: set[str] = set()
        while 0 < len(cell) <= REFERENCE_LENGTH and cell in cells and cell not in seen:
            seen.add(cell)
            cell = cells[cell]
        if 0 < len(cell) <= REFERENCE_LENGTH:
            raise OlaError(f"{where}: its image is that of row {quote(cell)}, which is not there")
        texts = text_list(cell, where) if cell.startswith("[") else [cell] if cell else []
        found.append(tuple(base64_media(text, where) for text in texts))
    return found


def text_list(cell: object, where: str) -> list[str]:
    """A list of texts, or one written as Python writes it. Raises OlaError for anything else."""
    value: Any = cell
    if isinstance(cell, str):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise OlaError(f"{where}: expected a list of texts, found {quote(cell)}") from error
    if not isinstance(value, list | tuple):
        raise OlaError(f"{where}: expected a list, found {quote(cell)}")
    return [str(each) for each in value]


def letter_of(answer: str, options: Sequence[str], where: str) -> str:
    """The letter of the option whose text is the answer. Raises OlaError if there is none."""
    texts = [str(option).strip() for option in options]
    if answer.strip() not in texts:
        raise OlaError(f"{where}: the answer {quote(answer)} is none of the options {quote(texts)}")
    return LETTERS[texts.index(answer.strip())]


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Options without "A. " in front, where all have their letter."""
    lettered = all(
        option.strip()[:1] == letter and option.strip()[1:2] in (".", ")")
        for option, letter in zip(options, LETTERS, strict=False)
    )
    return tuple(option.strip()[2:].strip() for option in options) if lettered else tuple(options)
