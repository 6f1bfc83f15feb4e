"""WKV-7 in chunks against its recurrence: values, gradients, states, masks, hard inputs."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wishbone.kernels import wkv7 as package
from wishbone.kernels.wkv7 import available, rows, wkv7, wkv7_chunked, wkv7_reference

NAMES = ("r", "g", "k", "v", "a", "b", "state")


def inputs(batch=2, length=37, heads=3, keys=8, values=12, dtype=torch.float64, seed=0):
    """r, g, k, v, a, b, state as a trained RWKV-7 makes them, decays from weak to strongest."""
    random = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=random, dtype=torch.float64)

    shape = (batch, length, heads, keys)
    g = -0.60653 * torch.sigmoid(4 * draw(*shape))
    direction = F.normalize(draw(*shape), dim=-1)
    rate = torch.sigmoid(draw(*shape))
    v, state = draw(*shape[:3], values), draw(batch, heads, values, keys)
    tensors = (draw(*shape), g, draw(*shape), v, -direction, direction * rate, state)
    return [x.to(dtype).requires_grad_() for x in tensors]


def steady(length=128, size=64, dtype=torch.float32):
    """Slow decay and keys that hardly change: what silence and a held vowel look like."""
    random = torch.Generator().manual_seed(1)
    shape = (1, length, 1, size)
    common = torch.randn(size, generator=random)
    keys = F.normalize(common + 0.02 * torch.randn(shape, generator=random), dim=-1)
    r, v = (torch.randn(shape, generator=random) for _ in range(2))
    g = torch.full(shape, -1e-5)
    return [x.to(dtype) for x in (r, g, keys, v, -keys, 0.98 * keys)]


def relative(actual, expected):
    """Root mean square of the difference over that of ``wanted``."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def both(arguments, mask, chunk):
    """Outputs and gradients of both forms as {name: (chunked, reference)}."""
    results = []
    for form in (
        lambda: wkv7_chunked(*arguments, mask, chunk),
        lambda: wkv7_reference(*arguments, mask),
    ):
        y, state = form()
        random = torch.Generator().manual_seed(2)
        weights = [
            torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype)
            for x in (y, state)
        ]
        grads = torch.autograd.grad((y, state), arguments, weights)
        results.append((y, state, *grads))
    names = ("y", "after", *(f"grad {name}" for name in NAMES))
    return dict(zip(names, zip(*results, strict=True), strict=True))


@pytest.mark.parametrize("length", [1, 3, 32, 37])
@pytest.mark.parametrize("chunk", [4, 16, 32])
def test_chunks_equal_the_recurrence_in_float64(chunk, length):
    for name, (actual, expected) in both(inputs(length=length), None, chunk).items():
        assert relative(actual, expected) < 1e-13, name


@pytest.mark.parametrize("side", ["left", "right", "mixed"])
def test_masked_positions_change_nothing(side):
    arguments = inputs(batch=3)
    at = torch.arange(37)
    mask = {
        "left": at[None] >= torch.tensor([[5], [0], [36]]),
        "right": at[None] < torch.tensor([[5], [37], [0]]),
        "mixed": torch.rand(3, 37, generator=torch.Generator().manual_seed(3)) > 0.4,
    }[side]
    for name, (actual, expected) in both(arguments, mask, 16).items():
        assert relative(actual, expected) < 1e-13, name
    *steps, state = [x.detach() for x in arguments]
    y, after = wkv7_chunked(*steps, state, mask)
    for row in range(3):
        real = [x[row : row + 1, mask[row]] for x in steps]
        alone_y, alone = wkv7_reference(*real, state[row : row + 1])
        assert torch.allclose(after[row], alone[0], atol=1e-12)
        assert torch.allclose(y[row, mask[row]], alone_y[0], atol=1e-12)


def test_a_state_carries_over_between_calls():
    *steps, state = [x.detach() for x in inputs(length=50)]
    complete, end = wkv7_chunked(*steps, state)
    first, middle = wkv7_chunked(*(x[:, :19] for x in steps), state)
    second, after = wkv7(*(x[:, 19:] for x in steps), middle)
    assert torch.allclose(torch.cat([first, second], 1), complete, atol=1e-12)
    assert torch.allclose(after, end, atol=1e-12)


def test_slices_of_the_batch_do_not_show(monkeypatch):
    arguments = inputs(batch=5, length=20)
    monkeypatch.setattr(package.chunked, "SLICE", 2 * arguments[0][0].numel())
    for name, (actual, expected) in both(arguments, None, 16).items():
        assert relative(actual, expected) < 1e-13, name


def test_float32_is_as_good_as_the_recurrence_in_float32():
    exact = inputs(length=96, keys=64, values=64, heads=1)
    rounded = [x.detach().float().requires_grad_() for x in exact]
    true = both(exact, None, 32)
    for name, (actual, _) in both(rounded, None, 32).items():
        expected = true[name][1]
        assert relative(actual, expected) < 5e-6, name


def test_keys_that_hardly_change_lose_no_digits():
    steps = steady()
    expected, _ = wkv7_reference(*(x.double() for x in steps))
    assert relative(wkv7_chunked(*steps)[0], expected) < 2e-6
    assert relative(wkv7_chunked(*steps, chunk=64)[0], expected) < 4e-6


def doubled(a):
    """(I - a)^-1 as (I + a)(I + a^2)(I + a^4)...: right on paper."""
    one = torch.eye(a.shape[-1], dtype=a.dtype)
    inverse, power = one + a, a @ a
    for _ in range(a.shape[-1].bit_length() - 2):
        inverse, power = inverse @ (one + power), power @ power
    return inverse


def test_the_power_series_does_lose_them(monkeypatch):
    random = torch.Generator().manual_seed(4)
    tame = torch.randn(1, 32, 32, generator=random, dtype=torch.float64).tril(-1) * 0.1
    assert torch.allclose(doubled(tame), rows.invert(tame), atol=1e-12)
    steps = steady()
    expected, _ = wkv7_reference(*(x.double() for x in steps))
    monkeypatch.setattr(rows, "invert", doubled)
    assert relative(wkv7_chunked(*steps)[0], expected) > 1e-4


@pytest.mark.parametrize("size", [4, 8, 32, 64])
def test_the_inverse_is_one(size):
    random = torch.Generator().manual_seed(5)
    a = torch.randn(3, size, size, generator=random, dtype=torch.float64).tril(-1)
    one = torch.eye(size, dtype=torch.float64).expand(3, -1, -1)
    expected = torch.linalg.solve_triangular(one - a, one, upper=False, unitriangular=True)
    assert relative(rows.invert(a), expected) < 1e-13


def test_half_precision_inputs_meet_a_float32_state():
    steps = [x.detach().bfloat16() for x in inputs(length=20)[:6]]
    y, state = wkv7_chunked(*steps)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = wkv7_chunked(*(x.float() for x in steps))
    expected, _ = wkv7_reference(*(x.double() for x in steps))
    assert relative(inside, expected) < 1e-6
    assert relative(y, expected) < 4e-3


def test_a_transposed_state_would_be_noticed():
    *steps, state = [x.detach() for x in inputs(keys=8, values=8)]
    expected, _ = wkv7_reference(*steps, state)
    assert relative(wkv7_chunked(*steps, state.mT)[0], expected) > 0.1


def test_no_position_is_no_change():
    *steps, state = [x.detach() for x in inputs()]
    y, after = wkv7(*(x[:, :0] for x in steps), state)
    assert y.shape[1] == 0
    assert torch.equal(after, state)


def test_checkpointing_passes_through():
    arguments = inputs(batch=2, length=20)
    for form in (wkv7_chunked, lambda *x: checkpoint(wkv7_chunked, *x, use_reentrant=False)):
        y, after = form(*arguments)
        grads = torch.autograd.grad(y.sum() + after.sum(), arguments)
        if form is wkv7_chunked:
            expected = grads
    for name, actual, true in zip(NAMES, grads, expected, strict=True):
        assert torch.equal(actual, true), name


def test_sequences_packed_in_one_row_do_not_see_each_other():
    *steps, _ = [x.detach() for x in inputs(batch=1, length=23)]
    state = inputs(batch=3)[6].detach()
    y, after = wkv7(*steps, state, offsets=torch.tensor([0, 7, 7, 23]))
    first, end = wkv7_reference(*(x[:, :7] for x in steps), state[:1])
    last, final = wkv7_reference(*(x[:, 7:] for x in steps), state[2:])
    assert torch.allclose(y, torch.cat([first, last], 1), atol=1e-12)
    assert torch.allclose(after, torch.cat([end, state[1:2], final]), atol=1e-12)


def test_a_strange_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk length 5"):
        wkv7_chunked(*inputs(), chunk=5)


def test_a_decay_that_a_mask_leaves_out_is_no_reason_to_refuse():
    inputs = [torch.randn(1, 40, 2, 8) for _ in range(6)]
    r, g, k, v, a, b = inputs
    g = -0.1 * g.abs()  # [B, T, H, K]
    mask = torch.arange(40)[None] < 30
    y, state = package.wkv7_chunked(r, g, k, v, a * 0, b, mask=mask)
    strong = g.masked_fill(~mask[..., None, None], -9.0)
    again, after = package.wkv7_chunked(r, strong, k, v, a * 0, b, mask=mask)
    assert torch.equal(y[:, :30], again[:, :30]) and torch.equal(state, after)


@pytest.mark.parametrize("chunk", [4, 8, 16, 32, 64])
def test_a_decay_too_strong_for_a_chunk_is_refused(chunk):
    lowest = package.chunked.LOWEST[chunk]
    exact = inputs(length=96, keys=16, values=16, heads=1)
    exact[1] = torch.full_like(exact[1], lowest).requires_grad_()
    rounded = [x.detach().float().requires_grad_() for x in exact]
    expected = both(exact, None, 4)
    for name, (actual, _) in both(rounded, None, chunk).items():
        if name != "grad g":
            assert relative(actual, expected[name][1]) < 5e-6, name
    rounded[1] = torch.full_like(rounded[1], lowest - 0.1)
    with pytest.raises(ValueError, match="wishbone.kernels.recurrence"):
        wkv7_chunked(*rounded, chunk=chunk)


def test_without_the_refusal_a_strong_decay_gives_no_numbers(monkeypatch):
    monkeypatch.setattr(package.chunked, "refuse_strong", lambda *_: None)
    steps = [x.detach().float() for x in inputs(length=96)[:6]]
    steps[1] = torch.full_like(steps[1], -5.0)
    assert not torch.isfinite(wkv7_chunked(*steps)[0]).all()


def test_every_form_says_whether_it_runs_here():
    forms = available()
    assert forms["reference"] == forms["chunked"] == ""
    assert torch.cuda.is_available() or forms["triton"] == "no CUDA device"
