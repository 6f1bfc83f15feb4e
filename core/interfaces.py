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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.engines import eager_only
from wishbone.core.errors import CapabilityError
from wishbone.core.session import LayoutSession

State = dict[str, Tensor]
"""Memory of a backbone: flat names, batch first, plain tensors, so a file can hold it."""

IGNORE = -100
"""Target of a position that predicts nothing; PyTorch's cross entropy skips this number."""


@dataclass(frozen=True)
class Caps:
    """Promises of a backbone. A feature checks the promise before any weight is read."""

    streaming: bool = True
    """Gives the same numbers position by position as in one call."""
    constant_state: bool = False
    """Its state does not grow with the number of positions."""
    varlen: bool = True
    """Honours ``mask``: a masked position changes nothing."""
    peft_targets: tuple[str, ...] = ()
    """Name endings of the linear layers that adapters may wrap; empty means none."""
    ids: bool = False
    """Needs the token ids beside the vectors."""


@dataclass(frozen=True)
class TextSpace:
    """Facts about a tokenizer that a layout needs."""

    vocabulary: int
    """Number of ids; every id is below it."""
    word_ends: frozenset[int] = frozenset()
    """Ids that close a word. Empty where words cannot be told from ids."""
    specials: Mapping[str, int] = field(default_factory=dict)
    """Ids of marker strings such as ``<|endofprompt|>``."""
    blank: int | None = None
    """An id that no text has, to stand where text is left out on purpose; None without one."""


@dataclass(frozen=True)
class CodeSpace:
    """Facts about a codec that a layout and a head need."""

    size: int
    """Codes per codebook, X without the layout's own extra ids."""
    rate: float
    """Code frames per second of audio."""
    codebooks: int = 1
    """Q."""
    levels: tuple[int, ...] = ()
    """Levels of each FSQ digit, least significant first; empty where codes have no digits."""
    global_size: int = 0
    """Codes of the codebook that describes an utterance as a whole; 0 where there is none."""
    global_count: int = 0
    """Number of its codes that describe one utterance."""


class Part:
    """Base of the classes of all slots."""

    Config: ClassVar[type]
    """Dataclass: the schema of the slot in the YAML file."""

    @classmethod
    def small_config(cls) -> Any:
        """A config to run the contract suite on; None lets the suite make ``Config()`` small."""
        return None


class Tokenizer(Part, ABC):
    """Text to ids and back. Never fails on a character it does not know."""

    space: TextSpace
    ready: bool = True
    """False where it was given no files and has only its sizes: ``encode`` raises then."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; an empty list when nothing in it can be spoken."""

    def encode_words(self, words: Sequence[Word]) -> list[int] | None:
        """Ids of words as they were spoken; None where ids say nothing of the pronunciation."""
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """A readable form of ``ids``; for logs, not always the text they came from."""

    def prepare(self, text: str) -> str:
        """``text`` as it is spoken, such as with its numbers in words, ready for ``encode``."""
        return text

    def pieces(self, text: str | Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """Pieces of a text, or of one that arrives, to speak one after another, with their ids."""
        from wishbone.core.text import speakable

        return speakable(text, self.encode)

    def settled(self, text: str) -> int:
        """Count the characters in front of ``text`` whose ids nothing after them changes.

        0 where only whole sentences are certain. Where ``prepare`` changes something, what it
        leaves as it is whatever follows.
        """
        return 0

    def closed(self, sentence: str) -> str:
        """A sentence that arrived, now that it is whole, as it is spoken.

        It begins with all that was settled of it.
        """
        return self.prepare(sentence)


class SpeechTokenizer(Part, nn.Module):
    """Audio to codes."""

    sample_rate: int
    """Of the audio it wants, in samples per second."""
    codes: CodeSpace

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] in -1..1 at ``sample_rate`` -> codes [T, Q] int64."""

    def encode_batch(self, audios: Sequence[Tensor]) -> list[Tensor]:
        """Codes [T, Q] of each of ``audios`` [S].

        A codec that takes several at once may differ from ``encode`` in the last few frames.
        """
        return [self.encode(audio) for audio in audios]

    def encode_global(self, audio: Tensor) -> Tensor:
        """The codes that describe all of ``audio``, [G] int64; G is 0 where a codec has none."""
        return torch.zeros(0, dtype=torch.int64, device=audio.device)


class Backbone(Part, nn.Module):
    """Vectors to vectors, left to right: the part this library exists to exchange.

    ``tests/contract`` runs ``wishbone.core.testing`` on every registered name.
    """

    caps: ClassVar[Caps] = Caps()
    width: int
    """D of what goes in and of what comes out."""

    @abstractmethod
    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """The state before the first position. Recurrent parts are float32 whatever ``dtype``."""

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state after the last position.

        mask [B, T] is true at real positions; a masked one leaves the state as it was. ``state``
        is never changed in place. One call with T equals any split of it into several calls.
        """

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D], the dictionary ``state`` updated in place.

        The numbers are those of ``forward`` with one position. The tensors in ``state`` are the
        step's to use: it may write into them or put others in their place, so read the entries
        again after every step, and copy the tensors of a state that shall be continued twice. What
        is written into the entries between two steps counts, as ``core/state_batch.py`` does with
        rows. No gradient is promised.
        """
        y, after = self(x, state)
        state.clear()
        state.update(after)
        return y

    def plain(self) -> Backbone:
        """The backbone without what was wrapped around it, on the same memory; by default itself.

        Raises ``CapabilityError`` where it cannot be told apart any more.
        """
        return self

    def choose_adapter(self, state: State, adapter: str) -> State:
        """``state`` of sequences that go on with the adapter of that name, one of several.

        Raises ``CapabilityError`` where there are none to choose from, ``UnknownName``.
        """
        raise CapabilityError(
            f"There is an adapter '{adapter}' to be chosen, and {type(self).__name__} has none.",
            "the backbone of this system",
            "Use a backbone with 'adapters:', such as peft, or leave the choice out.",
        )

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """Choose how ``step_`` computes from now on -> the engine used.

        Names are in ``wishbone.core.engines``; "auto" never waits, no compiler runs. Every engine
        keeps the contract of ``step_`` and takes any other's state, also in the middle of a
        sequence. Weights are read now: call again after changing or moving them. "eager" undoes
        it. Raises ``CapabilityError`` with the reason for what cannot be had here.
        """
        return eager_only(type(self).__name__, engine, weights)

    def steps_narrow_state(self) -> bool:
        """True where ``step_``, as ``accelerate`` chose it, takes recurrent parts in bfloat16.

        It reads and writes them in that type and computes in float32 all the same. Elsewhere,
        whoever stores them so widens them before a step.
        """
        return False

    @abstractmethod
    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Exact bytes of one sequence's state after ``length`` positions, model of ``dtype``."""

    @classmethod
    @abstractmethod
    def count_parameters(cls, config: Any) -> int:
        """Parameters of a backbone built from ``config``, from a formula, building nothing."""

    def flops_per_position(self, context: int = 0) -> int:
        """Multiplications and additions of one decoding step after ``context`` positions."""
        return 2 * sum(p.numel() for p in self.parameters() if p.ndim > 1)

    def training_form(self) -> str:
        """Name the form of ``forward`` in training on this device; empty if there is one only."""
        return ""

    def shardable(self) -> Sequence[nn.Module]:
        """Modules whose parameters are gathered one module at a time when processes share them out.

        None lies inside another, and ``forward`` calls each as a module, because that is when its
        parameters are gathered. The default is the whole backbone in one; a stack names its layers.
        """
        return [self]

    def mixers(self) -> Sequence[nn.Module]:
        """The modules through which positions see each other, one a layer, in order; () for none.

        ``forward`` calls each once, as a module, with x [B, T, D] first; y [B, T, D] is what it
        returns, or the first of what it returns. Distillation listens there and nothing else does.
        """
        return ()

    def inherit(self, other: Backbone) -> None:
        """Take over what ``other``, trained, has in common with this one before a training.

        By default tensors of the same name and shape; a backbone made to take another's place
        knows better.
        """
        other_state, state = other.state_dict(), self.state_dict()
        common = {n: t for n, t in other_state.items() if n in state and state[n].shape == t.shape}
        self.load_state_dict(common, strict=False)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW. The default decays matrices and leaves vectors alone."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        return [
            {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
        ]


class Head(Part, nn.Module):
    """The table of codes, read in both directions.

    Built as ``Head(config, width=D, codes=CodeSpace, extra=E)``: each codebook has
    X = codes.size + E ids, the last E being the layout's own (end, fill, ...).
    """

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> vectors [..., D], summed over codebooks."""

    @abstractmethod
    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., Q, X]."""

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As ``Backbone.accelerate``, for the call on one position without gradient."""
        return eager_only(type(self).__name__, engine, weights)

    @property
    def independent(self) -> bool:
        """True where ``forward`` gives the logits of all codebooks at once, as ``sample`` here."""
        return type(self).sample is Head.sample

    def sample(self, hidden: Tensor, pick: Callable[[Tensor, int], int]) -> tuple[int, ...]:
        """hidden [D] -> one id per codebook; ``pick(logits [X], codebook)`` chooses each.

        A head whose codebooks depend on each other (a depth transformer) overrides this.
        """
        return tuple(pick(logits, q) for q, logits in enumerate(self(hidden)))


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

    Built as ``Layout(config, text=TextSpace, codes=CodeSpace)``.
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
    """Names of ``wishbone.core.guidance.CONDITIONS`` that may be left out here."""
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


class DecoderStream(ABC):
    """One utterance's way through a decoder; owns all of its state."""

    def wants(self) -> int:
        """Code frames that ``push`` needs before it can go on; 0 where any number does."""
        return 0

    @abstractmethod
    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples [S] that are final now; S may be 0 while looking ahead."""

    @abstractmethod
    def finish(self) -> Tensor:
        """The samples [S] still held back. The stream cannot be used afterwards."""


class Decoder(Part, nn.Module):
    """Codes to audio."""

    sample_rate: int
    """Samples per second of what it makes."""
    codes: CodeSpace
    samples_per_frame: int | None = None
    """Samples that each code frame makes, where a decoder states it; ``codes`` must agree."""
    lookahead: int
    """Code frames it must see beyond a frame before that frame's samples are final."""

    @abstractmethod
    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        """A new stream with its own random generator.

        ``speaker`` [E] where the codec wants one; ``prompt`` is what ``hear`` made of the voice's
        recording. A decoder takes no notice of what it has no use for.
        """

    def hear(self, audio: Tensor, codes: Tensor) -> State:
        """Analyse a voice's recording for ``start``: named tensors, {} for nothing.

        audio [S] in -1..1 at this decoder's ``sample_rate``, codes [T, Q] of the same recording.
        """
        return {}


@dataclass(frozen=True)
class Word:
    """A word and how it is spoken."""

    spelling: str
    phonemes: tuple[str, ...]
    separator: str
    """Separator behind it: a space or one of ``, . ? !``."""


@dataclass(frozen=True)
class Spoken:
    """Speech of a teacher."""

    audio: Tensor
    """[S] in -1..1."""
    sample_rate: int
    word_ends: Sequence[float] = ()
    """Second at which each word ends; empty where the teacher cannot tell."""
    phoneme_ends: Sequence[float] = ()
    """The same for each phoneme of all words in a row."""


class Teacher(ABC):
    """A voice that exists already and speaks training data."""

    Config: ClassVar[type]

    @abstractmethod
    def speak(self, words: Sequence[Word]) -> Spoken:
        """Speak the words with exactly the phonemes given."""

    @abstractmethod
    def read(self, text: str) -> Spoken:
        """Read text its own way, with its own front end: the yardstick in an evaluation."""
