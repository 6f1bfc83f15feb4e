"""The binding gap: above zero for a model that listens, zero for a deaf one."""

import numpy as np
import pytest
import torch
from tiny_system import CODES, tiny_system

from wishbone.core.contract.errors import DataError
from wishbone.core.data.tokens import Ragged, TokenCorpus
from wishbone.core.evaluate.measure import text_binding


def corpus(count=24, words=2):
    """Sentences of one-letter words; the codes of a word are its letter, three times."""
    random = np.random.default_rng(0)
    texts, codes, ends = [], [], []
    for _ in range(count):
        letters = random.integers(1, 27, words)
        texts.append(np.array([x for n in letters for x in (n, 27)][:-1] + [28], np.int32))
        codes.append(np.repeat(letters, 3).astype(np.int32))
        ends.append(np.arange(3, 3 * words + 1, 3, dtype=np.int32))

    def ragged(rows):
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        return Ragged(np.concatenate(rows), starts)

    names = [f"s{i}" for i in range(count)]
    return TokenCorpus(
        names, names, ragged(texts), ragged(codes), ragged(ends), np.ones(count), {}, []
    )


def train(system, data, deaf):
    """A few steps; the deaf model never sees the text."""
    from random import Random

    from wishbone.core.train.batches import collate

    model = system.model.train()
    if deaf:
        for table in model.tables.values():
            table.weight.data.zero_()
            table.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.03)
    laid = [system.layout.train(data.sample(i), Random(i)) for i in range(len(data))]
    batch = collate(laid, range(len(laid)))
    for _ in range(60):
        total, count = model.loss(batch.table, batch.ids, batch.targets, batch.mask)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("deaf", [False, True])
def test_the_gap_tells_a_listening_model_from_a_deaf_one(deaf, monkeypatch):
    data, system = corpus(), tiny_system()
    model = train(system, data, deaf)
    monkeypatch.setattr(text_binding, "build_model", lambda config: model)
    monkeypatch.setattr(text_binding, "build_layout", lambda config: (None, system.layout, CODES))
    found = text_binding.binding({}, data)
    assert found.utterances == 24
    assert found.gap.estimate == pytest.approx(found.other - found.own, abs=1e-5)
    if deaf:
        assert found.gap.estimate == pytest.approx(0, abs=1e-6)
    else:
        assert found.gap.low > 0.1


def test_the_other_text_has_as_many_words():
    data = corpus()
    for own, swapped in text_binding.exchange(data, range(10)):
        assert list(own.text) != list(swapped.text)
        assert len(own.text) == len(swapped.text)
        assert list(own.speech) == list(swapped.speech)


def test_without_a_match_it_says_so():
    with pytest.raises(DataError, match="same number of words"):
        text_binding.exchange(corpus(), [0])
