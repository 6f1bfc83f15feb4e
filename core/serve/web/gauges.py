"""Metrics for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from wishbone.core.serve.admission import Gate
from wishbone.core.serve.request_log import Entry

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
FACTORS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)
DIRECT = "none"
"""Label ``route`` of requests that name their system."""
UNKNOWN = "unknown"
"""Label ``system`` of requests that name none that is served."""


class _GateCollector(Collector):
    """Reads queue and slots of each system when somebody asks."""

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self._gates = gates

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the gauges as they are now."""
        figures = {
            "wishbone_slots": ("Slots of a system", "slots"),
            "wishbone_slots_used": ("Slots in which a request speaks", "used"),
            "wishbone_queue": ("Requests that wait for a slot", "waiting"),
            "wishbone_requests_inside": ("Requests that wait, speak or are being sent", "inside"),
        }
        families = []
        for name, (text, attribute) in figures.items():
            family = GaugeMetricFamily(name, text, labels=["system"])
            for system, gate in self._gates.items():
                family.add_metric([system], getattr(gate, attribute))
            families.append(family)
        return families


class Gauges:
    """Counters and histograms of requests, by system and by route."""

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_GateCollector(gates))
        ProcessCollector(registry=self.registry)
        labels = ["system", "route"]
        self._requests = Counter(
            "wishbone_requests", "Requests by outcome; ok is a whole answer",
            [*labels, "outcome"], registry=self.registry,
        )  # fmt: skip
        self._audio = Counter(
            "wishbone_audio_seconds", "Seconds of audio spoken", labels, registry=self.registry
        )
        self._first_sound = Histogram(
            "wishbone_first_sound_seconds", "Seconds from arrival to the first samples", labels,
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._factor = Histogram(
            "wishbone_real_time_factor", "Seconds in a slot per second of audio", labels,
            buckets=FACTORS, registry=self.registry,
        )  # fmt: skip

    def observe(self, entry: Entry) -> None:
        """Count a request that is over."""
        labels = (entry.arm, entry.route or DIRECT)
        self._requests.labels(*labels, entry.failure or "ok").inc()
        self._audio.labels(*labels).inc(entry.seconds)
        if entry.first_sound is not None:
            self._first_sound.labels(*labels).observe(entry.first_sound)
        if not entry.failure and entry.real_time_factor is not None:
            self._factor.labels(*labels).observe(entry.real_time_factor)

    def refused(self, system: str, route: str, outcome: str) -> None:
        """Count a request that never came to a slot."""
        self._requests.labels(system or UNKNOWN, route or DIRECT, outcome).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
