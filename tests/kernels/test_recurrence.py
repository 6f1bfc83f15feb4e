"""The scans of matrix memories against their recurrence: values, gradients, any decay, lengths."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wishbone.kernels.recurrence import plain, recurrence, recurrence_reference, tree, uniform

CLASSES = [(decay, delta) for decay in ("none", "head", "channel") for delta in (False, True)]
EVERY = pytest.mark.parametrize(("decay", "delta"), CLASSES)


def inputs(decay, delta, length=37, groups=3, heads=3, keys=8, values=12, strongest=30.0, seed=0):
    """r, k, v, g, a, b, state in float64; decays down to exp(-strongest), most of them weak."""
    random = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=random, dtype=torch.float64)

    shape = (2, length, groups, keys)
    v, state = draw(2, length, heads, values), draw(2, heads, values, keys)
    g_shape = {"none": (0,), "head": v.shape[:3], "channel": shape}[decay]
    g = -strongest * torch.rand(g_shape, generator=random, dtype=torch.float64) ** 4
    direction = F.normalize(draw(*shape), dim=-1)
    rate = torch.sigmoid(draw(*shape[:3], 1))
    tensors = {"r": draw(*shape), "k": draw(*shape), "v": v, "state": state}
    if decay != "none":
        tensors["g"] = g
    if delta:
        tensors |= {"a": -direction, "b": direction * rate}
    return {name: x.requires_grad_() for name, x in tensors.items()}


def relative(actual, expected):
    """Root mean square of the difference over that of ``expected``."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def results(form, arguments, **others):
    """Outputs and gradients as {name: tensor}; weights of the gradients are the same every time."""
    y, state = form(**arguments, **others)
    random = torch.Generator().manual_seed(2)
    weights = [
        torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype) for x in (y, state)
    ]
    grads = torch.autograd.grad((y, state), list(arguments.values()), weights)
    return {"y": y, "after": state} | dict(zip(arguments, grads, strict=True))


def check(arguments, tolerance=1e-12, lengths=None, **others):
    """Compare both forms: every output and every gradient."""
    expected = results(recurrence_reference, arguments, lengths=lengths)
    for name, actual in results(recurrence, arguments, lengths=lengths, **others).items():
        assert relative(actual, expected[name]) < tolerance, name


@EVERY
@pytest.mark.parametrize(("length", "chunk"), [(1, 0), (3, 0), (37, 4), (37, 16), (70, 32)])
def test_chunks_equal_the_recurrence_in_float64(decay, delta, length, chunk):
    check(inputs(decay, delta, length), chunk=chunk)


@EVERY
@pytest.mark.parametrize("lengths", [(37, 20), (0, 1)])
def test_positions_behind_the_length_change_nothing(decay, delta, lengths):
    arguments = inputs(decay, delta)
    check(arguments, lengths=torch.tensor(lengths))
    _, after = recurrence(**arguments, lengths=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = {name: x[row : row + 1, :length] for name, x in arguments.items()}
        alone["state"] = arguments["state"][row : row + 1]
        assert torch.allclose(after[row], recurrence(**alone)[1][0], atol=1e-12)


@EVERY
def test_heads_share_keys(decay, delta):
    check(inputs(decay, delta, groups=2, heads=4))


@EVERY
def test_a_state_carries_over_between_calls(decay, delta):
    arguments = {name: x.detach() for name, x in inputs(decay, delta, 50).items()}
    state = arguments.pop("state")
    complete, end = recurrence(**arguments, state=state)
    pieces = []
    for begin, stop in ((0, 19), (19, 20), (20, 50)):
        part = {name: x[:, begin:stop] for name, x in arguments.items()}
        y, state = recurrence(**part, state=state)
        assert state.is_contiguous()
        pieces.append(y)
    assert torch.allclose(torch.cat(pieces, 1), complete, atol=1e-12)
    assert torch.allclose(state, end, atol=1e-12)


@EVERY
def test_float32_with_any_decay_is_as_good_as_the_recurrence(decay, delta):
    exact = inputs(decay, delta, 96, keys=64, values=48, strongest=73.0)
    rounded = {name: x.detach().float().requires_grad_() for name, x in exact.items()}
    expected = results(recurrence_reference, exact)
    loop = results(recurrence_reference, rounded)
    for name, actual in results(recurrence, rounded).items():
        assert actual.dtype == torch.float32
        # gradients of a decay that nothing survives are differences of large, equal sums
        limit = max(2e-6, 20 * relative(loop[name], expected[name]))
        assert relative(actual, expected[name]) < limit, name


@EVERY
@pytest.mark.parametrize("strength", [0.0, 5.0, 20.0, 500.0])
def test_a_constant_decay_of_any_strength_gives_numbers(decay, delta, strength):
    if decay == "none":
        pytest.skip("there is no decay")
    arguments = {n: x.detach().float() for n, x in inputs(decay, delta, 96).items()}
    arguments["g"] = torch.full_like(arguments["g"], -strength)
    exact = {name: x.double().requires_grad_() for name, x in arguments.items()}
    rounded = {name: x.requires_grad_() for name, x in arguments.items()}
    expected = results(recurrence_reference, exact)
    for name, actual in results(recurrence, rounded).items():
        assert torch.isfinite(actual).all(), name
        if name == "state":  # where nothing survives, its gradient is nearly 0
            error = (actual.double() - expected[name]).norm()
            assert error < 2e-6 * max(1, expected[name].norm()), name
        elif name != "g":
            assert relative(actual, expected[name]) < 2e-6, name


def test_a_strong_decay_costs_later_rows_no_digits():
    arguments = {n: x.detach().float() for n, x in inputs("channel", True, 64).items()}
    arguments["g"] = torch.where(torch.arange(64)[:, None, None] % 32 < 16, -19.0, -0.01).expand(
        2, 64, 3, 8
    )
    expected, _ = recurrence_reference(**{n: x.double() for n, x in arguments.items()})
    y, _ = recurrence(**arguments)
    assert relative(y, expected) < 1e-6


@EVERY
def test_earlier_outputs_do_not_change_by_a_bit(decay, delta):
    arguments = {n: x.detach().float() for n, x in inputs(decay, delta, 70).items()}
    first, _ = recurrence(**arguments)
    other = {n: x.detach().float() for n, x in inputs(decay, delta, 70, seed=1).items()}
    for cut in (1, 18, 33, 66):
        later = torch.arange(70) >= cut
        mixed = {
            name: torch.where(later.view(1, -1, *(1,) * (x.ndim - 2)), other[name], x)
            for name, x in arguments.items()
            if name != "state"
        }
        y, _ = recurrence(**mixed, state=arguments["state"])
        assert torch.equal(y[:, :cut], first[:, :cut])


@EVERY
def test_half_precision_meets_a_float32_state(decay, delta):
    steps = {n: x.detach().bfloat16() for n, x in inputs(decay, delta, 20).items()}
    del steps["state"]
    y, state = recurrence(**steps)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = recurrence(**{n: x.float() for n, x in steps.items()})
    expected, _ = recurrence_reference(**{n: x.double() for n, x in steps.items()})
    assert relative(inside, expected) < 2e-6
    assert relative(y, expected) < 4e-3


def test_keys_that_hardly_change_lose_no_digits():
    random = torch.Generator().manual_seed(1)
    shape = (1, 128, 1, 64)
    common = torch.randn(64, generator=random)
    keys = F.normalize(common + 0.02 * torch.randn(shape, generator=random), dim=-1)
    r, v = (torch.randn(shape, generator=random) for _ in range(2))
    g = torch.full(shape, -1e-5)
    for decay in (g, g[..., 0], None):
        y, _ = recurrence(r, keys, v, decay, -keys, 0.98 * keys)
        others = (None if decay is None else decay.double(), -keys.double(), 0.98 * keys.double())
        expected, _ = recurrence_reference(r.double(), keys.double(), v.double(), *others)
        assert relative(y, expected) < 2e-6


def test_checkpointing_passes_through():
    arguments = inputs("channel", True, 20)
    names = ("r", "k", "v", "g", "a", "b", "state")
    tensors = [arguments[name] for name in names]
    expected = torch.autograd.grad(recurrence(*tensors)[0].sum(), tensors)
    y, _ = checkpoint(recurrence, *tensors, use_reentrant=False)
    for actual, true in zip(torch.autograd.grad(y.sum(), tensors), expected, strict=True):
        assert torch.equal(actual, true)


def test_no_position_is_no_change_and_a_strange_chunk_is_refused():
    arguments = {n: x.detach() for n, x in inputs("head", True).items()}
    state = arguments.pop("state")
    y, after = recurrence(**{n: x[:, :0] for n, x in arguments.items()}, state=state)
    assert y.shape[1] == 0
    assert torch.equal(after, state)
    with pytest.raises(ValueError, match="chunk length 5"):
        recurrence(**arguments, chunk=5)


def test_a_block_of_eight_on_the_diagonal_would_overflow(monkeypatch):
    arguments = {n: x.detach().float() for n, x in inputs("channel", False, 32).items()}
    arguments["g"] = torch.full_like(arguments["g"], -20.0)
    assert torch.isfinite(recurrence(**arguments)[0]).all()
    monkeypatch.setattr(tree, "BASE", 8)
    assert not torch.isfinite(recurrence(**arguments)[0]).all()


@pytest.mark.parametrize("delta", [False, True])
def test_a_mask_after_the_exponential_would_overflow(monkeypatch, delta):
    def late(reading, writing, kind, diagonal=0):
        factors = (reading[:, :, None] - writing[:, None]).to(kind).exp()
        return factors * torch.ones_like(factors).tril(diagonal)

    arguments = {n: x.detach().float() for n, x in inputs("head", delta, 64).items()}
    arguments["g"] = torch.full_like(arguments["g"], -20.0)
    assert torch.isfinite(recurrence(**arguments)[0]).all()
    monkeypatch.setattr(uniform if delta else plain, "between", late)
    assert not torch.isfinite(recurrence(**arguments)[0]).all()
