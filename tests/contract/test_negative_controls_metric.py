"""Every check of a metric can fail: one that is wrong in one way, and what notices it."""

import pytest
from controls import failed

from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    GenerationMetric,
    MetricInfo,
    ModelMetric,
)
from wishbone.core.testing import suite


def info(**fields):
    values = {"title": "loudness", "unit": "1", "better": "higher", "margin": 0.1, "worst": 0.0}
    return MetricInfo(**{"key": "loud", "about": "How loud it is.", **values, **fields})


class Loud(AudioMetric):
    info = info()

    def score(self, clip):
        return {"loud": float(abs(clip.audio).mean())}

    def signature(self):
        return "loud|1"


class Speed(GenerationMetric):
    info = info(ratio=True)

    @classmethod
    def value(cls, row):
        return row["rtf"]

    def signature(self):
        return "speed|1"


class Loss(ModelMetric):
    info = info(better="lower", worst=None)

    def measure(self, held_out):
        return held_out.losses.codes

    def signature(self):
        return "loss|1"


class SaysNothing(Loud):
    info = info(about="loud")


class TwoSignatures(Loud):
    def signature(self):
        return f"{id(self)}"


class Remembers(Loud):
    last = 0.0

    def score(self, clip):
        self.last += float(abs(clip.audio).mean())
        return {"loud": self.last}


class Changes(Loud):
    def score(self, clip):
        clip.audio[:] = 0
        return {"loud": 1.0}


class Endless(Loud):
    def score(self, clip):
        return {"loud": float("inf")}


class Unannounced(Loud):
    def score(self, clip):
        return {"quiet": 1.0}


class FailsOtherwise(Loud):
    @classmethod
    def failed(cls, text):
        return {"quiet": 1.0}


class WeighsNothing(Loud):
    @classmethod
    def weight(cls, row):
        return 0.0 if row.get("failure") else 1.0


class NothingOfARatio(Speed):
    @classmethod
    def value(cls, row):
        return 0.0


class OneNumber(Loss):
    def measure(self, held_out):
        return held_out.losses.codes[:1]


@pytest.mark.parametrize("cls", [Loud, Speed, Loss])
def test_a_good_one_passes(cls):
    assert failed("metric", cls) == set()


BROKEN = {
    SaysNothing: "facts", TwoSignatures: "signature", Remembers: "values", Changes: "values",
    Endless: "values", Unannounced: "values", FailsOtherwise: "failures",
    WeighsNothing: "failures", NothingOfARatio: "values", OneNumber: "values",
}  # fmt: skip


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_one_is_noticed(cls):
    assert BROKEN[cls] in failed("metric", cls)


def test_every_check_of_a_metric_is_seen_to_fail():
    common = {check.name for check in suite("head")} & {check.name for check in suite("metric")}
    assert {check.name for check in suite("metric")} - common == set(BROKEN.values())
