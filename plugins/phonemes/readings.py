"""How numbers, sums, measures and addresses are read: the readings of ``spoken_forms.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from num2words import num2words

from wishbone.plugins.phonemes.front_end import lexicon
from wishbone.plugins.phonemes.spoken_forms import MONTHS
from wishbone.plugins.phonemes.spoken_words import (
    DAYS,
    GREEK,
    MONEY,
    PERIODS,
    PLURALS,
    SAME_PLURAL,
    SCALES,
    SIGNS_IN_ADDRESSES,
    SPELT_IN_ADDRESSES,
    UNITS,
)

_DIGITS = "oh one two three four five six seven eight nine".split()
_DENOMINATORS = {2: "half", 4: "quarter"}


@lru_cache(maxsize=1 << 12)
def cardinal(number: str) -> str:
    """One hundred and five; digit by digit where it is too long to be said."""
    number = number.replace(",", "").rstrip(".")
    if len(number) > 15:
        return " ".join(_zero(digit) for digit in number)
    return num2words(int(number)).replace("-", " ")


@lru_cache(maxsize=1 << 12)
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


def phone(text: str) -> str:
    """A long number digit by digit, in the groups of a telephone number where it has ten."""
    return groups(f"{text[:3]} {text[3:6]} {text[6:]}") if len(text) == 10 else digits(text)


@lru_cache(maxsize=1 << 12)
def ordinal(text: str) -> str:
    """Twenty first."""
    return num2words(int(text.replace(",", "")), to="ordinal").replace("-", " ")


def digits(text: str) -> str:
    """Nine oh two one oh."""
    return " ".join(_DIGITS[int(c)] for c in text if c.isdecimal())


def groups(text: str) -> str:
    """Digit by digit, a pause between groups."""
    return ", ".join(digits(group) for group in re.findall(r"\d+", text))


def address(text: str) -> str:
    """Signs by their names; a part in digits digit by digit."""
    said = []
    for part in re.findall(r"[A-Za-z]+|\d+|.", text):
        if part.isdecimal():
            said.append(cardinal(part) if len(part) < 3 and part[0] != "0" else digits(part))
        elif part.isalpha():
            word = part.lower() if part.isupper() and len(part) > 1 else part
            said.append(letters(part) if _is_spelt(part) else word)
        else:
            said.append(SIGNS_IN_ADDRESSES.get(part, ""))
    return " ".join(filter(None, said))


def _is_spelt(part: str) -> bool:
    """Tell if a part of an address is read letter by letter: no word, or without a vowel."""
    low = part.lower()
    if low in SPELT_IN_ADDRESSES:
        return True
    return 1 < len(low) < 5 and not set(low) & set("aeiouy") and not lexicon().entry(low)


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


def letters(text: str) -> str:
    """Letters apart, as they are spelt."""
    return " ".join(text.upper())


def _fraction(match: re.Match[str]) -> str:
    over, under = match["b"], int(match["c"])
    part = _DENOMINATORS.get(under) or ordinal(str(under))
    if over == "1":
        mixed = "a" in match.groupdict() and match["a"]
        return f"{'a' if mixed else 'one'} {part}"
    return f"{cardinal(over)} {'halves' if under == 2 else part + 's'}"


_AREAS = {"2": "square ", "²": "square ", "3": "cubic ", "³": "cubic "}


def _measure(match: re.Match[str]) -> str:
    unit, power = UNITS[match["u"]], match["p"]
    if match["v"]:
        under, raised = UNITS[match["v"]], match["q"] or ""
        if under in ("second", "hour", "minute"):
            unit += f" per {under}" + {"²": " squared", "³": " cubed"}.get(raised, "")
        else:
            unit += f" per {_AREAS.get(raised, '')}{under}"
    if match["u"] in ("s", "in", "h", "m", "g", "l", "V", "W", "L") and not match["k"] and (
        match["u"] in "s" or match["n"].startswith("0")):  # fmt: skip
        return match[0]
    ends = re.match(r"\s*(?:[.,;)]|x\b|by\b|$)", match.string[match.end() :])
    if match["u"] == "in" and not match["dot"] and not ends:
        return match[0]
    one, *behind = unit.split(" per ")
    head, _, last = one.rpartition(" ")
    single = match["n"] == "1" or match["k"] == "-"
    last = last if single else PLURALS.get(last, last + "s")
    area = _AREAS.get(power, "")
    if behind and power:
        area, behind[-1] = "", behind[-1] + {"2": " squared", "²": " squared"}.get(power, " cubed")
    said = " ".join(filter(None, [counted(match["n"]), area + f"{head} {last}".strip()]))
    return " per ".join([said, *behind])


READINGS: dict[str, Callable[[str], str]] = {
    "cardinal": cardinal, "number": number, "counted": counted, "ordinal": ordinal, "year": year,
    "digits": digits, "groups": groups, "address": address, "money": money, "month": _month,
    "many": lambda c: _many(MONEY[c][0]), "scale": lambda s: SCALES[s.lower()],
    "several": lambda x: re.sub("y$", "ie", re.sub("six$", "sixe", number(x))) + "s",
    "cents": lambda n: "cent" if n == "1" else "cents",
    "degree": lambda n: "degree" if n == "1" else "degrees",
    "minutes": lambda m: f"oh {cardinal(m[1])}" if m[0] == "0" else cardinal(m),
    "plural": lambda d: re.sub("y$", "ies",
    cardinal(d) if d != "10" else "ten") + "s" * (d == "10"),
    "dotted": lambda x: " dot ".join(" ".join(map(_zero, group)) for group in x.split(".")),
    "points": lambda x: " point ".join(cardinal(group) for group in x.split(".")),
    "cardinals": lambda x: " ".join(cardinal(group) for group in x.split("/")),
    "day": lambda d: DAYS[d[:2]], "phone": phone, "spelt": " ".join, "upper": str.upper,
    "one": lambda c: MONEY[c][0],
    "period": lambda x: PERIODS.get(x, x), "joined": lambda x: re.sub(r"[ .]", "", x),
    "short_year": lambda y: year(("20" if int(y) < 50 else "19") + y),
    "out_of": lambda x: " out of ".join(map(cardinal, x.split("/"))),
    "signed": lambda x: x.replace("-", "minus "), "greek": lambda x: GREEK[x.lower()],
    "roman": lambda x: number(str(roman(x))), "roman_ordinal": lambda x: ordinal(str(roman(x))),
}  # fmt: skip
MATCH_READINGS: dict[str, Callable[[re.Match[str]], str]] = {
    "fraction": _fraction,
    "measure": _measure,
}
