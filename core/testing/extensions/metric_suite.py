"""Suite of metrics: facts, a signature, and values that depend on the item alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from wishbone.core.contract.errors import MissingExtra, WishboneError
from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    Clip,
    GenerationMetric,
    HeldOut,
    ItemMetric,
    Metric,
    ModelMetric,
    UtteranceLosses,
)
from wishbone.core.contract.layout import Sample
from wishbone.core.evaluate.measure.score import checked
from wishbone.core.evaluate.statistics.metrics import value_names
from wishbone.core.registry.extras import missing_packages
from wishbone.core.testing.common import Check, Skipped, Violation, require

GENERATION = {
    "text": "Two words.", "failure": "", "error": "", "made": 0.25, "seconds": 1.0, "codes": 25,
    "cut_words": 0, "rtf": 0.25, "first_audio": 80.0, "token_rate": 100.0, "stall": 0.0,
    "redraws": 0, "processor": 0.2,
}  # fmt: skip
"""Facts of the row of a spoken item."""
RATE = 24_000


def facts(cls: Any, config: Any, module: str | None) -> str:
    """The info is complete, and the worst value of a failure lies on the bad side."""
    require(
        issubclass(cls, Metric),
        "it does not derive from a class of wishbone.core.contract.extensions.metric",
    )
    info = cls.info
    kinds = (AudioMetric, GenerationMetric, ModelMetric)
    require(issubclass(cls, kinds), "it is no AudioMetric, GenerationMetric or ModelMetric")
    for name in ("key", "title", "unit", "about"):
        require(bool(getattr(info, name).strip()), f"info.{name} is empty")
    require(info.about.endswith("."), f"info.about is no sentence: {info.about!r}")
    require(0 <= info.digits <= 6, f"info.digits is {info.digits}")
    margin = "no margin" if info.margin is None else f"margin {info.margin:g} {info.unit}"
    return f"{info.better} is better, {margin}"


def signature(cls: Any, config: Any, module: str | None) -> str:
    """One line that two instances agree on."""
    one, other = cls(config), cls(config)
    line, again = one.signature(), other.signature()
    require(isinstance(line, str) and bool(line.strip()), f"the signature is {line!r}")
    require("\n" not in line, "the signature has several lines")
    require(line == again, f"two instances have the signatures {line!r} and {again!r}")
    return line


def values(cls: Any, config: Any, module: str | None) -> str:
    """The same item gives the same finite values, whatever was measured before it."""
    _need(cls)
    try:
        cls(config).prepare()
    except WishboneError as error:
        raise Skipped(error.what) from error
    if issubclass(cls, ModelMetric):
        return _model_values(cls, config)
    if issubclass(cls, GenerationMetric):
        return _read(cls, GENERATION)
    clips = [_clip(1), _clip(2)]
    before = [clip.audio.copy() for clip in clips]
    first, second = _scorer(cls, config, clips), _scorer(cls, config, clips)
    names = value_names(cls)
    rows = [checked(first.score(clip), names) for clip in clips]
    require(all(rows), "score gives nothing")
    alone = checked(second.score(clips[1]), names)
    require(alone == rows[1], f"after another clip it gives {rows[1]}, alone {alone}")
    for clip, audio in zip(clips, before, strict=True):
        require(np.array_equal(clip.audio, audio), "it changes the audio it is given")
    return [_read(cls, {**GENERATION, **row}) for row in rows][-1]


def failures(cls: Any, config: Any, module: str | None) -> str:
    """A clip that cannot be judged has announced values, and its prompt a weight."""
    _need(cls)
    if not issubclass(cls, AudioMetric):
        raise Skipped("it judges no recordings")
    row = checked(cls.failed("Two words."), value_names(cls))
    weight = cls.weight({**GENERATION, **row, "failure": "empty"})
    require(weight > 0, f"the weight of a failed item is {weight}")
    return ", ".join(f"{name}={value!r}" for name, value in row.items()) or "left out"


def _need(cls: Any) -> None:
    try:
        missing_packages(cls.packages, "check the metric")
    except MissingExtra as error:
        raise Skipped(error.what) from error


def _clip(seed: int) -> Clip:
    """A second of a buzzing voice whose loudness rises and falls, with some noise."""
    time = np.arange(RATE) / RATE
    random = np.random.default_rng(seed)
    voice = sum(np.sin(2 * np.pi * 110 * seed * k * time) / k for k in range(1, 20))
    audio = 0.2 * voice * np.sin(2 * np.pi * 3 * time) ** 2 + 0.005 * random.normal(size=RATE)
    return Clip(f"{seed:03d}", "Two words.", audio.astype(np.float32), RATE)


def _scorer(cls: Any, config: Any, clips: list[Clip]) -> AudioMetric:
    metric = cls(config)
    if metric.needs_reference:
        metric.set_reference([*clips, _clip(3)])
    return metric


def _read(cls: type[ItemMetric], row: dict[str, Any]) -> str:
    value, weight = cls.value(row), cls.weight(row)
    if value is None or not np.isfinite(value):
        raise Violation(f"the value of an item is {value}")
    require(not cls.info.ratio or value > 0, f"a ratio cannot be of {value}")
    require(np.isfinite(weight) and weight > 0, f"the weight of an item is {weight}")
    return f"{value:.{cls.info.digits}f} {cls.info.unit}"


def _model_values(cls: Any, config: Any) -> str:
    """Measure on ``small_held_out()``, or on losses alone where the class has none."""
    held_out = cls.small_held_out() or _losses()
    first = [float(number) for number in cls(config).measure(held_out)]
    second = [float(number) for number in cls(config).measure(held_out)]
    count = len(held_out.samples)
    require(len(first) == count, f"{len(first)} values for {count} utterances")
    require(bool(np.isfinite(first).all()), f"the values are {first}")
    require(first == second, f"two instances give {first} and {second}")
    return f"{count} utterances"


def _losses() -> HeldOut:
    sample = Sample(text=[1, 2], speech=[[3], [4]])
    losses = UtteranceLosses([2.0, 2.5], [2.2, 2.7], [3.0, 3.1])
    return HeldOut(nn.Identity(), None, [sample] * 2, [sample] * 2, losses)  # type: ignore[arg-type]


CHECKS = (
    Check("facts", "Everything a table needs is stated.", facts),
    Check("signature", "One line says everything that decides a value.", signature),
    Check("values", "The same item always gives the same finite values.", values),
    Check("failures", "A clip that cannot be judged has values of its own.", failures),
)
