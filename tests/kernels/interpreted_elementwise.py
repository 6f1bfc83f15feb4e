"""The Triton kernels around WKV-7 on Triton's CPU interpreter, against formulas in float64.

Run by ``test_elementwise.py`` in a process of its own with ``TRITON_INTERPRET=1``.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

from wishbone.kernels.elementwise import operators, reference
from wishbone.kernels.elementwise.operators import finish, mix, prepare, squared_relu

HEADS, SIZE = 2, 16
WIDTH = HEADS * SIZE


def draw(*shapes, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=random).to(dtype).requires_grad_() for s in shapes]


def relative(actual, expected):
    """Root mean square of the difference over that of ``wanted``."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def check(form, expected, arguments, limit=1e-6):
    """Results and gradients of ``form``, which takes the tensors alone, tensor by tensor."""
    exact = [x.detach().double().requires_grad_() for x in arguments]
    both = []
    for function, values in ((form, arguments), (expected, exact)):
        out = function(*values)
        outs = [out] if isinstance(out, torch.Tensor) else list(out)
        random = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=random).to(x.dtype) for x in outs]
        both.append([*outs, *torch.autograd.grad(outs, values, weights)])
    for number, (ours, true) in enumerate(zip(*both, strict=True)):
        assert relative(ours, true) < limit, f"tensor {number}"
    for grad, values in zip(both[0][-len(arguments) :], arguments, strict=True):
        assert (grad.dtype, grad.shape) == (values.dtype, values.shape)


@pytest.mark.parametrize("before", [(3, 200), (3, 7, 200)], ids=["carry", "given"])
@pytest.mark.parametrize("count", [1, 6])
def test_token_shift(monkeypatch, count, before):
    monkeypatch.setattr(operators, "GROUPS", 2)
    arguments = draw((3, 7, 200), before, (count, 200))
    check(
        lambda *x: mix(*x, torch.float32),
        lambda *x: reference.mix_reference(*x, torch.float64),
        arguments,
    )


def prepared(form, dtype):
    return lambda *x: form(*x, HEADS, dtype)


def prepare_inputs(dtype=torch.float32):
    return draw(*3 * [(2, 21, WIDTH)], dtype=dtype) + draw(*4 * [(WIDTH,)])


def test_prepare(monkeypatch):
    monkeypatch.setattr(operators, "GROUPS", 2)
    expected = prepared(reference.prepare_reference, torch.float64)
    check(prepared(prepare, torch.float32), expected, prepare_inputs())
    # The interpreter cuts bfloat16 off where a GPU rounds.
    check(prepared(prepare, torch.bfloat16), expected, prepare_inputs(torch.bfloat16), 2e-2)


def finish_inputs(dtype=torch.float32):
    rows, heads = (2, 21, WIDTH), (2, 21, HEADS, SIZE)
    return draw(heads, rows, heads, rows, rows, dtype=dtype) + draw(
        (HEADS, SIZE), (WIDTH,), (WIDTH,)
    )


def test_finish(monkeypatch):
    monkeypatch.setattr(operators, "GROUPS", 2)

    def expected(*x):
        return reference.finish_reference(*x, 64e-5)

    check(lambda *x: finish(*x, 64e-5), expected, finish_inputs())
    check(lambda *x: finish(*x, 64e-5), expected, finish_inputs(torch.bfloat16), 2e-2)


def test_squared_relu():
    check(squared_relu, reference.squared_relu_reference, draw((3, 1000)))


def test_a_key_of_zeros_gives_no_nan():
    arguments = prepare_inputs()
    with torch.no_grad():
        arguments[0].zero_()
    tensors = prepare(*arguments, HEADS, torch.float32)
    grads = torch.autograd.grad(sum(x.sum() for x in tensors), arguments)
    assert all(torch.isfinite(x).all() for x in (*tensors, *grads))


def test_the_operators_are_what_pytorch_expects():
    h, carry, shares = draw((2, 5, 32), (2, 32), (2, 32))
    ways = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, arguments in (
        ("mix", (h, carry, shares, torch.float32)),
        ("prepare", (*prepare_inputs(), HEADS, torch.float32)),
        ("finish", (*finish_inputs(), 1e-5)),
        ("squared_relu", tuple(draw((4, 8)))),
    ):
        complete = getattr(torch.ops.wishbone, operator).default
        torch.library.opcheck(complete, arguments, test_utils=ways)


def block(h, carry, rows, *remaining):
    """All operators in a row, as a block of a model has them."""
    r, k = mix(h, carry, rows, torch.float32)
    g, key, removing, adding = prepare(k, r, h, *remaining[:4], HEADS, torch.float32)
    y = g + removing + adding
    return squared_relu(finish(y, r, key, k, h, *remaining[4:], 1e-5))


def test_compilation_passes_through():
    remaining = draw(*4 * [(WIDTH,)], (HEADS, SIZE), (WIDTH,), (WIDTH,))
    arguments = [*draw((2, 5, WIDTH), (2, WIDTH), (2, WIDTH)), *remaining]
    both = []
    for form in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
        out = form(*arguments)
        both.append([out, *torch.autograd.grad(out.sum(), arguments)])
    for number, (plain, compiled) in enumerate(zip(*both, strict=True)):
        assert torch.equal(plain, compiled), f"tensor {number}"


def test_a_wrong_gradient_would_be_noticed():
    wrong = prepared(reference.prepare_reference, torch.float64)

    def detached(*x):
        return wrong(x[0], x[1], x[2].detach() + 0 * x[2], *x[3:])

    with pytest.raises(AssertionError, match="tensor 6"):
        check(prepared(prepare, torch.float32), detached, prepare_inputs())
