"""The kernels of one decoding position without a GPU: interpreted, and compiled for one."""

import pytest
from interpreted import interpret

pytest.importorskip("triton", reason="install triton, which PyTorch for Linux brings along")


@pytest.mark.parametrize("file", ["interpreted_step.py", "interpreted_attention.py"])
def test_interpreted(file):
    interpret(file)


SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that one program may have at compute capability 9.0."""

FULL = {"x", "shift", "norm", "mix", "h", "h_out", "vectors", "first", "state", "cosines", "sines"}
"""Pointers to float32 where matrices are bfloat16; so are the pieces of attention."""
FULL |= {"part", "peak", "total", "eps"}
INTEGERS = set(
    "batch width rows low_rows outputs inner heads rank rkv_number rkv_row low_number low_row"
    " count plane groups share room pieces".split()
)


def built(kernel, numbers=(), full=(), **constants):
    """``kernel`` for compute capability 9.0; matrices are bfloat16 unless named in ``full``."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in INTEGERS:
            signature[name] = "i32"
        elif name == "length":
            signature[name] = "*i64"
        elif name == "eps" or name in numbers:
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if name in FULL or name in full else "*bf16"
    places = {(i,): constants[n] for i, n in enumerate(kernel.arg_names) if n in constants}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(kernel.arg_names)
        if signature[n].startswith("*")
    }
    source = ASTSource(kernel, signature, places, aligned)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert compiled.metadata.shared <= SHARED_LIMIT


@pytest.mark.parametrize("batch", [1, 4])
def test_products_compile_for_a_gpu(batch):
    from wishbone.kernels.attention import triton_step as attention
    from wishbone.kernels.wkv7 import triton_step as wkv7

    tile = {"BATCH": batch, "ROWS": 8 // batch, "COLUMNS": 1024}
    built(wkv7._mixed_product, MIXES=7, SQUARED_RELU=False, **tile)
    built(wkv7._product_add, SHIFT=True, **tile)
    built(attention._norm_product, BIAS=True, GATED=True, **tile)


def test_what_lies_between_products_compiles_for_a_gpu():
    from wishbone.kernels.attention import triton_step as attention
    from wishbone.kernels.wkv7 import triton_step as wkv7

    built(wkv7._norm_mix, MIXES=7, ADD=True, COLUMNS=1024)
    built(wkv7._squeeze, LOW=True, BLOCK=1024)
    built(attention._norm_add, ADD=True, COLUMNS=1024)
    built(attention._gate, BLOCK=1024)


@pytest.mark.parametrize(("size", "up"), [(64, True), (64, False), (128, False)])
def test_the_recurrence_compiles_for_a_gpu(size, up):
    from wishbone.kernels.wkv7.triton_step import _recur

    built(_recur, LEADING=False, UP=up, SHIFT=up, SIZE=size, RANK=128)


@pytest.mark.parametrize(("size", "precision"), [(64, "bf16"), (64, "ieee"), (128, "bf16")])
def test_attention_compiles_for_a_gpu(size, precision):
    from wishbone.kernels.attention.triton_step import _attend, _join

    shape = {"SIZE": size, "SHARE": 16}
    cache = () if precision == "bf16" else ("qkv", "key", "value")
    block = {"SPLIT": 256, "BLOCK": 64 if size <= 64 else 32, "PRECISION": precision}
    built(_attend, {"scale"}, cache, **shape, **block)
    built(_join, **shape)


def test_a_shape_no_gpu_kernel_can_have_is_noticed():
    """Negative control: the interpreter would take heads of 48 in some operations."""
    from triton.compiler.errors import CompilationError

    from wishbone.kernels.attention.triton_step import _join

    with pytest.raises(CompilationError):
        built(_join, SIZE=48, SHARE=16)
