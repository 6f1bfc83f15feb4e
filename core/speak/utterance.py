"""Utterances: the pieces of a text that are spoken one after another, each with its ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wishbone.core.contract.text import Tokenizer
from wishbone.core.speak.arriving_text import ArrivingSentence, arriving
from wishbone.core.system.system import System

Text = str | Iterable[str]
"""A text, or the pieces of one that arrives."""


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
    redraws: list[str] = field(default_factory=list)
    """What was wrong each time it was drawn before, in the words of ``trouble``."""
    trouble: str = ""
    """What is wrong with it: "too short", "silent", "repeats", "never stopped", or nothing."""

    def begin_again(self) -> None:
        """Forget what was drawn for the same text."""
        self.codes.clear()
        self.global_codes, self.reason, self.cut_words = (), "", 0


def utterances(system: System, text: Text) -> Iterator[tuple[Utterance, Iterable[Sequence[int]]]]:
    """Cut a text into utterances, each with its ids in pieces as they are to be fed.

    The ids of an utterance come in one piece. Only where text arrives, the layout speaks before
    all of it is known, and the tokenizer can tell which ids are certain, they come one by one.
    """
    # a tokenizer that inherits ``settled`` is certain of whole sentences only
    whole_sentences = type(system.tokenizer).settled is Tokenizer.settled
    if isinstance(text, str) or whole_sentences or not system.layout.alternates:
        for piece, ids in system.tokenizer.pieces(text):
            yield Utterance(piece, ids), [ids]
        return
    for sentence in arriving(text, system.tokenizer):
        utterance = Utterance()
        yield utterance, _record_ids(utterance, sentence)


def _record_ids(utterance: Utterance, sentence: ArrivingSentence) -> Iterator[Sequence[int]]:
    """Ids of a sentence as they arrive, each also put into ``utterance``."""
    for ids in sentence:
        utterance.text, utterance.ids = sentence.text, list(sentence.ids)
        yield ids
