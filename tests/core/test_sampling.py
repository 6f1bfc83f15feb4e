"""Draws against the distributions they must have, with fixed seeds."""

from collections import Counter
from functools import partial

import pytest
import torch

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError, WishboneError
from wishbone.core.contract.head import Head
from wishbone.core.contract.session import Draw
from wishbone.core.model.sampling import Sampler, Sampling, choose

DRAWS = 4000
TOLERANCE = 0.035
"""Above four standard deviations of a share of 4000 draws."""

PLAIN = {"top_k": 0, "top_p": 1.0, "repetition_window": 0}
CHANCES = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])


def shares(logits, history=(), banned=(), **fields):
    sampling, generator = Sampling(**(PLAIN | fields)), torch.Generator().manual_seed(11)
    counts = Counter(
        choose(logits, sampling, generator, history=history, banned=banned) for _ in range(DRAWS)
    )
    return torch.tensor([counts[i] / DRAWS for i in range(len(logits))])


def close(found, expected):
    expected = torch.as_tensor(expected, dtype=torch.float32)
    return bool((found - expected / expected.sum()).abs().max() < TOLERANCE)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"top_k": 2}, [0.5, 0.2, 0, 0, 0]),
        ({"top_p": 0.7}, [0.5, 0.2, 0, 0, 0]),
        ({"top_p": 0.71}, [0.5, 0.2, 0.15, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.25}, [0.5, 0.2, 0.15, 0, 0]),
        ({"temperature": 0.5}, [0.25, 0.04, 0.0225, 0.01, 0.0025]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"greedy": True}, [1, 0, 0, 0, 0]),
        # top-p looks at the whole distribution, not at what top-k left
        ({"top_k": 2, "top_p": 0.6}, [0.5, 0.2, 0, 0, 0]),
        ({"banned": (0,)}, [0, 0.2, 0.15, 0.1, 0.05]),
        ({"banned": (0,), "top_k": 1}, [0, 1, 0, 0, 0]),
    ],
)
def test_distribution(fields, expected):
    fields = dict(fields)
    banned = fields.pop("banned", ())
    assert close(shares(CHANCES.log(), banned=banned, **fields), expected)


def test_the_tolerance_can_fail():
    assert not close(shares(CHANCES.log()), [0.4, 0.3, 0.15, 0.1, 0.05])


def test_top_p_of_one_is_off_for_a_large_vocabulary():
    logits = torch.zeros(65_536)
    sampling, generator = Sampling(**PLAIN), torch.Generator().manual_seed(0)
    assert len({choose(logits, sampling, generator) for _ in range(100)}) > 95


def test_repetition_draws_again_without_the_repeated_id():
    fields = {"top_k": 1, "repetition_window": 10}
    assert close(shares(CHANCES.log(), **fields), [1, 0, 0, 0, 0])
    again = shares(CHANCES.log(), history=[0], **fields)
    assert close(again, [0, 0.2, 0.15, 0.1, 0.05])
    older = shares(CHANCES.log(), history=[0], repetition_masked=False, **fields)
    assert close(older, CHANCES)


def test_repetition_looks_only_at_the_window():
    fields = {"top_k": 1, "repetition_window": 3, "repetition_threshold": 0.5}
    for history, drawn_again in (
        ([0, 0, 1, 2, 3], False),
        ([0, 0, 1, 2, 0], False),
        ([1, 0, 2, 0], True),
    ):
        found = shares(CHANCES.log(), history=history, **fields)
        assert (found[0] == 0) == drawn_again


def test_banned_ids_stay_banned_in_the_second_draw():
    fields = {"top_k": 1, "repetition_window": 10}
    found = shares(CHANCES.log(), history=[0], banned=(1, 2), **fields)
    assert close(found, [0, 0, 0, 0.1, 0.05])
    alone = shares(CHANCES.log(), history=[0], banned=(1, 2, 3, 4), **fields)
    assert close(alone, [1, 0, 0, 0, 0])


def test_logits_are_not_changed():
    logits = CHANCES.log()
    before = logits.clone()
    shares(logits, banned=(0,), temperature=0.7, history=[1], repetition_window=5)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("greedy", [True, False])
def test_logits_that_are_not_numbers_are_refused(greedy):
    for logits in (torch.full((4,), float("nan")), torch.full((4,), float("-inf"))):
        with pytest.raises(WishboneError, match="not numbers"):
            choose(logits, Sampling(greedy=greedy), torch.Generator())


@pytest.mark.parametrize("field, value", [("temperature", -1), ("min_p", 1.5), ("top_k", -2)])
def test_numbers_outside_their_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        sampler(**{field: value})


class Fixed(Head):
    """Two codebooks whose logits do not depend on the hidden vector."""

    def forward(self, hidden):
        return torch.stack([CHANCES.log(), CHANCES.flip(0).log()])


def sampler(seed=0, **fields):
    return Sampler(Sampling(**fields), CodeSpace(size=4, rate=25.0, codebooks=2), seed)


def draw(one, count, **fields):
    pick = partial(one.pick, Draw(**fields))
    return [Fixed().sample(torch.zeros(3), pick) for _ in range(count)]


def test_requests_do_not_share_a_generator():
    first, second = sampler(5), sampler(5)
    torch.manual_seed(1)
    alone = draw(sampler(5), 20)
    mixed = [draw(one, 1)[0] for _ in range(20) for one in (first, second)]
    assert mixed[::2] == mixed[1::2] == alone
    assert alone != draw(sampler(6), 20)


def test_forced_ids_are_not_drawn():
    one, other = sampler(3), sampler(3)
    assert draw(one, 1, forced=4) == [(4, 4)]
    assert draw(one, 5) == draw(other, 5)


def test_ids_of_the_layout_are_no_repetition():
    """Id 4 is beyond the four codes: drawn from the second codebook again and again."""
    drawn = draw(sampler(top_k=1, top_p=1.0), 50)
    assert all(second == 4 for _, second in drawn)
    assert any(first != 0 for first, _ in drawn)


def test_a_new_utterance_forgets():
    one = sampler(top_k=1)
    draw(one, 1)
    one.forget()
    assert draw(one, 1)[0][0] == 0


def test_the_log_probability_is_the_models_own_mean_over_codes():
    """Neither the temperature, the filters nor bans change it, and ids beyond are no codes."""
    one = sampler(temperature=0.5, top_k=4, top_p=1.0)
    assert one.log_probability == 0
    drawn = draw(one, 50, banned=(1,))
    tables = CHANCES.log(), CHANCES.flip(0).log()
    logs = [float(tables[q][id]) for ids in drawn for q, id in enumerate(ids) if id < 4]
    assert 50 < len(logs) < 100
    assert one.log_probability == pytest.approx(sum(logs) / len(logs), abs=1e-6)
    one.forget()
    assert one.log_probability == 0


def test_codebooks_may_be_allowed_different_ids():
    each = (Draw(forced=2), Draw(banned=(0, 1, 4)))
    drawn = draw(sampler(repetition_window=0), 60, per_codebook=each)
    assert {first for first, _ in drawn} == {2}
    assert {second for _, second in drawn} == {2, 3}
    # the control: without it, both codebooks give every id
    assert {first for first, _ in draw(sampler(top_p=1.0), 60)} == {0, 1, 2, 3, 4}


def test_codes_of_the_whole_utterance_are_no_repetition():
    one = sampler(top_k=1)
    assert {first for first, _ in draw(one, 20, utterance_level=True)} == {0}
    # nothing was counted: the first code of speech may be the same
    assert draw(one, 1)[0][0] == 0
    # the control: codes of speech are counted
    assert len({first for first, _ in draw(one, 20)}) > 1
