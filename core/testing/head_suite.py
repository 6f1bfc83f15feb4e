"""Suite of heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import IGNORE
from wishbone.core.testing.common import Check, near, require, seeded, trained_looking_

WIDTH, EXTRA = 32, 3
SPACES = tuple(CodeSpace(size=27, rate=25.0, codebooks=q, levels=(3, 3, 3)) for q in (1, 3))
IDS = SPACES[0].size + EXTRA
TOY_STEPS = 150
"""Adam steps in which a head must learn one vector per id; 30 ids take about 60."""


def _build(cls: Any, config: Any, codes: CodeSpace, dtype: torch.dtype = torch.float64) -> Head:
    with seeded(0):
        head = cls(config, width=WIDTH, codes=codes, extra=EXTRA)
    return trained_looking_(head, 0).to(dtype).eval()


def _ids(*shape: int) -> Tensor:
    return torch.randint(0, IDS, shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def shapes(cls: Any, config: Any, module: str | None) -> str:
    """[..., Q] -> [..., D] and [..., D] -> [..., Q, X] for any leading dimensions."""
    for codes in SPACES:
        head, q = _build(cls, config, codes), codes.codebooks
        for lead in ((), (5,), (2, 4), (2, 0)):
            vectors = head.embed(_ids(*lead, q))  # [..., D]
            require(vectors.shape == (*lead, WIDTH), f"embed of {[*lead, q]} is {[*vectors.shape]}")
            logits = head(vectors)  # [..., Q, X]
            shape = (*lead, q, IDS)
            require(logits.shape == shape, f"logits are {[*logits.shape]}, expected {[*shape]}")
        many = _ids(2, 4, q)  # [2, 4, Q]
        one = torch.stack([head.embed(ids) for ids in many.flatten(0, 1)]).view(2, 4, WIDTH)
        near(head.embed(many), one, 1e-12, "a batch against its positions one by one")
        hidden = one.flatten(0, 1)  # [8, D]
        near(head(hidden), torch.stack([head(h) for h in hidden]), 1e-12, "logits one by one")
    return "1 and 3 codebooks"


@torch.no_grad()
def distinct(cls: Any, config: Any, module: str | None) -> str:
    """Every id of every codebook has a vector and a logit of its own."""
    for codes in SPACES:
        head, q = _build(cls, config, codes), codes.codebooks
        for book in range(q):
            ids = torch.zeros(IDS, q, dtype=torch.int64)  # [X, Q]
            ids[:, book] = torch.arange(IDS)
            vectors = head.embed(ids)  # [X, D]
            closest = torch.pdist(vectors).min().item()
            require(closest > 1e-6, f"two ids of codebook {book} have the same vector")
        hidden = torch.randn(
            64, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        columns = head(hidden).flatten(1).T  # [Q * X, 64]
        require(torch.pdist(columns).min().item() > 1e-6, "two ids always have the same logit")
        if q > 1:
            a, b = torch.zeros(2, q, dtype=torch.int64)
            a[0] = b[1] = 1
            apart = (head.embed(a) - head.embed(b)).abs().max().item()
            require(apart > 1e-6, "codebooks 0 and 1 share their vectors")
    return "all ids differ"


def gradient(cls: Any, config: Any, module: str | None) -> str:
    """The gradient reaches every parameter, and that of the hidden vector is right."""
    count = 0
    for codes in SPACES:
        head = _build(cls, config, codes)
        hidden = head.embed(_ids(3, codes.codebooks)).detach().requires_grad_()  # [3, D]
        right = torch.autograd.gradcheck(lambda h, head=head: head(h).sin(), (hidden,))
        require(right, "finite differences disagree")
        every = torch.arange(IDS)[:, None].expand(-1, codes.codebooks)  # [X, Q]
        (head(hidden).square().sum() + head.embed(every).square().sum()).backward()
        parameters = dict(head.named_parameters())
        dead = [n for n, p in parameters.items() if p.grad is None or not p.grad.any()]
        require(not dead, f"no gradient reaches {', '.join(dead)}")
        count = len(parameters)
    return f"{count} parameters"


def learns(cls: Any, config: Any, module: str | None) -> str:
    """From its own initialisation, a head learns to name every id, extra ids too."""
    worst = 0.0
    for codes in SPACES:
        with seeded(0):
            head = cls(config, width=WIDTH, codes=codes, extra=EXTRA).train()
            ids = torch.stack([torch.randperm(IDS) for _ in range(codes.codebooks)], dim=1)
            map_ = torch.nn.Linear(WIDTH, WIDTH, bias=False)
            parameters = [*head.parameters(), *map_.parameters()]
            optimiser = torch.optim.Adam(parameters, lr=0.03)
            loss = torch.zeros(())  # []
            for _ in range(TOY_STEPS):
                hidden = F.normalize(map_(head.embed(ids)), dim=-1) * WIDTH**0.5  # [X, D]
                loss = F.cross_entropy(head(hidden).flatten(0, 1), ids.flatten())  # []
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            worst = max(worst, loss.item())
        chance = torch.tensor(float(IDS)).log().item()
        require(
            worst < chance / 5,
            f"{TOY_STEPS} steps end at {worst:.2f} nats, chance is {chance:.2f}",
        )
    return f"{worst:.3f} nats after {TOY_STEPS} steps"


@torch.no_grad()
def samples(cls: Any, config: Any, module: str | None) -> str:
    """``sample`` asks once for each codebook, in order, and returns what was picked."""
    for codes in SPACES:
        head, books = _build(cls, config, codes), []

        def pick(logits: Tensor, book: int, books: list[int] = books) -> int:
            require(logits.shape == (IDS,), f"pick is given logits of shape {[*logits.shape]}")
            books.append(book)
            return book + 1

        answer = head.sample(head.embed(_ids(codes.codebooks)), pick)
        expected = tuple(book + 1 for book in range(codes.codebooks))
        require(books == list(range(codes.codebooks)), f"codebooks were asked as {books}")
        require(tuple(answer) == expected, f"picked {expected}, returned {answer}")
    return "in order"


@torch.no_grad()
def predicts(cls: Any, config: Any, module: str | None) -> str:
    """``predict`` gives the logits that ``sample`` shows to who picks the answers."""
    worst = 0.0
    for codes in SPACES:
        head = _build(cls, config, codes)
        answers = _ids(5, codes.codebooks)  # [N, Q]
        hidden = head.embed(_ids(6, codes.codebooks)[1:])  # [N, D]
        logits = head.predict(hidden, answers)  # [N, Q, X]
        for n, row in enumerate(answers.tolist()):
            offered: list[Tensor] = []

            def pick(
                shown: Tensor, book: int, row: list[int] = row, offered: list[Tensor] = offered
            ) -> int:
                offered.append(shown)
                return row[book]

            head.sample(hidden[n], pick)
            worst = max(worst, near(torch.stack(offered), logits[n], 1e-9, "sample and predict"))
        ignored = head.predict(hidden, torch.full_like(answers, IGNORE))  # [N, Q, X]
        near(ignored[:, 0], logits[:, 0], 1e-9, "codebook 0, which reads no answer")
    return f"largest difference {worst:.1e}"


def meta(cls: Any, config: Any, module: str | None) -> str:
    """Builds on the meta device and works after weights are loaded into it."""
    real = _build(cls, config, SPACES[0], torch.float32)
    with torch.device("meta"):
        empty = cls(config, width=WIDTH, codes=SPACES[0], extra=EXTRA)
    empty.eval().load_state_dict(real.state_dict(), assign=True)
    ids = _ids(6, 1)  # [6, 1]
    near(empty.embed(ids), real.embed(ids), 0.0, "vectors after a meta build")
    hidden = real.embed(ids).detach()  # [6, D]
    near(empty(hidden), real(hidden), 0.0, "logits after a meta build")
    return f"{sum(p.numel() for p in real.parameters())} parameters for 30 ids of width 32"


CHECKS = (
    Check("shapes", "Shapes fit for any batch and several codebooks.", shapes),
    Check("distinct", "Every id has a vector and a logit of its own.", distinct),
    Check("gradient", "Gradients are right and reach every parameter.", gradient),
    Check("learns", "It learns a toy from its own initialisation.", learns),
    Check("samples", "sample asks once for each codebook.", samples),
    Check("predicts", "Training sees what drawing sees.", predicts),
    Check("meta", "Builds on meta and loads weights afterwards.", meta),
)
