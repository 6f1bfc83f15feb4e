"""The promises of the statistics in a small form; ``evaluate calibration`` is the full one."""

import numpy as np
import pytest

from wishbone.core.evaluate.calibration import promises
from wishbone.core.evaluate.calibration.worlds import Speaker, World, draw

TRIALS = 60
SMALL = [each for each in promises.promises() if "300" not in each.name]


@pytest.mark.parametrize("promise", SMALL, ids=lambda each: each.name)
def test_a_promise_is_kept(promise):
    assert promises.simulate(promise, TRIALS).kept


def test_a_broken_promise_is_seen():
    """Negative control: arms that differ, of which it is promised that they seldom do."""
    world = World(Speaker(5.5, 2.5), Speaker(5.5, 8.0), 48)
    false = promises.Promise("x", 0, 5, promises.says(world, "worse"))
    answer = promises.simulate(false, TRIALS)
    assert not answer.kept
    assert "broken" in promises.table([answer]).rows[0]


def test_the_invented_world_scatters_as_the_measured_one():
    arms, words = draw(
        World(Speaker(5.5, 2.5), Speaker(5.5, 2.5), 20_000), np.random.default_rng(0)
    )
    one, other = (arm[0, :, 0] * words / 100 for arm in arms)
    assert np.mean(one == 0) == pytest.approx(0.48, abs=0.04)
    assert one.var() / one.mean() == pytest.approx(1.7, abs=0.15)
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.66, abs=0.05)
    assert 100 * one.sum() / words.sum() == pytest.approx(8, abs=0.4)
