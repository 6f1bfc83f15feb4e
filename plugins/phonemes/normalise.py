"""Written English to the words a reader says, by the table in ``spoken_forms.py``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache

from num2words import num2words

from wishbone.plugins.phonemes.front_end import lexicon
from wishbone.plugins.phonemes.spoken_forms import (
    ABBREVIATIONS,
    AMBIGUOUS,
    BEFORE_NUMBERS,
    HTML,
    MONEY,
    MONTHS,
    NEVER_LAST,
    PLURALS,
    RULES,
    SAME_PLURAL,
    SCALES,
    SHORT_WORDS,
    SIGNS_IN_ADDRESSES,
    SPELT,
    STREETS,
    UNITS,
)

LONGEST_WORD = 24
"""Letters of the longest word that is pronounced; longer runs of letters are spelt."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff\u202a-\u202e]")
_LOOKALIKES = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "…": ". ", "ß": "ss", "æ": "ae"}
    | {"Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
    | {"\u2011": "-", "\u2010": "-", "\u00a0": " ", "\u2028": "\n", "\u2029": "\n"}
)
_SPOKEN_SIGNS = "£€¥¢°²³±×÷−≠≤≥≈©®™•–—√\n"
_FRACTION = re.compile(r"(\d?)([¼-¾⅐-⅞])")
_DASH = re.compile(r"\s*[–—]+\s*|\s+--+\s+")
_DIGITS = "oh one two three four five six seven eight nine".split()
_DENOMINATORS = {2: "half", 4: "quarter"}


def normalise(text: str, keep: Collection[str] = ()) -> str:
    """Words, and no digit or sign, for ``text``; what nobody can say is left out.

    Words of ordinary text stay as they are, and so does what this function made. Marks in ``keep``
    stay, too.
    """
    if not re.search(r"[^a-z ,?!']", text):
        return _short_words(text)
    text = _short_words(plain(text))
    text = re.sub(r"\d{25,}", lambda run: f" {cardinal(run[0])} ", text)
    for _, pattern, form in _rules():
        text = pattern.sub(_reader(form, keep), text)
    text = _ABBREVIATION.sub(_abbreviation, text)
    text = _DASH.sub(", ", text)
    text = _capitals(text)
    for pattern, read in _NUMBERS:
        text = pattern.sub(read, text)
    return _short_words(text)


def plain(text: str) -> str:
    """Letters without diacritics, quotes as ASCII, and the signs that are read."""
    text = _INVISIBLE.sub("", text)
    if text.isascii():
        return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text)
    text = _FRACTION.sub(_vulgar, text.translate(_LOOKALIKES))
    text = "".join(c if c in _SPOKEN_SIGNS else unicodedata.normalize("NFKD", c) for c in text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    return "".join(_kept(c) for c in text)


def left_out(text: str) -> list[str]:
    """Runs of letters and pictures of ``text`` that nobody here can say, in order, each once."""
    runs: list[str] = []
    run = ""
    for character in [*_INVISIBLE.sub("", text), " "]:
        category = unicodedata.category(character)
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


def _vulgar(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKD", match[2]).replace("\u2044", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


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


def cardinal(number: str) -> str:
    """One hundred and five; digit by digit where it is too long to be said."""
    number = number.replace(",", "").rstrip(".")
    if len(number) > 15:
        return " ".join(_zero(digit) for digit in number)
    return num2words(int(number)).replace("-", " ")


def year(number: str) -> str:
    """Nineteen forty five."""
    return num2words(int(number), to="year").replace("-", " ")


def number(text: str) -> str:
    """A number as it stands alone: years have four digits, decimals a point."""
    whole, point, decimals = text.partition(".")
    if point and decimals:
        return f"{cardinal(whole or '0')} point {' '.join(_zero(digit) for digit in decimals)}"
    if re.fullmatch(r"[1-9]\d{3}", whole):
        return year(whole)
    return cardinal(whole)


def counted(text: str) -> str:
    """A number in front of a unit: four digits are no year."""
    return cardinal(text) if "." not in text else number(text)


def ordinal(text: str) -> str:
    """Twenty first."""
    return num2words(int(text.replace(",", "")), to="ordinal").replace("-", " ")


def digits(text: str) -> str:
    """Nine oh two one oh."""
    return " ".join(_DIGITS[int(c)] for c in text if c.isdigit())


def groups(text: str) -> str:
    """Digit by digit, a pause between groups."""
    return ", ".join(digits(group) for group in re.findall(r"\d+", text))


def address(text: str) -> str:
    """Signs by their names; a part in digits digit by digit."""
    said = []
    for part in re.findall(r"[A-Za-z]+|\d+|.", text):
        if part.isdigit():
            said.append(cardinal(part) if len(part) < 3 and part[0] != "0" else digits(part))
        elif part.isalpha():
            said.append(
                _letters(part) if part in ("www", "txt", "html", "csv", "mp", "io") else part
            )
        else:
            said.append(SIGNS_IN_ADDRESSES.get(part, ""))
    return " ".join(filter(None, said))


def money(text: str) -> str:
    """Three dollars fifty cents."""
    sign, currency, amount = re.fullmatch(r"(-?)(\D+?)\s?(\d.*)", text).groups()  # type: ignore
    minus = "minus " * bool(sign)
    unit, small = MONEY[currency]
    whole, _, part = amount.partition(".")
    if len(part) != 2 or not small:
        return f"{minus}{counted(amount)} {unit if amount == '1' else _many(unit)}"
    said = [f"{cardinal(whole)} {unit if whole == '1' else _many(unit)}"] if int(
        whole.replace(",", "")) or not int(part) else []  # fmt: skip
    if int(part):
        said.append(f"{cardinal(str(int(part)))} {small if int(part) == 1 else _many(small)}")
    return minus + " ".join(said)


def roman(text: str) -> int:
    """The value of a Roman numeral."""
    values = [dict(I=1, V=5, X=10, L=50, C=100, D=500, M=1000)[c] for c in text.upper()]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < after else value for value, after in pairs)


def _month(text: str) -> str:
    names = MONTHS.split()
    name = names[int(text) - 1] if text.isdigit() else next(
        n for n in names if n.startswith(text.lower().rstrip(".")[:3]))  # fmt: skip
    return name.capitalize()


def _many(unit: str) -> str:
    return SAME_PLURAL.get(unit, unit + "s")


def _zero(digit: str) -> str:
    return "zero" if digit == "0" else _DIGITS[int(digit)]


def _letters(text: str) -> str:
    return " ".join(text.upper())


def _fraction(match: re.Match[str]) -> str:
    over, under = match["b"], int(match["c"])
    part = _DENOMINATORS.get(under) or ordinal(str(under))
    if over == "1":
        mixed = "a" in match.groupdict() and match["a"]
        return f"{'a' if mixed else 'one'} {part}"
    return f"{cardinal(over)} {'halves' if under == 2 else part + 's'}"


def _measure(match: re.Match[str]) -> str:
    unit, power = UNITS[match["u"]], match["p"]
    if match["u"] in ("s", "in", "h", "m", "g", "l", "V", "W", "L") and not match["k"] and (
        match["u"] in "s" or match["n"].startswith("0")):  # fmt: skip
        return match[0]
    if match["u"] == "in" and not re.match(r"\s*(?:[.,;)]|$)", match.string[match.end() :]):
        return match[0]
    one, *behind = unit.split(" per ")
    head, _, last = one.rpartition(" ")
    single = match["n"] == "1" or match["k"] == "-"
    last = last if single else PLURALS.get(last, last + "s")
    area = {"2": "square ", "²": "square ", "3": "cubic ", "³": "cubic "}.get(power, "")
    said = " ".join(filter(None, [counted(match["n"]), area + f"{head} {last}".strip()]))
    return " per ".join([said, *behind])


READINGS: dict[str, Callable[[str], str]] = {
    "cardinal": cardinal, "number": number, "counted": counted, "ordinal": ordinal, "year": year,
    "digits": digits, "groups": groups, "address": address, "money": money, "month": _month,
    "many": lambda c: _many(MONEY[c][0]), "scale": lambda s: SCALES[s.lower()],
    "cents": lambda n: "cent" if n == "1" else "cents",
    "degree": lambda n: "degree" if n == "1" else "degrees",
    "minutes": lambda m: f"oh {cardinal(m[1])}" if m[0] == "0" else cardinal(m),
    "plural": lambda d: re.sub("y$", "ies",
    cardinal(d) if d != "10" else "ten") + "s" * (d == "10"),
    "dotted": lambda x: " dot ".join(" ".join(map(_zero, group)) for group in x.split(".")),
    "points": lambda x: " point ".join(cardinal(group) for group in x.split(".")),
    "cardinals": lambda x: " ".join(cardinal(group) for group in x.split("/")),
    "roman": lambda x: number(str(roman(x))), "roman_ordinal": lambda x: ordinal(str(roman(x))),
}  # fmt: skip
MATCH_READINGS: dict[str, Callable[[re.Match[str]], str]] = {
    "fraction": _fraction,
    "measure": _measure,
}

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
    if word in AMBIGUOUS and (not after or after[:1].isupper()):
        return match[0]
    if word in BEFORE_NUMBERS:
        if _NUMBER_BEHIND.match(after):
            return BEFORE_NUMBERS[word]
        return match[0] if word not in ABBREVIATIONS else ABBREVIATIONS[word] + "." * ends
    named = before and before[-1][:1].isupper() and before[-1][-1:].isalpha()
    if word in STREETS and named and (not after[:1].isupper() or len(before) > 1 or not after):
        return STREETS[word] + "." * bool(not after or after[:1].isupper())
    said = ABBREVIATIONS[word]
    said = said if match["w"].islower() or said.isupper() else said.capitalize()
    return said + "." * ends + (match["last"] or "")


_UPPER = re.compile(r"(?<![\w'.])(?P<w>[A-Z]{2,})(?P<s>'?s)?(?![\w'])(?!\.[A-Z])")


def _capitals(text: str) -> str:
    """Words in capitals: words where the lexicon has them and all is in capitals, or letters."""
    letters = re.sub(r"[^A-Za-z ]", "", text)
    shouted = letters.isupper() and len(letters.split()) > 1

    def read(match: re.Match[str]) -> str:
        word, low = match["w"], match["w"].lower()
        known = bool(lexicon().entry(low)) and low != "tv"
        if known and (shouted or (len(low) > 3 or low in SHORT_WORDS) and low not in SPELT):
            return low + (match["s"] or "")
        return _letters(word) + ("'s" if match["s"] else "")

    return _UPPER.sub(read, text)


def _short_words(text: str) -> str:
    """Spell runs of letters that are too long for any word."""
    return re.sub(rf"[A-Za-z]{{{LONGEST_WORD + 1},}}", lambda run: _letters(run[0]), text)


_NUMBERS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<![\w.])(\d+(?:,\d{3})*)(?:st|nd|rd|th)\b-?", re.I),
     lambda m: ordinal(m[1]) + " "),
    (re.compile(r"(?<=[A-Za-z])-?(?=\d)"), lambda m: " "),
    (re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?)-?(?=[A-Za-z]?)"), lambda m: f" {number(m[1])} "),
    (re.compile(r"[#*_=~^|\\<>{}\[\]`+/@%$£€¥¢°²³±×÷−•√&]"), lambda m: " "),
    (re.compile(r"(?<! )[ \t]+(?=[,.?!;:])|(?<=[ \n])[ \t]+"), lambda m: ""),
]  # fmt: skip
