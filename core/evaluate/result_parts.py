"""Records that a result holds beside its verdicts: plan, times, counts, agreement, kinds."""

from __future__ import annotations

from dataclasses import dataclass

from wishbone.core.evaluate.record import optional


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What was fixed before the first item was spoken."""

    primary: list[str]
    """Metrics that a verdict is given on; all others are exploratory."""
    margins: dict[str, float]
    """Metric -> largest difference that counts as equivalent."""
    looks: list[int]
    """Numbers of prompts at which the result is looked at; the last is the size of the study."""
    seeds: int
    """Repeats of each prompt."""
    alpha: float
    """Chance of any false verdict of a difference, over all primary metrics and all looks."""
    prompts: list[str] | None = optional()
    """First digits of the SHA-256 of each prompt's text, of those that were read then."""


@dataclass(frozen=True, kw_only=True)
class Commitment:
    """A protocol, when it was written down, and what became of it."""

    protocol: Protocol
    digest: str
    """SHA-256 of the protocol."""
    written: str
    """Time (UTC)."""
    before_data: bool
    """False where items were there before the protocol."""
    changed: list[str]
    """What the analysis does otherwise than the protocol says."""
    prompts: int
    """Prompts of this look."""
    look: int
    """Number of this look, from 1; 0 where none was planned here."""
    alpha: float
    """Part of the protocol's alpha that this look may use; 0 where none was planned."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How the times of items were taken."""

    rounds: int
    """Times that each item was spoken for its times; their median counts."""
    load: float | None
    """Median of the machine's load while items were spoken; None where it is not known."""
    load_most: float | None
    cores: int
    waited: float
    """Share of the clock's time in which the processor did not work for the item, the median."""
    unmeasured: int
    """Items that ran out of processor time and have no value."""
    busy: str
    """Why no verdict on speed is given, or ""."""
    others: float | None = optional()
    """Processors that other programs used, the median; None where it is not known."""


@dataclass(frozen=True, kw_only=True)
class SeenPrompts:
    """Prompts that stand among the texts that arms were trained on."""

    arms: list[str]
    """Arms that were trained on these texts, at any stage."""
    data: str
    """Hash of the files of the training; "" for an arm whose training is not known."""
    texts: int | None
    """Texts that were compared; None where they are not at hand."""
    seen: list[str]
    """Keys of prompts that stand whole in a text."""
    partly: list[str]
    """Keys of those that share eight words in a row or more with one."""
    short: list[str]
    """Keys of those of so few words that they stand in any language's texts by chance."""


@dataclass(frozen=True, kw_only=True)
class WordCounts:
    """Word errors of an arm, counted over all its items."""

    words: int
    substitutions: int | None
    """None, like the next two, where the recogniser's metric does not tell them apart."""
    deletions: int | None
    insertions: int | None
    rate: float
    """Errors of 100 words, no item with more errors than words."""
    rate_raw: float | None
    """The same without that cap, which may be above 100; None where it is not known."""
    full: int
    """Items in which every word is wrong."""
    items: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of the study, and what it would show."""

    prompts: int
    seeds: int
    detectable: float
    """Smallest true difference that it finds in four cases of five."""
    assumed: bool | None = optional()
    """True where repeats were not tried, and are taken to scatter as they did elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Words that two recognisers missed in an arm's items, failed items left out."""

    arm: str
    metrics: tuple[str, str]
    both: int
    """Words that both missed."""
    only: tuple[int, int]
    """Words that the first, and that the second missed alone."""

    @property
    def share(self) -> float | None:
        """Of the words that either missed, the share that both did; None where none was missed."""
        either = self.both + sum(self.only)
        return self.both / either if either else None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Code frames that one system drew in two manners, from the same seeds."""

    arm: str
    baseline: str
    items: int
    """Items of which both arms have the code frames."""
    alike: int
    """Items with the same frames throughout."""
    frames: int
    """Frames of the longer of both, over all items."""
    matched: int
    """Frames that are the same at the same place."""
    before: int
    """Frames before each item's first one that differs, over all items."""
    first: int | None
    """The earliest frame of any item, from 0, that differs; None where none does."""
    middle: float | None
    """Median of the first frame that differs, over the items that have one."""

    @property
    def share(self) -> float:
        """Token match rate: frames that are the same, of all."""
        return self.matched / self.frames if self.frames else 1.0


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One metric of one arm against the baseline on one kind of sentence; exploratory."""

    kind: str
    metric: str
    arm: str
    prompts: int
    value_baseline: float
    value: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Failed items of an arm, and the interval of their rate."""

    items: int
    why: dict[str, int]
    """Reason -> number of items."""
    estimate: float
    low: float
    high: float

    @property
    def count(self) -> int:
        """Failed items."""
        return sum(self.why.values())
