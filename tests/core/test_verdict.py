"""Verdicts: one more lost sentence, families of claims, looks that nobody planned, deaf arms."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from ab_results import result
from test_ab_factors import crossed, told
from test_ab_parts import items_of, plan

from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.evaluate import gate
from wishbone.core.evaluate.again import recomputed
from wishbone.core.evaluate.experiment.items import UNMEASURED
from wishbone.core.evaluate.report import claims, item_rows
from wishbone.core.evaluate.statistics import compare
from wishbone.core.evaluate.statistics.contrast import Tables, contrast, lost_sentence
from wishbone.core.evaluate.statistics.metrics import choose, choose_primary
from wishbone.core.evaluate.statistics.verdict import Asked, Level, ask, judge, outcome

WER = choose()["wer"]


def tables(*arms):
    """Tables of arms [K, U, R] of equal weights."""
    arrays = [np.asarray(arm, float).reshape(1, -1, 1) for arm in arms]
    return Tables(arrays, np.ones(arrays[0].shape[1]), 0)


def single(*arms, metric=WER):
    ((answer, _),) = judge([ask(tables(*arms), (-1, 1), metric)], 0.05, quick=False)
    return answer


def test_two_flawless_arms_are_not_equivalent():
    assert single(np.zeros(6), np.zeros(6)).verdict == "inconclusive"
    # nor with any number of sentences that never differ
    assert single(np.zeros(600), np.zeros(600)).verdict == "inconclusive"
    random = np.random.default_rng(0)
    few, many = (random.choice([0.0, 0, 0, 10], (2, count)) for count in (100, 400))
    assert single(*few).verdict == "inconclusive"
    assert single(*many).verdict == "equivalent"


def test_a_difference_must_outlast_one_more_lost_sentence():
    random = np.random.default_rng(1)
    worse = random.choice([0.0, 0, 10], 60)
    small = single(worse + 0.0, np.maximum(0, worse - 2))
    assert small.high_together < 0 and small.verdict == "inconclusive"
    large = single(worse + random.choice([5.0, 15], 60), worse)
    assert large.verdict == "better"
    assert large.low_guarded <= large.low_together < large.high_together <= large.high_guarded
    # where nothing counts as worst, nothing is lost
    assert single(worse, worse - 2.5, metric=replace(WER, worst=None)).verdict == "better"


@pytest.mark.parametrize("sign", [-1, 1])
def test_equal_arms_must_stay_equal_with_one_more_lost_sentence_of_either(sign):
    """One end of the guarded interval beyond the margin is enough, whichever it is."""
    differences = np.random.default_rng(3).normal(0, 0.1, 60)
    asked = ask(tables(np.zeros(60), differences), (-1, 1), replace(WER, margin=1.0))
    for move, expected in ((0.2, "equivalent"), (0.95, "inconclusive")):
        moved = replace(asked, moves=(sign * move,))
        ((answer, _),) = judge([moved], 0.05, quick=False)
        assert answer.verdict == expected
        inside = [abs(end) <= 1 for end in (answer.low_guarded, answer.high_guarded)]
        assert sorted(inside) == [expected == "equivalent", True]


def test_of_many_items_more_than_one_may_be_lost_unseen():
    random = np.random.default_rng(0)
    one = random.normal(10, 1, 450)
    # one lost sentence moves the difference by 0.2 points, three by 0.6
    other = one - 0.45 + random.normal(0, 1, 450)
    asked = ask(tables(one, other), (-1, 1), replace(WER, margin=0.1))
    assert asked.lost == 3 and asked.contrast.p < 0.001
    assert judge([asked], 0.05, False)[0][0].verdict == "inconclusive"
    # negative control: as one in any number, it would have been settled
    once = replace(asked, lost=1.0)
    assert judge([once], 0.05, False)[0][0].verdict == "better"


def test_a_lost_sentence_moves_the_contrast_by_one_item():
    one, other = np.full((3, 9, 2), 10.0), np.full((3, 9, 2), 20.0)
    moves = lost_sentence([one, other], (-1, 1), np.ones(9), 100.0)
    assert moves == pytest.approx((-90 / (10 * 6), 80 / (10 * 6)))


def test_claims_are_corrected_together_and_the_rest_is_exploratory():
    random = np.random.default_rng(2)
    base = random.normal(50, 3, 40)
    # p of about 0.02 alone
    shifted = base + random.normal(0, 2, 40)
    shifted += 0.75 - (shifted - base).mean()
    metric = replace(WER, worst=None, margin=0.01)
    asked = ask(tables(base, shifted), (-1, 1), metric)
    assert 0.005 < asked.contrast.p < 0.05
    alone, *_ = judge([asked], 0.05, quick=False)
    assert alone[0].verdict == "worse" and alone[1] == asked.contrast.p
    family = judge([asked, *[ask(tables(base, base[::-1]), (-1, 1), metric)] * 9], 0.05, False)
    assert family[0][0].verdict == "inconclusive" and family[0][0].confidence == 0.995
    assert family[0][1] == pytest.approx(min(1, 10 * asked.contrast.p))
    explored = ask(tables(base, shifted), (-1, 1), replace(metric, primary=False))
    ((answer, p_holm),) = judge([explored], 0.05, quick=False)
    assert (answer.verdict, p_holm, answer.confidence) == ("exploratory", None, None)


def test_a_corrected_p_above_the_limit_settles_nothing_whatever_the_interval():
    """Six sentences cannot bring p below 2 / 64: enough for one claim, too few for three."""
    metric = replace(WER, worst=None)
    asked = ask(tables(np.full(6, 30.0) + np.arange(6), np.arange(6.0)), (-1, 1), metric)
    ((alone, p_alone),) = judge([asked], 0.05, quick=False)
    assert alone.verdict == "better" and p_alone == pytest.approx(2 / 64)
    for outcome_of, p_holm in judge([asked] * 3, 0.05, quick=False):
        assert outcome_of.high_together < 0 and p_holm == pytest.approx(6 / 64)
        assert outcome_of.verdict == "inconclusive"


def test_an_experiment_names_its_primary_metrics():
    chosen = choose_primary(["rtf"], choose(), "here")
    assert [key for key, metric in chosen.items() if metric.primary] == ["rtf"]
    assert choose_primary([], choose(), "here") == choose()


def test_an_unplanned_look_and_a_busy_machine_give_no_verdict(tmp_path):
    given = plan(prompts=12)
    given.metrics = choose_primary(["wer", "rtf"], given.metrics, "here")
    items = items_of(tmp_path, given, {"old": [4, 5, 6] * 4, "new": [1, 2, 1] * 4})
    for number, prompt in enumerate(given.prompts):
        items.add("new", prompt.key, 0, {"rtf": 0.1 + 0.001 * number})
    verdicts = {}
    for name, rules in {
        "plain": {}, "unplanned": {"alpha": 0.0}, "busy": {"busy": "load 9"},
    }.items():  # fmt: skip
        analysis = compare.analyse(items, given, **rules)
        verdicts[name] = {row.metric: row.outcome.verdict for row in analysis.comparisons}
    assert verdicts["plain"]["wer"] == verdicts["plain"]["rtf"] == "better"
    assert verdicts["unplanned"]["wer"] == verdicts["unplanned"]["rtf"] == "none"
    assert verdicts["busy"]["wer"] == "better" and verdicts["busy"]["rtf"] == "none"
    assert verdicts["plain"]["dnsmos"] == "exploratory"


def test_where_no_arm_is_understood_nothing_about_quality_follows(tmp_path):
    given = plan(prompts=12)
    items = items_of(tmp_path, given, {"old": [10] * 12, "new": [9, 8, 9] * 4})
    answer = result(given, items)
    assert claims.headline(answer).startswith("No arm is understood (at least 87 % of words")
    assert claims.warnings(answer)[0].startswith("NOT UNDERSTOOD")
    assert any(line.startswith("SATURATED: 12 of 24") for line in claims.warnings(answer))
    quality = ("wer", "dnsmos", "similarity")
    rows = [row for row in answer.analysis.comparisons if row.metric in quality]
    assert {row.outcome.verdict for row in rows} == {"none"}
    # one arm that speaks is enough to tell them apart
    items = items_of(tmp_path / "True", given, {"old": [10] * 12, "new": [1, 2, 1] * 4})
    answer = result(given, items)
    assert answer.analysis.not_understood is None
    assert answer.analysis.comparisons[0].outcome.verdict == "better"
    assert "better in word errors" in claims.headline(answer)


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "True").mkdir()


def test_words_are_counted_capped_and_not(tmp_path):
    given = plan(prompts=2)
    items = items_of(tmp_path, given, {"old": [1, 2], "new": [3, 25]})
    for key, kinds in (("000", (1, 1, 1)), ("001", (5, 0, 20))):
        names = dict(zip(("substitutions", "deletions", "insertions"), kinds, strict=True))
        items.add("new", key, 0, names)
    words = compare.analyse(items, given).words
    assert (words["new"].substitutions, words["new"].insertions) == (6, 21)
    assert (words["new"].rate, words["new"].rate_raw) == (65.0, 140.0)
    assert (words["new"].full, words["old"].full) == (1, 0)
    assert words["old"].substitutions is None


def test_statistics_are_made_again_from_raw_values(tmp_path):
    given = crossed()
    items = told(tmp_path, given, {"r-u": 1, "r-w": 3, "t-u": 5, "t-w": 7})
    items.add("r-u.2", "000", 0, {"failure": "empty"})
    before = result(given, items)
    after = recomputed(before)
    assert after.analysis.failures == before.analysis.failures
    assert after.analysis.comparisons[0].outcome.low == pytest.approx(
        before.analysis.comparisons[0].outcome.low, abs=1e-4
    )
    assert [e.outcome.verdict for e in after.analysis.effects] == [
        e.outcome.verdict for e in before.analysis.effects
    ]


def test_sizes_made_again_know_how_long_the_list_was(tmp_path):
    given = replace(plan(prompts=12), available=30)
    items = items_of(tmp_path, given, {"old": [1, 2, 1] * 4, "new": [2, 1, 1] * 4})
    before = result(given, items)
    sizes = before.analysis.comparisons[0].sizes
    assert {size.prompts for size in sizes} == {12, 24, 30}
    assert recomputed(before).analysis.comparisons[0].sizes == sizes
    # a result of before that was written down knows its own prompts alone
    (older,) = {s.prompts for s in recomputed(replace(before, available=None))
                .analysis.comparisons[0].sizes}  # fmt: skip
    assert older == 12


def test_a_limit_is_a_gate(tmp_path):
    given = plan(prompts=12)
    answer = result(given, items_of(tmp_path, given, {"old": [1, 2, 1] * 4, "new": [4, 5, 6] * 4}))
    gate.hold(answer, [gate.read_limit("wer.high > 90"), gate.read_limit("wer.low < 0")])
    with pytest.raises(GateFailed, match=r"new: wer.high > 0.5"):
        gate.hold(answer, [gate.read_limit("wer.high > 0.5")])
    for text in ("wer.high", "wer.hihg > 1", "wer > 1", "wer.high > x"):
        with pytest.raises(UsageError, match="no limit"):
            gate.read_limit(text)
    with pytest.raises(UsageError, match="not compared"):
        gate.hold(answer, [gate.read_limit("loss.high > 1")])
    with pytest.raises(UsageError, match="Did you mean"):
        gate.check_metrics([gate.read_limit("were.high > 1")], ["wer", "dnsmos"])


def test_a_limit_on_a_ratio_is_a_share(tmp_path):
    given = plan(prompts=12)
    items = items_of(tmp_path, given, {"old": [1] * 12, "new": [1] * 12})
    for index, prompt in enumerate(given.prompts):
        items.add("new", prompt.key, 0, {"rtf": 0.22 + 0.001 * (index % 2)})
    answer = result(given, items)
    gate.hold(answer, [gate.read_limit("rtf.difference > 0.2")])
    with pytest.raises(GateFailed, match="rtf"):
        gate.hold(answer, [gate.read_limit("rtf.difference > 0.05")])


def test_items_are_rows_of_a_table(tmp_path):
    given = plan(prompts=2)
    items = items_of(tmp_path, given, {"old": [1, 2], "new": [3, None]})
    with item_rows.write_items(given, items, tmp_path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["prompt"], row["wer"]) for row in rows] == [
        ("old", "000", "10.0"), ("old", "001", "20.0"),
        ("new", "000", "30.0"), ("new", "001", "100.0"),
    ]  # fmt: skip
    assert rows[3]["failure"] == "empty" and rows[3]["rtf"] == ""


def test_the_interval_without_an_end_settles_nothing():
    found = contrast([np.ones((2, 1, 1)), np.zeros((1, 1, 1))], (-1, 1), np.ones(1))
    answer = outcome(Asked(found, WER, (0.1, 0.1)), Level(), 0.01, quick=False)
    assert answer.verdict == "inconclusive" and answer.high_together is None


def test_one_arm_is_measured_in_margins_and_effects_in_standard_deviations(tmp_path):
    given = plan(prompts=4)
    items = items_of(tmp_path, given, {"old": [1, 2, 3, 4], "new": [3, 3, 5, 8]})
    (found,) = (c for c in compare.analyse(items, given).comparisons if c.metric == "wer")
    # differences are 20, 10, 20 and 40 points: mean 22.5, deviation 12.58 with n - 1
    assert found.pairs.dz == pytest.approx(22.5 / 12.583, abs=1e-3)
    estimate, low, high = found.outcome.in_margins
    # word errors are better when lower: 22.5 points more are 11.25 margins of 2 points worse
    assert estimate == pytest.approx(-22.5 / WER.margin)
    assert low <= estimate <= high


def test_repeats_scatter_is_told_of_metrics_of_items_without_gaps(tmp_path):
    given = plan(prompts=2, seeds=2)
    items = items_of(tmp_path, given, {"old": [1, 2], "new": [3, 4]})
    for repeat, (first, second) in enumerate([(1, 2), (3, 6)]):
        for prompt, errors in (("000", first), ("001", second)):
            told = {"words": 10, "errors": errors, "dnsmos": 3.0, "failure": "", "rtf": 0.2}
            items.add("old", prompt, repeat, told)
            items.add("new", prompt, repeat, {**told, "dnsmos": None if repeat else 3.0})
    spread = compare.analyse(items, given).seed_spread
    # 15 and 45 points: the deviation of the two is 30 / sqrt(2)
    assert spread["old"]["wer"] == pytest.approx(30 / 2**0.5)
    assert spread["old"]["dnsmos"] == 0 and "dnsmos" not in spread["new"]


def test_what_was_not_measured_counts_no_words(tmp_path):
    given = plan(prompts=2)
    items = items_of(tmp_path, given, {"old": [1, 2], "new": [1, 2]})
    items.add("new", "001", 0, {"words": 10, "errors": 10, "failure": UNMEASURED})
    items.add("old", "001", 0, {"words": None, "failure": "empty"})
    analysis = compare.analyse(items, given)
    words = analysis.words
    assert words["new"].words == 10 and words["old"].words == 10
    # one prompt is left, which tells nothing about the scatter of others
    assert analysis.comparisons[0].sizes is None


def test_sizes_of_other_metrics_need_repeats_of_their_own(tmp_path):
    given = plan(prompts=12)
    items = items_of(tmp_path, given, {"old": [1, 2, 1] * 4, "new": [2, 1, 1] * 4})
    for number, prompt in enumerate(given.prompts):
        for arm in ("old", "new"):
            items.add(arm, prompt.key, 0, {"dnsmos": 3.0 + (number % 5) / 10 + (arm == "new") / 20})
    sizes = {c.metric: c.sizes for c in compare.analyse(items, given).comparisons}
    assert any(size.assumed for size in sizes["wer"])
    assert sizes["dnsmos"] and not any(size.assumed for size in sizes["dnsmos"])
    assert {size.seeds for size in sizes["dnsmos"]} == {1}


def test_of_few_items_one_may_be_lost():
    asked = ask(tables(np.zeros(10), np.ones(10)), (-1, 1), WER)
    assert asked.lost == 1.0
