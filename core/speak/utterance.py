"""Utterances: the pieces of a text that are spoken one after another, each with its ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wishbone.core.contract.errors import UsageError, WishboneError
from wishbone.core.contract.session import WordEnd
from wishbone.core.contract.text import TextSpace, Tokenizer, split_words
from wishbone.core.speak.arriving_text import ArrivingSentence, arriving
from wishbone.core.system.system import System

Text = str | Iterable[str]
"""A text, or the pieces of one that arrives."""
TextIds = Iterable[Sequence[int]]
"""Ids of a piece of text, in the parts in which they arrive."""


@dataclass(frozen=True)
class SpokenWord:
    """A word and its place in the audio, in seconds from the beginning of all of it.

    ``end`` is where its last code ends, to 40 ms or what a code lasts; ``begin`` the end of the
    word before, or the begin of its piece. So a pause belongs to the word before it.
    """

    word: str
    """As it is spoken: numbers and abbreviations are words already."""
    begin: float
    end: float
    estimated: bool = False
    """True where the layout drew no end, and the time is shared out by the words' ids."""


@dataclass
class Utterance:
    """One piece of text and the codes that were drawn for it; filled while it is spoken."""

    text: str = ""
    ids: Sequence[int] = ()
    codes: list[tuple[int, ...]] = field(default_factory=list)
    """Frames [T][Q] in the order they were drawn."""
    global_codes: Sequence[int] = ()
    """Codes of the whole utterance, where the layout sets them."""
    reason: str = ""
    """The reason of its ``Stop``; empty while it is not over."""
    cut_words: int = 0
    """Number of words that the length rule ended and not the model, the last word aside."""
    log_probability: float = 0.0
    """Mean log p of its codes in nats, as the model gives it without temperature and filters."""
    redraws: list[str] = field(default_factory=list)
    """What was wrong each time it was drawn before, in the words of ``trouble``."""
    trouble: str = ""
    """What is wrong with it: "too short", "silent", "repeats", "never stopped", or nothing."""

    begin: float = 0.0
    """Seconds of audio before it."""
    word_ends: list[WordEnd] = field(default_factory=list)
    """Ends of its words, where the layout knows them."""
    rate: float = 0.0
    """Code frames per second."""
    tokenizer: Tokenizer | None = field(default=None, repr=False, compare=False)
    """Reads its words."""

    @property
    def words(self) -> list[SpokenWord]:
        """Its words with their times; none where the layout does not know them (``times_words``).

        Where the tokenizer has no words for the text, they are what it reads the ids as.
        """
        if not self.word_ends or self.tokenizer is None:
            return []
        groups = split_words(self.ids, self.tokenizer.space.word_ends)
        names = [word.spelling for word in self.tokenizer.words(self.text) or ()]
        if len(names) != len(groups):
            names = [self.tokenizer.decode(ids).strip() for ids in groups]
        times = [self.begin + end.frames / self.rate for end in self.word_ends]
        begins = [self.begin, *times[:-1]]
        guesses = [not end.drawn for end in self.word_ends]
        return [SpokenWord(*parts) for parts in zip(names, begins, times, guesses, strict=False)]

    def begin_again(self) -> None:
        """Forget what was drawn for the same text."""
        self.take_over(Utterance())

    def take_over(self, draft: Utterance) -> None:
        """Take the place of what was drawn by ``draft``, another draw of the same text."""
        self.codes, self.global_codes = draft.codes, draft.global_codes
        self.reason, self.cut_words, self.word_ends = draft.reason, draft.cut_words, draft.word_ends
        self.log_probability = draft.log_probability


def utterances(system: System, text: Text) -> Iterator[tuple[Utterance, TextIds]]:
    """Cut a text into utterances, each with its ids in pieces as they are to be fed.

    The ids of an utterance come in one piece. Only where text arrives, the layout speaks before
    all of it is known, and the tokenizer can tell which ids are certain, they come one by one.
    Raises ``UsageError`` where nothing in the text can be spoken.
    """
    nothing = True
    for piece in _cut(system, text):
        nothing = False
        yield piece
    if nothing:
        what = "Nothing in the text can be spoken."
        raise UsageError(what, "the text given", "Give at least one word or number.")


def _cut(system: System, text: Text) -> Iterator[tuple[Utterance, TextIds]]:
    """Cut a text into utterances, none where nothing in it can be spoken."""
    text = text if isinstance(text, str) else _checked(text)
    text = without_controls(text, system.tokenizer.space)
    # a tokenizer that inherits ``settled`` is certain of whole sentences only
    whole_sentences = type(system.tokenizer).settled is Tokenizer.settled
    if isinstance(text, str) or whole_sentences or not system.layout.alternates:
        for piece, ids in system.tokenizer.pieces(text):
            yield Utterance(piece, ids, tokenizer=system.tokenizer), [ids]
        return
    for sentence in arriving(text, system.tokenizer):
        utterance = Utterance(tokenizer=system.tokenizer)
        yield utterance, _record_ids(utterance, sentence)


def _checked(source: Iterable[str]) -> Iterator[str]:
    """Pass on the pieces of a text; raises ``UsageError`` for no text, or a failing source."""
    where = f"the source of the text, a {type(source).__name__}"
    try:
        for piece in source:
            if not isinstance(piece, str):
                raise UsageError(
                    f"A piece of the text is {type(piece).__name__}, not str.",
                    where,
                    "Let it yield str alone, such as bytes decoded as UTF-8.",
                )
            yield piece
    except (WishboneError, GeneratorExit):
        raise
    except Exception as error:
        raise UsageError(
            f"The source of the text failed: {type(error).__name__}: {error}.",
            where,
            "Correct what makes the text.",
        ) from error


def controls(space: TextSpace) -> list[str]:
    """Specials that steer a model, such as ``<|endofprompt|>``; tags to speak are no controls."""
    return [name for name in space.specials if name.startswith("<|") and name.endswith("|>")]


def without_controls(text: Text, space: TextSpace) -> Text:
    """``text`` with a blank in the place of each control: who writes a text steers no model."""
    names = controls(space)
    if not names:
        return text
    pattern = re.compile("|".join(map(re.escape, names)))
    if isinstance(text, str):
        return pattern.sub(" ", text)
    return _arriving_without(text, pattern, names)


def _arriving_without(
    pieces: Iterable[str], pattern: re.Pattern[str], names: Sequence[str]
) -> Iterator[str]:
    """Pieces of a text without controls; what may become one waits for what follows."""
    beginnings = {name[:size] for name in names for size in range(1, len(name))}
    longest, waiting = max(map(len, beginnings)), ""
    for piece in pieces:
        waiting = pattern.sub(" ", waiting + piece)
        sizes = range(min(longest, len(waiting)), 0, -1)
        hold = next((size for size in sizes if waiting[-size:] in beginnings), 0)
        ready, waiting = waiting[: len(waiting) - hold], waiting[len(waiting) - hold :]
        if ready:
            yield ready
    if waiting:
        yield waiting


def _record_ids(utterance: Utterance, sentence: ArrivingSentence) -> Iterator[Sequence[int]]:
    """Ids of a sentence as they arrive, each also put into ``utterance``."""
    for ids in sentence:
        utterance.text, utterance.ids = sentence.text, list(sentence.ids)
        yield ids
