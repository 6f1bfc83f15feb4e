"""Cutting a text of any length into pieces to speak one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from wishbone.core.contract.tags import MARK

MOST_IDS = 160
"""Ids in one piece: about ten seconds of speech, the length the bundled voices trained on."""

MOST_CHARACTERS = 2 * MOST_IDS
"""A piece longer than this is cut before it is encoded; few texts need over two letters an id."""

PIECE_END = "\u2029"
"""Unicode's paragraph separator: ends a sentence at once, whatever stands around it."""

STOPS = ".!?…"
WIDE_STOPS = "。！？"
"""Stops of a script that writes without blanks."""
CLOSING = "\"'”’»)]」』）"

# a run of stops with the quotes and brackets that close with it, or the end of a line, each with
# the blank behind it and up to the next character; possessive, so that each is looked at once
BOUNDARY = re.compile(
    rf"""(?P<end>{PIECE_END})
    | (?<![{STOPS}{WIDE_STOPS}])(?P<stop>[{STOPS}{WIDE_STOPS}]++)
      (?P<close>["'”’»)\]」』）]*+)(?P<gap>[^\S{PIECE_END}]*+)(?=[\S{PIECE_END}])
    | (?<=\S)(?P<line>[^\S\n{PIECE_END}]*+\n[^\S{PIECE_END}]*+)(?=[\S{PIECE_END}])""",
    re.VERBOSE,
)

TITLES = frozenset(
    "mr mrs ms dr prof st capt col gen lt sgt maj cmdr rev hon messrs mme mlle mt ft gov sen rep "
    "pres supt insp pvt cpl adm fr sr v viz e.g i.e vs cf a.k.a approx assoc asst atty".split()
)
"""Abbreviations: their full stop ends no sentence."""

STREETS = frozenset("st dr".split())
"""Titles that end a name, too: "on Oak Dr. They", "Washington St. The"."""

BEFORE_NUMBERS = frozenset(
    "no nos p pp vol vols ch chap fig figs sec art par eq ex tab pt bk rt apt ext tel est ca jan "
    "feb mar apr jun jul aug sep sept oct nov dec ste rs mon tue tues wed thu thur thurs fri "
    "c".split()
)
"""Abbreviations in front of a number: "No. 5" goes on, "He said no. Then" does not."""

BEFORE_ROMAN = frozenset("vol vols chap fig pt bk".split())
"""Those of them with Roman numerals behind them: "Vol. II"."""

GOES_ON = {
    "co": ("Ltd", "Inc", "Limited", "KG"),
    **dict.fromkeys(
        "mon tue tues wed thu thur thurs fri sat sun".split(),
        tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()),
    ),
}
"""Abbreviations whose full stop ends no sentence in front of these words: "Thurs. Nov. 3"."""

LETTERED = frozenset(
    "plan vitamin option group section grade type appendix exhibit part figure table class room "
    "gate hepatitis terminal platform step point question answer case team block building level "
    "unit schedule line track side model version and or to letter influenza item column row".split()
)
"""Words in front of a letter that is no initial: the stop of "Plan B." ends a sentence."""

OPENERS = frozenset(
    "the then it he she we they i but and so if in this that these those there what when where "
    "who why how is are was were do did does can could my your his her our their a an as at for "
    "from on to not no yes you or let please after before now next all also some here however "
    "while because although maybe perhaps thus still yet later with without by each every most "
    "many nothing".split()
)
"""Words that begin a sentence behind a letter or "U.S.", where a name would go on."""

SHORT_LINE = 50
"""A line below this is a heading or an item, not one that was broken where the page ends."""

LAST_WORD = re.compile(r"[^\s\"'“‘«(\[—–]+$")
LONGEST_WORD = 40
SHORT_WORD = re.compile(r"[A-Z][a-z]")
INITIALS = re.compile(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
NUMBERED = re.compile(r"\s*\d{1,3}(?:[.)]\s|\.(?=[A-Z]))")
LETTERED_ITEM = re.compile(r"\(?(?:[A-Za-z]|[ivx]{1,4})\)\s")
LONGEST_ITEM = 8
"""Characters after which it is certain whether an item of a list begins: "(xiii) " has seven."""

_BLANKS = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c != PIECE_END)
_OPEN = _BLANKS + STOPS + WIDE_STOPS + CLOSING
"""Characters at the end of a text that belong to what follows, too."""
_WORD = re.compile(r"\S++")

# places to cut a long sentence at, best first
BREAKS = (
    re.compile(r"[;:—–…](?!\d)\s*|\.\s+"),
    re.compile(r"[,，、)](?!\d)\s*"),
    re.compile(r"\s+"),
)


def sentences(text: str | Iterable[str]) -> Iterator[str]:
    """Yield the sentences of a text, which may arrive in parts.

    A sentence is yielded as soon as what follows tells that it has ended, mostly with the first
    character after it; sentences do not depend on the way the text is split into parts.
    """
    arrived = ArrivedText()
    for piece in [text] if isinstance(text, str) else text:
        arrived.add(piece)
        yield from _complete(arrived)
    arrived.closed = True
    yield from _complete(arrived)
    if sentence := tidy(arrived.take(None)):
        yield sentence


def _complete(arrived: ArrivedText) -> Iterator[str]:
    while (end := arrived.boundary()) is not None:
        if sentence := tidy(arrived.take(end)):
            yield sentence


class ArrivedText:
    """Text that has arrived and was not taken yet; every character is looked at once or twice."""

    def __init__(self) -> None:
        self.closed = False
        self._text = ""
        self._begin = 0
        self._seen = 0  # no sentence ends before this position
        self._column = 0  # characters of the line in front of the text
        self._undecided = True

    def __len__(self) -> int:
        return len(self._text) - self._begin

    def head(self, end: int | None = None) -> str:
        """The first ``end`` characters that wait, all with None."""
        return self._text[self._begin : None if end is None else self._begin + end]

    def add(self, piece: str) -> None:
        """Append what has arrived."""
        # a run of stops is looked at when it is over: behind a blank, or at another character
        over = (
            piece.strip(_OPEN) or piece.strip() and any(map(str.isspace, self._text[-1:] + piece))
        )
        self._undecided = self._undecided or bool(over)
        if self._begin:
            self._drop()
        self._text += piece

    def boundary(self) -> int | None:
        """Count the characters of the first sentence and the blank behind it; None: not known."""
        if not (self._undecided or self.closed):
            return None
        for match in BOUNDARY.finditer(self._text, self._seen):
            ends = self._ends(match)
            if ends is None:
                return None
            # what is decided stays so, and the run of stops is not looked at again
            self._seen = match.end()
            if ends:
                return match.end() - self._begin
        self._seen = max(self._seen, len(self._text.rstrip(_OPEN)))
        self._undecided = False
        return None

    def take(self, end: int | None) -> str:
        """Remove the first ``end`` characters, all with None."""
        stop = len(self._text) if end is None else self._begin + end
        piece = self._text[self._begin : stop]
        lines, last = piece.rpartition("\n")[1:]
        self._column = len(last) if lines else self._column + len(last)
        self._begin, self._seen = stop, max(self._seen, stop)
        self._undecided = True
        return piece

    def put_back(self, text: str) -> None:
        """Put ``text`` in front of what waits."""
        self._text = text + self._text[self._begin :]
        self._begin = self._seen = 0
        self._undecided = True

    def _drop(self) -> None:
        self._text = self._text[self._begin :]
        self._seen -= self._begin
        self._begin = 0

    def _ends(self, match: re.Match[str]) -> bool | None:
        """Decide on a boundary; None where the next word must arrive first."""
        if match["end"]:
            return True
        follows = self._text[match.end()]
        if follows == PIECE_END:
            return False
        gap = match["gap"] if match["stop"] else match["line"]
        line_ends = gap.count("\n") > 1 or "\n" in gap and self._ends_line(match, follows)
        if line_ends is None:
            return None
        if line_ends:
            return not (match["stop"] == "." and gap.count("\n") == 1 and self._is_title(match))
        return self._ends_sentence(match, follows) if match["stop"] else False

    def _ends_line(self, match: re.Match[str], follows: str) -> bool | None:
        """Tell if a line ends a heading or an item of a list; None where more must arrive."""
        position = match.start()
        if follows in "-*•–—+#>|":
            return True
        begin = self._text.rfind("\n", self._begin, position) + 1
        column = 0 if begin else self._column
        begin = max(begin, self._begin)
        if follows.isdigit() and not column and NUMBERED.match(self._text, begin, position):
            return True
        if not column and LETTERED_ITEM.match(self._text, begin, position):
            if not self.closed and len(self._text) < match.end() + LONGEST_ITEM:
                return None
            if LETTERED_ITEM.match(self._text, match.end()):
                return True
        return column + position - begin < SHORT_LINE and not follows.islower()

    def _ends_sentence(self, match: re.Match[str], follows: str) -> bool | None:
        stop, text = match["stop"], self._text
        if any(mark in WIDE_STOPS for mark in stop):
            return True
        if not match["gap"]:
            return follows.isupper() and not match["close"] and self._lacks_blank(match)
        if follows.islower():
            return False
        if stop != ".":
            return True
        word, lead = self._words_before(match)
        low = word.lower()
        if low in TITLES:
            return low in STREETS and lead[:1].isupper() and lead[-1:].isalpha()
        if low in GOES_ON and follows in "".join(word[0] for word in GOES_ON[low]):
            if not self.closed and len(text) < match.end() + LONGEST_ITEM:
                return None
            return not text.startswith(GOES_ON[low], match.end())
        if low in BEFORE_NUMBERS and word != "C":
            return not (follows.isdigit() or low in BEFORE_ROMAN and follows in "IVX")
        if word.isdigit() and self._starts_line(match.start() - len(word)):
            return False
        if INITIALS.fullmatch(word) and word != "I":
            return True if lead.lower() in LETTERED and len(word) == 1 else self._opens(match.end())
        return True

    def _lacks_blank(self, match: re.Match[str]) -> bool | None:
        """Tell if a sentence ends at a stop that a capital follows at once: "Hello!How"."""
        begin = max(self._begin, match.start() - 3)
        before = self._text[begin : match.start()]
        if match["stop"] != ".":
            return before[-1:].isalpha()
        if before[-2:].islower() and before[-2:].isalpha() and len(before) > 1:
            return True
        word = before[-2:]
        if not SHORT_WORD.fullmatch(word) or before[:-2].isalnum() or word.lower() in TITLES:
            return False
        if match.end() + 1 == len(self._text) and not self.closed:
            return None
        return self._text[match.end() + 1 : match.end() + 2].islower()

    def _is_title(self, match: re.Match[str]) -> bool:
        return self._words_before(match)[0].lower() in TITLES

    def _words_before(self, match: re.Match[str]) -> tuple[str, str]:
        """The word in front of a stop, and the one before it unless that begins the sentence."""
        near = self._text[max(self._begin, match.start() - 2 * LONGEST_WORD) : match.start()]
        last = LAST_WORD.search(near[-LONGEST_WORD:])
        word = last[0] if last else ""
        others = near[: len(near) - len(word)].split()
        plain = word.lower() in STREETS
        return word, others[-1] if len(others) > plain else ""

    def _starts_line(self, position: int) -> bool:
        begin = self._text.rfind("\n", self._begin, position) + 1
        column = 0 if begin else self._column
        return not column and not self._text[max(begin, self._begin) : position].strip()

    def _opens(self, position: int) -> bool | None:
        """Tell if the word at ``position`` begins a sentence; None until all of it has arrived."""
        word = _WORD.match(self._text, position)
        assert word is not None
        if word.end() == len(self._text) and not self.closed and len(word[0]) < LONGEST_WORD:
            return None
        return word[0].lower().rstrip(",") in OPENERS


def speakable(
    text: str | Iterable[str], encode: Callable[[str], list[int]], most: int = MOST_IDS
) -> Iterator[tuple[str, list[int]]]:
    """Yield pieces of a text with their ids: sentences, and parts of those with too many ids.

    ``most`` is the number of ids above which a sentence is cut. Pieces without ids are left out.
    """
    for sentence in sentences(text):
        yield from _fit(sentence, encode, most)


def tidy(text: str) -> str:
    """Replace each run of blanks and line breaks by one blank; none at the ends."""
    return " ".join(text.split())


def _fit(
    text: str, encode: Callable[[str], list[int]], most: int, cuts: int = 0
) -> Iterator[tuple[str, list[int]]]:
    """Yield the parts of a sentence; it is known to be cut in two ``cuts`` times, unasked."""
    ids = encode(text) if len(text) <= MOST_CHARACTERS and not cuts else None
    if ids is not None and len(ids) <= most or len(text) == 1:
        ids = encode(text) if ids is None else ids
        if ids:
            yield text, ids
        return
    if ids is not None:
        # halves of more than four times too much are too much, too: reading them costs as often
        cuts = (len(ids) // most).bit_length() - 1
    cut = best_cut(text)
    for half in (text[:cut].strip(), text[cut:].strip()):
        if half:
            yield from _fit(half, encode, most, max(cuts - 1, 0))


def best_cut(text: str) -> int:
    """Return the index at which to cut a text in two: the best break in its middle half."""
    middle = len(text) / 2
    tags = [match.span() for match in MARK.finditer(text)]
    for breaks in BREAKS:
        places = [match.end() for match in breaks.finditer(text)]
        places = [place for place in places if not any(a < place < b for a, b in tags)]
        inside = [place for place in places if abs(place - middle) <= middle / 2]
        if inside:
            return min(inside, key=lambda place: abs(place - middle))
    return len(text) // 2
