"""The contract of a metric of an A/B; registered as kind ``metric``.

A metric states its facts once (``info``: unit, direction, margin, value of a failure) and gives
values in one of three ways, by its base class:

- ``AudioMetric`` judges recordings: ``wer``, ``dnsmos``, ``similarity``. Values belong to items, an
  item being one arm that speaks one prompt once.
- ``GenerationMetric`` reads the times and counts of speaking an item: ``rtf``, ``first_audio``.
- ``ModelMetric`` judges a language model on held-out token data, without speech: ``loss``,
  ``binding``. Values belong to utterances.

``wishbone ab`` compares every metric in the same way: paired by prompt (or utterance), an interval,
and a verdict against the margin. An A/B file adds a metric to the usual ones with
``metrics: [acme/brightness]``. The contract is checked by ``wishbone plugins check``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
from torch import nn

from wishbone.core.contract.layout import Layout, Sample
from wishbone.core.contract.part import Part

Computed = TypeVar("Computed")
Value = float | int | str
"""Type of a value in a row of ``items.jsonl``."""
Row = Mapping[str, Any]
"""All facts and values of an item, by name."""


@dataclass(frozen=True)
class MetricInfo:
    """The facts of a metric: one column of the result. Raises ``ValueError`` for wrong ones."""

    key: str
    """Registry key, and name of the value in an item's row and in result files."""
    title: str
    """Name in tables."""
    unit: str
    better: str
    """"lower", "higher", or "neither" for what only describes: its verdict can be "different"."""
    margin: float | None
    """Largest difference that is still equivalent, unless an A/B file says otherwise under
    ``margins``: in units, or as a share for a ratio. None: nothing is called equivalent."""
    about: str
    """One sentence for readers who do not know the metric."""
    ratio: bool = False
    """Compared as B / A (geometric mean) instead of B - A; values must be above 0."""
    worst: float | None = None
    """Value of a failed item; None leaves failed items out."""
    primary: bool = False
    """True where the metric answers the main question: p is corrected for these together (Holm)."""
    digits: int = 2
    """Decimals in tables."""

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher", "neither"):
            raise ValueError(
                f"{self.key}: better is 'lower', 'higher' or 'neither', not '{self.better}'"
            )
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"{self.key}: the margin is {self.margin}, not above 0")


@dataclass(frozen=True)
class Package:
    """An optional package that a metric imports when it is used."""

    module: str
    """Name in ``import``."""
    distribution: str
    """Name in ``pip install``."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording and the text it should say."""

    key: str
    """Name of the prompt."""
    text: str
    audio: np.ndarray
    """[S] float32."""
    rate: int
    """Samples per second."""
    _results: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return len(self.audio) / self.rate

    def at(self, rate: int) -> np.ndarray:
        """Return the audio [S] float32 at ``rate`` samples per second (a polyphase filter)."""
        return self.once(f"at {rate}", lambda: resample(self.audio, self.rate, rate))

    def once(self, name: str, compute: Callable[[], Computed]) -> Computed:
        """Return what ``compute`` gives, computed for the first metric that asks for ``name``.

        For what several metrics read: a transcript, a pitch track. ``name`` says everything that
        decides it.
        """
        if name not in self._results:
            self._results[name] = compute()
        return self._results[name]

    def has(self, name: str) -> bool:
        """True where ``once`` was called with ``name`` before."""
        return name in self._results


def resample(audio: np.ndarray, old: int, new: int) -> np.ndarray:
    """Resample audio [S] from ``old`` to ``new`` samples per second with scipy -> float32."""
    if old == new:
        return np.asarray(audio, np.float32)
    from scipy import signal

    shared = int(np.gcd(old, new))
    return signal.resample_poly(audio, new // shared, old // shared).astype(np.float32)


@dataclass
class NoOptions:
    """Options of a metric that has none."""


class Metric(Part, ABC):
    """Base of all metrics; derive from one of the three classes below."""

    Config: ClassVar[type] = NoOptions
    """Dataclass of options: ``metrics: [{name: KEY, ...options}]``."""
    info: ClassVar[MetricInfo]
    packages: ClassVar[tuple[Package, ...]] = ()
    """Packages beyond Wishbone's own requirements; their absence is reported before any work."""
    source: ClassVar[str]
    """"audio", "generation" or "model"; set by the base class."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self) -> None:  # noqa: B027 - most metrics have all they need
        """Raise ``WishboneError`` where something is missing that no package brings.

        Called before any work: for a folder of weights that an option names, or a program.
        """

    @abstractmethod
    def signature(self) -> str:
        """Return everything that decides a value, in one line: model, version, settings.

        Goes into results; two results compare only where signatures are equal. Options
        (``config``) that are not the default are added by Wishbone.
        """


class ItemMetric(Metric):
    """A metric whose values belong to spoken items."""

    @classmethod
    def value(cls, row: Row) -> float | None:
        """Return the value of an item that did not fail, None where it has none."""
        return row.get(cls.info.key)

    @classmethod
    def weight(cls, row: Row) -> float:
        """Return how much the item's prompt counts in means: 1, unless its size matters."""
        return 1.0


class AudioMetric(ItemMetric):
    """Judges recordings. Several instances work side by side, each in one thread."""

    source = "audio"
    fields: ClassVar[tuple[str, ...]] = ()
    """Names that ``score`` gives values for, where it is not the key alone. Names of others than
    the built-in metrics begin with the key, as in ``acme/brightness.hertz``."""
    missed_words: ClassVar[str] = ""
    """Name of the value that lists the places of the text's words that were not understood, from 0
    and with spaces between. Recognisers that have one are compared with each other."""
    listens_together: ClassVar[bool] = False
    """True for a metric whose ``listen`` is to be given many clips at once, before ``score``."""
    needs_reference: ClassVar[bool] = False
    """True for a metric that compares with recordings of the imitated voice; it is left out where
    there are none."""

    def set_reference(self, clips: Sequence[Clip]) -> None:
        """Take the recordings of the imitated voice, before ``score`` is called.

        They are scored as well: a metric that compares with them leaves out the clip that it
        scores (the same object).
        """

    def listen(self, clips: Sequence[Clip]) -> None:  # noqa: B027 - most listen one by one
        """Judge many clips that ``score`` will be asked for, and keep the values with ``once``."""

    @abstractmethod
    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Return the values of a clip that is neither empty, silent nor without an end, by name.

        The same clip gives the same values. The audio is at the rate it was made; ``clip.at``
        resamples.
        """

    @classmethod
    def failed(cls, text: str) -> Mapping[str, Value]:
        """Return the values of a clip that cannot be judged: the worst, by default."""
        return {} if cls.info.worst is None else {cls.info.key: cls.info.worst}


class SpeakerMetric(AudioMetric):
    """Cosine of the speaker embeddings of a clip and of the reference recordings."""

    needs_reference = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._reference: tuple[Clip, ...] = ()
        self._vectors: np.ndarray | None = None

    @abstractmethod
    def embed(self, clip: Clip) -> np.ndarray:
        """Return the voice of a clip as a vector [E] of length 1; zeros where nobody speaks."""

    def set_reference(self, clips: Sequence[Clip]) -> None:
        """Take the recordings; they are embedded with the first clip that is scored."""
        self._reference, self._vectors = tuple(clips), None

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Return the cosine with the mean embedding of the reference, ``clip`` itself left out."""
        if self._vectors is None:
            self._vectors = np.stack([self.embed(other) for other in self._reference])  # [N, E]
        same = np.array([other is clip for other in self._reference])  # [N]
        vector = self._vectors[same][0] if same.any() else self.embed(clip)  # [E]
        others = self._vectors if same.all() else self._vectors[~same]  # [N or N - 1, E]
        return {self.info.key: float(vector @ unit_mean(others))}


def unit_mean(vectors: np.ndarray) -> np.ndarray:
    """vectors [N, E] -> their mean [E], of length 1 (or zeros)."""
    mean = vectors.mean(0)  # [E]
    return mean / max(float(np.linalg.norm(mean)), 1e-8)


class GenerationMetric(ItemMetric):
    """Reads the times and counts of speaking an item; no recording is judged.

    Facts in the row: ``made`` (seconds of computing), ``processor`` (of processor time),
    ``seconds`` (of audio), ``codes`` (frames),
    ``cut_words`` (ended by the length rule), ``redraws`` (of its pieces), ``rtf`` (made /
    seconds), ``first_audio`` (ms),
    ``token_rate`` (codes / made), ``stall`` (ms of silence for somebody who plays it as it comes).
    """

    source = "generation"


@dataclass(frozen=True)
class UtteranceLosses:
    """Cross entropies of held-out utterances, teacher forced, in nats per code."""

    codes: Sequence[float]
    """Of the codes, one for each utterance."""
    with_marks: Sequence[float]
    """Of all that is predicted, marks of the layout included, divided by the number of codes."""
    other_text: Sequence[float]
    """Of the codes, with the text of another sentence in place of the utterance's."""


@dataclass(frozen=True)
class HeldOut:
    """A language model in evaluation mode, and utterances that it was not trained on."""

    model: nn.Module
    """The ``SpeechLM``."""
    layout: Layout
    """Its layout, which puts a sample into positions."""
    samples: Sequence[Sample]
    """The utterances."""
    samples_other: Sequence[Sample]
    """The same, each with the text of another sentence of as many words."""
    losses: UtteranceLosses


class ModelMetric(Metric):
    """Judges a language model on held-out token data (``held_out:`` of an A/B file)."""

    source = "model"

    @classmethod
    def small_held_out(cls) -> HeldOut | None:
        """Return a tiny model and utterances for the contract suite; None: losses are enough."""
        return None

    @abstractmethod
    def measure(self, held_out: HeldOut) -> Sequence[float]:
        """Return one value for each utterance of ``held_out.samples``."""
