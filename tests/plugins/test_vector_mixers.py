"""Halves that read what positions are, penalties that reach the loss, and the belief read-out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.head import Head
from wishbone.core.contract.stack.mixer import BALANCE, Call, Place
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.model.state_batch import Pool
from wishbone.core.registry.loader import registry
from wishbone.core.testing import check
from wishbone.plugins.belief.readout import LEAST, Belief
from wishbone.plugins.experts.ffn import Experts

WIDTH, ROWS = 48, 40
PAGE = Path(__file__).parents[2] / "plugins/MIXERS.md"
READERS = {
    "cross_attention": {"mixer": {"name": "cross_attention", "places": 6}, "ffn": "none"},
    "cross_wkv": {"mixer": {"name": "cross_wkv", "head_size": 16}, "ffn": "none"},
    "deep_embed": {"mixer": "none", "ffn": {"name": "deep_embed", "rank": 4, "rows": 64}},
}


class Tables:
    """A layout's tables, which is all that a model reads of it."""

    tables = {"speech": ROWS, "text": ROWS}


class Codes(Head):
    """Embedding and linear layer for one codebook."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS)

    def embed(self, ids):
        return self.table(ids[..., 0])

    def forward(self, hidden):
        return self.out(hidden)[..., None, :]


def model(**halves):
    """A speech model of two blocks, weights far from their start."""
    torch.manual_seed(0)
    stack = registry().get("backbone", "stack")
    built = SpeechLM(stack(stack.Config(width=WIDTH, layers=2, **halves)), Codes(), Tables())
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return built.double().eval()


def batch(length=20):
    """table [1, T] and ids [1, T, 1]: text, speech, text, speech."""
    table = (torch.arange(length) % 10 < 4).long()[None]
    ids = torch.randint(ROWS, (1, length, 1), generator=torch.Generator().manual_seed(1))
    return table, ids


def positions(table, ids):
    """The same as a ``Feed`` hands them out."""
    return [(int(t), tuple(i.tolist())) for t, i in zip(table[0], ids[0], strict=True)]


@pytest.mark.parametrize("key", READERS)
@torch.no_grad()
def test_training_and_decoding_read_the_same(key):
    lm = model(**READERS[key])
    table, ids = batch()
    hidden, after = lm(table, ids)
    row, state = positions(table, ids), lm.backbone.init_state(1)
    last, state = lm.advance(row[:7], state)
    assert (last - hidden[0, 6]).abs().max() < 1e-9
    for t in range(7, 20):
        last, state = lm.advance([row[t]], state)
        assert (last - hidden[0, t]).abs().max() < 1e-9, t
    for name, tensor in after.items():
        assert (tensor - state[name]).abs().max() < 1e-9, name


@pytest.mark.parametrize("key", READERS)
@torch.no_grad()
def test_rows_of_a_batch_read_their_own(key):
    lm = model(**READERS[key])
    table, ids = batch()
    row = positions(table, ids)
    together = lm.rows([lm.backbone.init_state(1) for _ in range(2)])
    together.advance([row[:9], row[3:8]])
    together.advance([row[9:10], []])
    together.advance([[], row[8:9]])
    alone = []
    for part in (row[:10], row[3:9]):
        single = lm.rows([lm.backbone.init_state(1)])
        single.advance([part])
        alone.append(single.logits())
    assert (together.logits() - torch.cat(alone)).abs().max() < 1e-5


@pytest.mark.parametrize("key", READERS)
@torch.no_grad()
def test_padding_reads_nothing(key):
    lm = model(**READERS[key])
    table, ids = batch()
    hidden, after = lm(table, ids)
    order = torch.tensor([0, 1, 2, 2, 3, 3, *range(4, 20)])
    mask = torch.ones(1, len(order), dtype=torch.bool)
    mask[0, [2, 5]] = False
    padded, padded_after = lm(table[:, order], ids[:, order], mask=mask)
    assert (padded[:, mask[0]] - hidden).abs().max() < 1e-9
    for name, tensor in after.items():
        assert (tensor - padded_after[name]).abs().max() < 1e-9, name


@pytest.mark.parametrize("key", ["cross_attention", "cross_wkv"])
@torch.no_grad()
def test_speech_leaves_the_memory_of_text_alone(key):
    lm = model(**READERS[key])
    table, ids = batch()
    _, state = lm(table, ids)
    speech = torch.zeros(1, 9, dtype=torch.int64)
    _, after = lm(speech, ids[:, :9], state)
    assert all(torch.equal(state[name], after[name]) for name in state)
    _, changed = lm(speech + 1, ids[:, :9], state)
    assert any(not torch.equal(state[name], changed[name]) for name in state)


@pytest.mark.parametrize("key", READERS)
def test_vectors_alone_are_refused_with_a_reason(key):
    lm = model(**READERS[key])
    with pytest.raises(CapabilityError, match="what each position reads"):
        lm.backbone(torch.zeros(1, 3, WIDTH, dtype=torch.float64))
    with pytest.raises(CapabilityError, match="what each position reads"):
        Pool(lm.backbone, 2)


@pytest.mark.parametrize("length", [0, 3])
def test_a_call_without_a_real_position_has_no_penalty(length):
    """Not that of the call before, whose graph is gone, and no mean of nothing."""
    lm = model(mixer="none", ffn={"name": "experts", "experts": 4, "width": 16}).train()
    x = torch.randn(2, 5, lm.backbone.width).to(lm.dtype)
    lm.backbone(x)
    assert lm.backbone.penalty() is not None
    lm.backbone(x[:, :length], mask=torch.zeros(2, length, dtype=torch.bool))
    assert lm.backbone.penalty() is None
    part = next(m for m in lm.backbone.modules() if isinstance(m, Experts)).train()
    call = Call(torch.zeros(2, dtype=torch.int64))
    part(x, {}, call)
    assert call.extra[BALANCE] == 0


def test_the_balance_of_experts_is_in_the_loss_of_training_alone():
    lm = model(mixer="none", ffn={"name": "experts", "experts": 4, "width": 16, "balance": 0.5})
    table, ids = batch()
    targets, mask = ids.clone(), torch.ones(1, 20, dtype=torch.bool)
    plain, count = lm.loss(table, ids, targets, mask)
    assert plain == lm.losses(table, ids, targets, mask).sum()
    lm.train()
    total, _ = lm.loss(table, ids, targets, mask)
    penalty = lm.backbone.penalty()
    assert penalty > 2 * 0.5 * 0.9  # two blocks; an even choice is worth 1 each
    assert (total - plain - penalty * count).abs() < 1e-9
    router = lm.backbone.blocks[0].ffn.router.weight
    slope = torch.autograd.grad(total, router, retain_graph=True)[0]
    assert (slope - torch.autograd.grad(total - penalty * count, router)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_a_belief_is_the_weighted_mean_and_variance():
    torch.manual_seed(0)
    half = Belief(Belief.Config(size=5), Place(WIDTH)).double()
    nn.init.normal_(half.read.weight)
    x = torch.randn(1, 30, WIDTH, dtype=torch.float64)
    call = Call()
    y, _ = half(x, half.init_state(1, x.device, x.dtype), call)
    k, v = half.key(x)[0].numpy(), half.value(x)[0].numpy()
    fade = -np.exp(half.decay.numpy())
    weight = np.exp(k + fade * np.arange(29, -1, -1)[:, None])
    mean = (weight * v).sum(0) / weight.sum(0)
    variance = (weight * (v - mean) ** 2).sum(0) / weight.sum(0) + 1 / (1 + weight.sum(0))
    means, variances = (part[0, -1].numpy() for part in call.extra["belief"])
    assert np.abs(means - mean).max() < 1e-12
    assert np.abs(variances - variance).max() < 1e-4  # softplus(0.5413) is 1 to four digits
    read = torch.cat(
        [half.norm(call.extra["belief"][0]), (call.extra["belief"][1] + LEAST).log()], -1
    )
    assert (half.read(read) - y).abs().max() < 1e-12


@torch.no_grad()
def test_a_belief_in_what_does_not_change_is_certain_in_float32():
    half = Belief(Belief.Config(size=5), Place(WIDTH))
    x = torch.ones(1, 2000, WIDTH)
    call = Call()
    half(x, half.init_state(1, x.device, x.dtype), call)
    variance = call.extra["belief"][1]  # [1, T, E]
    assert (variance >= 0).all() and (variance[:, -1] <= variance[:, 0] + 1e-6).all()


def test_every_half_has_a_row_in_the_table():
    page = PAGE.read_text()
    keys = [*registry().names("mixer"), *registry().names("ffn")]
    missing = [key for key in keys if "/" not in key and f"| `{key}` |" not in page]
    assert missing == []


SIDES = [{"name": "mingru"}, {"name": "window", "window": 5}]


@torch.no_grad()
def test_a_gate_between_mixers_begins_as_their_mean():
    stack = registry().get("backbone", "stack")
    mean, gated = (
        stack(stack.Config(width=WIDTH, layers=2, mixer=SIDES, gated=gate))
        for gate in (False, True)
    )
    gated.load_state_dict(mean.state_dict(), strict=False)
    x = torch.randn(2, 9, WIDTH)
    assert (gated(x)[0] - mean(x)[0]).abs().max() < 1e-6
    gates = [block.mixer.gate.weight for block in gated.blocks]
    for gate in gates:
        gate.normal_(std=10.0)
    assert (gated(x)[0] - mean(x)[0]).abs().max() > 1e-2


def test_gated_mixers_keep_the_contract_of_a_backbone():
    stack = registry().get("backbone", "stack")
    config = stack.Config(width=WIDTH, layers=2, mixer=SIDES, gated=True)
    results = check("backbone", "stack", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []
