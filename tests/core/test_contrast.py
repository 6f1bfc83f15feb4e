"""Contrasts with training seeds as a factor of chance, by simulation: they hold what they promise.

The worlds here share each prompt's difficulty between arms, as prompts do, and give every training
of an arm an offset of its own.
"""

import numpy as np
import pytest
import scipy.stats

from wishbone.core.evaluate.statistics import paired as st
from wishbone.core.evaluate.statistics.contrast import contrast
from wishbone.core.evaluate.statistics.effects import questions

WEIGHTS = np.tile([4.0, 9, 14, 21], 6)
PAIR = (-1, 1)


def world(seed, arms=2, trainings=3, units=24, spread=0.5, noise=1.0, skew=False, shifts=()):
    """Tables [K, U, 1] of arms whose true means are ``shifts`` (nothing where not given)."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, 5, (1, units, 1))
    tables = []
    for arm in range(arms):
        own = random.normal(0, spread, (trainings, 1, 1))
        size = (trainings, units, 1)
        item = random.exponential(noise, size) - noise if skew else random.normal(0, noise, size)
        shift = shifts[arm] if shifts else 0.0
        tables.append(difficulty + own + item + shift)
    return tables


def rates(trials, coefficients=PAIR, truth=0.0, **kind):
    """How often the interval holds the truth, and how often p is at most 0.05."""
    held = alarms = 0
    for seed in range(trials):
        tables = world(seed, arms=len(coefficients), **kind)
        found = contrast(tables, coefficients, WEIGHTS[: tables[0].shape[1]], draws=400, seed=seed)
        held += found.interval.low <= truth <= found.interval.high
        alarms += found.p <= 0.05
    return held / trials, alarms / trials


@pytest.mark.parametrize(
    "kind",
    [
        {"spread": 1.0},
        {"spread": 0.2},
        # no chance in the trainings at all: intervals may be a little too wide, not too narrow
        {"spread": 0.0},
        {"spread": 0.3, "noise": 2.0, "skew": True},
        {"spread": 1.0, "trainings": 2},
    ],
)
def test_equal_arms_are_called_different_5_times_in_100(kind):
    held, alarms = rates(150, **kind)
    assert held >= 0.9
    assert alarms <= 0.1


def test_an_interaction_of_arms_without_one_is_seen_5_times_in_100():
    # both factors have effects, and large ones; the rows of the table are parallel
    held, alarms = rates(150, (1, -1, -1, 1), shifts=(0, 3, 2, 5))
    assert held >= 0.9
    assert alarms <= 0.1


def test_an_effect_and_an_interaction_that_are_there_are_found():
    assert rates(60, truth=2.0, shifts=(0, 2), spread=0.3)[1] >= 0.9
    held, found = rates(60, (1, -1, -1, 1), truth=3.0, shifts=(0, 0, 0, 3), spread=0.3)
    assert held >= 0.9
    assert found >= 0.9


def test_taking_the_trainings_for_given_would_cry_wolf():
    """Negative control: what prompts alone say of seeds that differ."""
    alarms = {"seeds": 0, "prompts": 0, "pooled": 0}
    for seed in range(100):
        tables = world(seed, spread=1.0, noise=0.5)
        found = contrast(tables, PAIR, WEIGHTS, draws=200)
        alarms["seeds"] += found.p <= 0.05
        alarms["prompts"] += found.p_checkpoints <= 0.05
        # one of the seeds of each arm, as if there were no others
        alone = contrast([each[:1] for each in tables], PAIR, WEIGHTS, draws=200)
        alarms["pooled"] += not alone.interval.low <= 0 <= alone.interval.high
    assert alarms["seeds"] <= 11
    assert alarms["prompts"] >= 40
    assert alarms["pooled"] >= 40


def test_one_training_an_arm_is_the_paired_bootstrap_over_prompts():
    a, b = (each[:1] for each in world(0))
    found = contrast([a, b], PAIR, WEIGHTS)
    assert found.interval == st.bootstrap((b - a)[0], WEIGHTS)
    assert found.p == found.p_checkpoints == st.sign_flip((b - a)[0], WEIGHTS)
    assert found.freedom is None and found.seed_share is None


@pytest.mark.parametrize("units", [2, 9])
@pytest.mark.parametrize(("trainings", "voices"), [(2, 1), (1, 2), (2, 2)])
def test_trainings_and_voices_that_never_differ_leave_the_paired_t_test(units, trainings, voices):
    random = np.random.default_rng(units)
    a, b = random.normal(0, 1, units), random.normal(0.5, 1, units)
    tables = [np.tile(np.tile(each, voices)[None, :, None], (trainings, 1, 1)) for each in (a, b)]
    found = contrast(tables, PAIR, np.ones(units * voices), voices=voices)
    expected = scipy.stats.ttest_rel(b, a)
    ends = expected.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))
    assert (found.p, found.freedom) == pytest.approx((expected.pvalue, units - 1))
    assert found.seed_share == (0.0 if trainings > 1 else None)


def test_few_seeds_make_wide_intervals_and_it_says_why():
    wide = contrast(world(1, spread=2.0, noise=0.1), PAIR, WEIGHTS)
    assert wide.freedom == pytest.approx(4, abs=2)
    assert wide.seed_share > 0.9
    narrow = contrast(world(1, spread=2.0, noise=0.1, trainings=12), PAIR, WEIGHTS)
    assert narrow.freedom > 10
    width = [each.interval.high - each.interval.low for each in (wide, narrow)]
    assert width[0] > 1.5 * width[1]
    noisy = contrast(world(1, spread=0.0, noise=3.0), PAIR, WEIGHTS)
    assert noisy.seed_share < 0.7


def test_equal_tables_differ_by_nothing():
    tables = world(3)[:1] * 2
    found = contrast(tables, PAIR, WEIGHTS)
    assert (found.interval.low, found.interval.estimate, found.interval.high) != (0, 0, 0)
    assert found.interval.estimate == 0 and found.p == 1.0
    same = contrast([np.ones((3, 4, 1))] * 2, PAIR, np.ones(4))
    assert (same.interval.low, same.interval.high, same.p) == (0, 0, 1.0)


def test_one_prompt_says_nothing():
    found = contrast([np.ones((3, 1, 1)), np.zeros((3, 1, 1))], PAIR, np.ones(1))
    assert found.interval.low == -np.inf and found.p == 1.0


FACTORS = {"backbone": ["r", "t"], "layout": ["u", "m", "w"]}
CELLS = [{"backbone": b, "layout": x} for b in FACTORS["backbone"] for x in FACTORS["layout"]]


def test_every_question_is_asked_once_and_its_coefficients_say_it():
    asked = questions(FACTORS, CELLS)
    counts = {kind: sum(each.kind == kind for each in asked) for kind in ("main", "interaction")}
    assert counts == {"main": 1 + 3, "interaction": 3}
    assert sum(each.kind == "simple" for each in asked) == 3 + 2 * 3
    assert all(abs(sum(each.coefficients)) < 1e-12 for each in asked)
    # additive cells: the main effects are the shifts, interactions nothing
    value = {"r": 0.0, "t": 4.0, "u": 0.0, "m": 1.0, "w": 3.0}
    means = [value[cell["backbone"]] + value[cell["layout"]] for cell in CELLS]
    for each in asked:
        got = sum(c * mean for c, mean in zip(each.coefficients, means, strict=True))
        wanted = sum(value[high] - value[low] for low, high in each.changed.values())
        assert got == pytest.approx(0 if each.kind == "interaction" else wanted)


def test_an_interaction_is_the_difference_of_two_simple_effects():
    random = np.random.default_rng(0)
    means = random.normal(0, 1, len(CELLS))

    def amount(effect):
        return sum(c * mean for c, mean in zip(effect.coefficients, means, strict=True))

    asked = questions(FACTORS, CELLS)
    simple = {
        (tuple(each.changed.items()), tuple(each.within.values())): amount(each)
        for each in asked
        if each.kind == "simple"
    }
    for each in asked:
        if each.kind == "interaction":
            low, high = each.changed["layout"]
            key = (("backbone", each.changed["backbone"]),)
            wanted = simple[(key, (high,))] - simple[(key, (low,))]
            assert amount(each) == pytest.approx(wanted)


def test_a_third_factor_is_averaged():
    cells = [{**cell, "size": size} for cell in CELLS for size in ("s", "l")]
    asked = questions({**FACTORS, "size": ["s", "l"]}, cells)
    main = next(each for each in asked if each.kind == "main")
    assert sorted(set(main.coefficients)) == [pytest.approx(-1 / 6), pytest.approx(1 / 6)]
