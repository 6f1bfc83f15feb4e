"""One clip to its numbers. A failed clip gets the worst of every metric and is never left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    Clip,
    Row,
    SpeakerMetric,
    Value,
    unit_mean,
)
from wishbone.core.evaluate.measure.clips import failure
from wishbone.core.evaluate.statistics.agreement import recognisers
from wishbone.core.evaluate.statistics.metrics import (
    QUALITY,
    create,
    metric_class,
    signature,
    value,
    value_names,
    weight,
)
from wishbone.core.registry.loader import guarded, registry

Work = TypeVar("Work")
Score = TypeVar("Score")

TOGETHER = 256
"""Clips that are held at once for metrics that judge many by one process: 160 MB at 5 s each."""
RATE = 16_000
"""Samples per second of recordings that are cut or compared before they are judged."""


class Scorer:
    """Metrics that judge one clip after another: words, predicted quality, likeness to a voice."""

    def __init__(
        self, keys: Sequence[str] = QUALITY, options: Mapping[str, Any] | None = None
    ) -> None:
        """``options`` holds instances of the ``Config`` of metrics that are not at their defaults.

        Raises ``UnknownName`` or ``PluginError`` for a metric that cannot be used.
        """
        self.metrics: dict[str, AudioMetric] = {}
        self._entries = {key: registry().entry("metric", key) for key in keys}
        self._names: dict[str, tuple[str, ...]] = {}
        for key in keys:
            metric = create(key, (options or {}).get(key))
            if isinstance(metric, AudioMetric):
                with self.blamed(key, "being prepared"):
                    metric.prepare()
                self.metrics[key] = metric
                self._names[key] = value_names(type(metric))
        self.has_reference = False

    def blamed(self, key: str, doing: str) -> AbstractContextManager[None]:
        """Run code of the metric ``key`` inside ``guarded``; ``doing`` completes its error."""
        return guarded(self._entries[key], doing=doing)

    def set_reference(self, clips: Sequence[Clip]) -> None:
        """Take recordings of the voice that is imitated."""
        self.has_reference = bool(clips)
        for key, metric in self.metrics.items():
            with self.blamed(key, "taking the reference recordings"):
                metric.set_reference(clips)

    @property
    def used(self) -> list[str]:
        """Keys of the metrics that can judge: all, or those that need no reference."""
        return [
            key
            for key, metric in self.metrics.items()
            if self.has_reference or not metric.needs_reference
        ]

    def score(
        self, clip: Clip, speaking_failure: str = "", keys: Collection[str] | None = None
    ) -> dict[str, Value]:
        """The names of a clip, its length, and its ``values``: a row for a file of JSON."""
        facts = {"key": clip.key, "text": clip.text, "seconds": clip.seconds}
        return facts | self.values(clip, speaking_failure, keys)

    def values(
        self, clip: Clip, speaking_failure: str = "", keys: Collection[str] | None = None
    ) -> dict[str, Value]:
        """``failure`` of one clip, and the values of all metrics or of ``keys``.

        ``speaking_failure`` was seen while the clip was spoken. Raises ``PluginBroken`` where a
        metric fails.
        """
        reason = speaking_failure or failure(clip.audio, clip.rate, clip.text)
        values: dict[str, Value] = {"failure": reason}
        for key in self.used if keys is None else keys:
            values |= self.worst(key, clip.text) if reason else self.measure(key, clip)
        return values

    def measure(self, key: str, clip: Clip) -> dict[str, Value]:
        """The values of one metric of a clip that did not fail."""
        with self.blamed(key, f"judging '{clip.key}'"):
            return checked(self.metrics[key].score(clip), self._names[key])

    def worst(self, key: str, text: str) -> dict[str, Value]:
        """The values of a clip that cannot be listened to."""
        with self.blamed(key, "giving the values of a failed clip"):
            return checked(self.metrics[key].failed(text), self._names[key])

    def embed(self, clips: Sequence[Clip]) -> np.ndarray:
        """The voice of several clips: their embeddings' mean, as a unit vector [E]."""
        metric = self.metrics["similarity"]
        if not isinstance(metric, SpeakerMetric):
            raise TypeError("metric 'similarity' is no SpeakerMetric")
        with self.blamed("similarity", "embedding a voice"):
            return unit_mean(np.stack([metric.embed(clip) for clip in clips]))

    @property
    def signatures(self) -> dict[str, str]:
        """Metric -> everything that decides it, in one line."""
        return {key: signature(self.metrics[key]) for key in self.used}


class Panel:
    """Several scorers that judge clips side by side, each on one thread.

    One network on several threads waits for its slowest thread at every layer, which on a busy
    machine is most of the time; whole clips side by side do not wait for each other.
    """

    def __init__(
        self,
        size: int = 1,
        keys: Sequence[str] = QUALITY,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.scorers = [Scorer(keys, options) for _ in range(max(1, size))]

    @property
    def first(self) -> Scorer:
        """One of them, for what is done once."""
        return self.scorers[0]

    def set_reference(self, clips: Sequence[Clip]) -> None:
        """Set the recordings of the voice that all of them compare with."""
        for scorer in self.scorers:
            scorer.set_reference(clips)

    @property
    def group(self) -> int:
        """Clips that are judged together: all that come, unless they have to be held in memory."""
        together = any(metric.listens_together for metric in self.first.metrics.values())
        return TOGETHER if together else 0

    def listen(self, clips: Sequence[Clip]) -> None:
        """Let the metrics that judge many clips at once hear some that did not fail."""
        for key, metric in self.first.metrics.items():
            if metric.listens_together and clips:
                with self.first.blamed(key, f"judging {len(clips)} clips"):
                    metric.listen(clips)

    def map(self, judge: Callable[[Scorer, Work], Score], items: Sequence[Work]) -> Iterator[Score]:
        """``judge(scorer, item)`` for every item, in order, as they are done."""
        free: SimpleQueue[Scorer] = SimpleQueue()
        for scorer in self.scorers:
            free.put(scorer)

        def work(item: Work) -> Score:
            scorer = free.get()
            try:
                return judge(scorer, item)
            finally:
                free.put(scorer)

        with ThreadPoolExecutor(len(self.scorers)) as pool:
            waiting = [pool.submit(work, item) for item in items]
            try:
                for future in waiting:
                    yield future.result()
            finally:
                for future in waiting:
                    future.cancel()


def checked(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Value]:
    """Return values of a metric as plain numbers and strings.

    Raises ``ValueError`` for a name that the metric did not announce in ``names`` and for a number
    that is not finite.
    """
    result: dict[str, Value] = {}
    for name, item in values.items():
        number = item.item() if hasattr(item, "item") else item
        if name not in names:
            raise ValueError(f"it gives '{name}', and announced {', '.join(names)}")
        if not isinstance(number, str | int | float):
            raise ValueError(f"'{name}' is a {type(number).__name__}, not a number or a string")
        if isinstance(number, float) and not abs(number) < float("inf"):
            raise ValueError(f"'{name}' is {number}")
        result[name] = number
    return result


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """Numbers of a set of scored clips.

    ``wer`` is the corpus word error rate in percent: all errors over all words, each clip's
    errors capped at its words; ``wer_raw`` has no cap; ``wer_mean`` is the clips' mean capped rate.
    Other recognisers' rates stand under their metric's key.
    """
    words = sum(row["words"] for row in rows)
    capped = [min(row["errors"], row["words"]) for row in rows]
    rates = [c / row["words"] for c, row in zip(capped, rows, strict=True) if row["words"]]
    result = {
        "clips": float(len(rows)),
        "failures": float(sum(bool(row["failure"]) for row in rows)),
        "seconds": float(sum(row["seconds"] for row in rows)),
        "wer": 100 * sum(capped) / max(1, words),
        "wer_raw": 100 * sum(row["errors"] for row in rows) / max(1, words),
        "wer_mean": 100 * float(np.mean(rates)) if rates else 0.0,
        "dnsmos": float(np.mean([row["dnsmos"] for row in rows])),
    }
    for key in recognisers(QUALITY):
        rate = corpus_rate(rows, key)
        if key not in result and rate is not None:
            result[key] = rate
    if rows and all("similarity" in row for row in rows):
        result["similarity"] = float(np.mean([row["similarity"] for row in rows]))
    return result


def corpus_rate(rows: Sequence[Row], key: str) -> float | None:
    """All errors of one recogniser over all words; None where not every row has words of it."""
    mean, count = weighted_mean(rows, key)
    return mean if count and count >= sum(bool(row["words"]) for row in rows) else None


def weighted_mean(rows: Sequence[Row], key: str) -> tuple[float, int]:
    """A metric's mean over the rows that have a value, weighed as it says, and their number."""
    info = metric_class(key).info
    pairs = [(value(row, info), weight(row, info)) for row in rows]
    numbers = [(number, size) for number, size in pairs if number is not None]
    if not numbers:
        return 0.0, 0
    mean = np.average([number for number, _ in numbers], weights=[size for _, size in numbers])
    return float(mean), len(numbers)
