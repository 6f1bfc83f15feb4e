"""The contracts: what a part must be so that any other part can stand beside it.

A system is six parts in a row, and one text goes through them from top to bottom::

    Tokenizer        text -> ids
    SpeechTokenizer  prompt audio -> codes
    Layout           ids, codes -> positions          (which table, which row, what to predict)
    Backbone         vectors -> hidden vectors, state
    Head             codes -> vectors, hidden vectors -> logits over codes
    Decoder          codes -> audio

Every part carries a nested dataclass ``Config``: the schema of its slot in the YAML file.
Letters (B, T, D, Q, X, S) are defined in ``wishbone.core``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.part import Part
from wishbone.core.contract.session import LayoutSession

IGNORE = -100
"""Target of a position that predicts nothing; PyTorch's cross entropy skips this number."""


@dataclass(frozen=True)
class Sample:
    """One utterance as a layout sees it in training."""

    text: Sequence[int]
    """Ids of the text."""
    speech: Sequence[Sequence[int]]
    """Codes [T][Q]."""
    word_ends: Sequence[int] = ()
    """For each word of ``text``, the number of code frames spoken when it ends; may be empty."""
    global_codes: Sequence[int] = ()
    """Codes [G] of the utterance as a whole, where the codec has them."""
    instruct: Sequence[int] = ()
    """Ids of an instruction or of properties under which it was spoken; may be empty."""
    prompt: Prompt | None = None
    """The speech before it: given, as at a request's start, and never predicted."""
    anonymous: bool = False
    """Nothing says who speaks: codes of the whole utterance and marks of speakers stay away."""


@dataclass(frozen=True)
class Positions:
    """A laid-out sequence of T positions. ``tables`` names are those of ``Layout.tables``."""

    table: Tensor
    """[T] int64, index into ``Layout.tables``; ``Layout.SPEECH`` means the head's table."""
    ids: Tensor
    """[T, Q] int64 row in that table (text and marker positions repeat one row)."""
    targets: Tensor
    """[T, Q] int64 what the head must say here, or ``IGNORE``."""


@dataclass(frozen=True)
class Prompt:
    """Conditioning in front of the text to speak. All of it may be empty."""

    text: Sequence[int] = ()
    """Ids of what the prompt audio says."""
    speech: Sequence[Sequence[int]] = ()
    """Codes [T][Q] of the prompt audio."""
    word_ends: Sequence[int] = ()
    """As in ``Sample``, for the prompt."""
    instruct: Sequence[int] = ()
    """Ids of an instruction, spoken by nobody; the layout closes it with its own marker."""
    global_codes: Sequence[int] = ()
    """As in ``Sample``, for the prompt; where they are missing, a model that can draws them."""
    anonymous: bool = False
    """As in ``Sample``; then nobody is drawn either."""
    adapter: str = ""
    """Name of the adapter that the backbone speaks with, where it has several."""
    start: State | None = field(default=None, compare=False)
    """Parts of a state, batch 1, to begin with in place of the backbone's own, where a voice has
    learned them; what is left out stays as ``init_state`` makes it."""


class Layout(Part, ABC):
    """Order of text and codes in one sequence.

    Holds no parameter, so it is tested against written-out token sequences without a model.
    """

    SPEECH: ClassVar[int] = 0
    """Index of the head's own table in ``tables``; it is always the first."""
    tables: Mapping[str, int]
    """Name -> rows of every table the positions refer to, in order, "speech" first."""
    extra: int
    """Ids beyond the codebook that the head must know (end, fill, ...)."""
    alternates: bool = False
    """True where it speaks before all of the text is known."""
    conditions: Sequence[str] = ("text", "instruct")
    """What ``wishbone.core.speak.guidance`` may leave out here, names of its ``CONDITIONS``."""
    instruct_alone: bool = False
    """True where an instruction replaces what a voice's recording says, in codes and
    text; the decoder hears the recording all the same."""

    @classmethod
    def small_codes(cls) -> CodeSpace | None:
        """A codec to run the contract suite with; None leaves it to the suite."""
        return None

    @abstractmethod
    def train(self, sample: Sample, random: Random) -> Positions:
        """Lay one utterance out for training; ``random`` decides whatever the layout varies."""

    @abstractmethod
    def start(self, prompt: Prompt) -> LayoutSession:
        """Begin a request. The session is given text afterwards, at once or as it arrives."""
