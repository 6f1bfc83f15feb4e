"""The statistics, by simulation with fixed seeds: what they promise must happen that often."""

from itertools import product

import numpy as np
import pytest

from wishbone.core.evaluate.statistics import agreement, looks, sample_size
from wishbone.core.evaluate.statistics import paired as st


def simulated(seed, units=24, seeds=1, shift=0.0, skew=False):
    """Scores of two arms that share each prompt's difficulty (its spread is 5 times the noise)."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, 5, (units, 1))
    noise = (
        random.exponential(1, (2, units, seeds)) - 1
        if skew
        else random.normal(0, 1, (2, units, seeds))
    )
    return difficulty + noise[0], difficulty + noise[1] + shift


def coverage(trials, draws=1000, **world):
    inside = 0
    for seed in range(trials):
        a, b = simulated(seed, **world)
        found = st.bootstrap(b - a, draws=draws, seed=seed)
        inside += found.low <= world.get("shift", 0.0) <= found.high
    return inside / trials


@pytest.mark.parametrize(
    ("world", "least"),
    [
        ({"units": 24}, 0.92),
        # eight prompts have too few patterns for the tails; it is near, and the plain one is not
        ({"units": 8}, 0.90),
        ({"units": 24, "seeds": 3}, 0.92),
        ({"units": 40, "skew": True}, 0.92),
    ],
)
def test_the_interval_holds_the_truth_95_times_in_100(world, least):
    assert least <= coverage(400, shift=0.3, **world) <= 0.985


def test_plain_percentiles_would_be_too_narrow_for_few_units():
    # the negative control of the correction: with 6 units the uncorrected interval misses often
    inside = 0
    for seed in range(400):
        a, b = simulated(seed, units=6)
        draws = np.random.default_rng(seed).choice((b - a)[:, 0], (400, 6)).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        inside += low <= 0 <= high
    assert inside / 400 < 0.91


def test_an_unpaired_comparison_misses_what_the_paired_one_sees():
    a, b = simulated(1, units=24, shift=1.5)
    paired = st.bootstrap(b - a)
    random = np.random.default_rng(0)
    unpaired = [
        random.choice(b[:, 0], 24).mean() - random.choice(a[:, 0], 24).mean() for _ in range(2000)
    ]
    low, high = np.quantile(unpaired, [0.025, 0.975])
    assert paired.low > 0
    assert low < 0 < high


def test_sign_flip_cries_wolf_5_times_in_100():
    for units in (12, 30):
        alarms = 0
        for seed in range(400):
            a, b = simulated(seed, units=units, skew=True)
            alarms += st.sign_flip(b - a, draws=400, seed=seed) <= 0.05
        assert 0.02 <= alarms / 400 <= 0.08


def test_flipping_seeds_instead_of_prompts_would_cry_wolf():
    # the negative control of the unit: five seeds of a prompt share its own difference
    alarms = {"prompts": 0, "seeds": 0}
    for seed in range(200):
        random = np.random.default_rng(seed)
        difference = random.normal(0, 1, (10, 1)) + random.normal(0, 0.3, (10, 5))
        alarms["prompts"] += st.sign_flip(difference, draws=400) <= 0.05
        alarms["seeds"] += st.sign_flip(difference.reshape(-1), draws=400) <= 0.05
    assert alarms["prompts"] <= 20
    assert alarms["seeds"] >= 50


def test_resampling_prompts_alone_is_too_sure_about_new_voices():
    inside = {"prompts": 0, "voices": 0}
    for seed in range(120):
        random = np.random.default_rng(seed)
        voices = np.repeat(np.arange(8), 6)
        values = random.normal(0, 1, 8)[voices] + random.normal(0, 0.5, 48)
        alone = st.bootstrap(values, draws=200, seed=seed)
        nested = st.bootstrap(values, groups=voices, draws=200, seed=seed)
        inside["prompts"] += alone.low <= 0 <= alone.high
        inside["voices"] += nested.low <= 0 <= nested.high
    assert inside["prompts"] < 0.75 * 120
    assert inside["voices"] > 0.9 * 120


def test_sign_flip_is_exact_for_few_units():
    assert st.sign_flip(np.array([1.0, 1, 1, 1, 1])) == pytest.approx(2 / 32)
    # units that do not differ carry no sign
    assert st.sign_flip(np.array([1.0, 1, 1, 1, 1, 0, 0, 0])) == pytest.approx(2 / 32)
    assert st.sign_flip(np.zeros(5)) == 1.0
    # sums equal on paper count as reached though they differ by rounding
    assert st.sign_flip(np.array([0.1, 0.2, -0.3])) == 1.0


def test_random_flips_agree_with_all_flips():
    values = np.random.default_rng(3).normal(0.4, 1, 13)
    exact = st.sign_flip(values)
    every = 1 - 2 * np.array(list(product((0, 1), repeat=13)))
    assert exact == np.mean(np.abs(every @ values) >= abs(values.sum()) - 1e-9)
    wide = np.concatenate([values, np.full(6, 1e-12)])
    assert st.sign_flip(wide) == pytest.approx(exact, abs=0.02)


def test_four_voices_cannot_reach_five_percent():
    voices = np.repeat(np.arange(4), 10)
    assert st.sign_flip(np.ones(40), groups=voices) == pytest.approx(2 / 16)


def test_weights_make_it_the_corpus_rate():
    errors, words = np.array([1.0, 0, 6]), np.array([2.0, 8, 10])
    found = st.bootstrap(errors / words, words)
    assert found.estimate == pytest.approx(7 / 20)
    assert found.low < 0.35 < found.high


def test_the_interval_is_reproducible_and_its_seed_matters_little():
    values = np.random.default_rng(0).normal(0, 1, 30)
    assert st.bootstrap(values, seed=1) == st.bootstrap(values, seed=1)
    one, two = st.bootstrap(values, seed=1), st.bootstrap(values, seed=2)
    assert one.low == pytest.approx(two.low, abs=0.03)


@pytest.mark.parametrize("groups", [None, np.arange(30) // 3])
def test_any_number_of_draws_is_drawn_and_the_first_ones_are_the_same(groups):
    values = np.random.default_rng(0).normal(0, 1, 30)
    many, some = (st.resamples(values, groups=groups, draws=draws) for draws in (700, 500))
    assert len(many.means) == 700 and np.array_equal(many.means[:500], some.means)
    assert len(np.unique(many.means)) > 600


def test_what_would_have_been_seen_four_times_in_five():
    # z of 97.5 % is 1.96, of 80 % 0.8416
    assert st.detectable(st.Interval(1.0, -1.0, 3.0)) == pytest.approx(2 * (1 + 0.84162 / 1.95996))
    wider = st.detectable(st.Interval(1.0, -1.0, 3.0), confidence=0.99)
    assert wider == pytest.approx(2 * (1 + 0.84162 / 2.57583), rel=1e-5)


def test_one_unit_says_nothing():
    found = st.bootstrap(np.array([3.0]))
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert st.verdict(found, 1.0, "lower") == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (0.5, 2.0, "higher", "better"),
        (0.5, 2.0, "lower", "worse"),
        (-2.0, -0.5, "lower", "better"),
        (-0.5, 0.9, "higher", "equivalent"),
        (0.1, 0.9, "lower", "equivalent"),
        (-0.5, 1.1, "higher", "inconclusive"),
    ],
)
def test_verdicts(low, high, better, expected):
    assert st.verdict(st.Interval((low + high) / 2, low, high), 1.0, better) == expected


def test_the_size_that_is_advised_finds_the_difference_four_times_in_five():
    # a pilot of 24 prompts and 3 repeats; noise of a repeat is 1 in each arm
    sizes = {}
    for seed in range(60):
        a, b = simulated(seed, units=24, seeds=3)
        spread = sample_size.scatter([a[None], b[None]], (-1, 1), np.ones(24), 0.0)
        for size in sample_size.curve(spread, (24, 3), 96, 0.95):
            sizes.setdefault((size.prompts, size.seeds), []).append(size.detectable)
    assert sorted({key[0] for key in sizes}) == [24, 48, 96]
    for (units, seeds), differences in sizes.items():
        shift = float(np.median(differences))
        settled = 0
        for seed in range(100):
            a, b = simulated(1000 + seed, units=units, seeds=seeds, shift=shift)
            settled += st.bootstrap(b - a, draws=200).low > 0
        assert 0.68 <= settled / 100 <= 0.92


def test_repeats_buy_most_where_they_are_what_scatters():
    a, b = simulated(3, units=40, seeds=5)
    spread = sample_size.scatter([a[None], b[None]], (-1, 1), np.ones(40), 0.0)
    assert spread.within > 5 * spread.between and not spread.assumed
    one, five = (sample_size.detectable(spread, 40, repeats, 0.95) for repeats in (1, 5))
    assert five < 0.55 * one
    # differences that belong to the prompts: repeats buy nothing
    fixed = np.random.default_rng(0).normal(0, 1, (1, 40, 1)) + np.zeros((1, 40, 5))
    spread = sample_size.scatter([np.zeros_like(fixed), fixed], (-1, 1), np.ones(40), 0.0)
    assert spread.within == pytest.approx(0) and spread.between == pytest.approx(
        fixed[0, :, 0].var(ddof=1)
    )


def test_without_repeats_the_share_between_them_is_the_measured_one():
    differences = np.random.default_rng(0).normal(0, 3, 20)
    tables = [np.zeros((1, 20, 1)), differences[None, :, None]]
    spread = sample_size.scatter(tables, (-1, 1), np.ones(20), 0.25)
    variance = differences.var(ddof=1)
    assert (spread.between, spread.within) == pytest.approx((0.02 * variance, 0.98 * variance))
    assert spread.assumed and spread.trainings == 0.25


def test_no_size_is_advised_from_few_prompts_or_beyond_those_that_exist():
    a, b = simulated(3, units=sample_size.FEWEST)
    spread = sample_size.scatter([a[None], b[None]], (-1, 1), np.ones(len(a)), 0.0)
    assert sample_size.curve(spread, (sample_size.FEWEST - 1, 1), 100, 0.95) == []
    sizes = sample_size.curve(spread, (sample_size.FEWEST, 1), 20, 0.95)
    assert max(size.prompts for size in sizes) == 20
    # how repeats scatter is not known from a run without any, and it is said
    assert {size.seeds: size.assumed for size in sizes} == {1: None, 3: True, 5: True}


def test_looks_share_the_chance_of_a_false_alarm():
    assert looks.parts([100], 0.05) == pytest.approx([0.05])
    parts = looks.parts([24, 48, 96], 0.05)
    assert sum(parts) == pytest.approx(0.05) and parts == sorted(parts)
    assert parts[-1] > 0.04
    assert looks.part_of([24, 96], 48, 0.05) == (0, 0.0)
    # equal arms, eight looks, stopped at the first alarm
    counts = list(range(12, 108, 12))
    alarms = {"planned": 0, "free": 0}
    for seed in range(200):
        a, b = simulated(seed, units=96)
        p = [st.sign_flip((b - a)[:count], draws=400, seed=seed) for count in counts]
        alarms["planned"] += any(
            value <= part for value, part in zip(p, looks.parts(counts, 0.05), strict=True)
        )
        alarms["free"] += min(p) <= 0.05
    assert alarms["planned"] <= 16
    # negative control
    assert alarms["free"] >= 22


def test_rates_of_failure():
    none = st.wilson(0, 20)
    assert none.low == 0 and 0.1 < none.high < 0.2
    assert st.wilson(0, 0) == st.Interval(0.0, 0.0, 1.0)
    assert st.mcnemar(0, 0) == 1.0
    assert st.mcnemar(0, 6) == pytest.approx(2 / 64)
    assert st.mcnemar(3, 3) == 1.0


def test_items_of_one_prompt_fail_together():
    # 48 prompts of 9 items, half as alike as they can be; and the negative control
    held = {"prompts": 0, "items": 0}
    random = np.random.default_rng(0)
    for _ in range(300):
        counts = random.binomial(9, random.beta(0.05, 0.95, 48))
        clustered, naive = st.clustered_rate(counts, 9), st.wilson(int(counts.sum()), 48 * 9)
        held["prompts"] += clustered.low <= 0.05 <= clustered.high
        held["items"] += naive.low <= 0.05 <= naive.high
    assert held["prompts"] >= 0.93 * 300
    assert held["items"] <= 0.75 * 300
    # nothing failed: prompts count, however often each was spoken
    assert st.clustered_rate(np.zeros(48), 9).high == pytest.approx(st.wilson(0, 48).high)
    assert st.clustered_rate(np.array([1, 0, 2]), 3).estimate == pytest.approx(1 / 3)


def test_a_rate_of_units_is_wilsons_of_as_many_independent_tries():
    """By the formulas of the page: the design effect, and what six units tell of it."""
    counts, trials = np.array([3, 0, 4, 1, 6, 2, 5, 0]), 30
    rate = counts.sum() / 240
    effect = counts.var(ddof=1) / trials / (rate * (1 - rate))
    tries = 240 / effect * (1.959964 / 2.364624) ** 2  # t of 7 degrees of freedom
    assert effect > 2 and tries > 8
    answer, expected = st.clustered_rate(counts, trials), st.wilson_rate(rate, tries)
    assert answer.estimate == pytest.approx(rate)
    assert (answer.low, answer.high) == pytest.approx((expected.low, expected.high), rel=1e-4)


def test_recognisers_are_compared_on_what_both_heard():
    rows = [
        {"a": "one two", "b": None}, {"b": "one"}, {"a": "1 2 5", "b": "2 3"}, {"a": "4", "b": ""},
    ]  # fmt: skip
    answer = agreement._agreement("arm", rows, ("wer", "a"), ("wer2", "b"))
    assert (answer.both, answer.only, answer.metrics) == (1, (3, 1), ("wer", "wer2"))


def test_holm_is_between_no_correction_and_bonferroni():
    raw = {"a": 0.01, "b": 0.04, "c": 0.03}
    assert st.holm(raw) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_effect_counts_prompts():
    found = st.effect(np.array([-1.0, -2, 0, 3]), "lower")
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.superiority == pytest.approx(0.625)


def test_student_of_any_freedom():
    # tables of Student's t at 97.5 %; an expansion around the normal one misses 3.182 by 8.5 %
    table = ((1, 12.706), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7.5, 2.333), (30, 2.0423))
    for freedom, expected in table:
        assert st.student(0.975, freedom) == pytest.approx(expected, rel=1e-4)
        assert st.two_sided(expected, freedom) == pytest.approx(0.05, abs=2e-5)
