"""A judge's questions about an answer, and how its words become a score."""

import re
from collections.abc import Mapping

from ola_jax.eval.benchmark import Ask
from ola_jax.eval.items import Item
from ola_jax.eval.judge_prompts import EXTRACT_VALUE, GRADE_MMVET, MATCH_OPTION, MATCH_YES_OR_NO, RATE_AUDIO
from ola_jax.eval.rules import mathvista
from ola_jax.eval.rules.letters import inferred_letter
from ola_jax.eval.rules.reading import UNREADABLE, Reading, of_letter
from ola_jax.eval.rules.words import yes_or_no


def match_option(item: Item, answer: str, ask: Ask) -> Reading:
    """The option that an unreadable answer means. VLMEvalKit, dataset/utils/multiple_choice.py."""
    choices: Mapping[str, str] = item.choices
    if not choices and item.answers:  # an open question of MMMU
        choices = {"A": item.answers[0], "B": "Other Answers"}
        item_answers: tuple[str, ...] = ("A",)
    else:
        item_answers = item.answers
    options = "There are several options: \n" + "".join(f"{k}. {v}\n" for k, v in choices.items())
    said = ask(MATCH_OPTION.format(question=item.question, options=options, answer=answer))
    letter = inferred_letter(said, choices)
    return UNREADABLE if letter is None else Reading(float(letter in item_answers), letter)


def match_yes_or_no(item: Item, answer: str, ask: Ask) -> Reading:
    """Yes or no that an unreadable answer means. VLMEvalKit, dataset/utils/yorn.py."""
    return yes_or_no(item, ask(MATCH_YES_OR_NO.format(question=item.question, answer=answer)))


def extract_value(item: Item, answer: str, ask: Ask) -> Reading:
    """The value in an answer, compared with the right one. VLMEvalKit, dataset/utils/mathvista.py."""
    question = item.fields["query"]
    said = ask(f"{EXTRACT_VALUE}{question}\nModel respone: {answer}Extracted answer:").strip()
    if item.options:
        return of_letter(item, inferred_letter(said, item.choices))
    return Reading(float(mathvista.is_value(said, item)), said) if said else UNREADABLE


def grade_mmvet(item: Item, answer: str, ask: Ask) -> Reading:
    """A grade from 0.0 to 1.0. VLMEvalKit, dataset/utils/mmvet.py."""
    truth = item.answers[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    said = ask(f"{GRADE_MMVET}\n{item.question} | {truth} | {answer} | ").strip()
    try:
        grade = float(said.split()[0]) if said else -1.0
    except ValueError:
        grade = -1.0
    return Reading(grade, said) if 0 <= grade <= 1 else UNREADABLE


def grade_air_bench(item: Item, answer: str, ask: Ask) -> Reading:
    """The mean of two ratings from 1 to 10, over 10: beside the reference, in either place.

    AIR-Bench, score_chat.py; lmms-eval, tasks/air_bench.
    """
    ratings = []
    for place in (1, 0):
        first, second = (item.answers[0], answer) if place else (answer, item.answers[0])
        prompt = RATE_AUDIO.format_map(
            {
                "description": item.fields["description"],
                "question": item.question,
                "first": first,
                "second": second,
            }
        )
        found = re.findall(r"\b(?:[1-9]|10)\b", ask(prompt).replace(".", ""))
        if len(found) < 2:
            return UNREADABLE
        ratings.append(int(found[place]))
    return Reading(sum(ratings) / 20, f"{ratings[0]}, {ratings[1]}")
