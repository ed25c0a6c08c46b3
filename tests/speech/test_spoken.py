"""What is said of a written text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ola_jax.speech.language import main_script
from ola_jax.speech.spoken import spoken

CASES = [
    ("**Bold**, *it*, ***both***, ~~gone~~ and `code_name`.", "Bold, it, both, gone and code name."),
    ("## A title\n", "A title"),
    ("- one\n* two\n", "one two"),
    ("1. First\n", "1. First"),
    ("- [x] done\n", "done"),
    ("> quoted\n> twice", "quoted twice"),
    ("---\n", ""),
    ("See [the docs](https://a.b/c_d?e) and ![a cat](cat.png).", "See the docs and a cat."),
    ("Go to https://www.example.com/a/b?c=1#d.", "Go to example dot com."),
    ("Open <http://localhost:8000/docs>, please.", "Open localhost, please."),
    ("Write to jane@mail.example.com.", "Write to jane at mail dot example dot com."),
    ("True.[1] Also true.[2, 3]", "True. Also true."),
    ("Look:\n```python\nx = 1 < 2\n```\nGood.", "Look: Code. Good."),
    ("```\nnever closed", "Code."),
    ("Look:\n| a | b |\n|---|---|\n| 1 | 2 |\n\nGood.", "Look: A table. Good."),
    ("代码：\n```\nx\n```\n好。", "代码： 代码。 好。"),
    ("Great 🎉 job 👍🏽! 🇨🇭", "Great job!"),
    ("👍🏽🎉", ""),
    ("…", ""),
    ("", ""),
    ("<b>Tom</b> &amp; Jerry", "Tom and Jerry"),
    (
        "At 25 °C, 50% of 5 km at 1 km/h.",
        "At 25 degrees Celsius, 50 percent of 5 kilometers at 1 kilometer per hour.",
    ),
    ("1 km/h and 2 m/s", "1 kilometer per hour and 2 meters per second"),
    ("1 m² of 3 GB at 2.4 GHz", "1 square meter of 3 gigabytes at 2.4 gigahertz"),
    ("It costs €5, £1,000.50 or 7 ¥.", "It costs 5 euros, 1,000.50 pounds or 7 yen."),
    ("x = 2 + 3, y ≥ 4 → z", "x equals 2 plus 3, y at least 4 to z"),
    ("5 > 3 and 2 < 4", "5 is greater than 3 and 2 is less than 4"),
    ("-5 to 10–20, ~3 ± 1", "minus 5 to 10 to 20, about 3 plus or minus 1"),
    ("2 * 3 × 4", "2 times 3 times 4"),
    ("$E = mc^2$ is known.", "E equals mc squared is known."),
    ("It costs $5 and $6.", "It costs $5 and $6."),
    ("C++, C# and AC/DC, 2024/05/03, and/or", "C++, C# and AC/DC, 2024/05/03, and/or"),
    ("snake_case and 3 words", "snake case and 3 words"),
    ("a **cut off", "a cut off"),
    ("今天50%的人", "今天50%的人"),
]


@pytest.mark.parametrize(("written", "said"), CASES)
def test_what_is_said(written: str, said: str) -> None:
    assert spoken(written) == said


@given(st.text("aB1 .\n`*_#[]()<>|$~&😀-=:/@\\", max_size=120))
def test_no_text_fails_and_marks_are_never_the_whole(text: str) -> None:
    said = spoken(text)
    assert said == "" or any(c.isalnum() for c in said)


def test_plain_text_is_said_as_it_is() -> None:
    plain = "Dr. Chen said: \"It's 3.14, isn't it?\" (Yes; it is.)"
    assert spoken(plain) == plain


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello, 12!", "latin"),
        ("Füße", "latin"),
        ("你好 Python world", "chinese"),
        ("これは本です", "japanese"),
        ("안녕", "korean"),
        ("नमस्ते", "devanagari"),
        ("مرحبا", "arabic"),
        ("Привет", "cyrillic"),
        ("12 😀", None),
    ],
)
def test_the_script_of_a_text(text: str, script: str | None) -> None:
    assert main_script(text) == script
