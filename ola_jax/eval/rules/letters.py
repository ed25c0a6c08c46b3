"""Rules that find the letter of an option in an answer, each as a published harness has it.

Sources: VLMEvalKit (ms-vlmeval 0.0.20) and lmms-eval 0.7.3, named at each function. Where they guess, by
chance or always "A", these return None: the answer is unreadable.
"""

import re
from collections.abc import Mapping, Sequence

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
FAILED = "Failed to obtain answer via API"
PUNCTUATION = ".()[],:;!*#{}"
LAST_WORDS = 5  # a letter counts only among them
EDGES = (",", ".", "!", "?", ";", ":", "'")


def inferred_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that is the only one among the words and near the end, else the only option contained.

    VLMEvalKit, `can_infer` of utils/matching_util.py. A refusal, or the letter Z, is unreadable.
    """
    if FAILED not in answer:
        if any(refusal in answer for refusal in REFUSALS):
            return None
        words = answer.translate(str.maketrans(PUNCTUATION, " " * len(PUNCTUATION))).split()
        named = [letter for letter in choices if letter in words]
        if len(named) == 1 and words.index(named[0]) > len(words) - LAST_WORDS:
            return named[0]
        if not named and "Z" in words:
            return None
    lowered = answer.lower()
    if len(lowered) > 2 * sum(map(len, choices.values())):
        return None
    contained = [letter for letter, text in choices.items() if text.lower() in lowered]
    return contained[0] if len(contained) == 1 else None


def mmmu_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The last "(B)", else "B ", else "B.", else the last option contained in an answer of over 5 words.

    lmms-eval, tasks/_task_utils/mmmu_mcq_utils.py, which guesses if there is none.
    """
    text = _padded(answer)
    for form, where in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [letter for letter in choices if form.format(letter) in text]:
            return _last(text, found, where)
    return _contained_option(text, choices)


def worldsense_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """Any letter contained, of several the last "(B)", else the last option contained in over 5 words.

    lmms-eval, tasks/worldsense and tasks/av_odyssey, which answer "A" if there is none.
    """
    text = _padded(answer)
    if found := [letter for letter in choices if letter in text]:
        return _last(text, found, "({})")
    return _contained_option(text, choices)


def audio_letter(answer: str, letters: Sequence[str]) -> str | None:
    """A letter in brackets, else as a word, else before a full stop; of several the last as a word.

    lmms-eval, tasks/air_bench and tasks/mmau, which guess if there is none.
    """
    text = _padded(answer)
    for form in ("({})", " {} ", "{}."):
        if found := [letter for letter in letters if form.format(letter) in text]:
            return _last(text, found, " {} ")
    return None


def omni_bench_letter(answer: str, letters: Sequence[str]) -> str | None:
    """A letter in brackets, else before a space, else before a full stop. lmms-eval, tasks/omni_bench."""
    text = f" {answer.strip()} "
    for form, where in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [letter for letter in letters if form.format(letter) in text]:
            return _last(text, found, where)
    return None


PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is"),
    *("best answer is", "the correct option is", "correct option is", "the best option is"),
    *("best option is", "the choice is", "choice is", "the correct choice is", "correct choice is"),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
# Of how sure each form is; among equals the later one counts.
FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))


def ranked_letter(answer: str, letters: Sequence[str]) -> str | None:
    """The letter of the surest form: at the start, at the end, after a phrase, "(B)", "B.", "B:", "B)", "B ".

    lmms-eval, tasks/_task_utils/mcq_extract.py.
    """
    if not answer.strip():
        return None
    text = _padded(answer, (*EDGES, '"'))
    found: list[tuple[int, int, str]] = []  # sureness, position, letter
    for form, sure in FORMS:
        for letter in letters:
            if (at := text.rfind(form.format(letter))) >= 0:
                found.append((sure, at, letter))
    lowered = text.lower()
    for phrase in PHRASES:
        if (at := lowered.find(phrase)) >= 0:
            for letter in letters:
                if (position := text.find(letter, at + len(phrase))) >= 0:
                    found.append((7, position, letter))
    bare = text.strip()
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
    if not found:
        found = [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    # A stable sort from the top, so that among equals the first that was found stays first.
    return sorted(found, key=lambda each: each[:2], reverse=True)[0][2] if found else None


# The published lists; in VLMEvalKit's a comma is missing twice, so that four phrases are two.
VIDEO_PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:", "Answer:", "Option:"),
)
LONG_VIDEO_PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)


def first_letter(answer: str, prefixes: Sequence[str], letters: str) -> str | None:
    """The first of the letters, after phrases such as "The answer is" are removed.

    VLMEvalKit, dataset/utils/videomme.py and longvideobench.py; lmms-eval, tasks/longvideobench, which
    guesses if there is none.
    """
    text = answer.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else None


_OPTION = re.compile(r"^([A-E])\.\s*(.+)$", re.IGNORECASE)
_COMMA = re.compile(r"(\d)(\,)(\d)")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_MARKS = ';/[]"{}()=+\\_->' + "<@`,?!"


def mvbench_letter(answer: str) -> str | None:
    """The letter of "B. text", else the first from A to E that stands alone. lmms-eval, tasks/mvbench."""
    if option := _OPTION.match(answer.strip()):
        return option[1].upper()
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    original = text
    for mark in _MARKS:
        near_space = f"{mark} " in original or f" {mark}" in original
        text = text.replace(mark, "" if near_space or _COMMA.search(original) else " ")
    text = _PERIOD.sub("", text, count=int(re.UNICODE))  # as published: the flag is taken for a count
    for mark in ("'", '"', ")", "("):
        text = text.strip(mark)
    found = re.search(r"\b([A-E])\b", text.strip().lower(), re.IGNORECASE)
    return found[1].upper() if found else None


def ai2d_letter(answer: str, letters: Sequence[str]) -> str | None:
    """The letter of "B." at the start, else the answer if it is one letter. lmms-eval, tasks/ai2d."""
    if found := re.match(r"^\s*([A-Z])\.", answer):
        return found[1] if found[1] in letters else None
    bare = re.sub(r"[^\w\s]", "", answer).upper()
    return bare if bare in tuple(letters) else None


def starting_letter(answer: str, letters: Sequence[str]) -> str | None:
    """The letter that the answer starts with. Daily-Omni, test_model/Ola/inference/testmodel.py."""
    start = answer.upper()[:1]
    return start if start in tuple(letters) else None


def _padded(answer: str, edges: Sequence[str] = EDGES) -> str:
    """The answer without punctuation at its ends, one sort after the other, and with a space at either."""
    for mark in edges:
        answer = answer.strip(mark)
    return f" {answer} "


def _last(text: str, found: Sequence[str], form: str) -> str:
    """The one of several letters whose form occurs last; the first of those that do not occur in it."""
    return max(found, key=lambda letter: text.rfind(form.format(letter)))


def _contained_option(text: str, choices: Mapping[str, str]) -> str | None:
    if len(text.split()) <= 5:
        return None
    lowered = text.lower()
    found = [letter for letter, option in choices.items() if option.lower() in lowered]
    return max(found, key=lambda letter: lowered.rfind(choices[letter].lower())) if found else None
