"""Records of an A/B's result: what ``ab.json`` holds, typed, and how it is written and read.

``run`` of ``ab.py`` makes a ``Result``; the report, the page and the terminal read it. ``to_json``
and ``from_json`` convert it to the keys of the file, whose meaning ``SCHEMA`` counts. Results of
older releases lack some keys: such fields are None, and are left out when they are written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.record import inline, optional, others, read_record, record_json
from wishbone.core.evaluate.result_parts import (
    Agreement,
    Commitment,
    Failures,
    Parity,
    SeenPrompts,
    Size,
    Slice,
    Timing,
    WordCounts,
)

SCHEMA = 1
"""Version of what ``ab.json`` holds; grows when a key changes its meaning."""

Levels = Mapping[str, str]
"""Factor -> level."""
Nested = list[Any]
"""Numbers in lists of lists; None where an item has none."""


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """One side of the comparison."""

    key: str
    system: str
    """Name in the A/B file."""
    config: Mapping[str, Any]
    """Resolved configuration of its first checkpoint."""
    levels: Levels
    """Its cell in the table of factors; empty without factors."""
    checkpoints: list[str]
    """Names of its sets of weights; the first is the one that the report plays."""


@dataclass(frozen=True)
class Difference:
    """One key of the configuration, or of the training, that is not the same in all arms."""

    key: str
    values: dict[str, Any]
    """Arm -> value; None where the key is missing."""
    meant: bool
    """True where this is what the comparison varies."""
    budget: bool | None = optional()
    """True where it says how long or at which rates an arm was trained: stated, never refused."""


@dataclass(frozen=True)
class Prompt:
    """A sentence to speak."""

    key: str
    """Its line in the file, from 0, three digits."""
    text: str
    tags: tuple[str, ...] | None = optional()
    """Kinds of sentence that it is; None in a file without them."""
    recording: str | None = optional()
    """Recording whose voice says it, where the list names one."""
    transcript: str | None = optional()
    """Words of that recording."""
    name: str | None = optional()
    """Name in the list, where it gives names."""
    voice: str | None = optional()
    """Voice that says it, where several say every prompt."""


@dataclass(frozen=True)
class MetricFacts(MetricInfo):
    """A metric as the result describes it."""

    source: str | None = optional()
    """"audio", "generation" or "model": what its values were measured on."""


@dataclass(frozen=True, kw_only=True)
class LengthCost:
    """Cost of one decoding step when much lies behind it."""

    seconds: float
    """Audio behind the step."""
    positions: int
    step_ms: float
    state_bytes: int
    """By the backbone's formula."""
    held_bytes: int
    """Of the tensors that it really holds."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes of a process of its own; None throughout where it could not be measured."""

    imported: int | None = optional()
    """With the libraries imported."""
    loaded: int | None = optional()
    """With the system loaded."""
    peak: int | None = optional()
    """After the longest prompt was spoken."""
    seconds: float | None = optional()
    """Audio of that prompt."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes, work and training of one arm."""

    backbone: str
    engine: str | None = optional()
    """Engine of the decoding steps; None in results from before engines were chosen: eager."""
    parameters: int
    """Of the language model."""
    parameters_backbone: int
    parameters_head: int
    parameters_tables: int
    """Of embeddings and all else."""
    parameters_decoder: int
    dtype: str
    flops_per_second: dict[str, int]
    """Seconds of audio so far -> operations for one more second."""
    state_bytes: dict[str, int]
    """Seconds of audio so far -> bytes of the state."""
    trained_parameters: int | None
    training_minutes: float | None
    training_hours: float | None
    """Hours of speech in the training data."""
    training_codes: int | None
    training_steps: int | None
    """Of all trainings in a row."""
    training_stages: list[int] | None = optional()
    """Steps of each training, the first one first; None in older results, which count the last."""
    training_positions: int | None
    """Of all trainings, padding included."""
    held_out_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that times were taken on."""

    processor: str
    cores: int
    threads: int
    load: float | None
    system: str
    gpu: str


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured once a run: speed, memory and budgets, each by arm. Kept in ``measured.json``."""

    length: dict[str, list[LengthCost]]
    memory: dict[str, Memory]
    budget: dict[str, Budget]
    unmatched: str
    """A sentence about parameter counts that differ too much, or ""."""
    engines: dict[str, str] | None = optional()
    """Engine of the decoding steps; None in results from before engines were chosen: eager."""
    engine_note: str | None = optional()
    """A sentence about speeds that compare engines too, or ""."""
    machine: Machine
    sample_rate: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An arm's own value of a metric, with its 95 % interval."""

    value: float
    low: float | None
    """None where the interval has no end."""
    high: float | None
    units: int
    """Prompts or utterances."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A difference between arms, whatever it is a difference of."""

    difference: float
    """B - A, or B / A for a ratio."""
    low: float | None
    """End of the 95 % interval; None where it has none."""
    high: float | None
    low_together: float | None = optional()
    """End of the interval that holds together with those of all other primary claims, at 95 % or
    what a look may use; None, like all such, for exploratory metrics and in older results."""
    high_together: float | None = optional()
    confidence: float | None = optional()
    """Of that interval alone."""
    low_guarded: float | None = optional()
    """The same, if any one arm had lost one more sentence."""
    high_guarded: float | None = optional()
    ratio: bool
    margin: float | None
    """Largest difference that counts as equivalent; None where none does."""
    p: float
    p_checkpoints: float
    """p for these very checkpoints, where others trained alike would differ too."""
    freedom: float | None
    """Degrees of freedom of Student's t; None with one checkpoint an arm."""
    seed_share: float | None
    """Share of the variance that comes from training seeds."""
    verdict: str
    """"better", "worse", "equivalent", "inconclusive"; "exploratory" for what was not planned;
    "none" for a smoke test, or where it is withheld; "different" where neither side is better.
    Interactions: "present", "none beyond margin", "inconclusive"."""
    withheld: str | None = optional()
    """Why no verdict is given on a primary metric."""
    more_prompts: int | None
    """About so many more would settle it, in older results; newer ones have ``sizes``."""
    detectable: float | None
    """Smallest difference that this many prompts show with a chance of 80 %."""
    units: int
    """Prompts or utterances that all arms have."""
    in_margins: tuple[float | None, float | None, float | None]
    """Estimate, low and high in units of the margin, positive where the arm is better."""


@dataclass(frozen=True, kw_only=True)
class PairedEffect:
    """Size of a paired difference, prompt by prompt."""

    dz: float
    """Mean difference over its standard deviation."""
    wins: int
    ties: int
    losses: int
    superiority: float
    """Chance that the arm wins on a prompt; a tie is half."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of one arm against the baseline."""

    metric: str
    arm: str
    baseline: str
    value_baseline: float
    value: float
    outcome: Outcome = inline()
    left_out: int
    """Prompts that not all arms have a value for."""
    pairs: PairedEffect = inline()
    p_holm: float | None
    """p of a primary metric, corrected for all primary comparisons; None for other metrics."""
    sizes: list[Size] | None = optional()
    """Sizes of a study of a primary metric, and what each would show."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric's difference between levels of a factor, over arms that are cells of a table."""

    metric: str
    kind: str
    """"main", "interaction" or "simple"."""
    changed: dict[str, tuple[str, str]]
    """Factor -> (from level, to level); two factors for an interaction."""
    within: Levels
    """Levels that are held, for a simple effect."""
    outcome: Outcome = inline()
    left_out: int
    p_holm: float | None
    """p of a primary metric, corrected for all of its family: main effects and interactions, or
    simple effects, of all primary metrics."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The statistics: everything that follows from single values."""

    comparisons: list[Comparison]
    effects: list[Effect]
    """Empty without factors."""
    failures: dict[str, Failures]
    failure_tests: dict[str, float]
    """Arm -> p that it fails as often as the baseline."""
    values: dict[str, dict[str, Estimate | None]]
    """Arm -> metric -> its own value; None where no prompt has one."""
    checkpoints: dict[str, dict[str, list[float]]]
    """Arm -> metric -> the value of each checkpoint."""
    seed_spread: dict[str, dict[str, float]]
    """Arm -> metric -> standard deviation over repeats of the whole prompt set."""
    words: dict[str, WordCounts] | None = optional()
    """Arm -> its word errors, counted."""
    not_understood: bool | None = optional()
    """True where no arm is understood, so that nothing about quality follows."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Every single value, from which all else follows."""

    values: dict[str, dict[str, Nested]] = others()
    """Metric -> checkpoint -> [prompts][repeats], or [utterances] of held-out data."""
    words: list[float]
    """Weights of the prompts in word errors."""
    weights: dict[str, list[float]] | None = optional()
    """Metric -> weights of the prompts, for other metrics that have any."""
    failed: dict[str, Nested] | None = optional()
    """Checkpoint -> [prompts][repeats]: why an item failed, or ""."""
    errors: dict[str, Nested] | None = optional()
    """Checkpoint -> [prompts][repeats]: substitutions, deletions and insertions of words."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The run itself: when, by which command and code, from which weights."""

    command: list[str]
    began: str
    ended: str
    python: str
    git: str
    distributions: dict[str, str | None]
    weights: dict[str, dict[str, str]]
    """Checkpoint -> file -> SHA-256."""
    trained: dict[str, dict[str, Any]]
    """Checkpoint -> the ``provenance.json`` beside its weights; empty without one."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of an A/B, as ``ab.json`` holds it; the first arm is the baseline."""

    schema: int
    name: str
    about: str
    quick: bool
    """True for a smoke test, which gives no verdict."""
    arms: list[ArmFacts]
    factors: dict[str, list[str]]
    """Factor -> levels; empty when arms are no cells of a table."""
    varied: list[str]
    confounded: list[str]
    """Keys that differ although nothing says that they are varied."""
    differences: list[Difference]
    unequal_training: str | None = optional()
    """A sentence about arms that were not trained alike, or ""."""
    prompts: list[Prompt]
    available: int | None = optional()
    """Prompts that the list has, of which these are the first; None in older results."""
    seeds: int
    """Repeats of each prompt."""
    engine_requested: str | None = optional()
    metrics: dict[str, MetricFacts]
    signatures: dict[str, str]
    """Metric -> everything that decides its values, in one line."""
    costs: Costs = inline()
    analysis: Analysis = inline()
    raw: Raw
    commitment: Commitment | None = optional()
    """What was fixed before the data; None in older results and smoke tests."""
    timing: Timing | None = optional()
    """How times were taken; None in older results."""
    reference: dict[str, Estimate]
    """Metric -> value of the imitated voice itself; empty without recordings of it."""
    reference_folder: str
    agreement: list[Agreement] | None = optional()
    """Recognisers two by two, for each arm and the reference."""
    slices: list[Slice] | None = optional()
    """Arms against the baseline by kind of sentence; exploratory."""
    parity: list[Parity] | None = optional()
    """Codes that arms of one system drew from the same seeds; None of different systems."""
    seen_prompts: list[SeenPrompts] | None = optional()
    provenance: Provenance


def to_json(result: Result) -> dict[str, Any]:
    """Return what ``ab.json`` holds of a result."""
    return record_json(result)


def from_json(values: Mapping[str, Any]) -> Result:
    """Read a result back from its JSON. Raises ``ValueError`` for a key that is missing."""
    return read_record(Result, values)
