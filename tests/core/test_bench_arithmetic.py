"""Medians, intervals and verdicts on times that are written down here."""

from math import comb
from random import Random

import pytest

from wishbone.core.bench.arithmetic import judge, overall, paired_ratio, spread, verdict
from wishbone.core.bench.records import SuiteResult
from wishbone.core.bench.suite import RatioConfig, SuiteConfig


def claim(**fields):
    return RatioConfig(**{"title": "ours", **fields})


def test_a_spread_is_median_and_quartiles():
    found = spread([4, 1, 3, 2, 5])
    assert (found.least, found.low, found.median, found.high, found.most) == (1, 2, 3, 4, 5)
    assert spread([7]).low == spread([7]).high == 7


def test_a_ratio_is_the_median_of_the_rounds_and_drift_cancels():
    drift = [1, 5, 2, 9, 3, 4, 8]
    found = paired_ratio([3 * d for d in drift], [2 * d for d in drift])
    assert found.value == found.low == found.high == pytest.approx(1.5)
    # rounds that do not belong together tell nothing, and the interval shows it
    apart = paired_ratio([3 * d for d in drift], [2 * d for d in drift[::-1]])
    assert apart.low < 0.5 and apart.high > 4


def test_rounds_without_both_sides_do_not_count_and_few_make_no_ratio():
    assert paired_ratio([2, 2, None, 2], [1, 1, 1, 1]).rounds == 3
    assert paired_ratio([2, None, None, 2], [1, 1, 1, 1]) is None
    assert paired_ratio([], []) is None


@pytest.mark.parametrize("count", [3, 5, 6, 9, 11, 25])
def test_an_interval_covers_what_it_says(count):
    values = [float(i + 1) for i in range(count)]
    found = paired_ratio(values, [1.0] * count)
    cut = round(found.low) - 1
    assert found.high == values[-1 - cut]
    assert found.coverage == pytest.approx(
        1 - 2 * sum(comb(count, k) for k in range(cut + 1)) / 2**count
    )
    # as narrow as it may be, and six rounds are the fewest that are sure
    assert found.coverage >= 0.95 or cut == 0
    assert (found.coverage >= 0.95) == (count >= 6)


def test_intervals_hold_the_true_median_as_often_as_they_say():
    random, held = Random(0), 0
    for _ in range(400):
        found = paired_ratio([random.lognormvariate(0, 0.3) for _ in range(11)], [1.0] * 11)
        held += found.low <= 1.0 <= found.high
    assert 0.95 - 0.03 < held / 400 <= 1


@pytest.mark.parametrize(
    ("ratio", "asked", "status", "sure"),
    [
        (2.0, {"at_least": 1.5}, "met", True),
        (1.5, {"at_least": 1.5}, "met", True),
        (1.4, {"at_least": 1.5}, "missed", True),
        (1.04, {"at_most": 1.05}, "met", True),
        (1.06, {"at_most": 1.05}, "missed", True),
        (9.0, {}, "reported", False),
    ],
)
def test_a_claim_is_met_or_missed_at_its_median(ratio, asked, status, sure):
    found = judge(paired_ratio([ratio] * 7, [1.0] * 7), claim(**asked))
    assert (found.status, found.sure) == (status, sure)


def test_an_interval_on_both_sides_is_not_sure():
    found = judge(paired_ratio([1.3, 1.4, 1.6, 1.6, 1.6, 1.7, 1.8], [1] * 7), claim(at_least=1.5))
    assert found.status == "met" and not found.sure


def test_a_stretch_is_reached_from_the_side_of_the_claim():
    far = paired_ratio([2.0] * 7, [1.0] * 7)
    assert judge(far, claim(at_least=1.5, stretch=1.9)).reached
    assert not judge(far, claim(at_least=1.5, stretch=2.1)).reached
    assert judge(far, claim(at_most=3, stretch=2.5)).reached
    assert not judge(far, claim(at_most=3, stretch=1.5)).reached


def suite(*ratios, **fields):
    judged = [judge(ratio, requirement) for ratio, requirement in ratios]
    empty = {"about": "", "quick": False, "stopped": "", "config": SuiteConfig(), "contenders": {},
             "loads": [], "limits": {}, "rows": []}  # fmt: skip
    return SuiteResult(name="decode", ratios=judged, **(empty | fields))


FAST, SLOW = (paired_ratio([t] * 7, [1.0] * 7) for t in (2.0, 1.0))


def test_the_verdict_names_every_ratio():
    line = verdict([suite((FAST, claim(at_least=1.5)), (None, claim(title="theirs")))], False)
    assert line.startswith("verdict: incomplete. ")
    assert "decode: ours 2.00x [2.00, 2.00] (must be at least 1.5x) met" in line
    assert "theirs not measured" in line and "\n" not in line


@pytest.mark.parametrize(
    ("suites", "word"),
    [
        ([suite((FAST, claim(at_least=1.5)))], "met"),
        ([suite((FAST, claim(at_least=1.5))), suite((SLOW, claim(at_least=1.5)))], "missed"),
        ([suite((SLOW, claim(at_least=1.5)), (None, claim(at_least=1)))], "missed"),
        ([suite((FAST, claim(at_least=1.5)), (None, claim(at_least=1)))], "incomplete"),
        ([suite((FAST, claim()))], "none"),
        ([suite(stopped="results differ: llama.cpp f32 in logits by 1e-01")], "missed"),
    ],
)
def test_the_word_of_a_run(suites, word):
    assert overall(suites, quick=False) == word
    assert overall(suites, quick=True) == "none"


def test_a_quick_run_says_that_it_has_no_verdict():
    line = verdict([suite((FAST, claim(at_least=1.5)))], quick=True)
    assert "none" in line and "--quick" in line and "2.00x" not in line
