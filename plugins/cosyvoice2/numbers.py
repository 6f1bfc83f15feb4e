"""Write numbers, dates, times, amounts and units in words, in Chinese and English.

English number words are num2words'; it has no Chinese.

A light stand-in for a real normaliser: it reads what is common in running text, and leaves what it
does not know as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from num2words import num2words

DIGITS = "零一二三四五六七八九"
MONTHS = (
    "January February March April May June July August September October November December"
).split()
UNITS_ZH = {
    "km": "千米", "kg": "千克", "cm": "厘米", "mm": "毫米", "ml": "毫升", "m": "米", "g": "克",
    "℃": "摄氏度", "°C": "摄氏度", "°": "度", "㎡": "平方米", "m²": "平方米", "m³": "立方米",
}  # fmt: skip
UNITS_EN = {
    "km": "kilometer", "kg": "kilogram", "cm": "centimeter", "mm": "millimeter",
    "ml": "milliliter", "mph": "miles per hour", "°C": "degrees Celsius", "℃": "degrees Celsius",
    "°F": "degrees Fahrenheit", "°": "degree",
}  # fmt: skip
MONEY = {
    "$": ("dollar", "cent", "美元"), "€": ("euro", "cent", "欧元"), "¥": ("yen", "", "元"),
    "£": ("pound", "penny", "英镑"), "￥": ("yuan", "", "元"),
}  # fmt: skip
"""Sign -> English name, its hundredth, Chinese name."""
LONGEST = 15
"""A run of more digits is read one by one, as a telephone number is."""

NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _plain(number: str) -> str:
    return number.replace(",", "")


def digits_zh(digits: str) -> str:
    """Read each digit by itself: 2024 -> 二零二四."""
    return "".join(DIGITS[int(d)] for d in digits)


def number_zh(number: str) -> str:
    """Write a number of any sign and size, with or without a decimal point."""
    number = _plain(number)
    if number[0] in "-−":
        return "负" + number_zh(number[1:])
    integer, _, part = number.partition(".")
    if part:
        return f"{number_zh(integer)}点{digits_zh(part)}"
    if len(integer) > LONGEST or (len(integer) > 1 and integer[0] == "0"):
        return digits_zh(integer)
    words = _integer_zh(int(integer))
    return words[1:] if words.startswith("一十") else words


def _integer_zh(value: int) -> str:
    """Write a number of 0 or more."""
    for size, name in ((10**12, "万亿"), (10**8, "亿"), (10**4, "万")):
        if value >= size:
            head, tail = divmod(value, size)
            gap = "零" if 0 < tail < size // 10 else ""
            return f"{_integer_zh(head)}{name}{gap}{_integer_zh(tail) if tail else ''}"
    for size, name in ((1000, "千"), (100, "百"), (10, "十")):
        if value >= size:
            head, tail = divmod(value, size)
            gap = "零" if 0 < tail < size // 10 else ""
            return f"{DIGITS[head]}{name}{gap}{_integer_zh(tail) if tail else ''}"
    return DIGITS[value]


def number_en(number: str) -> str:
    """Write a number of any sign and size, with or without a decimal point."""
    number = _plain(number)
    if number[0] in "-−":
        return f"minus {number_en(number[1:])}"
    integer, _, part = number.partition(".")
    if part:
        return f"{number_en(integer)} point {digits_en(part)}"
    if len(integer) > LONGEST or (len(integer) > 1 and integer[0] == "0"):
        return digits_en(integer)
    return _american(num2words(int(integer)))


def digits_en(digits: str) -> str:
    """Read each digit by itself: 2024 -> two zero two four."""
    return " ".join(num2words(int(d)) for d in digits)


def ordinal_en(number: str) -> str:
    """21 -> twenty-first."""
    if len(number) > LONGEST:
        return f"{digits_en(number[:-1])} {ordinal_en(number[-1])}"
    return _american(num2words(int(number), to="ordinal"))


def year_en(year: str) -> str:
    """1999 -> nineteen ninety-nine; 2005 -> two thousand five."""
    return _american(num2words(int(year), to="year")).replace("oh-", "oh ")


def _american(words: str) -> str:
    """Strip number words of the commas and the "and" of British usage."""
    return words.replace(",", "").replace(" and ", " ")


def _money_en(match: re.Match[str]) -> str:
    name, small, _ = MONEY[match["sign"]]
    amount, scale = _plain(match["number"]), match["scale"]
    plural = "s" if name not in ("yen", "yuan") else ""
    if scale:
        return f"{number_en(amount)} {scale} {name}{plural}"
    integer, _, part = amount.partition(".")
    words = f"{number_en(integer)} {name}{'' if int(integer) == 1 else plural}"
    if len(part) == 2 and int(part) and small:
        many = {"penny": "pence"}.get(small, f"{small}s") if int(part) > 1 else small
        cents = f"{number_en(str(int(part)))} {many}"
        return f"{words} and {cents}" if int(integer) else cents
    return f"{number_en(amount)} {name}{plural}" if part.strip("0") else words


def _time_en(match: re.Match[str]) -> str:
    hour, minute, half = number_en(match[1].lstrip("0") or "0"), match[2], match[3] or ""
    words = "" if minute == "00" else f" oh {number_en(minute[1])}" if minute[0] == "0" else (
        f" {number_en(minute)}")  # fmt: skip
    end = f" {half.replace('.', '').upper()}" if half else ("" if words else " o'clock")
    return f"{hour}{words}{end}"


def _unit_en(match: re.Match[str]) -> str:
    name = UNITS_EN[match["unit"]]
    many = _plain(match["number"]) != "1" and " " not in name
    return f"{number_en(match['number'])} {name}{'s' if many else ''}"


def _names(table: dict[str, str]) -> str:
    return "|".join(re.escape(name) for name in sorted(table, key=len, reverse=True))


_DATE = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_SIGN = r"(?P<sign>[$€£¥￥])\s?"
_SCALE = r"(?:\s(?P<scale>(?:thou|[mbtr]+illi)\w+))?"
_CLOCK = r"(?<!\d)([01]?\d|2[0-3]):([0-5]\d)(?!\d|:)(?:\s?([ap]\.m\.|[ap]m\b))?"
_YEAR = r"(?i:(?<=in )|(?<=since )|(?<=of )|(?<=, )|(?<=by ))(1[1-9]\d\d|20\d\d)(?![\d,.]\d|\d)"
_MINUS = rf"(?<![\w.])[-−](?=\d)({NUMBER})"
_SIGNED = rf"[-−]?(?:{NUMBER})"


def _rules(*pairs: tuple[str, Callable[[re.Match[str]], str]]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), say) for pattern, say in pairs)


_RANGE = r"(?<![\w.,/-])(\d+(?:\.\d+)?)\s?[-–~～]\s?(\d+(?:\.\d+)?)(?![\w/-]|[.,]\d)"
_VERSION = r"(?<![\d.])\d+(?:\.\d+){2,}(?![\d.]*\d)"

ENGLISH = _rules(
    (_DATE.pattern, lambda m: _date_en(m[1], m[2], m[3]) or m[0]),
    (r"(?<![\d.])(1\d|20)([1-9]0)'?s\b", lambda m: f"{number_en(m[1])} {_plural_en(m[2])}"),
    (_VERSION, lambda m: " point ".join(map(number_en, m[0].split(".")))),
    (_RANGE, lambda m: f"{_bound_en(m[1])} to {_bound_en(m[2])}"),
    (rf"{_SIGN}(?P<number>{NUMBER}){_SCALE}", _money_en),
    (rf"(?i:{_CLOCK})", _time_en),
    (r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: ordinal_en(m[1])),
    (rf"(?P<number>{NUMBER})\s?(?P<unit>{_names(UNITS_EN)})(?![A-Za-z])", _unit_en),
    (rf"({NUMBER})\s?%", lambda m: f"{number_en(m[1])} percent"),
    (_YEAR, lambda m: year_en(m[1])),
    (_MINUS, lambda m: f"minus {number_en(m[1])}"),
    (NUMBER, lambda m: number_en(m[0])),
)

CHINESE = _rules(
    (_DATE.pattern, lambda m: _date_zh(m[1], m[2], m[3])),
    (r"(?<!\d)(\d{4})(?=\s?年)", lambda m: digits_zh(m[1])),
    (r"(?<!\d)(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?!\d)", lambda m: _time_zh(m)),
    (rf"{_SIGN}(?P<number>{NUMBER})(?P<scale>[万亿]?)", lambda m: _money_zh(m)),
    (rf"({_SIGNED})\s?[%％]", lambda m: f"百分之{number_zh(m[1])}"),
    (
        rf"(?P<number>{_SIGNED})\s?(?P<unit>{_names(UNITS_ZH)})(?![A-Za-z])",
        lambda m: f"{number_zh(m['number'])}{UNITS_ZH[m['unit']]}",
    ),
    (r"(?<!\d)(\d+)/(\d+)(?!\d)", lambda m: f"{number_zh(m[2])}分之{number_zh(m[1])}"),
    (
        r"(?<![A-Za-z0-9_.,/-])(\d+(?:\.\d+)?)\s?[-–~～]\s?(\d+(?:\.\d+)?)(?![A-Za-z0-9_/-]|[.,]\d)",
        lambda m: f"{number_zh(m[1])}到{number_zh(m[2])}",
    ),
    (r"(?<![\d.])1\d{10}(?![\d.])", lambda m: digits_zh(m[0]).replace("一", "幺")),
    (_MINUS, lambda m: f"负{number_zh(m[1])}"),
    (NUMBER, lambda m: number_zh(m[0])),
)


def _plural_en(number: str) -> str:
    return re.sub("y$", "ie", number_en(number)) + "s"


def _bound_en(number: str) -> str:
    """One end of a range: four digits are a year."""
    return year_en(number) if re.fullmatch(r"1[1-9]\d\d|20\d\d", number) else number_en(number)


def _date_zh(year: str, month: str, day: str) -> str:
    return f"{digits_zh(year)}年{number_zh(str(int(month)))}月{number_zh(str(int(day)))}日"


def _money_zh(match: re.Match[str]) -> str:
    return f"{number_zh(match['number'])}{match['scale']}{MONEY[match['sign']][2]}"


def _date_en(year: str, month: str, day: str) -> str:
    if not 1 <= int(month) <= 12 or not 1 <= int(day) <= 31:
        return ""
    return f"{MONTHS[int(month) - 1]} {ordinal_en(str(int(day)))}, {year_en(year)}"


def _time_zh(match: re.Match[str]) -> str:
    hour, minute = number_zh(str(int(match[1]))), match[2]
    words = "整" if minute == "00" and not match[3] else (
        f"{'零' if minute[0] == '0' else ''}{number_zh(str(int(minute)))}分")  # fmt: skip
    second = f"{number_zh(str(int(match[3])))}秒" if match[3] else ""
    return f"{hour}点{words}{second}"


def spell(text: str, language: str) -> str:
    """Write numbers in words; ``language`` is "zh" or "en", any other changes nothing.

    "3.14" is one number and "1,234" another.
    """
    if language == "en":
        # "v2" is two words
        text = re.sub(r"(?<=[A-Za-z])(?=\d)", " ", text)
    for pattern, say in {"zh": CHINESE, "en": ENGLISH}.get(language, ()):
        text = pattern.sub(say, text)
    return text
