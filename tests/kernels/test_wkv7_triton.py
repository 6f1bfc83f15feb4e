"""WKV-7's Triton kernels without a GPU: interpreted, and compiled for one that is not here."""

import pytest
from interpreted import interpret

pytest.importorskip("triton", reason="install triton, which PyTorch for Linux brings along")


@pytest.mark.parametrize("file", ["interpreted_wkv7.py", "interpreted_rounding.py"])
def test_interpreted(file):
    interpret(file)


SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that one program may have at compute capability 9.0."""


def built(kernel, size, half, constants):
    """``kernel`` for compute capability 9.0, as ``kernels.wkv7.triton`` would launch it."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wishbone.kernels.wkv7.triton import TUNING

    tuning = TUNING[size, half]
    full = {"g", "dg", "start", "after", "dend", "dstate", "maps", "edge", "out"}
    counts = {"length", "heads", "segments", "segment", "share"}
    shapes = {"N": size, "V": tuning.values or size, "L": tuning.chunk}
    shapes["LEVELS"] = tuning.chunk.bit_length() - 1
    precision = {"PRECISION": "bf16" if half else "tf32x3", "SOLVE": "tf32x3"}
    constants = {**shapes, **precision, "MASKED": False, "PACKED": False, **constants}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in counts:
            signature[name] = "i32"
        elif name == "mask":
            signature[name] = "*i8"
        elif name == "offsets":
            signature[name] = "*i64"
        else:
            signature[name] = "*bf16" if half and name not in full else "*fp32"
    places = {(i,): constants[n] for i, n in enumerate(kernel.arg_names) if n in constants}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(kernel.arg_names)
        if signature[n].startswith("*")
    }
    warps = tuning.forward_warps if "y" in kernel.arg_names else tuning.backward_warps
    options = {"num_warps": warps, "num_stages": tuning.stages}
    source = ASTSource(kernel, signature, places, aligned)
    return compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize(("size", "half"), [(64, True), (128, False)])
def test_the_forward_kernel_compiles_for_a_gpu(size, half):
    from wishbone.kernels.wkv7.triton_forward import forward_kernel

    constants = {"START": True, "KEEP": True, "MAP": False, "PACKED": True, "MASKED": True}
    assert 0 < built(forward_kernel, size, half, constants).metadata.shared <= SHARED_LIMIT


@pytest.mark.parametrize(("size", "half"), [(64, True), (128, True)])
def test_the_backward_kernel_compiles_for_a_gpu(size, half):
    from wishbone.kernels.wkv7.triton_backward import backward_kernel

    constants = {"DY": True, "END": True, "START": True, "MAP": False}
    assert 0 < built(backward_kernel, size, half, constants).metadata.shared <= SHARED_LIMIT


def test_the_kernels_of_the_segments_compile_for_a_gpu():
    from wishbone.kernels.wkv7.triton_backward import backward_kernel
    from wishbone.kernels.wkv7.triton_forward import forward_kernel
    from wishbone.kernels.wkv7.triton_join import join_kernel

    unused = {"START": False, "MAP": True, "PACKED": True, "MASKED": True}
    for kernel, constants in (
        (forward_kernel, {"KEEP": False}),
        (backward_kernel, {"DY": True, "END": False}),
    ):
        assert built(kernel, 32, True, {**unused, **constants}).metadata.shared <= SHARED_LIMIT
    constants = {"COLUMNS": 16, "EDGE": True, "REVERSE": True, "PACKED": True}
    compiled = built(join_kernel, 32, True, {**constants, "PRECISION": "tf32x3"})
    assert compiled.metadata.shared <= SHARED_LIMIT


def test_a_kernel_too_large_for_a_gpu_would_be_noticed(monkeypatch):
    from wishbone.kernels.wkv7 import triton
    from wishbone.kernels.wkv7.triton_forward import forward_kernel

    monkeypatch.setitem(triton.TUNING, (128, False), triton.Tuning(8, 8, stages=4))
    constants = {"START": False, "KEEP": True, "MAP": False}
    assert built(forward_kernel, 128, False, constants).metadata.shared > SHARED_LIMIT


def test_a_gpu_that_is_not_there_is_the_reason():
    import torch

    from wishbone.kernels.wkv7 import available

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert available()["triton"] == "no CUDA device"
