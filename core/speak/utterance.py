"""What is spoken in one go: a piece of text, its ids, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wishbone.core.contract.text import Tokenizer
from wishbone.core.speak.arriving_text import Arriving, arriving
from wishbone.core.system.system import System

Text = str | Iterable[str]


@dataclass
class Utterance:
    """One piece of text and what became of it; filled while it is spoken."""

    text: str = ""
    ids: Sequence[int] = ()
    codes: list[tuple[int, ...]] = field(default_factory=list)
    """Frames [T][Q] in the order they were drawn."""
    global_codes: Sequence[int] = ()
    """Codes of the whole utterance, where the layout tells them."""
    reason: str = ""
    """Why it is over, as in ``Stop``; empty while it is not."""
    cut_words: int = 0
    """Words that the length rule ended and not the model, before the last."""


def utterances(system: System, text: Text) -> Iterator[tuple[Utterance, Iterable[Sequence[int]]]]:
    """What is spoken in one go, with its ids: all at once, or as they arrive where that helps."""
    patient = type(system.tokenizer).settled is Tokenizer.settled
    if isinstance(text, str) or patient or not system.layout.alternates:
        for said, ids in system.tokenizer.pieces(text):
            yield Utterance(said, ids), [ids]
        return
    for sentence in arriving(text, system.tokenizer):
        utterance = Utterance()
        yield utterance, _note(utterance, sentence)


def _note(utterance: Utterance, sentence: Arriving) -> Iterator[Sequence[int]]:
    """The ids of a sentence as they arrive, written down in what is spoken."""
    for ids in sentence:
        utterance.text, utterance.ids = sentence.text, list(sentence.ids)
        yield ids
