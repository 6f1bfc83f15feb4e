"""SparsePointer and the head it speaks through: brute force, the path to the head, refusals."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.stack.mixer import POINTER, Call, Place
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.registry.loader import registry
from wishbone.plugins.heads.pointer import PointerHead
from wishbone.plugins.unimatrix.pointer import SparsePointer

WIDTH, ROWS, SLOTS, CHOSEN = 48, 40, 6, 3
STACK = registry().get("backbone", "stack")
FIELDS = {"slots": SLOTS, "chosen": CHOSEN}
BLOCKS = [
    {"mixer": {"name": "sparse_pointer", **FIELDS}, "ffn": "none"},
    {"mixer": {"name": "unimatrix", "head_size": 16}, "times": 2},
]


class Tables:
    """A layout's tables, which is all that a model reads of it."""

    tables = {"speech": ROWS, "text": ROWS}


def half(**fields):
    torch.manual_seed(0)
    part = SparsePointer(SparsePointer.Config(**FIELDS | fields), Place(WIDTH)).double().eval()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return part


def head(books=1, **fields):
    codes = CodeSpace(size=ROWS - 3, rate=25.0, codebooks=books)
    config = PointerHead.Config(base={"name": "linear"}, **fields)
    return PointerHead(config, width=WIDTH, codes=codes, extra=3)


def model(books=1, into="probabilities"):
    torch.manual_seed(0)
    stack = STACK(STACK.Config(width=WIDTH, blocks=BLOCKS, ffn_width=64))
    lm = SpeechLM(stack, head(books, into=into), Tables())
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return lm.double().eval()


def batch(length=20, books=1):
    """table [1, T] and ids [1, T, Q]: text, speech, text, speech."""
    table = (torch.arange(length) % 10 < 4).long()[None]
    ids = torch.randint(ROWS, (1, length, books), generator=torch.Generator().manual_seed(1))
    return table, ids


def positions(table, ids):
    return [(int(t), tuple(i.tolist())) for t, i in zip(table[0], ids[0], strict=True)]


def by_hand(part, x, table, ids, reach=0):
    """Answers and pointers of one row, every place tried. ``reach`` looks further back: wrong."""
    q = x @ part.look.weight.detach().numpy().T
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    sharp = np.exp(part.tau.item())
    answers, pointers = [], []
    for t in range(len(x)):
        places = [s for s in range(max(1, t - SLOTS - reach), t) if table[s] == 0]
        places = sorted(places, key=lambda s, t=t: -(q[t] @ q[s - 1]))[:CHOSEN]
        weights = np.exp([sharp * (q[t] @ q[s - 1]) for s in places])
        weights = weights / max(weights.sum(), 1e-30)
        gate = part.gate.weight.detach().numpy() @ x[t] + part.gate.bias.detach().numpy()
        context = sum((w * x[s] for w, s in zip(weights, places, strict=True)), np.zeros(WIDTH))
        answers.append(context / (1 + np.exp(-gate)))
        share = part.share.weight.detach().numpy()[0] @ x[t] + part.share.bias.item()
        mass = np.zeros(ROWS)
        for w, s in zip(weights, places, strict=True):
            mass[ids[s, 0]] += w / (1 + np.exp(-share))
        pointers.append(mass)
    return np.stack(answers), np.stack(pointers)


@torch.no_grad()
def test_every_place_tried_gives_the_same():
    part, length = half(), 150  # more than two pieces of rows
    x = torch.randn(1, length, WIDTH, dtype=torch.float64)
    table, ids = batch(length)
    call = Call(table=table, ids=ids)
    y, _ = part(x, part.init_state(1, x.device, x.dtype), call)
    pointed, weights = call.extra[POINTER]
    assert pointed.shape == weights.shape == (1, length, CHOSEN)
    mass = torch.zeros(length, ROWS, dtype=torch.float64).scatter_add(1, pointed[0], weights[0])
    arguments = part, x[0].numpy(), table[0].numpy(), ids[0].numpy()
    answers, pointers = by_hand(*arguments)
    assert np.abs(y[0].numpy() - answers).max() < 1e-12
    assert np.abs(mass.numpy() - pointers).max() < 1e-12
    assert np.abs(mass.numpy() - by_hand(*arguments, reach=1)[1]).max() > 1e-3  # control


@torch.no_grad()
def test_what_followed_is_pointed_at():
    part = SparsePointer(SparsePointer.Config(**FIELDS, size=0), Place(WIDTH)).double()
    vectors = torch.randn(5, WIDTH, dtype=torch.float64)
    ids = torch.tensor([3, 1, 4, 2, 3])
    call = Call(table=torch.zeros(1, 5, dtype=torch.int64), ids=ids.view(1, 5, 1))
    part(vectors[ids][None], part.init_state(1, "cpu", torch.float64), call)
    pointed, weights = call.extra[POINTER]
    assert pointed[0, 4, weights[0, 4].argmax()] == 1  # 3 was followed by 1
    assert weights[0, 4].max() > 0.9 * weights[0, 4].sum()
    assert weights[0, :2].max() == 0  # nothing has been followed by anything yet


@torch.no_grad()
@pytest.mark.parametrize("into", ["probabilities", "logits"])
def test_training_and_drawing_see_the_same(into):
    lm = model(into=into)
    table, ids = batch()
    hidden, after = lm(table, ids)
    assert hidden.shape[-1] == WIDTH + 2 * CHOSEN
    trained = lm.head.predict(hidden[0], ids[0])
    plain = lm.head.predict(hidden[0, :, :WIDTH], ids[0])
    assert (trained.log_softmax(-1) - plain.log_softmax(-1)).abs().max() > 1e-3
    row, state = positions(table, ids), lm.backbone.init_state(1)
    last, state = lm.advance(row[:7], state)
    for t in range(7, 20):
        last, state = lm.advance([row[t]], state)
        shown = []
        lm.head.sample(last, lambda logits, book, shown=shown: shown.append(logits) or 0)
        assert (shown[0] - trained[t, 0]).abs().max() < 1e-9, t
    for name, tensor in after.items():
        assert (tensor - state[name]).abs().max() < 1e-9, name


@torch.no_grad()
def test_padding_and_rows_of_a_batch_point_as_they_do_alone():
    lm = model()
    table, ids = batch()
    row, (hidden, _) = positions(table, ids), lm(table, ids)
    order = torch.tensor([0, 1, 2, 2, 3, 3, *range(4, 20)])
    mask = torch.ones(1, len(order), dtype=torch.bool)
    mask[0, [2, 5]] = False
    padded, _ = lm(table[:, order], ids[:, order], mask=mask)
    assert (padded[:, mask[0]] - hidden).abs().max() < 1e-9
    assert padded[:, ~mask[0]].abs().max() == 0
    nothing, _ = lm(table, ids, mask=torch.zeros(1, 20, dtype=torch.bool))
    assert nothing.shape == hidden.shape
    together = lm.rows([lm.backbone.init_state(1) for _ in range(2)])
    together.advance([row[:9], row[3:8]])
    together.advance([row[9:10], []])
    alone = []
    for part in (row[:10], row[3:8]):
        single = lm.rows([lm.backbone.init_state(1)])
        single.advance([part])
        alone.append(single.logits())
    assert (together.logits() - torch.cat(alone)).abs().max() < 1e-5


@torch.no_grad()
def test_pieces_of_a_long_call_point_as_one(monkeypatch):
    lm = model()
    table, ids = batch(300)
    hidden, _ = lm(table, ids)
    monkeypatch.setattr("wishbone.plugins.stack.backbone.PIECE", 128)
    assert (lm(table, ids)[0] - hidden).abs().max() < 1e-9


@torch.no_grad()
def test_probabilities_are_a_mixture_by_hand():
    part = head(books=2).double()
    vector = torch.randn(4, WIDTH, dtype=torch.float64)
    ids = torch.tensor([[3, 5, 3], [1, 2, 6], [9, 9, 9], [0, 0, 0]])
    weights = torch.tensor([[0.2, 0.3, 0.1], [0.0, 0.5, 0.5], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])
    hidden = torch.cat([vector, ids.double(), weights.double()], -1)
    inside, moved = part.base(vector), part(hidden)
    assert (moved[:, 1] - inside[:, 1]).abs().max() == 0  # the pointer is of the first codebook
    expected = inside[:, 0].softmax(-1)
    for n, row in enumerate(weights.tolist()):
        expected[n] *= 1 - sum(row)
        for place, weight in zip(ids[n].tolist(), row, strict=True):
            expected[n, place] += weight
    got = moved[:, 0].exp()
    assert (got.sum(-1) - 1).abs().max() < 1e-5 and (got - expected).abs().max() < 1e-5
    assert (got[3] - inside[3, 0].softmax(-1)).abs().max() < 1e-12
    summed = part(torch.cat([vector, ids.double().roll(1, 1), weights.double()], -1))
    assert (summed[:, 0].exp() - expected).abs().max() > 1e-2  # control: weights of other ids


def test_gradients_reach_the_pointer():
    part = head().double()
    vector = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[0.2, 0.3], [0.0, 0.4]], dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[3.0, 3.0], [1.0, 2.0]], dtype=torch.float64)

    def logits(vector, weights):
        return part(torch.cat([vector, ids, weights.clamp_min(1e-3)], -1)).sin()

    assert torch.autograd.gradcheck(logits, (vector, weights))
    lm = model().train()
    table, ids = batch()
    total, _ = lm.loss(table, ids, ids, torch.ones(1, 20, dtype=torch.bool))
    total.backward()
    names = [n for n, p in lm.backbone.blocks[0].named_parameters() if p.grad is None]
    assert names == [] and lm.backbone.blocks[0].mixer.share.weight.grad.abs().max() > 0
    assert all(p.grad.isfinite().all() for p in lm.parameters() if p.grad is not None)


@torch.no_grad()
def test_ids_survive_a_model_in_bfloat16():
    part, rows = half().bfloat16(), 6561
    stack = STACK(STACK.Config(width=WIDTH, blocks=BLOCKS, ffn_width=64)).bfloat16().eval()
    stack.point()
    x = torch.randn(1, 9, WIDTH).bfloat16()
    ids = torch.arange(rows - 9, rows).view(1, 9, 1)
    y, _ = stack(x, reading=(torch.zeros(1, 9, dtype=torch.int64), ids))
    assert y.dtype == torch.float32 and y.shape[-1] == WIDTH + 2 * CHOSEN
    pointed = y[0, -1, WIDTH : WIDTH + CHOSEN].long()
    assert set(pointed.tolist()) <= set(ids.flatten().tolist())
    assert part.points == CHOSEN


def test_a_backbone_without_a_pointer_is_refused():
    with pytest.raises(CapabilityError, match="no half of the stack points"):
        SpeechLM(STACK(STACK.Config(width=WIDTH, layers=1, mixer="mingru")), head(), Tables())
    cls = registry().get("backbone", "state_tuned")
    with pytest.raises(CapabilityError, match="points at nothing"):
        SpeechLM(cls(cls.small_config()), head(), Tables())
    with pytest.raises(ConfigError, match="3 of 2 slots"):
        half(slots=2)


@torch.no_grad()
def test_another_head_gets_vectors_alone():
    torch.manual_seed(0)
    plain = head().base
    lm = SpeechLM(STACK(STACK.Config(width=WIDTH, blocks=BLOCKS)), plain, Tables())
    table, ids = batch()
    assert lm(table, ids)[0].shape[-1] == WIDTH
    assert F.cross_entropy(plain(lm(table, ids)[0])[0, :, 0], ids[0, :, 0]).isfinite()


def recall(random, rows=32, pairs=4):
    """Sequences of four pairs (a, b) and one of the a again, whose b is asked for."""
    keys = torch.stack([torch.randperm(18, generator=random)[:pairs] for _ in range(rows)])
    values = 18 + torch.randint(18, (rows, pairs), generator=random)
    pick = torch.randint(pairs, (rows, 1), generator=random)
    pieces = torch.stack([keys, values], -1).flatten(1), keys.gather(1, pick)
    ids = torch.cat(pieces, 1)[..., None]
    targets = torch.full_like(ids, IGNORE)
    targets[:, -1] = values.gather(1, pick)
    shape = ids.shape[:2]
    table, mask = torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool)
    return table, ids, targets, mask


def recalled(blocks, part):
    """Share of right answers after 200 short steps."""
    torch.manual_seed(0)
    lm = SpeechLM(STACK(STACK.Config(width=WIDTH, blocks=blocks, ffn_width=64)), part, Tables())
    optimiser, random = torch.optim.AdamW(lm.train().parameters(), lr=3e-3), torch.Generator()
    for _ in range(200):
        total, count = lm.loss(*recall(random))
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()
    table, ids, targets, _ = recall(random, 512)
    with torch.no_grad():
        answers = lm.eval().head(lm(table, ids)[0][:, -1])[:, 0].argmax(-1)
    return (answers == targets[:, -1, 0]).float().mean().item()


def test_pairs_are_recalled_with_a_pointer_and_not_without():
    """The paper's own task; an answer by chance is right in one of 18 cases."""
    pointer = {"mixer": {"name": "sparse_pointer", "slots": 16}, "ffn": "none"}
    assert recalled([pointer, *BLOCKS[1:]], head()) > 0.95
    assert recalled(BLOCKS[1:], head().base) < 0.4


def test_of_two_that_point_the_later_one_is_heard():
    torch.manual_seed(0)
    blocks = [
        {"mixer": {"name": "sparse_pointer", "slots": SLOTS, "chosen": chosen}, "ffn": "none"}
        for chosen in (2, 3)
    ]
    stack = STACK(STACK.Config(width=WIDTH, blocks=blocks, ffn_width=64)).eval()
    stack.point()
    y, state = stack(torch.randn(1, 20, WIDTH), reading=batch())
    assert y.shape == (1, 20, WIDTH + 2 * 3)
    step = stack.step_(torch.randn(1, 1, WIDTH), state, reading=tuple(z[:, -1:] for z in batch()))
    assert step.shape == (1, 1, WIDTH + 2 * 3)
