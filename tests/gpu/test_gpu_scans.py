"""The scans of memories on a GPU: numbers against float64, times, whole stacks."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wishbone.kernels import linear_scan, recurrence

DEVICE = "cuda"
CLASSES = [(decay, delta) for decay in ("none", "head", "channel") for delta in (False, True)]
LIMITS = {torch.float32: 6e-6, torch.bfloat16: 4e-2}
"""Relative rms against float64; emulated on a CPU 8e-7 and 2e-2 were the worst."""
SHAPE = (8, 4096, 32, 64)
"""Batch, length, heads and numbers per head of the times."""


def inputs(decay, delta, batch=2, length=100, heads=4, groups=4, keys=64, values=64, kind=None):
    """r, k, v, g, a, b and the state on the GPU, decays down to e^-20, most of them weak."""
    random = torch.Generator(DEVICE).manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=random, device=DEVICE)

    shape = (batch, length, groups, keys)
    direction, rate = F.normalize(draw(*shape), dim=-1), torch.sigmoid(draw(*shape[:3], 1))
    tensors = {"r": draw(*shape), "k": draw(*shape) * keys**-0.5}
    tensors["v"] = draw(batch, length, heads, values)
    if decay != "none":
        size = shape if decay == "channel" else (batch, length, heads)
        tensors["g"] = -20 * torch.rand(size, generator=random, device=DEVICE) ** 4
    if delta:
        tensors |= {"a": -direction, "b": direction * rate}
    tensors = {name: x.to(kind or torch.float32) for name, x in tensors.items()}
    tensors["state"] = draw(batch, heads, values, keys)
    return {name: x.requires_grad_() for name, x in tensors.items()}


def results(form, arguments, lengths=None):
    y, after = form(**arguments, lengths=lengths)
    random = torch.Generator(DEVICE).manual_seed(2)
    weights = [
        torch.randn(x.shape, generator=random, device=DEVICE).to(x.dtype) for x in (y, after)
    ]
    grads = torch.autograd.grad((y, after), list(arguments.values()), weights)
    return {"y": y, "after": after} | dict(zip(arguments, grads, strict=True))


def relative(actual, expected):
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def errors(arguments, lengths=None):
    """Name -> relative rms of the Triton form against the recurrence in float64."""
    from wishbone.kernels.recurrence.triton import recurrence_triton

    exact = {name: x.detach().double().requires_grad_() for name, x in arguments.items()}
    expected = results(recurrence.recurrence_reference, exact, lengths)
    actual = results(recurrence_triton, arguments, lengths)
    return {name: relative(x, expected[name]) for name, x in actual.items()}


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize(("decay", "delta"), CLASSES)
def test_every_gradient_equals_float64(figures, decay, delta, kind):
    for sizes in ({}, {"groups": 2, "keys": 20, "values": 65}, {"keys": 128, "values": 128}):
        actual = errors(inputs(decay, delta, kind=kind, **sizes))
        figures[f"recurrence error {decay} {delta} {kind} {sizes}"] = actual
        for name, error in actual.items():
            assert error < LIMITS[kind], f"{name}: {error:.2e}"


@pytest.mark.parametrize(("decay", "delta"), CLASSES)
def test_positions_behind_the_length_change_nothing(decay, delta):
    arguments = inputs(decay, delta)
    lengths = torch.tensor([100, 37], device=DEVICE)
    for name, error in errors(arguments, lengths).items():
        assert error < LIMITS[torch.float32], f"{name}: {error:.2e}"


@pytest.mark.parametrize("length", [1, 8, 1000, 20000])
def test_vectors_equal_float64(figures, length):
    random = torch.Generator(DEVICE).manual_seed(0)
    shape = (2, length, 96)
    a, k, v = (torch.randn(shape, generator=random, device=DEVICE) for _ in range(3))
    a, w = torch.sigmoid(4 * a), -F.softplus(a)
    for form, tensors in (
        (linear_scan.linear_scan, [a, v]),
        (lambda *x: linear_scan.weighted_mean(*x)[0], [k, v, w]),
    ):
        both = []
        for kind, device in ((torch.float32, DEVICE), (torch.float64, "cpu")):
            arguments = [x.detach().to(device, kind).requires_grad_() for x in tensors]
            y = form(*arguments)
            both.append([y, *torch.autograd.grad((y * y).sum(), arguments)])
        actual = [relative(x.cpu(), true) for x, true in zip(*both, strict=True)]
        figures[f"vector scan error {length} {len(tensors)}"] = actual
        assert max(actual) < 1e-5


def test_on_a_gpu_the_kernels_are_what_is_called(monkeypatch):
    from wishbone.kernels.recurrence import triton

    calls = []
    right = triton.recurrence_triton
    monkeypatch.setattr(triton, "recurrence_triton", lambda *x: calls.append(1) or right(*x))
    recurrence.recurrence(**{n: x.detach() for n, x in inputs("head", True).items()})
    assert calls == [1]


def test_compilation_and_checkpointing_pass_through():
    arguments = inputs("channel", True)
    tensors, names = list(arguments.values()), list(arguments)

    def form(*x):
        return recurrence.recurrence(**dict(zip(names, x, strict=True)))[0]

    expected = torch.autograd.grad(form(*tensors).sum(), tensors)
    for other in (
        torch.compile(form, fullgraph=True),
        lambda *x: checkpoint(form, *x, use_reentrant=False),
    ):
        actual = torch.autograd.grad(other(*tensors).sum(), tensors)
        for name, x, y in zip(names, actual, expected, strict=True):
            assert relative(x, y) < 1e-6, name


@pytest.mark.parametrize(
    "mixer", ["gla", "retnet", "mamba2", "mlstm", "gdn", "kda", "mingru", "aft"]
)
def test_a_stack_learns_the_same_as_on_a_cpu(figures, mixer):
    from wishbone.plugins.stack.backbone import Stack, StackConfig

    torch.manual_seed(0)
    model = Stack(StackConfig(width=128, layers=2, mixer=mixer))
    x, weight = torch.randn(3, 50, 128), torch.randn(3, 50, 128)
    mask = torch.arange(50)[None] < torch.tensor([[50], [31], [1]])
    both = []
    for device in ("cpu", DEVICE):
        model.to(device).zero_grad()
        y, _ = model(x.to(device), mask=mask.to(device))
        (y * weight.to(device)).sum().backward()
        both.append({name: p.grad.cpu().clone() for name, p in model.named_parameters()})
    actual = {name: relative(both[1][name], true) for name, true in both[0].items()}
    figures[f"{mixer} gradients against a CPU"] = max(actual.values())
    assert max(actual.values()) < 1e-3


def milliseconds(function):
    from triton.testing import do_bench

    return do_bench(function, warmup=100, rep=400, return_mode="median")


@pytest.mark.parametrize(("decay", "delta"), CLASSES)
def test_times(figures, decay, delta):
    """Forward with backward beside PyTorch's operations; no figure can fail."""
    batch, length, heads, size = SHAPE
    arguments = inputs(decay, delta, batch, length, heads, heads, size, size, torch.bfloat16)
    del arguments["state"]
    tensors = list(arguments.values())

    def both(chunk):
        y, _ = recurrence.recurrence(**arguments, chunk=chunk)
        torch.autograd.grad(y, tensors, torch.ones_like(y))

    figures[f"recurrence ms, kernels and PyTorch, {decay} {delta}"] = [
        milliseconds(lambda: both(0)), milliseconds(lambda: both(32)),
    ]  # fmt: skip
