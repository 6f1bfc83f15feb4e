"""Written English to the words a reader says, by the table in ``spoken_forms.py``."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache

from wishbone.core.contract.sentences import GOES_ON
from wishbone.plugins.phonemes.front_end import lexicon
from wishbone.plugins.phonemes.readings import (
    MATCH_READINGS,
    READINGS,
    cardinal,
    letters,
    number,
    ordinal,
)
from wishbone.plugins.phonemes.spoken_forms import HTML, NUMERIC, RULES
from wishbone.plugins.phonemes.spoken_words import (
    ABBREVIATIONS,
    AMBIGUOUS,
    BEFORE_NUMBERS,
    CAMEL_NAMES,
    CAPITALISED,
    DOTLESS,
    NEVER_LAST,
    ROADS,
    SHORT_WORDS,
    SPELT,
    SPOKEN_CAPITALS,
    STREETS,
    UNITS,
)

LONGEST_WORD = 24
"""Letters of the longest word that is pronounced; longer runs of letters are spelt."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff\u202a-\u202e]")
_LOOKALIKES = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "…": ". ", "ß": "ss", "æ": "ae"}
    | {"Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
    | {"ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ħ": "h", "ı": "i", "ŋ": "ng", "№": "No. "}
    | {"′": "'", "″": '"', "\u2011": "-", "\u2010": "-", "\u00a0": " "}
    | {"\u2028": "\n", "\u2029": "\n"}
)
_SPOKEN_SIGNS = frozenset("£€¥¢₹₩₽₺₫₱₦₴₪฿₿°²³±×÷−≠≤≥≈©®™•–—√∞‰→\n").union(
    map(chr, range(0x391, 0x3CA))
)
_GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{2,}")
"""Letters of formulas stand alone; words in Greek are left out."""
_RAISED = re.compile("(?<=[\\d)])[⁺⁻]?[⁰¹²³⁴-⁹]+|(?<=\\b[A-Za-z])[⁺⁻]?[⁰¹²³⁴-⁹]+")
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_DIGIT = re.compile(r"\d")
_APOSTROPHE = re.compile(r"(?<=[A-Za-z])[`´](?=[a-z]{1,2}\b)")
_ENTITY = re.compile(
    r"&(?!lt;|gt;|amp;|nbsp;|quot;)(?:#\d{1,7}|#x[\da-fA-F]{1,6}|[A-Za-z]\w{1,30});"
)
_FRACTION = re.compile(r"(\d?)([¼-¾⅐-⅞])(?=([¼-¾⅐-⅞\w])?)")
_FRACTIONS = re.compile(r"(?<![\w/.−-])(?<!\d )[¼-¾⅐-⅞]{2,}(?!\s*[\w%/.])")
"""Several in a row are read at once: as digits they would pass all rules about numbers."""
_NO_PLAIN_WORD = re.compile(r"[^a-z ,?!']|\b[ivx]{2,}\b")
"""What a text of small letters alone does not have: no rule changes that."""
_DASH = re.compile(r"\s*[–—]+\s*|\s+--+\s+")


def normalise(text: str, keep: Collection[str] = ()) -> str:
    """Words, and no digit or sign, for ``text``; what nobody can say is left out.

    Words of ordinary text stay as they are, and so does what this function made. Marks in ``keep``
    stay, too.
    """
    if not _NO_PLAIN_WORD.search(text):
        return _short_words(text)
    text = _short_words(plain(_ENTITY.sub(lambda entity: html.unescape(entity[0]), text)))
    if not _NO_PLAIN_WORD.search(text):
        return text
    text = re.sub(r"\d{25,}", lambda run: f" {cardinal(run[0])} ", text)
    for kind, pattern, form in _rules():
        if kind not in NUMERIC or _DIGIT.search(text):
            text = pattern.sub(_reader(form, keep), text)
    text = _DOTLESS.sub(_title, _ABBREVIATION.sub(_abbreviation, text))
    text = _DASH.sub(", ", text)
    text = _capitals(_CAMEL.sub(_cut_at_capitals, text))
    for pattern, read in _NUMBERS:
        text = pattern.sub(read, text)
    return _short_words(text)


def plain(text: str) -> str:
    """Letters without diacritics, quotes as ASCII, and the signs that are read."""
    text = _APOSTROPHE.sub("'", _INVISIBLE.sub("", text))
    if text.isascii():
        return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text)
    text = _GREEK_WORD.sub(" ", _RAISED.sub(_raised, text))
    text = _FRACTIONS.sub(_vulgar_words, text)
    text = _FRACTION.sub(_vulgar, text.translate(_LOOKALIKES))
    text = "".join(map(_circled, text))
    text = "".join(c if c in _SPOKEN_SIGNS else unicodedata.normalize("NFKD", c) for c in text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    return "".join(_kept(c) for c in text)


def left_out(text: str) -> list[str]:
    """Runs of letters and pictures of ``text`` that nobody here can say, in order, each once."""
    runs: list[str] = []
    run = ""
    text = _INVISIBLE.sub("", text)
    greek = {place for word in _GREEK_WORD.finditer(text) for place in range(*word.span())}
    for place, character in enumerate([*text, " "]):
        category = unicodedata.category(character)
        if place in greek or run and category[0] == "M":
            run += character
            continue
        lost = category[0] in "LN" or category in ("So", "Cs")
        if lost and not any(map(str.isalnum, plain(character))) and character not in _SPOKEN_SIGNS:
            run += character
        elif run:
            runs.append(run)
            run = ""
    return list(dict.fromkeys(runs))


def is_html(mark: str) -> bool:
    """Tell if a mark is one of HTML or SSML, which nobody says."""
    name = mark.strip("</>")
    return mark.startswith("<") and name in HTML


def _kept(character: str) -> str:
    return character if character.isascii() and character.isprintable() or (
        character in _SPOKEN_SIGNS
    ) else " "  # fmt: skip


def _circled(character: str) -> str:
    """A number in a circle as a number of its own."""
    if "\u2460" <= character <= "\u24ff" or "\u2776" <= character <= "\u2793":
        number = unicodedata.numeric(character, None)
        return character if number is None else f" {number:.0f} "
    return character


def _raised(match: re.Match[str]) -> str:
    return match[0] if match[0] in "²³" else "^" + match[0].translate(_RAISED_DIGITS)


def _vulgar(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKD", match[2]).replace("\u2044", "/")
    return (f"{match[1]} " if match[1] else "") + fraction + " " * bool(match[3])


def _vulgar_words(run: re.Match[str]) -> str:
    return " ".join(map(_fraction_words, run[0]))


@cache
def _fraction_words(character: str) -> str:
    written = unicodedata.normalize("NFKD", character).replace("\u2044", "/")
    match = re.fullmatch(r"(?P<b>\d+)/(?P<c>\d+)", written)
    return MATCH_READINGS["fraction"](match) if match else written


@cache
def _rules() -> list[tuple[str, re.Pattern[str], str]]:
    units = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
    return [(kind, re.compile(p.replace("UNITS", units)), form) for kind, p, form in RULES]


def _reader(form: str, keep: Collection[str]) -> Callable[[re.Match[str]], str]:
    """The function that fills ``form`` with the groups of a match."""

    def fill(place: re.Match[str], match: re.Match[str]) -> str:
        name, _, reading = place[1].partition(":")
        if name == "*":
            return MATCH_READINGS[reading](match)
        return READINGS[reading](match[name]) if reading else match[name]

    def read(match: re.Match[str]) -> str:
        if match[0] in keep:
            return match[0]
        return re.sub(r"\{([^}]*)\}", lambda place: fill(place, match), form)

    return read


_ABBREVIATION = re.compile(
    r"(?<![\w.])(?P<w>(?i:" + "|".join(
        re.escape(w) for w in sorted({*ABBREVIATIONS, *BEFORE_NUMBERS}, key=len, reverse=True)
    ) + r"))\.(?P<last>\s*$)?"
)  # fmt: skip


_NUMBER_BEHIND = re.compile(
    r"\d|(?!I\b)[IVX]+\b"
    r"|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty"
    r"|sixty|seventy|eighty|ninety|(?:thir|four|fif|six|seven|eigh|nine)teen)\b"
)


def _abbreviation(match: re.Match[str]) -> str:
    text, word = match.string, match["w"].lower()
    after = text[match.end() : match.end() + 12].lstrip()
    before = text[max(match.start() - 30, 0) : match.start()].split()
    ends = match["last"] is not None or after[:1].isupper() and word not in NEVER_LAST
    if word in CAPITALISED and not match["w"][0].isupper() or word == "c" != match["w"]:
        return match[0]
    if after.startswith(GOES_ON.get(word, "\n")):
        return ABBREVIATIONS[word].capitalize()
    if word in AMBIGUOUS and (not after or after[:1].isupper()):
        return match[0]
    if word in BEFORE_NUMBERS:
        if _NUMBER_BEHIND.match(after):
            return BEFORE_NUMBERS[word]
        return match[0] if word not in ABBREVIATIONS else ABBREVIATIONS[word] + "." * ends
    named = before and before[-1][:1].isupper() and before[-1][-1:].isalpha()
    if word == "rs" and not before[-1:]:
        return match[0]
    if word in STREETS and named and (not after[:1].isupper() or len(before) > 1 or not after):
        return STREETS[word] + "." * bool(not after or after[:1].isupper())
    said = ABBREVIATIONS[word]
    said = said if match["w"].islower() or said.isupper() else said.capitalize()
    return said + "." * ends + (match["last"] or "")


_DOTLESS = re.compile(
    r"(?<![\w'.])(?P<w>" + "|".join(sorted({w.capitalize() for w in {*DOTLESS, *ROADS}}))
    + r")(?=(?P<name> [A-Z][a-z])|(?P<end>\s*(?:[,;:!?]|\.?\s*$)| (?!to\b)[a-z]))"
)  # fmt: skip


def _title(match: re.Match[str]) -> str:
    """A title or a road without its stop: "Dr Smith", "12 Main St"."""
    word = match["w"].lower()
    if match["name"] and word in DOTLESS:
        return ABBREVIATIONS[word].capitalize()
    before = match.string[max(match.start() - 30, 0) : match.start()].split(" ")
    named = len(before) > 1 and re.fullmatch(r"[A-Z][a-z]+|.*\dth", before[-2])
    is_road = word in ROADS and named and match["name"] is None
    return ROADS[word].capitalize() if is_road else match[0]


_CAMEL_NAME = re.compile(f"(?:{'|'.join(CAMEL_NAMES)})[A-Z][a-z]")
_CAMEL = re.compile(r"(?<![A-Za-z_'.-])[A-Za-z]*[a-z][A-Z][A-Za-z]*(?![\w'])")


def _cut_at_capitals(match: re.Match[str]) -> str:
    """A run of words that are joined by capitals; names and what the lexicon knows stay."""
    word = match[0]
    if re.fullmatch("[a-z][A-Z]{2,3}", word):
        return letters(word)
    if lexicon().entry(word.lower()) or _CAMEL_NAME.match(word) or re.fullmatch("[A-Z]{2,}s", word):
        return word
    if len(word) < 4 and not word.islower():
        return letters(word)
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", word)
    return " ".join(letters(part) if len(part) == 1 else part for part in parts)


_CONTRACTED = re.compile(r"(?<![\w'.])[A-Z]+'[A-Z]{1,2}(?![\w'])")
_UPPER = re.compile(r"(?<![A-Za-z_'.])(?P<w>[A-Z]{2,})(?P<s>'?s)?(?![A-Za-z_'])(?!\.[A-Z])")


def _capitals(text: str) -> str:
    """Words in capitals: words where the lexicon has them and all is in capitals, or letters."""
    bare = re.sub(r"[^A-Za-z ]", "", text)
    shouted = bare.isupper() and len(bare.split()) > 1

    def read(match: re.Match[str]) -> str:
        word, low = match["w"], match["w"].lower()
        known = bool(lexicon().entry(low)) and low != "tv"
        if known and (shouted or (len(low) > 3 or low in SHORT_WORDS) and low not in SPELT):
            return low + (match["s"] or "")
        if word in SPOKEN_CAPITALS:
            return SPOKEN_CAPITALS[word] + (match["s"] or "")
        return letters(word) + ("'s" if match["s"] else "")

    return _UPPER.sub(read, _CONTRACTED.sub(_contracted, text))


def _contracted(match: re.Match[str]) -> str:
    low = match[0].lower()
    return low.capitalize() if low[0] == "i" else low if lexicon().entry(low) else match[0]


def _short_words(text: str) -> str:
    """Spell runs of letters that are too long for any word."""
    return re.sub(rf"[A-Za-z]{{{LONGEST_WORD + 1},}}", lambda run: letters(run[0]), text)


_NUMBERS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<![\w.])(\d+(?:,\d{3})*)(?:st|nd|rd|th)\b-?", re.I),
     lambda m: ordinal(m[1]) + " "),
    (re.compile(r"(?<=[A-Za-z])-?(?=\d)"), lambda m: " "),
    (re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?)-?(?=[A-Za-z]?)"), lambda m: f" {number(m[1])} "),
    (re.compile(r"[#*_=~^|\\<>{}\[\]`+/@%$£€¥¢₹₩₽₺₫₱₦₴₪฿₿°²³±×÷−•√∞‰→&]"), lambda m: " "),
    (re.compile(r"(?<! )[ \t]+(?=[,.?!;:])|(?<=[ \n])[ \t]+"), lambda m: ""),
]  # fmt: skip
