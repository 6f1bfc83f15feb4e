"""A suite: sizes, rounds and contenders are data, and checked before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.bench.contenders import contender_entry
from wishbone.core.config.compose import Config, compose, find
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.extensions.contender import Contender, Job
from wishbone.core.registry import registry
from wishbone.core.registry.loader import guarded

KIND = "bench"
"""Folder of ``wishbone.configs`` with the suites."""
SEPARATOR = "@"
"""Separator of contender and case where a ratio names both, as in ``wishbone@context 8192``."""


@dataclass
class CheckConfig:
    """Numbers that all contenders must agree on before anything is timed."""

    positions: int = 0
    """Length of the prompt whose last logits are compared; 0 compares nothing."""
    ways: list[str] = field(default_factory=lambda: ["steps"])
    """How the prompt goes in: "steps" and "prefill"; for kernels, the names of inputs."""
    tolerance: float = 1e-4
    """Relative rms difference from the first contender, where a contender states none."""


@dataclass
class RatioConfig:
    """A claim: the time of one side over the time of another, round by round."""

    title: str = ""
    """Its name in the table."""
    of: str = ""
    """The side above the line: ``contender`` or ``contender@case``."""
    over: str = ""
    """The side below it."""
    measure: str = "seconds"
    """Of both sides; "bytes_per_second" compares how fast they move what they must read and write,
    so that a ratio to memory is the share of its limit."""
    at_least: float | None = None
    """The least that the ratio must reach, or nothing to only report it."""
    at_most: float | None = None
    """The most that the ratio may reach."""
    stretch: float | None = None
    """A further goal; reported, never required."""


@dataclass
class EntryConfig:
    """Settings of the runner for a contender, beside the contender's own fields."""

    title: str = ""
    """For tables; the key where empty."""
    tolerance: float | None = None
    """Allowed difference in the check, where it is not the suite's."""
    cases: list[str] = field(default_factory=list)
    """Cases it is timed on, where they are not the suite's; then it takes no part in the check."""
    timed: bool = True
    """False for one that only serves the check as a reference."""


@dataclass
class SuiteConfig:
    """One YAML file of ``configs/bench``."""

    about: str = ""
    """One sentence on what is measured."""
    threads: int = 1
    """CPU threads of every contender."""
    device: str = "cpu"
    """Device of the contenders that can choose: "cpu" or "cuda"."""
    rounds: int = 9
    """Turns of every contender that count; one more before them does not."""
    count: int = 15
    """Repetitions in a round; their median is the round's value."""
    cases: list[str] = field(default_factory=list)
    """Cases that every contender is timed on."""
    model: dict[str, Any] = field(default_factory=dict)
    """Sizes and seed, as the contenders of the suite want them."""
    weights: bool = False
    """True where all contenders read the same random weights, written first."""
    check: CheckConfig = field(default_factory=CheckConfig)
    """Results that all must agree on before anything is timed."""
    contenders: dict[str, Any] = field(default_factory=dict)
    """Key -> ``{name: ..., ...}``: which contender, its fields and those of ``EntryConfig``.
    ``null`` leaves one out, and every ratio that names it."""
    ratios: list[RatioConfig] = field(default_factory=list)
    """Claims about them."""
    plots: dict[str, str] = field(default_factory=dict)
    """Title -> ``case`` for bars of the measure, or ``across context`` for lines over a number."""


@dataclass
class Entry:
    """One contender of a suite, checked."""

    key: str
    part: registry.Entry
    config: Any
    """Instance of the contender's ``Config``."""
    title: str
    cases: list[str]
    tolerance: float
    checked: bool
    """True where it takes part in the check."""
    missing: str = ""
    """Reason why it cannot take part on this machine, and what to do."""

    @property
    def name(self) -> str:
        """Key of the contender in the registry."""
        return self.part.key

    @property
    def contender(self) -> type[Contender]:
        """Class of the contender."""
        return registry.import_target(self.part)


@dataclass
class Plan:
    """A suite ready to run."""

    name: str
    suite: SuiteConfig
    entries: dict[str, Entry]
    quick: bool = False
    """A sanity run with tiny sizes, from which nothing follows."""

    @property
    def job(self) -> Job:
        """The work of all contenders; the folder of weights is filled in later."""
        return Job(dict(self.suite.model), self.suite.device, self.suite.threads)


def read_plan(
    name: str, overrides: Sequence[str] = (), quick: bool = False, rounds: int | None = None
) -> Plan:
    """Read the suite of a bundled name or a YAML file.

    ``quick`` reads ``quick/NAME.yaml`` beside it, whose base is the suite itself. Raises
    ``ConfigError`` and ``UnknownName`` in the words of every other configuration.
    """
    values = compose(_quick(name) if quick else name, overrides, KIND)
    suite = structured(SuiteConfig, values, "suite", _placed(values))
    if rounds is not None:
        suite.rounds = rounds
    if suite.rounds < 1 or suite.count < 1 or suite.threads < 1:
        raise ConfigError(
            "rounds, count and threads are at least 1.", str(values.path), "Correct these numbers."
        )
    plan = Plan(Path(name).stem, suite, {}, quick)
    for key, fields in suite.contenders.items():
        if fields is not None:
            plan.entries[key] = _entry(key, fields, plan, values)
    left_out = {key for key, fields in suite.contenders.items() if fields is None}
    suite.ratios = [
        ratio
        for ratio in suite.ratios
        if not left_out & {_contender(ratio.of), _contender(ratio.over)}
    ]
    _check_ratios(plan, values)
    return plan


def _quick(name: str) -> Path:
    path = find(name, KIND)
    small = path.parent / "quick" / path.name
    if not small.is_file():
        raise ConfigError(
            f"The suite '{path.stem}' has no small version.",
            str(small),
            "Write that file with 'base:' and small sizes, or leave --quick out.",
        )
    return small


def _entry(key: str, fields: Any, plan: Plan, values: Config) -> Entry:
    where = f"contenders.{key}"
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        raise ConfigError(
            f"'{where}' does not say which contender it is.",
            values.place(where),
            "Write 'name: NAME' under it.",
        )
    settings = {k: v for k, v in fields.items() if k in EntryConfig.__dataclass_fields__}
    options = structured(EntryConfig, settings, where, values)
    part = contender_entry(fields["name"], values.place(where))
    kind = registry.import_target(part)
    remaining = {k: v for k, v in fields.items() if k not in {*settings, "name"}}
    config = structured(kind.Config, remaining, where, values)
    with guarded(part):
        missing = str(kind.missing(config, plan.job))
    return Entry(
        key,
        part,
        config,
        options.title or key,
        (options.cases or list(plan.suite.cases)) if options.timed else [],
        plan.suite.check.tolerance if options.tolerance is None else options.tolerance,
        not options.cases,
        missing,
    )


def split_side(text: str, plan: Plan) -> tuple[str, str]:
    """Split ``contender@case``; the case is the contender's only one where none is named."""
    key, _, case = text.partition(SEPARATOR)
    key, case = key.strip(), case.strip()
    if not case and key in plan.entries and len(plan.entries[key].cases) == 1:
        case = plan.entries[key].cases[0]
    return key, case


def _contender(side: str) -> str:
    return side.partition(SEPARATOR)[0].strip()


def _check_ratios(plan: Plan, values: Config) -> None:
    for ratio in plan.suite.ratios:
        for side in (ratio.of, ratio.over):
            key, case = split_side(side, plan)
            if key not in plan.entries or case not in plan.entries[key].cases:
                raise ConfigError(
                    f"The ratio '{ratio.title}' names '{side}', which is not measured.",
                    values.place("ratios"),
                    "Write CONTENDER, or CONTENDER@CASE, as they stand in this suite.",
                )


def _placed(values: Config) -> Config:
    """Put ``values`` under the key that ``structured`` speaks of, so that it knows their lines."""
    return Config(dict(values), values.path, {f"suite.{k}": v for k, v in values.places.items()})
