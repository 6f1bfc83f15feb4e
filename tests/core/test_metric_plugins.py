"""Metrics of others in an A/B: chosen, judged, compared, and named where they fail."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import soundfile
from test_ab_parts import plan

from wishbone.core.contract.errors import ConfigError, MissingExtra, PluginBroken, UnknownName
from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    Clip,
    GenerationMetric,
    HeldOut,
    MetricInfo,
    ModelMetric,
    Package,
    UtteranceLosses,
)
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.evaluate.judging import judge_missing
from wishbone.core.evaluate.measure.score import Panel, Scorer
from wishbone.core.evaluate.record import record_json
from wishbone.core.evaluate.report import players
from wishbone.core.evaluate.statistics import compare, counts, metrics
from wishbone.core.registry import entry_points, loader
from wishbone.core.registry.entry_points import Point
from wishbone.core.registry.loader import hookimpl
from wishbone.plugins.metrics.word_errors import WordErrorRate

ARMS = "arms: {a: quickstart-rwkv7, b: quickstart-transformer}\nlimit: 2\n"


def info(key, **fields):
    fields = {"title": "loudness", "unit": "dB", "better": "higher", "margin": 1.0} | fields
    return MetricInfo(key=key, about="How loud it is.", **fields)


@dataclass
class LoudOptions:
    floor: float = -60.0
    """Decibels of silence."""


class Loud(AudioMetric):
    Config = LoudOptions
    info = info("acme/loud", worst=-60.0, primary=True)
    fields = ("acme/loud", "acme/loud.size")
    version = 1

    def score(self, clip):
        level = 10 * np.log10(np.mean(clip.audio**2))
        return {"acme/loud": np.float32(level), "acme/loud.size": len(clip.audio)}

    @classmethod
    def weight(cls, row):
        return row.get("acme/loud.size", 1)

    def signature(self):
        return f"loud|version {self.version}"


class Stall(GenerationMetric):
    info = info("acme/stall", better="lower")

    @classmethod
    def value(cls, row):
        return row.get("stall")

    def signature(self):
        return "stall"


class Worst(ModelMetric):
    info = info("acme/worst", better="lower")

    def measure(self, held_out):
        return [max(held_out.losses.codes)] * len(held_out.samples)

    def signature(self):
        return "worst"


class Like(Loud):
    info = info("acme/like")
    needs_reference = True
    fields = ()


class Absent(Loud):
    info = info("acme/absent")
    fields = ()
    packages = (Package("no_such_module", "no-such-package"),)


class OtherKey(Loud):
    info = info("acme/else")


class Taking(Loud):
    info = info("acme/taking")
    fields = ("errors",)


NAMES = {
    "loud": Loud, "stall": Stall, "worst": Worst, "like": Like, "absent": Absent,
    "other-key": OtherKey, "taking": Taking, "none": dict,
}  # fmt: skip


class Acme:
    WISHBONE_API = "1.0"

    @hookimpl
    def wishbone_register(self, registry):
        for key, cls in NAMES.items():
            module = "builtins" if cls is dict else __name__
            registry.add("metric", f"acme/{key}", f"{module}:{cls.__name__}")


@pytest.fixture(autouse=True)
def acme(monkeypatch):
    point = Point("acme", "acme.plugin", "wishbone-acme", "0.2", Acme)
    result = loader.load([*entry_points.built_in_points(), point])
    assert {plugin.status for plugin in result.plugins} == {"ok"}
    monkeypatch.setattr(loader, "loaded", lambda: result)


def clip(level=0.1, key="000"):
    return Clip(key, "two words", np.full(8000, level, "float32"), 8000)


def test_it_stands_behind_the_usual_ones_with_its_margin():
    chosen = metrics.choose({"acme/loud": 0.5}, ["acme/loud", "acme/worst"])
    assert list(chosen) == [*metrics.SPEECH, "acme/loud"]
    assert chosen["acme/loud"].margin == 0.5 and Loud.info.margin == 1.0
    assert list(metrics.choose_listening({}, ["acme/worst"])) == [*metrics.HELD_OUT, "acme/worst"]
    with pytest.raises(ConfigError, match="no metric 'acme/loud' in this A/B") as caught:
        metrics.choose({"acme/loud": 0.5})
    assert "metrics: [acme/loud]" in caught.value.do


def read(tmp_path, text):
    (tmp_path / "try.yaml").write_text(ARMS + text)
    return read_plan(tmp_path / "try.yaml")


def test_an_ab_file_adds_metrics_with_options(tmp_path):
    ab_plan = read(
        tmp_path,
        "metrics: [acme/stall, {name: acme/loud, floor: -50}]\nmargins: {acme/loud: 2}",
    )
    assert list(ab_plan.metrics)[-2:] == ["acme/stall", "acme/loud"]
    assert ab_plan.options["acme/loud"] == LoudOptions(floor=-50)
    assert "acme/loud" in ab_plan.used and "similarity" not in ab_plan.used
    assert Scorer(["acme/loud"], ab_plan.options).signatures == {
        "acme/loud": "loud|version 1|floor=-50.0"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics: [acme/lout]", "No metric is named 'acme/lout'"),
        ("metrics: [{floor: 1}]", "which metric"),
        ("metrics: [{name: acme/loud, flor: 1}]", "flor"),
        ("metrics: [acme/like]", "compares with recordings"),
        ("metrics: [acme/worst]", "held-out token data"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises((ConfigError, UnknownName), match=message):
        read(tmp_path, text)


def test_missing_packages_are_named_before_any_work(tmp_path):
    ab_plan = read(tmp_path, "metrics: [acme/absent]")
    with pytest.raises(MissingExtra, match="no-such-package is needed") as caught:
        metrics.need_packages([key for key in ab_plan.used if key.startswith("acme")])
    assert caught.value.do == "Run: pip install no-such-package"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("acme/other-key", "says it is 'acme/else'"),
        ("acme/taking", "'errors' does not begin"),
        ("acme/none", "no AudioMetric"),
    ],
)
def test_a_class_that_is_no_metric_is_named_with_its_origin(key, message):
    with pytest.raises(PluginBroken, match=message) as caught:
        metrics.metric_class(key)
    assert "wishbone-acme 0.2" in caught.value.where


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("score", lambda self, clip: 1 / 0, "judging '000': ZeroDivisionError"),
        ("score", lambda self, clip: {"acme/loud": float("nan")}, "'acme/loud' is nan"),
        ("score", lambda self, clip: {"acme/loud": [1]}, "is a list"),
        ("score", lambda self, clip: {"failure": "x"}, "announced acme/loud"),
        ("__init__", lambda self, config: 1 / 0, "being built: ZeroDivisionError"),
        ("signature", lambda self: 1 / 0, "giving its signature: ZeroDivisionError"),
        ("set_reference", lambda self, clips: 1 / 0, "taking the reference"),
    ],
)
def test_a_metric_that_raises_is_named_with_its_cause(monkeypatch, name, broken, message):
    monkeypatch.setattr(Loud, name, broken)
    with pytest.raises(PluginBroken, match=message) as caught:
        scorer = Scorer(["acme/loud"])
        scorer.set_reference([clip()])
        assert scorer.signatures
        scorer.score(clip())
    assert "wishbone-acme 0.2" in caught.value.where and "wishbone-acme" in caught.value.do


def judged(tmp_path, ab_plan):
    """Items of two arms, one of which is louder, and the last of which failed."""
    items = Items(tmp_path / "items.jsonl")
    for arm, level in (("old", 0.1), ("new", 0.2)):
        for number, prompt in enumerate(ab_plan.prompts):
            path = tmp_path / f"{arm}{prompt.key}.flac"
            soundfile.write(path, np.full(2000 * (number + 1), level), 8000)
            failed = "" if prompt is not ab_plan.prompts[-1] else "error"
            row = {"text": prompt.text, "audio": path.name, "failure": failed, "stall": 5.0}
            items.add(arm, prompt.key, 0, row)
    return items


def test_it_is_judged_compared_and_shown(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(WordErrorRate, "score", lambda self, clip: calls.append(clip) or {
        "heard": "x", "errors": 1, "words": 2,
    })  # fmt: skip
    monkeypatch.setattr(
        WordErrorRate,
        "failed",
        classmethod(lambda cls, text: {"heard": "", "errors": 2, "words": 2}),
    )
    chosen = metrics.choose({}, ["acme/loud", "acme/stall"])
    keys = ("wer", "rtf", "acme/loud", "acme/stall")
    ab_plan = replace(plan(prompts=8), metrics={key: chosen[key] for key in keys})
    items = judged(tmp_path, ab_plan)
    signatures = judge_missing(
        ab_plan, items, tmp_path, Panel(1, list(ab_plan.metrics), ab_plan.options)
    )
    assert signatures["acme/loud"] == "loud|version 1" and signatures["acme/stall"] == "stall"
    assert signatures.keys() == set(keys)
    assert len(calls) == 14
    result = compare.analyse(items, ab_plan)
    row = next(c for c in result.comparisons if c.metric == "acme/loud")
    # 7 prompts 6 dB louder that weigh their samples, and one that failed in both and weighs 1
    assert row.outcome.difference == pytest.approx(20 * np.log10(2) * 56_000 / 56_001)
    assert row.outcome.verdict == "better" and row.outcome.low > 1 and row.p_holm is not None
    raw = counts.raw(items, ab_plan, {})
    assert raw.weights["acme/loud"] == [2000 * (n + 1) for n in range(7)] + [1]
    assert raw.words == [2] * 8 and raw.values["acme/stall"]["old"][0] == [5.0]
    facts = {key: metrics.facts(metric) for key, metric in ab_plan.metrics.items()}
    json.dumps({key: record_json(part) for key, part in facts.items()})
    assert facts["acme/loud"].source == "audio"
    assert "loudness -20.00" in players.numbers(items.get("old", "000", 0), facts)
    # another version judges again, and only with that metric
    monkeypatch.setattr(Loud, "version", 2)
    monkeypatch.setattr(Loud, "score", lambda self, clip: {"acme/loud": 1.0})
    judge_missing(ab_plan, items, tmp_path, Panel(1, list(ab_plan.metrics), ab_plan.options))
    assert len(calls) == 14 and items.get("old", "000", 0).row["acme/loud"] == 1.0
    assert items.get("old", "007", 0).failure == "error"


def test_a_ratio_of_nothing_is_named(monkeypatch):
    monkeypatch.setattr(Stall, "info", info("acme/stall", ratio=True))
    with pytest.raises(PluginBroken, match="0.0 is no value of a ratio"):
        metrics.value({"stall": 0.0, "failure": ""}, Stall.info)


def test_a_model_metric_gives_one_number_an_utterance(monkeypatch):
    from wishbone.core.evaluate.measure import held_out_loss

    held_out = HeldOut(None, None, [None] * 2, [None] * 2, UtteranceLosses([1, 2], [3, 4], [5, 6]))
    assert held_out_loss._values(metrics.create("acme/worst"), held_out) == [2.0, 2.0]
    monkeypatch.setattr(Worst, "measure", lambda self, held_out: [1.0])
    with pytest.raises(PluginBroken, match="1 numbers for 2 utterances"):
        held_out_loss._values(metrics.create("acme/worst"), held_out)


def test_a_metric_is_built_with_the_options_it_is_given():
    assert metrics.create("acme/loud", LoudOptions(floor=-50)).config == LoudOptions(floor=-50)
    assert metrics.create("acme/loud").config == LoudOptions()
