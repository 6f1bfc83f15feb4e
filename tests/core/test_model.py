"""SpeechLM with parts small enough to compute by hand."""

import pytest
import torch
from torch import nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import IGNORE
from wishbone.core.model.speech_lm import SpeechLM

ROWS, WIDTH = 7, 8


class Sum(Backbone):
    """Each hidden vector is the sum of all vectors so far; masked positions add nothing."""

    def __init__(self):
        super().__init__()
        self.width = WIDTH
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def init_state(self, batch, *, device=None, dtype=None):
        return {"sum": torch.zeros(batch, WIDTH)}

    def forward(self, x, state=None, *, mask=None):
        start = self.init_state(len(x)) if state is None else state
        if mask is not None:
            x = x * mask[..., None]
        y = start["sum"][:, None] + x.cumsum(1)
        return y * self.scale, {"sum": y[:, -1]}

    def state_bytes(self, length, *, dtype=torch.float32):
        return 4 * WIDTH

    @classmethod
    def count_parameters(cls, config):
        return WIDTH


class OneTable(Head):
    """Embedding and linear layer, for any number of codebooks."""

    def __init__(self, codebooks=1):
        super().__init__()
        self.table = nn.ModuleList(nn.Embedding(ROWS, WIDTH) for _ in range(codebooks))
        self.out = nn.ModuleList(nn.Linear(WIDTH, ROWS) for _ in range(codebooks))

    def embed(self, ids):
        return sum(table(ids[..., q]) for q, table in enumerate(self.table))

    def forward(self, hidden):
        return torch.stack([out(hidden) for out in self.out], dim=-2)


class Tables:
    tables = {"speech": ROWS, "text": 5, "marks": 2}


def model(codebooks=1):
    torch.manual_seed(0)
    return SpeechLM(Sum(), OneTable(codebooks), Tables())


def test_embed_takes_each_row_from_its_table():
    lm = model()
    vectors = lm.embed(torch.tensor([[2, 1, 0, 0]]), torch.tensor([[[1], [4], [6], [0]]]))
    expected = [
        lm.tables["marks"].weight[1],
        lm.tables["text"].weight[4],
        lm.head.table[0].weight[6],
        lm.head.table[0].weight[0],
    ]
    assert torch.equal(vectors[0], torch.stack(expected))


def test_embed_positions_equals_embed():
    lm = model()
    positions = [(2, (0,)), (1, (3,)), (0, (5,))]
    together = lm.embed_positions(positions)
    apart = torch.cat([lm.embed_positions([p]) for p in positions], dim=1)
    assert together.shape == (1, 3, WIDTH)
    assert torch.equal(together, apart)


def batch(codebooks=1):
    generator = torch.Generator().manual_seed(3)
    table = torch.randint(0, 3, (2, 6), generator=generator)
    ids = torch.randint(0, 2, (2, 6, codebooks), generator=generator)
    targets = torch.randint(0, ROWS, (2, 6, codebooks), generator=generator)
    targets[0, :3] = IGNORE
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return table, ids, targets, mask


@pytest.mark.parametrize("codebooks", [1, 2])
def test_loss_is_the_cross_entropy_of_the_targets(codebooks):
    lm, (table, ids, targets, mask) = model(codebooks), batch(codebooks)
    if codebooks == 2:
        targets[1, 0, 1] = IGNORE
    hidden, _ = lm(table, ids, mask=mask)
    logits = lm.head(hidden).log_softmax(-1)
    total, count = 0.0, 0
    for b, t, q in torch.cartesian_prod(*map(torch.arange, (2, 6, codebooks))).view(-1, 3):
        if mask[b, t] and targets[b, t, q] != IGNORE:
            total, count = total - logits[b, t, q, targets[b, t, q]], count + 1
    loss, counted = lm.loss(table, ids, targets, mask)
    torch.testing.assert_close(loss, total)
    assert int(counted) == count == codebooks * 7 - (codebooks == 2)


def test_padding_changes_nothing():
    lm, (table, ids, targets, mask) = model(), batch()
    alone = [lm.loss(*(x[b : b + 1, :n] for x in batch()))[0] for b, n in ((0, 6), (1, 4))]
    torch.testing.assert_close(lm.loss(table, ids, targets, mask)[0], sum(alone))
    targets[1, 5] = 3 - targets[1, 5].clamp(max=3)
    torch.testing.assert_close(lm.loss(table, ids, targets, mask)[0], sum(alone))
    mask[1, 4] = True
    assert not torch.allclose(lm.loss(table, ids, targets, mask)[0], sum(alone))


def test_a_batch_without_targets_has_loss_zero():
    lm, (table, ids, targets, mask) = model(), batch()
    loss, count = lm.loss(table, ids, torch.full_like(targets, IGNORE), mask)
    assert loss.item() == 0.0 and count.item() == 0


def test_unused_rows_get_no_gradient():
    lm = model()
    table, ids = torch.tensor([[2, 1, 0]]), torch.tensor([[[0], [3], [5]]])
    lm.loss(table, ids, torch.tensor([[[IGNORE], [1], [2]]]), torch.ones(1, 3, dtype=bool))[
        0
    ].backward()
    touched = {
        "speech": lm.head.table[0].weight.grad.abs().sum(1).nonzero().flatten().tolist(),
        "text": lm.tables["text"].weight.grad.abs().sum(1).nonzero().flatten().tolist(),
        "marks": lm.tables["marks"].weight.grad.abs().sum(1).nonzero().flatten().tolist(),
    }
    assert touched == {"speech": [5], "text": [3], "marks": [0]}


def test_every_parameter_is_in_exactly_one_group():
    lm = model(2)
    groups = lm.parameter_groups(1e-3, 0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in lm.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(out.weight) for out in lm.head.out}


def test_parts_without_engines_stay_plain_pytorch():
    lm = model()
    assert lm.accelerate() == lm.engine == "eager"
    with pytest.raises(CapabilityError, match="Sum cannot use the engine 'native' with int8"):
        lm.accelerate("native", "int8")


def test_a_head_without_the_backbones_engine_is_named(monkeypatch):
    lm = model()
    monkeypatch.setattr(lm.backbone, "accelerate", lambda engine, weights: engine)
    assert lm.accelerate("native", "int8") == lm.engine == "native int8, head eager"
