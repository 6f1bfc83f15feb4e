"""The Triton scans without a GPU: interpreted, and compiled for one that is not here."""

import pytest
from interpreted import interpret

pytest.importorskip("triton", reason="install triton, which PyTorch for Linux brings along")

SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that one program may have at compute capability 9.0."""


@pytest.mark.parametrize(
    "file",
    [
        "interpreted_recurrence.py",
        "interpreted_recurrence_rounding.py",
        "interpreted_linear_scan.py",
    ],
)
def test_interpreted(file):
    interpret(file)


def built(kernel, constants, half=(), warps=4):
    """``kernel`` for compute capability 9.0; tensors named in ``half`` are bfloat16."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sizes = ("length", "heads", "groups", "keys", "values", "share", "head_share", "channels")
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in (*sizes, "segment"):
            signature[name] = "i32"
        elif name in ("lowest", "never"):
            signature[name] = "fp32"
        elif name == "lengths":
            signature[name] = "*i64"
        else:
            signature[name] = "*bf16" if name in half else "*fp32"
    places = {(i,): constants[n] for i, n in enumerate(kernel.arg_names) if n in constants}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(kernel.arg_names)
        if signature[n].startswith("*")
    }
    source = ASTSource(kernel, signature, places, aligned)
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def memory(kernel, size, decay, half, delta=True):
    """Shared bytes of a kernel of matrix memories, as the launcher asks."""
    from wishbone.kernels.recurrence.triton import TUNING

    tuning = TUNING[size, delta, half]
    constants = {
        "K": size, "V": tuning.tile, "L": tuning.chunk,
        "LEVELS": tuning.chunk.bit_length() - 1, "PRECISION": "bf16" if half else "tf32x3",
        "SOLVE": "tf32x3", "DECAY": decay, "DELTA": delta, "RAGGED": True,
        "START": True, "KEEP": True, "DY": True, "END": True,
    }  # fmt: skip
    low = ("r", "k", "v", "a", "b", "y", "before", "dy", "dr", "dk", "dv", "da", "db")
    backward = "dy" in kernel.arg_names
    warps = tuning.backward_warps if backward else tuning.forward_warps
    return built(kernel, constants, low if half else (), warps).metadata.shared


@pytest.mark.parametrize(("size", "decay", "half"), [(64, 2, True), (64, 1, False)])
def test_the_kernels_of_matrix_memories_compile_for_a_gpu(size, decay, half):
    from wishbone.kernels.recurrence.triton_backward import backward_kernel
    from wishbone.kernels.recurrence.triton_forward import forward_kernel

    for kernel in (forward_kernel, backward_kernel):
        assert 0 < memory(kernel, size, decay, half) <= SHARED_LIMIT


def test_what_is_not_there_is_not_compiled():
    """No decay, no correction, no state, no lengths: a launch passes None for each."""
    from wishbone.kernels.recurrence.triton_backward import backward_kernel
    from wishbone.kernels.recurrence.triton_forward import forward_kernel

    constants = {
        "K": 16, "V": 16, "L": 16, "LEVELS": 4, "PRECISION": "tf32", "SOLVE": "tf32x3",
        "DECAY": 0, "DELTA": False, "RAGGED": False, "START": False, "KEEP": False,
        "DY": False, "END": False,
    }  # fmt: skip
    missing = dict.fromkeys(("g", "a", "b", "lengths", "start", "dy", "dend"))
    for kernel in (forward_kernel, backward_kernel):
        assert built(kernel, constants | missing).metadata.shared <= SHARED_LIMIT


def test_a_kernel_too_large_for_a_gpu_would_be_noticed(monkeypatch):
    from wishbone.kernels.recurrence.triton import TUNING, Tuning
    from wishbone.kernels.recurrence.triton_forward import forward_kernel

    monkeypatch.setitem(TUNING, (128, False, False), Tuning(8, 8, tile=64, chunk=64))
    assert memory(forward_kernel, 128, 0, False, delta=False) > SHARED_LIMIT


@pytest.mark.parametrize("logarithms", [False, True])
def test_the_scan_of_vectors_compiles_for_a_gpu(logarithms):
    from wishbone.kernels.linear_scan.triton import COLUMNS, ROWS, WARPS
    from wishbone.kernels.linear_scan.triton_scan import scan_kernel

    for final in (False, True):
        unused = ("map_a", "map_b") if final else ("start", "out")
        constants = {"L": ROWS, "C": COLUMNS, "LOG": logarithms, "REVERSE": not logarithms}
        constants |= {"MAP": not final, **dict.fromkeys(unused)}
        assert built(scan_kernel, constants, warps=WARPS).metadata.shared <= SHARED_LIMIT


def test_a_gpu_that_is_not_there_is_the_reason():
    import torch

    from wishbone.kernels import linear_scan, recurrence

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for package in (linear_scan, recurrence):
        assert package.available()["triton"] == "no CUDA device"


def test_on_a_gpu_the_kernels_are_what_is_called(monkeypatch):
    """A stand-in for the device: what looks like a CUDA tensor reaches the Triton form."""
    import torch

    from wishbone.kernels import linear_scan, recurrence
    from wishbone.kernels.linear_scan import triton as scans
    from wishbone.kernels.recurrence import triton as matrices

    class Elsewhere(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(recurrence, "triton_missing", lambda: "")
    monkeypatch.setattr(linear_scan, "triton_missing", lambda: "")
    monkeypatch.setattr(matrices, "recurrence_triton", lambda *x: ("triton", x))
    x = torch.randn(1, 4, 2, 8).as_subclass(Elsewhere)
    state = torch.zeros(1, 2, 8, 8)
    assert recurrence.recurrence(x, x, x, state=state)[0] == "triton"
    # float64, one position and a chunk that was asked for are not for it
    assert recurrence.recurrence(x.double(), x, x)[0] is not None
    assert recurrence.recurrence(x, x, x, chunk=4)[0].shape == x.shape
    assert recurrence.recurrence(x[:, :1], x[:, :1], x[:, :1])[0].shape == (1, 1, 2, 8)
    for name in ("scan", "scan_back", "log_scan"):
        assert linear_scan._form(name, x) is getattr(scans, name)
        assert linear_scan._form(name, x[:, :1]) is getattr(linear_scan, name)
        assert linear_scan._form(name, x.double()) is getattr(linear_scan, name)
