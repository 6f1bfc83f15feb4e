"""The contract of a layout: the order of text and codes in one sequence.

In training a layout puts a whole utterance into positions; for a request it starts a session
(``wishbone.core.contract.session``), which must make the same positions one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

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
    """Speech in front of it, as at the start of a request: fed, never predicted."""
    anonymous: bool = False
    """True to leave out who speaks: codes of the whole utterance and marks of speakers."""


@dataclass(frozen=True)
class Positions:
    """A laid-out sequence of T positions. ``tables`` names are those of ``Layout.tables``."""

    table: Tensor
    """[T] int64, index into ``Layout.tables``; ``Layout.SPEECH`` means the head's table."""
    ids: Tensor
    """[T, Q] int64 row in that table; of text and markers the first is read, the rest equal it."""
    targets: Tensor
    """[T, Q] int64 id that the head is to predict here, or ``IGNORE``."""


@dataclass(frozen=True)
class Prompt:
    """Conditioning of a request, in front of the text to speak. All of it may be empty."""

    text: Sequence[int] = ()
    """Ids of what the prompt audio says."""
    speech: Sequence[Sequence[int]] = ()
    """Codes [T][Q] of the prompt audio."""
    word_ends: Sequence[int] = ()
    """As in ``Sample``, for the prompt."""
    instruct: Sequence[int] = ()
    """Ids of an instruction, spoken by nobody; the layout closes it with its own marker."""
    global_codes: Sequence[int] = ()
    """As in ``Sample``, for the prompt. A model that is able to draws them where there are none."""
    anonymous: bool = False
    """As in ``Sample``; a session then draws no speaker either."""
    adapter: str = ""
    """Name of the adapter that the backbone speaks with, where it has several."""
    start: State | None = field(default=None, compare=False)
    """Entries of a backbone's state, batch 1, learned for a voice; they take the place of those
    that ``init_state`` makes."""


class Layout(Part, ABC):
    """Order of text and codes in one sequence.

    Built as ``Layout(config, text=TextSpace, codes=CodeSpace)``. Holds no parameter, so it is
    tested against written-out token sequences without a model.
    """

    SPEECH: ClassVar[int] = 0
    """Index of the head's own table in ``tables``; it is always the first."""
    tables: Mapping[str, int]
    """Name -> rows of every table the positions refer to, in order, "speech" first."""
    extra: int
    """Ids beyond the codebook that the head must know (end, fill, ...)."""
    alternates: bool = False
    """True where speech begins before all of the text has arrived."""
    conditions: Sequence[str] = ("text", "instruct")
    """Conditions that guidance may leave out here, names of ``wishbone.core.speak.guidance``."""
    instruct_alone: bool = False
    """True where an instruction replaces text and codes of a voice's recording; the decoder is
    conditioned on the recording all the same."""

    codes_per_id: float = 0.0
    """Code frames that an id of text takes on average; 0 where nobody measured."""
    times_words: bool = False
    """True where sessions know when each word ends (``LayoutSession.word_ends``)."""
    after_prompt: ClassVar[Sequence[str]] = ()
    """Fields of its config that change nothing before a request's text: a voice's stored state
    serves systems that differ in these alone."""

    @classmethod
    def small_codes(cls) -> CodeSpace | None:
        """Return a codec to run the contract suite with; None leaves it to the suite."""
        return None

    @classmethod
    def spoken_forms(cls, config: Any) -> Sequence[Any]:
        """Return ``config``, and those of other forms of sequence that ``train`` mixes in.

        The contract suite speaks each training sample in one of them. By default one form.
        """
        return (config,)

    def fewest_codes(self, ids: Sequence[int]) -> int:
        """Count the codes that a text of ``ids`` has at least; 0 where a layout cannot tell.

        An utterance with fewer is drawn again, as too short.
        """
        return 0

    @abstractmethod
    def train(self, sample: Sample, random: Random) -> Positions:
        """Lay one utterance out for training -> T positions with Q ids each.

        ``random`` decides whatever the layout varies. Raises ``CapabilityError`` for conditioning
        that the layout has no place for.
        """

    @abstractmethod
    def start(self, prompt: Prompt) -> LayoutSession:
        """Begin a request. The session is given text afterwards, at once or as it arrives.

        Raises ``CapabilityError`` for conditioning that the layout has no place for.
        """
