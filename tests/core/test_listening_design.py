"""Orders and sides are balanced over listeners."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.listening.design import (
    DESIGNS,
    Slot,
    arranged,
    catch_places,
    forms,
    trials,
)
from wishbone.core.evaluate.statistics.turns import williams

ITEMS = [f"s{number}" for number in range(8)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 10])
def test_a_williams_square_balances_places_and_neighbours(size):
    rows = williams(size)
    places = Counter((place, number) for row in rows for place, number in enumerate(row))
    assert set(places.values()) == {len(rows) // size}
    neighbours = Counter(pair for row in rows for pair in pairwise(row))
    assert len(neighbours) == size * (size - 1) and len(set(neighbours.values())) <= 1


def test_over_the_forms_every_trial_has_every_place_and_both_sides_equally_often():
    design = DESIGNS["ab"]
    slots = trials(design, ["a", "b"], ITEMS)
    made = forms(design, slots, 16, len(slots), seed=3)
    places = Counter((place, slot.item) for form in made for place, slot in enumerate(form))
    assert set(places.values()) == {2} and len(places) == 64
    sides = Counter((slot.item, slot.systems) for form in made for slot in form)
    assert set(sides.values()) == {8} and len(sides) == 16
    for form in made:
        assert Counter(slot.systems[0] for slot in form) == {"a": 4, "b": 4}


def test_short_forms_meet_every_trial_equally_often():
    design = DESIGNS["ab"]
    slots = trials(design, ["a", "b", "c"], ITEMS)
    assert len(slots) == 24
    made = forms(design, slots, 12, 6, seed=0)
    met = Counter((slot.item, frozenset(slot.systems)) for form in made for slot in form)
    assert set(met.values()) == {3} and len(met) == 24
    for form in made:
        assert len({slot.item for slot in form}) == 6


def test_a_listener_rates_every_sentence_before_one_comes_again():
    slots = trials(DESIGNS["mos"], ["a", "b"], ITEMS)
    assert [slot.item for slot in slots] == ITEMS * 2
    assert Counter(slot.systems[0] for slot in slots[:8]) == {"a": 4, "b": 4}


def test_x_is_either_side_equally_often():
    slot = Slot("s", ("a", "b"))
    shown = [arranged(DESIGNS["abx"], slot, turn) for turn in range(4)]
    assert sorted(shown) == [("a", "b", "a"), ("a", "b", "b"), ("b", "a", "a"), ("b", "a", "b")]


def test_catch_trials_are_spread_and_never_first():
    for seed in range(50):
        places = catch_places(20, 3, np.random.default_rng(seed))
        assert places == sorted(places) and places[0] >= 1 and places[-1] <= 20


@pytest.mark.parametrize("design", ["ab", "cmos", "abx", "mushra"])
def test_one_system_alone_is_refused(design):
    with pytest.raises(UsageError, match="two systems"):
        trials(DESIGNS[design], ["a"], ITEMS)
