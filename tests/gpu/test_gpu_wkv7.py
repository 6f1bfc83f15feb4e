"""WKV-7 and the work around it on a GPU: numbers against float64, times against fla and a copy.

Times are medians of ``triton.testing.do_bench``; ratios are of one process. fla is optional:
``pip install flash-linear-attention``.
"""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wishbone.kernels.elementwise import reference as formulas
from wishbone.kernels.wkv7.packed import packed
from wishbone.kernels.wkv7.reference import wkv7_reference

NAMES = ("r", "g", "k", "v", "a", "b", "state")
DEVICE = "cuda"
SHAPE = (8, 4096, 32, 64)
"""Batch, length, heads, head size of the comparison with fla."""
LONG = (1, 32768, 16, 64)
"""Too few heads to fill a device."""
COPY = 1 << 31
"""Bytes copied to find the limit of the memory, many times the 60 MB of an H200's cache."""
LIMITS = {torch.float32: 4e-6, torch.bfloat16: 1e-2}
"""Relative rms against float64, for the usual inputs."""


def inputs(shape, sequences=0, dtype=torch.float32, seed=0, steady=False):
    """r, g, k, v, a, b, state; ``steady``: slow decay and keys that hardly change."""
    random = torch.Generator(DEVICE).manual_seed(seed)
    batch, _, heads, size = shape

    def draw(*shape):
        return torch.randn(shape, generator=random, device=DEVICE)

    r, g, k, v, direction, rate = (draw(*shape) for _ in range(6))
    g, rate = -0.60653 * torch.sigmoid(4 * g), torch.sigmoid(rate)
    if steady:
        direction = draw(size) + 0.02 * direction
        g, rate = torch.full_like(g, -1e-5), torch.full_like(rate, 0.98)
        k = F.normalize(direction, dim=-1)
    direction = F.normalize(direction, dim=-1)
    tensors = [x.to(dtype) for x in (r, g, k, v, -direction, direction * rate)]
    tensors.append(draw(sequences or batch, heads, size, size))
    return [x.requires_grad_() for x in tensors]


def relative(actual, expected):
    """Root mean square of the difference over that of ``wanted``."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def results(form, arguments):
    """y, the state after, and the gradients of a fixed weighting of both."""
    y, after = form(*arguments)
    random = torch.Generator(DEVICE).manual_seed(2)
    weights = [
        torch.randn(x.shape, generator=random, device=DEVICE).to(x.dtype) for x in (y, after)
    ]
    return y, after, *torch.autograd.grad((y, after), arguments, weights)


def errors(form, arguments, mask=None, offsets=None):
    """Name -> relative rms against the recurrence in float64."""

    def expected(*x):
        if offsets is not None:
            return packed(wkv7_reference, x[:6], x[6], offsets)
        return wkv7_reference(*x, mask)

    exact = [x.detach().double().requires_grad_() for x in arguments]
    pairs = zip(results(form, arguments), results(expected, exact), strict=True)
    names = ("y", "after", *(f"d{name}" for name in NAMES))
    return {name: relative(*pair) for name, pair in zip(names, pairs, strict=True)}


def scan(mask=None, offsets=None, **options):
    from wishbone.kernels.wkv7.triton import wkv7_triton

    return lambda *x: wkv7_triton(*x, mask, offsets, **options)


def below(actual, limit):
    for name, error in actual.items():
        assert error < limit, f"{name}: {error:.2e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("length", [1, 100, 257])
def test_every_gradient_equals_float64(figures, size, length, dtype):
    actual = errors(scan(), inputs((2, length, 3, size), dtype=dtype))
    figures[f"wkv7 error {size} {length} {dtype}"] = actual
    below(actual, LIMITS[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("segment", [0, 64])
def test_masks_packing_and_segments(figures, segment, dtype):
    arguments = inputs((2, 200, 3, 64), dtype=dtype)
    mask = torch.rand(2, 200, device=DEVICE) > 0.3
    offsets = torch.tensor([0, 5, 5, 130, 200], device=DEVICE)
    below(errors(scan(mask, segment=segment), arguments, mask), LIMITS[dtype])
    row = inputs((1, 200, 3, 64), sequences=4, dtype=dtype)
    below(errors(scan(offsets=offsets, segment=segment), row, None, offsets), LIMITS[dtype])


def test_masked_rows_are_not_read_and_nothing_else_is_written(monkeypatch):
    from wishbone.kernels.wkv7 import triton as launcher

    arguments = inputs((2, 100, 3, 64))
    mask = torch.rand(2, 100, device=DEVICE) > 0.3
    plain = results(scan(mask), arguments)
    poisoned = [x.detach().clone() for x in arguments]
    for x in poisoned[1:6]:
        x[~mask] = float("nan")
    guards = []

    def fence(x):
        room = torch.full((x.numel() + 8192,), 7.0, dtype=x.dtype, device=DEVICE)
        room[4096:-4096] = float("nan")
        guards.append(room)
        return room[4096:-4096].view(x.shape)

    for name in ("_fake_forward", "_fake_backward"):
        fake = getattr(launcher, name)
        monkeypatch.setattr(launcher, name, lambda *x, fake=fake: tuple(map(fence, fake(*x))))
    again = results(scan(mask), [x.requires_grad_() for x in poisoned])
    for name, x, y in zip(("y", "after", *NAMES), plain, again, strict=True):
        assert torch.equal(x, y), name
    assert len(guards) == 10
    for room in guards:
        assert (room[:4096] == 7).all() and (room[-4096:] == 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_hardly_change(figures, dtype):
    """Inputs that cost other forms digits; in bfloat16 no worse than fla on the same."""
    arguments = inputs((1, 512, 4, 64), dtype=dtype, steady=True)
    ours = errors(scan(), arguments)
    figures[f"wkv7 steady keys {dtype}"] = ours
    below(ours, {torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype])
    if dtype == torch.float32:
        # fla's kernels warn that they are not for it.
        return
    pytest.importorskip("fla", reason="to compare: pip install flash-linear-attention")
    peer = errors(fla_scan(), arguments)
    figures[f"wkv7 steady keys {dtype} fla"] = peer
    for name, error in ours.items():
        # Both round their results to the input's type, which is all of some errors.
        assert error < 1.2 * peer[name], f"{name}: {error:.2e}, fla {peer[name]:.2e}"


def fla_scan():
    """fla's kernel at its fastest setting for RWKV-7, its state transposed to ours."""
    from fla.ops.rwkv7 import chunk_rwkv7

    def form(r, g, k, v, a, b, state=None):
        y, after = chunk_rwkv7(
            r, g, k, v, a, b, scale=1.0,
            initial_state=None if state is None else state.mT.contiguous(),
            output_final_state=True, safe_gate=True, lower_bound=-0.6066, chunk_size=64,
        )  # fmt: skip
        return y, after.mT

    return form


def milliseconds(function):
    from triton.testing import do_bench

    return do_bench(function, warmup=100, rep=400, return_mode="median")


def measure(form, shape):
    """Milliseconds forward, and with backward; bytes allocated beyond the inputs at most."""
    arguments = [x.detach().requires_grad_() for x in inputs(shape, dtype=torch.bfloat16)[:6]]
    dy = torch.randn_like(arguments[3])

    def both():
        y, _ = form(*arguments)
        torch.autograd.grad(y, arguments, dy)

    def forward():
        with torch.no_grad():
            form(*arguments)

    both()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    both()
    extra = torch.cuda.max_memory_allocated() - before
    return {"forward": milliseconds(forward), "both": milliseconds(both), "bytes": extra}


def copy_limit():
    """Bytes read and written per millisecond by a copy."""
    source = torch.empty(COPY, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * COPY / milliseconds(lambda: target.copy_(source))


def test_time_against_fla(figures):
    """The mark is 1.3 times fla's speed, forward and backward."""
    ours = measure(scan(), SHAPE)
    tensor = 2 * torch.Size(SHAPE).numel()
    # Seven tensors forward, thirteen backward.
    ours["share of copy limit"] = 20 * tensor / copy_limit() / ours["both"]
    figures["wkv7 B8 T4096 H32 D64 bfloat16"] = ours
    # Six gradients and y belong to the caller; the mark for what comes on top is 0.6 GB.
    assert ours["bytes"] - 7 * tensor < 0.6e9
    fla = pytest.importorskip("fla", reason="to compare: pip install flash-linear-attention")
    peer = measure(fla_scan(), SHAPE)
    peer["version"] = fla.__version__
    figures["wkv7 B8 T4096 H32 D64 bfloat16 fla"] = peer
    figures["wkv7 speed over fla"] = peer["both"] / ours["both"]
    assert peer["both"] / ours["both"] >= 1.3


def test_few_heads_are_cut_into_segments(figures):
    from wishbone.kernels.wkv7.triton import _segment

    batch, length, heads, _ = LONG
    segment = _segment(torch.device(DEVICE), batch * heads, length)
    assert 0 < segment < length
    cut, complete = measure(scan(), LONG), measure(scan(segment=length), LONG)
    figures["wkv7 B1 T32768 H16 D64 bfloat16"] = {"cut": cut, "whole": complete, "segment": segment}
    assert cut["both"] < complete["both"]


@pytest.mark.parametrize(("size", "half"), [(64, True), (128, True), (64, False)])
def test_tunings(figures, monkeypatch, size, half):
    """Times of other settings than ``TUNING``'s: change the table if one is faster."""
    from wishbone.kernels.wkv7 import triton as launcher

    actual, shape = {}, (*SHAPE[:2], SHAPE[2] * SHAPE[3] // size, size)
    parts = (0,) if size == 64 and half else (0, size // 2)
    for warps, stages, chunk, values in itertools.product((4, 8), (1, 2), (16, 32), parts):
        tuning = launcher.Tuning(warps, warps, values, stages, chunk)
        monkeypatch.setitem(launcher.TUNING, (size, half), tuning)
        name = f"{warps} warps, {stages} stages, chunk {chunk}, values {values or size}"
        try:
            # A tuning is for a type of operands; the inputs stay bfloat16.
            seconds = measure(scan(operands="bf16" if half else "tf32x3"), shape)
            actual[name] = [seconds["forward"], seconds["both"]]
        except Exception as error:
            actual[name] = type(error).__name__
    figures[f"wkv7 tunings, ms forward and both, {size} {'bf16' if half else 'tf32x3'}"] = actual
    assert any(isinstance(seconds, list) for seconds in actual.values())


def test_compilation_and_checkpointing_pass_through():
    arguments = inputs((2, 100, 3, 64))
    plain = results(scan(), arguments)
    for form in (
        torch.compile(scan(), fullgraph=True),
        lambda *x: checkpoint(scan(), *x, use_reentrant=False),
    ):
        for name, x, y in zip(("y", "after", *NAMES), results(form, arguments), plain, strict=True):
            assert torch.equal(x, y), name


HEADS, SIZE, EPS = 32, 64, 64e-5


def around(dtype, batch=2, length=100):
    """Operator -> (kernel, formula, inputs), both of the inputs alone."""
    from wishbone.kernels.elementwise import operators

    width = HEADS * SIZE
    random = torch.Generator(DEVICE).manual_seed(0)

    def draw(*shape, kind=dtype):
        return torch.randn(shape, generator=random, device=DEVICE).to(kind).requires_grad_()

    def rows(count):
        return [draw(batch, length, width) for _ in range(count)]

    def heads():
        return draw(batch, length, HEADS, SIZE)

    def vectors(count):
        return [draw(width, kind=torch.float32) for _ in range(count)]

    carry, shares = draw(batch, width), draw(6, width, kind=torch.float32)
    finished = [heads(), *rows(1), heads(), *rows(2), draw(HEADS, SIZE, kind=torch.float32)]
    return {
        "mix": (
            lambda *x: operators.mix(*x, dtype),
            lambda *x: formulas.mix_reference(*x, x[0].dtype),
            [*rows(1), carry, shares],
        ),
        "prepare": (
            lambda *x: operators.prepare(*x, HEADS, dtype),
            lambda *x: formulas.prepare_reference(*x, HEADS, x[0].dtype),
            [*rows(3), *vectors(4)],
        ),
        "finish": (
            lambda *x: operators.finish(*x, EPS),
            lambda *x: formulas.finish_reference(*x, EPS),
            [*finished, *vectors(2)],
        ),
        "squared_relu": (operators.squared_relu, formulas.squared_relu_reference, rows(1)),
    }


def forward_and_backward(form, arguments):
    """Results and gradients in a row."""
    outs = form(*arguments)
    outs = [outs] if isinstance(outs, torch.Tensor) else list(outs)
    weights = [torch.ones_like(x) * (1 + i) / 4 for i, x in enumerate(outs)]
    return [*outs, *torch.autograd.grad(outs, arguments, weights)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mix", "prepare", "finish", "squared_relu"])
def test_work_around_the_scan_equals_its_formula(figures, name, dtype):
    form, formula, arguments = around(dtype)[name]
    exact = [x.detach().double().requires_grad_() for x in arguments]
    pairs = zip(
        forward_and_backward(form, arguments), forward_and_backward(formula, exact), strict=True
    )
    actual = {str(number): relative(*pair) for number, pair in enumerate(pairs)}
    figures[f"elementwise error {name} {dtype}"] = max(actual.values())
    below(actual, {torch.float32: 2e-6, torch.bfloat16: 8e-3}[dtype])


@pytest.mark.parametrize("name", ["mix", "prepare", "finish", "squared_relu"])
def test_work_around_the_scan_takes_less_time_than_its_formula(figures, name):
    form, formula, arguments = around(torch.bfloat16, *SHAPE[:2])[name]
    ours = milliseconds(lambda: forward_and_backward(form, arguments))
    peer = milliseconds(lambda: forward_and_backward(formula, arguments))
    figures[f"elementwise {name}, ms kernel and formula"] = [ours, peer]
    assert ours < peer


@pytest.mark.parametrize("masked", [False, True])
def test_a_backbone_learns_the_same_as_on_a_cpu(figures, masked):
    from wishbone.plugins.rwkv7.backbone import RWKV7

    torch.manual_seed(0)
    model = RWKV7(RWKV7.Config(width=128, layers=2, head_size=32))
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(3, 50, 128)
    mask = torch.arange(50)[None] < torch.tensor([[50], [31], [1]]) if masked else None
    weight = torch.randn(3, 50, 128)
    if masked:
        weight = weight * mask[..., None]
    both = []
    for device in ("cpu", DEVICE):
        model.to(device).zero_grad()
        y, _ = model(x.to(device), mask=None if mask is None else mask.to(device))
        (y * weight.to(device)).sum().backward()
        both.append({name: p.grad.cpu().clone() for name, p in model.named_parameters()})
    actual = {name: relative(both[1][name], true) for name, true in both[0].items()}
    figures[f"rwkv7 gradients against a CPU, masked {masked}"] = max(actual.values())
    below(actual, 1e-3)
