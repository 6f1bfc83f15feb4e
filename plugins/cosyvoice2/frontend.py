"""Turn text as it is written into pieces as they are spoken, the way CosyVoice2 expects them.

The rules are those of cosyvoice/cli/frontend.py and cosyvoice/utils/frontend_utils.py, except where
they lose or garble text; ``README.md`` names each difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from wishbone.core.contract.errors import ConfigError, MissingExtra
from wishbone.core.contract.sentences import best_cut, sentences
from wishbone.core.contract.tags import MARK
from wishbone.plugins.cosyvoice2.numbers import spell

PLAIN = re.compile(r"(?:[A-Z]?[a-z]+(?:'[a-z]+)?|[IAa]),?")
"""A word that no normaliser changes, whatever stands around it, if ..."""
APART = 2
"""... so many such words stand between it and anything else: in "5 May" a word belongs to a number,
and which letters there are decides the language."""

HAN = re.compile(r"[\u4e00-\u9fff]")
KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
LETTER = re.compile(r"[^\W\d_]")
STOPS = {"zh": "。？！；：、.?!;", "en": ".?!;:"}
CLOSERS = "\"'”’»」』)）】》"
"""A quote or bracket after a stop stays with the sentence that it ends."""

ABBREVIATIONS = frozenset("mr mrs ms dr prof st vs jr sr no e.g i.e etc approx".split())
NORMALISERS = ("auto", "wetext", "builtin", "none")
LONGEST = 2
"""A piece this many times ``most`` is cut where no stop is, as nothing else bounds it."""


class FrontEnd:
    """Normalises and splits. Raises ``ConfigError`` for limits or a normaliser that make no sense.

    ``most``, ``least`` and ``merge`` are letters in Chinese and ids in other languages, ``mark`` is
    the form of what is left as it is written.
    """

    def __init__(
        self, normaliser: str, most: int, least: int, merge: int, mark: re.Pattern[str] = MARK
    ) -> None:
        if normaliser not in NORMALISERS:
            raise ConfigError(
                f"{normaliser!r} is not a normaliser.",
                "tokenizer.normaliser",
                f"Write {', '.join(NORMALISERS[:-1])} or {NORMALISERS[-1]}.",
            )
        if not 0 <= merge <= least <= most:
            raise ConfigError(
                f"The lengths of pieces contradict each other: {merge}, {least}, {most}.",
                "tokenizer.merge, tokenizer.least and tokenizer.most",
                "Let them rise.",
            )
        self._mark = mark
        self._normaliser, self._most, self._least, self._merge = normaliser, most, least, merge

    def normalise(self, text: str) -> str:
        """Write ``text`` as it is spoken: numbers in words, signs that nobody speaks removed."""
        if self._normaliser == "none":
            return text.strip()
        language = language_of(self._mark.sub(" ", text))
        text = _join_lines(text.strip())
        parts = re.split(f"({self._mark.pattern})", text)
        spoken = [
            part if index % 2 else self._words(part, language) for index, part in enumerate(parts)
        ]
        text = "".join(spoken)
        return tidy_chinese(text) if language == "zh" else " ".join(text.split())

    def unchanged(self, text: str) -> int:
        """Count the first characters of ``text`` that stay as they are, whatever follows."""
        if self._normaliser == "none":
            return len(text)
        ends = []
        for word in re.finditer(r"\S+", text):
            bare = self._mark.sub("", word[0])
            if bare and not PLAIN.fullmatch(bare):
                break
            ends.append(word.end())
        return ends[-1 - APART] if len(ends) > APART else 0

    def close(self, sentence: str) -> str:
        """Normalise a complete sentence, with a stop at its end; empty where it says nothing."""
        spoken = self.normalise(sentence)
        if not any(map(str.isalnum, spoken)):
            return ""
        return _end(spoken, language_of(self._mark.sub(" ", spoken)) == "zh")

    def pieces(
        self, text: str | Iterable[str], encode: Callable[[str], list[int]]
    ) -> Iterator[str]:
        """Cut a text into pieces, in order, none of them mere punctuation.

        A complete text is packed into pieces of even length, paragraph by paragraph; text that
        still arrives is returned sentence by sentence.
        """
        complete = isinstance(text, str)
        for part in re.split(r"\n\s*\n", text) if complete else sentences(text):
            stopped = self.close(part)
            if not stopped:
                continue
            chinese = language_of(self._mark.sub(" ", stopped)) == "zh"
            size = len if chinese else lambda piece: len(encode(piece))
            packed = self._pack(cut(stopped, "zh" if chinese else "en"), size)
            for piece in packed if complete else [stopped]:
                for short in self._shorten(piece, size):
                    if any(map(str.isalnum, short)):
                        yield short

    def _words(self, text: str, language: str) -> str:
        """Normalise a stretch without marks."""
        if language not in STOPS or not any(map(str.isalnum, text)):
            return text
        machine = _wetext(language) if self._normaliser in ("auto", "wetext") else None
        if machine is None and self._normaliser == "wetext":
            raise MissingExtra(
                "The normaliser 'wetext' is not installed.",
                "tokenizer.normaliser",
                "pip install 'wishbone-tts[cosyvoice2]', or use normaliser: builtin.",
            )
        return spell(_normalised(text, machine) if machine else text, language)

    def _pack(self, parts: list[str], size: Callable[[str], int]) -> list[str]:
        """Pack sentences into pieces; one begins when the last would get too long."""
        packed: list[str] = []
        row = ""
        for part in parts:
            if size(row) > self._least and size(row + part) > self._most:
                packed.append(row)
                row = ""
            row += part
        if packed and size(row) < self._merge:
            packed[-1] += row
        elif row:
            packed.append(row)
        return [piece.strip() for piece in packed]

    def _shorten(self, piece: str, size: Callable[[str], int]) -> Iterator[str]:
        """Halve a piece until it is short enough to speak in one go."""
        if len(piece) < 2 or size(piece) <= LONGEST * self._most:
            yield piece
            return
        place = best_cut(piece)
        for half in (piece[:place].strip(), piece[place:].strip()):
            if half:
                yield from self._shorten(half, size)


def language_of(text: str) -> str:
    """ "zh", "en" or "" for what neither normaliser is made for: Japanese, Korean, Cyrillic, ..."""
    if KANA_OR_HANGUL.search(text):
        return ""
    if HAN.search(text):
        return "zh"
    letters = LETTER.findall(text)
    latin = sum(letter < "\u0250" for letter in letters)
    return "en" if 2 * latin >= len(letters) else ""


def tidy_chinese(text: str) -> str:
    """Remove signs that are not spoken and blanks, and turn ASCII stops into Chinese ones."""
    text = re.sub(r"\s+[-–—]\s+", "，", text)
    text = text.replace("²", "平方").replace("³", "立方")
    text = re.sub(r"(?<=[^\x00-\x7f])\.(?![\w.])|(?<=\w)\.(?=[^\x00-\x7f]|\s|$)", "。", text)
    text = re.sub(r"[（）【】`]", "", text).replace("——", " ")
    # a blank stays between ASCII letters only
    text = re.sub(r"(?<![\x21-\x7e])\s+|\s+(?![\x21-\x7e])", "", text)
    return re.sub(r"[，,、]+$", "。", text)


def cut(text: str, language: str) -> list[str]:
    """Cut after every stop that ends something; the parts in a row are the text again.

    A point or colon inside a number, a name or a time is none, nor one after an abbreviation.
    """
    stops, parts, begin = STOPS[language], [], 0
    for match in re.finditer(f"[{re.escape(stops)}]+[{re.escape(CLOSERS)}]*", text):
        if not _inside(text, match):
            parts.append(text[begin : match.end()])
            begin = match.end()
    return [*parts, text[begin:]] if begin < len(text) else parts


def _inside(text: str, match: re.Match[str]) -> bool:
    """Tell whether a stop is a part of a number, a name, a time or an abbreviation."""
    if match[0] not in (".", ":"):
        return False
    after = text[match.end() : match.end() + 1]
    if after.isascii() and after.isalnum():
        return True
    before = re.search(r"[\w.]+$", text[: match.start()], re.ASCII)
    word = before[0].lower() if before else ""
    return match[0] == "." and (
        word in ABBREVIATIONS or bool(re.fullmatch(r"(?:\w\.)*[a-z]", word))
    )


def _normalised(text: str, machine: Any) -> str:
    """Normalise by wetext, but leave blanks at the edges; return ``text`` itself where it fails."""
    body = text.strip()
    begin = text.index(body)
    try:
        spoken = machine.normalize(body)
    except Exception:
        # it asserts where its grammar finds nothing to say; the built-in rules still follow
        return text
    if "\\" not in body:
        spoken = spoken.replace('\\"', '"')
    return text[:begin] + spoken + text[begin + len(body) :]


def _end(text: str, chinese: bool) -> str:
    """Add a stop at the end of ``text`` where there is none."""
    bare = text.rstrip(CLOSERS)
    if bare and bare[-1] in STOPS["zh"] + STOPS["en"] + "…":
        return text
    wide = chinese or bool(KANA_OR_HANGUL.search(bare[-1:]) or HAN.search(bare[-1:]))
    return text + ("。" if wide else ".")


def _join_lines(text: str) -> str:
    """Join the lines of a paragraph; between two of Chinese letters a comma, elsewhere a blank."""
    text = re.sub(rf"(?<={HAN.pattern})[^\S\n]*\n\s*(?={HAN.pattern})", "，", text)
    return re.sub(r"\s*\n\s*", " ", text)


@cache
def _wetext(language: str) -> Any | None:
    """Load the normaliser of the package wetext (the runtime of WeTextProcessing), if installed."""
    try:
        from wetext import Normalizer
    except ImportError:
        return None
    return Normalizer(lang=language, operator="tn", remove_erhua=False)
