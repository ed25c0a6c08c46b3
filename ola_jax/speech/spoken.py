"""A copy of the text for the voice: marks, addresses, code and symbols said, replaced or left out."""

import html
import re
import unicodedata
from collections.abc import Callable, Mapping

from ola_jax.speech.characters import is_emoji
from ola_jax.speech.language import main_script

Replacement = str | Callable[[re.Match[str]], str]

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[^\n]*\n(?:.*?^[ \t]*\1[`~]*[ \t]*$|.*\Z)", re.MULTILINE | re.DOTALL
)
_TABLE = re.compile(r"(?:^[ \t]*\|.*(?:\n|\Z))+", re.MULTILINE)
_URL = re.compile(r"\b(?:https?|ftp)://[^\s<>\"'，。！？）]+|\bwww\.[^\s<>\"'，。！？）]+", re.IGNORECASE)
_EMAIL = re.compile(r"\b([\w.+-]+)@([\w-]+(?:\.[\w-]+)+)\b")

_MARKDOWN: tuple[tuple[re.Pattern[str], Replacement], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"<!--.*?-->", ""),
        (r"</?[A-Za-z][^<>\n]*>", ""),  # tags
        (r"!\[([^\]\n]*)\]\([^)\n]*\)", r"\1"),  # images
        (r"\[([^\]\n]*)\]\([^)\n]*\)", r"\1"),  # links
        (r"\[([^\]\n]+)\]\[[^\]\n]*\]", r"\1"),
        (r"\[\^?[\d,\s–-]+\]", ""),  # notes
        (r"^[ \t]*\[[ xX]\][ \t]*", ""),
        (r"^[ \t]*(?:[-*_][ \t]*){3,}$", ""),  # rules
        (r"^[ \t]*(?:>[ \t]*)+", ""),  # quotations
        (r"^[ \t]{0,3}#{1,6}[ \t]+", ""),  # headings
        (r"^[ \t]*[-*+•·◦▪][ \t]+(?:\[[ xX]\][ \t]*)?", ""),  # items of lists
        (r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", lambda match: match[2].strip()),  # code within a line
        (r"(\*\*\*|\*\*|\*)(?=\S)(.+?)(?<=\S)\1", r"\2"),
        (r"(?<!\w)(___|__|_)(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2"),
        (r"~~(?=\S)(.+?)(?<=\S)~~", r"\1"),
        (r"\\([\\`*_{}\[\]()#+.!~>|-])", r"\1"),
        (r"\\[()\[\]]|\$\$", " "),  # borders of formulas
        (r"\$([^$\n]*[\\^_=][^$\n]*)\$", r"\1"),
        (
            r"(\*\*|__|~~|`+|^[*_]|(?<=\s)[*_](?=\S)|(?<=\S)[*_](?=\s|$))",
            "",
        ),  # what has no partner in the piece
        (r"(?<=\w)_(?=\w)", " "),
    )
)

# (s) stands where the number is not 1.
_UNITS = {
    "km/h": "kilometer(s) per hour", "m/s": "meter(s) per second", "mph": "mile(s) per hour",
    "km": "kilometer(s)", "cm": "centimeter(s)", "mm": "millimeter(s)", "m²": "square meter(s)",
    "km²": "square kilometer(s)", "m³": "cubic meter(s)", "kg": "kilogram(s)", "mg": "milligram(s)",
    "g": "gram(s)", "ml": "milliliter(s)", "mL": "milliliter(s)", "L": "liter(s)", "l": "liter(s)",
    "ms": "millisecond(s)", "s": "second(s)", "min": "minute(s)", "h": "hour(s)", "kHz": "kilohertz",
    "MHz": "megahertz", "GHz": "gigahertz", "Hz": "hertz", "kB": "kilobyte(s)", "KB": "kilobyte(s)",
    "MB": "megabyte(s)", "GB": "gigabyte(s)", "TB": "terabyte(s)", "GiB": "gibibyte(s)",
    "MiB": "mebibyte(s)", "kW": "kilowatt(s)", "kWh": "kilowatt hour(s)", "W": "watt(s)", "V": "volt(s)",
    "m": "meter(s)", "°C": "degree(s) Celsius", "℃": "degree(s) Celsius", "°F": "degree(s) Fahrenheit",
    "℉": "degree(s) Fahrenheit", "°": "degree(s)", "%": "percent",
}  # fmt: skip
_MONEY = {"€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees", "₩": "won"}
_NUMBER = r"\d[\d,.]*\d|\d"
_UNIT_NAMES = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_UNIT = re.compile(rf"(?<![\w.])({_NUMBER})[ \u00a0]?({_UNIT_NAMES})(?![\w/²³])")
_SYMBOLS: tuple[tuple[re.Pattern[str], Replacement], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"([€£¥₹₩])[ ]?({_NUMBER})", lambda match: f"{match[2]} {_MONEY[match[1]]}"),
        (rf"({_NUMBER})[ ]?([€£¥₹₩])", lambda match: f"{match[1]} {_MONEY[match[2]]}"),
        (r"\s*(?:->|=>|→|⇒|⟶)\s*", " to "),
        (r"\s*(?:<-|←|⇐)\s*", " from "),
        (r"\s*(?:>=|≥)\s*", " at least "),
        (r"\s*(?:<=|≤)\s*", " at most "),
        (r"\s*(?:!=|≠)\s*", " is not equal to "),
        (r"\s*(?:≈|≃)\s*", " is about "),
        (r"(?<![\w~])~(?=\d)", "about "),
        (r"(?<=[\w)])\s*==?\s*(?=[\w(-])", " equals "),
        (r"(?<=\d)\s*(?:[×x]|\s\*\s)\s*(?=\d)", " times "),
        (r"\s*×\s*", " times "),
        (r"(?<=\d)\s*÷\s*(?=\d)", " divided by "),
        (r"(?<=[\w)])\s+<\s+(?=[\w(-])", " is less than "),
        (r"(?<=[\w)])\s+>\s+(?=[\w(-])", " is greater than "),
        (r"(?<=[\w)])\s*\+\s*(?=[\d(]|[A-Za-z]\b)", " plus "),
        (r"(?<=[\d)])\s+[-−]\s+(?=[\d(])", " minus "),
        (r"(?<![\w)])[-−](?=\d)", "minus "),
        (r"(?<=\d)–(?=\d)", " to "),
        (r"±\s*", "plus or minus "),
        (r"(?<=\w)²", " squared"),
        (r"(?<=\w)³", " cubed"),
        (r"(?<=[\w)])\^2\b", " squared"),
        (r"(?<=[\w)])\^(?=\w)", " to the power of "),
        (r"√\s*", "the square root of "),
        (r"\s*&\s*", " and "),
        (r"#(?=\d)", "number "),
        (r"(?<=\w)\s+@\s+(?=\w)", " at "),
    )
)
_SILENT = ("Cc", "Cf", "Co")  # categories of control and private characters
# What stands in for what cannot be said, by script.
_NAMES: Mapping[str, tuple[str, str, str, str]] = {
    "chinese": ("代码。", "表格。", "点", "艾特"),
    "latin": ("Code.", "A table.", " dot ", " at "),
}


def spoken(text: str) -> str:
    """The text as it should be said; empty where there is nothing to say.

    Markdown is taken off, code blocks and tables are named instead of read, links keep their words, addresses
    are said by their host; emoji are left out. Symbols and units are spelled out in Latin script, as English.
    """
    script = main_script(text)
    code, table, dot, at = _NAMES["chinese" if script == "chinese" else "latin"]
    text = _FENCE.sub(f"\n{code}\n", text)
    text = _TABLE.sub(f"\n{table}\n", text)
    text = re.sub(r"<((?:https?|ftp|mailto):[^<>\s]+)>", r"\1", text)
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    text = _URL.sub(lambda match: _host(match[0], dot), html.unescape(text))
    text = _EMAIL.sub(lambda match: f"{match[1]}{at}{match[2].replace('.', dot)}", text)
    if script in ("latin", None):
        text = _english(text)
    text = "".join(c for c in text if c == "\n" or not (is_emoji(c) or unicodedata.category(c) in _SILENT))
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t\u00a0]+", " ", text)).strip()
    text = re.sub(r" +([,.;:!?])(?=\s|$)", r"\1", text).replace("\n", " ")
    return text if any(c.isalnum() for c in text) else ""


def _host(address: str, dot: str) -> str:
    """An address by its host, and the stops behind it that are not part of it."""
    end = re.search(r"[.,;:!?)\]]*$", address)
    host = re.sub(r"^\w+://", "", address[: end.start() if end else None])
    host = re.sub(r"^www\.", "", re.split(r"[/?#]", host)[0].rpartition("@")[2], flags=re.IGNORECASE)
    host = re.sub(r":\d+$", "", host)
    return host.replace(".", dot) + (end[0] if end else "")


def _english(text: str) -> str:
    text = _UNIT.sub(_unit, text)
    for pattern, replacement in _SYMBOLS:
        text = pattern.sub(replacement, text)
    return text


def _unit(match: re.Match[str]) -> str:
    return f"{match[1]} {_UNITS[match[2]].replace('(s)', '' if match[1] == '1' else 's')}"
