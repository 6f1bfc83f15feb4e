"""The heads beyond the contract: digits, the free part, sizes, errors."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError
from wishbone.core.testing import trained_looking_
from wishbone.kernels.linear import compiler_missing
from wishbone.plugins.heads.head import FSQHead, LinearHead

CODES = CodeSpace(size=12, rate=25.0, levels=(3, 4))
"""Code 7 is digit 1 of 3 and digit 2 of 4: 1 + 3 * 2."""


def fsq(rank=2, width=16, codes=CODES):
    torch.manual_seed(0)
    return FSQHead(FSQHead.Config(rank=rank), width=width, codes=codes, extra=3)


@torch.no_grad()
def test_a_new_code_is_the_sum_of_its_digits_least_significant_first():
    head = fsq()
    vectors = head.embed(torch.arange(15)[:, None])
    digits = head.table.weight
    assert torch.allclose(vectors[7], digits[1] + digits[3 + 2])
    assert torch.allclose(vectors[11], digits[2] + digits[3 + 3])
    assert torch.allclose(vectors[12:], digits[7:10])


@torch.no_grad()
def test_new_logits_are_the_sum_of_the_digits_scores():
    head, hidden = fsq(), torch.randn(16)
    scores, logits = head.output(hidden), head(hidden)[0]
    assert torch.allclose(logits[7], scores[1] + scores[3 + 2])
    assert torch.allclose(logits[12:], scores[7:10])


@torch.no_grad()
def test_the_free_part_tells_codes_of_the_same_digits_sum_apart():
    head = fsq()
    before = head.embed(torch.tensor([[7]])), head(torch.ones(16))[0]
    head.own.weight[7] = 1.0
    head.output_own.weight[7] = 1.0
    after = head.embed(torch.tensor([[7]])), head(torch.ones(16))[0]
    free = head.table.weight[10:].sum(0)
    assert torch.allclose(after[0] - before[0], free[None], atol=1e-6)
    changed = (after[1] - before[1]).abs() > 1e-6
    assert changed.nonzero().flatten().tolist() == [7]


@torch.no_grad()
def test_codebooks_have_tables_of_their_own():
    codes = CodeSpace(size=12, rate=25.0, codebooks=2, levels=(3, 4))
    for cls in (FSQHead, LinearHead):
        head = trained_looking_(cls(cls.Config(), width=16, codes=codes, extra=3), 0)
        assert head.embed(torch.tensor([3, 4])).shape == (16,)
        assert not torch.allclose(
            head.embed(torch.tensor([3, 4])), head.embed(torch.tensor([4, 3]))
        )
        logits = head(torch.randn(16))
        assert logits.shape == (2, 15) and not torch.allclose(logits[0], logits[1])


def test_sizes_for_the_codes_of_cosyvoice2():
    codes = CodeSpace(size=6561, rate=25.0, levels=(3,) * 8)
    with torch.device("meta"):
        shared = FSQHead(FSQHead.Config(rank=32), width=256, codes=codes, extra=3)
        plain = LinearHead(LinearHead.Config(bias=True), width=256, codes=codes, extra=3)
    count = [sum(p.numel() for p in head.parameters()) for head in (shared, plain)]
    assert count == [2 * (59 * 256 + 6564 * 32) + 59, 2 * 6564 * 256 + 6564]


def test_dropout_touches_the_way_in_alone():
    head = FSQHead(FSQHead.Config(dropout=0.5), width=16, codes=CODES, extra=3).train()
    ids, hidden = torch.tensor([[7]]), torch.randn(16)
    assert not torch.equal(head.embed(ids), head.embed(ids))
    assert torch.equal(head(hidden), head(hidden))


@pytest.mark.parametrize("levels", [(), (3, 3)])
def test_a_codec_without_fitting_digits_is_refused(levels):
    with pytest.raises(ConfigError, match="digits"):
        fsq(codes=CodeSpace(size=12, rate=25.0, levels=levels))


@torch.no_grad()
@pytest.mark.skipif(bool(compiler_missing()), reason="needs a C++ compiler: g++ or clang++")
@pytest.mark.parametrize("cls", [LinearHead, FSQHead])
@pytest.mark.parametrize(("weights", "limit"), [("float32", 1e-6), ("int8", 2e-2)])
def test_an_engine_gives_the_logits(cls, weights, limit):
    codes = CodeSpace(24, 25.0, 2, (2, 3, 4))
    head = trained_looking_(cls(cls.Config(), width=48, codes=codes, extra=3), 0).eval()
    exact = copy.deepcopy(head).double()
    assert head.accelerate("native", weights) == "native"
    for shape in ((48,), (1, 48), (2, 3, 48), (40, 48)):
        hidden = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        expected = exact(hidden.double())
        actual = head(hidden)
        assert actual.shape == expected.shape
        assert ((actual - expected).norm() / expected.norm()) < limit
    vectors = [torch.randn(1, 48, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    alone = [head(x) for x in vectors]

    @torch.no_grad()
    def from_a_thread(n):
        return all(torch.equal(head(vectors[n]), alone[n]) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(from_a_thread, range(4)))
    with torch.enable_grad():
        assert head(hidden.requires_grad_()).requires_grad
    assert head.accelerate("eager") == "eager"
    assert torch.equal(head(hidden), cls.forward(copy.deepcopy(head), hidden))
