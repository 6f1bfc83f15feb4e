"""The metrics of an A/B: which are measured, their margins, and their classes in the registry.

Margins are the differences below which two arms are called equivalent. They are a choice made
before the result is seen; an A/B file may set others under ``margins``. Whatever a metric raises
is reported with the distribution that brought it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

from wishbone.core.contract.errors import ConfigError, did_you_mean
from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    ItemMetric,
    Metric,
    MetricInfo,
    ModelMetric,
    Package,
    Row,
)
from wishbone.core.evaluate.experiment.items import UNMEASURED
from wishbone.core.evaluate.result import MetricFacts
from wishbone.core.registry.extras import missing_packages
from wishbone.core.registry.loader import guarded, registry
from wishbone.core.registry.registry import HOME

QUALITY = ("wer", "wer_base", "dnsmos", "similarity")
"""Metrics that recordings are always judged by."""
SPEED = ("rtf", "processor_rtf", "first_audio", "token_rate")
"""Metrics of the times of speaking."""
SPEECH = (*QUALITY, *SPEED)
"""Metrics of items in every A/B, in the order of the tables."""
HELD_OUT = ("loss", "loss_marks", "binding")
"""Metrics of language models in every A/B with held-out data."""


def metric_class(key: str) -> type[Metric]:
    """Return the class registered as ``key``.

    Raises ``UnknownName`` or ``PluginError`` as the registry does, ``PluginBroken`` when the class
    does not keep the contract of ``core.contract.extensions.metric``.
    """
    cls = registry().get("metric", key)
    with blamed(key, "being read"):
        if not (isinstance(cls, type) and issubclass(cls, ItemMetric | ModelMetric)):
            raise TypeError("it is no AudioMetric, GenerationMetric or ModelMetric")
        if cls.info.key != key:
            raise ValueError(f"its info says it is '{cls.info.key}'")
        foreign = registry().entry("metric", key).distribution != HOME
        for name in value_names(cls) if foreign else ():
            if name != key and not name.startswith(f"{key}."):
                raise ValueError(f"the name '{name}' does not begin with its key")
    return cls


def value_names(cls: type[Metric]) -> tuple[str, ...]:
    """Names of the values that a metric writes into an item's row."""
    return (cls.fields or (cls.info.key,)) if issubclass(cls, AudioMetric) else ()


def needs_reference(key: str) -> bool:
    """True for a metric that compares with recordings of the imitated voice."""
    cls = metric_class(key)
    return issubclass(cls, AudioMetric) and cls.needs_reference


def blamed(key: str, doing: str) -> AbstractContextManager[None]:
    """Run code of the metric ``key`` inside ``guarded``; ``doing`` completes its error."""
    return guarded(registry().entry("metric", key), doing=doing)


def create(key: str, options: Any = None) -> Metric:
    """Build a metric from an instance of its ``Config``; None means its defaults."""
    cls = metric_class(key)
    with blamed(key, "being built"):
        return cls(cls.Config() if options is None else options)


def signature(metric: Metric) -> str:
    """Everything that decides a metric's values: its own signature and changed options."""
    with blamed(metric.info.key, "giving its signature"):
        default = type(metric).Config()
        changed = [
            f"{option.name}={getattr(metric.config, option.name)}"
            for option in fields(default)
            if getattr(metric.config, option.name) != getattr(default, option.name)
        ]
        return "|".join([metric.signature(), *changed])


def value(row: Row, metric: MetricInfo) -> float | None:
    """Return a metric's value for one item; None where it has none.

    A failed item has the worst value where the metric has one, whatever was measured of it; one
    that was not measured has none.
    """
    if row.get("failure") == UNMEASURED:
        return None
    if row.get("failure"):
        return metric.worst
    cls = metric_class(metric.key)
    with blamed(metric.key, "reading an item's value"):
        number = cls.value(row)
        if number is not None and metric.ratio and not number > 0:
            raise ValueError(f"{number} is no value of a ratio, which is above 0")
        return None if number is None else float(number)


def weight(row: Row, metric: MetricInfo) -> float:
    """Return how much an item's prompt counts in the metric's means."""
    cls = metric_class(metric.key)
    with blamed(metric.key, "reading an item's weight"):
        return float(cls.weight(row))


def weighs(metric: MetricInfo) -> bool:
    """True where prompts count differently for this metric."""
    return metric_class(metric.key).weight.__func__ is not ItemMetric.weight.__func__


def facts(metric: MetricInfo) -> MetricFacts:
    """A metric as result files describe it."""
    return MetricFacts(**vars(metric), source=metric_class(metric.key).source)


def packages_of(keys: Iterable[str]) -> list[Package]:
    """The optional packages that metrics need, each once."""
    return list(dict.fromkeys(package for key in keys for package in metric_class(key).packages))


def need_packages(keys: Iterable[str]) -> None:
    """Raise ``MissingExtra`` naming every package that one of the metrics lacks."""
    for key in keys:
        home = registry().entry("metric", key).distribution == HOME
        missing_packages(packages_of([key]), f"measure '{key}'", home)


def choose(
    margins: Mapping[str, float] | None = None, added: Iterable[str] = ()
) -> dict[str, MetricInfo]:
    """Metrics of items: the usual ones, then ``added``, with the margins of an A/B file in place.

    ``added`` may name metrics of models too, which are left to ``choose_listening``. Raises
    ``ConfigError`` for a margin of a metric that is not measured.
    """
    keys = dict.fromkeys([*SPEECH, *added])
    check_margins(margins or {}, [*keys, *HELD_OUT])
    return _chosen([key for key in keys if issubclass(metric_class(key), ItemMetric)], margins)


def choose_listening(
    margins: Mapping[str, float] | None = None, added: Iterable[str] = ()
) -> dict[str, MetricInfo]:
    """The same for what is measured on held-out token data."""
    keys = dict.fromkeys([*HELD_OUT, *added])
    check_margins(margins or {}, [*SPEECH, *keys])
    return _chosen([key for key in keys if issubclass(metric_class(key), ModelMetric)], margins)


def choose_primary(
    primary: Iterable[str], metrics: Mapping[str, MetricInfo], place: str
) -> dict[str, MetricInfo]:
    """The same metrics, with those of ``primary`` alone marked so; unchanged where it names none.

    Raises ``ConfigError`` for one that is not measured.
    """
    named = list(primary)
    for key in named:
        if key not in metrics:
            raise ConfigError(
                f"There is no metric '{key}' in this A/B.",
                place,
                f"{did_you_mean(key, list(metrics))} Measured: {', '.join(metrics)}.".strip(),
            )
    if not named:
        return dict(metrics)
    return {key: replace(info, primary=key in named) for key, info in metrics.items()}


def check_margins(margins: Mapping[str, float], keys: Iterable[str]) -> None:
    """Raise ``ConfigError`` for a margin that is no margin, or of none of the metrics ``keys``."""
    measured = list(dict.fromkeys(keys))
    for key, margin in margins.items():
        if key not in measured:
            hint = did_you_mean(key, measured)
            if key in registry().names("metric"):
                hint = f"Write 'metrics: [{key}]' to have it measured."
            raise ConfigError(
                f"There is no metric '{key}' in this A/B.",
                f"margins.{key}",
                f"{hint} Measured: {', '.join(measured)}.".strip(),
            )
        if not margin > 0:
            raise ConfigError(
                f"A margin must be above 0, not {margin}.",
                f"margins.{key}",
                "Give the largest difference that does not matter to you.",
            )


def _chosen(keys: Iterable[str], margins: Mapping[str, float] | None) -> dict[str, MetricInfo]:
    infos = {key: metric_class(key).info for key in keys}
    return {
        key: replace(info, margin=float(margins[key])) if key in (margins or {}) else info
        for key, info in infos.items()
    }
