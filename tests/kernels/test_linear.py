"""Products of decoding against float64, and a native library that comes with its reasons."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from wishbone.kernels import linear
from wishbone.kernels.linear import KINDS, Native, NativeMissing, build, narrowed, reference
from wishbone.kernels.linear.native import LONGEST, SOURCE, Matrix, Pack

needs_compiler = pytest.mark.skipif(
    bool(linear.compiler_missing()), reason="needs a C++ compiler: install g++ or clang++"
)
EXACT = {"float32": 1e-6, "bfloat16": 1e-6, "int8": 2e-4}
"""Relative error of the product with the weights as kept: float32 sums, and for int8 a vector of
whole numbers of sixteen bits."""
ROUNDED = {"float32": 1e-6, "bfloat16": 3e-3, "int8": 1.2e-2}
"""Relative error against the weights as they were, normal numbers."""


def error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def native():
    return Native(build=True)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 16), (112, 93), (33, 257), (1, 1)])
def test_the_native_product(native, kind, shape):
    weight = numbers(*shape)
    packed = native.pack(weight, kind)
    for batch in (1, 2, 3, 4, 5, 9):
        x = numbers(batch, shape[1], seed=batch)
        actual = native.times(packed, x)
        assert actual.shape == (batch, shape[0])
        exact = reference(x, *narrowed(weight, kind))
        assert error(actual, exact) < EXACT[kind]
        if shape[0] > 30:
            assert error(actual, x.double() @ weight.double().mT) < ROUNDED[kind]


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_do_not_meet(native, kind):
    packed, x = native.pack(numbers(48, 64), kind), numbers(7, 64)
    alone = torch.cat([native.times(packed, row[None]) for row in x])
    assert torch.allclose(native.times(packed, x), alone, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_two_threads_give_what_one_gives(native):
    packed, x = native.pack(numbers(80, 64), "int8"), numbers(3, 64)
    assert torch.equal(native.times(packed, x, threads=2), native.times(packed, x))


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_share_a_library_do_not_meet(native, kind):
    packed = native.pack(numbers(256, 512), kind)
    vectors = [numbers(2, 512, seed=n) for n in range(4)]
    expected = [native.times(packed, x) for x in vectors]

    def products(n):
        return all(torch.equal(native.times(packed, vectors[n]), expected[n]) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(products, range(4)))


@needs_compiler
def test_vectors_of_zeros_and_of_any_size(native):
    packed = native.pack(numbers(32, 64), "int8")
    assert torch.equal(native.times(packed, torch.zeros(1, 64)), torch.zeros(1, 32))
    x = numbers(1, 64)
    for factor in (1e-20, 1e20):
        actual = native.times(packed, x * factor).double() / factor
        assert torch.allclose(actual, native.times(packed, x).double(), rtol=1e-4)


@needs_compiler
def test_a_wrong_scale_is_seen(native):
    """The check above can fail: one of 32 rows a tenth too loud is a hundred times its limit."""
    weight, x = numbers(32, 64), numbers(1, 64)
    packed = native.pack(weight, "int8")
    ctypes.c_float.from_address(packed.matrix.scale + 4 * 5).value *= 1.1
    assert error(native.times(packed, x), reference(x, *narrowed(weight, "int8"))) > 2e-3


@needs_compiler
def test_columns_in_another_order_are_seen(native):
    weight, x = numbers(32, 64), numbers(1, 64)
    for kind in KINDS:
        wrong = native.pack(weight.roll(1, 1), kind)
        assert error(native.times(wrong, x), reference(x, *narrowed(weight, kind))) > 0.05


def test_int8_rows_use_their_whole_range():
    weight = numbers(8, 64) * torch.logspace(-6, 6, 8)[:, None]
    values, scale = narrowed(weight, "int8")
    assert values.dtype == torch.int8 and (values.abs().amax(1) == 127).all()
    rounded = linear.dequantized(values, scale)
    assert ((rounded - weight).abs() <= scale[:, None] * 0.5001).all()
    zeros, scale = narrowed(torch.zeros(2, 4), "int8")
    assert not zeros.any() and not scale.any()


def test_unknown_kinds_and_rows_too_long_are_refused():
    with pytest.raises(ValueError, match="none of"):
        narrowed(torch.ones(1, 1), "int4")
    with pytest.raises(ValueError, match="is the most"):
        Pack().matrix(torch.empty(1, LONGEST + 1, device="meta"), "int8", Matrix())


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WISHBONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "native"


def test_nothing_is_built_unasked(empty_cache):
    with pytest.raises(NativeMissing, match="not built yet"):
        Native(build=False)
    assert not empty_cache.exists()
    assert linear.available()["native"]


def test_no_compiler_is_a_reason(empty_cache, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(NativeMissing, match="no C"):
        Native(build=True)
    assert "no C++ compiler" in linear.available()["native"]


def test_what_the_compiler_said_is_told(empty_cache, monkeypatch):
    def refuse(command, **how):
        return subprocess.CompletedProcess(command, 1, "", "linear.cpp:1: nonsense\nmore")

    monkeypatch.setattr(build.shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(build.subprocess, "run", refuse)
    with pytest.raises(NativeMissing, match="/bin/false failed: linear.cpp:1: nonsense"):
        Native(build=True)
    assert not list(empty_cache.glob("*.so"))


def test_a_build_that_failed_is_not_tried_again_by_the_same_compiler(
    empty_cache, monkeypatch, tmp_path
):
    program, runs = tmp_path / "compiler", []
    program.write_text("first version")
    monkeypatch.setattr(build.shutil, "which", lambda name: str(program))

    def refuse(command, **how):
        runs.append(command[0])
        return subprocess.CompletedProcess(command, 1, "", "linear.cpp:1: nonsense")

    monkeypatch.setattr(build.subprocess, "run", refuse)

    def attempts():
        before = len(runs)
        with pytest.raises(NativeMissing, match="nonsense"):
            Native(build=True)
        return len(runs) - before

    assert attempts() == len(build.TRIES)
    assert attempts() == 0
    assert "nonsense" in linear.available()["native"] == build.obstacle("linear", SOURCE)
    build.forget_failures()
    assert attempts() == len(build.TRIES)
    program.write_text("the second version")
    assert attempts() == len(build.TRIES)


@needs_compiler
def test_a_library_that_does_not_run_is_not_kept(empty_cache, monkeypatch):
    monkeypatch.setattr(build, "TRIAL", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(NativeMissing, match="does not run here: exit code -4"):
        Native(build=True)
    assert not list(empty_cache.glob("*.so"))
    assert "does not run here" in linear.available()["native"]


@needs_compiler
def test_processes_that_begin_together_build_once(empty_cache):
    code = (
        "import subprocess, sys\n"
        "from wishbone.kernels.linear import Native, build\n"
        "plain = build._run\n"
        "build._run = lambda *a: (print('built'), plain(*a))\n"
        "Native(build=True)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(out for out, _ in results) == "built\n"
    announced = "".join(err for _, err in results)
    assert announced.count("building the C++ decoding steps, once, about") == 1


@needs_compiler
def test_a_library_is_built_once_and_trusted_only_from_its_owner(empty_cache, monkeypatch):
    Native(build=True)
    (built,) = empty_cache.glob("*.so")
    assert built == build.library_path("linear", SOURCE)
    monkeypatch.setattr(build, "_compile", lambda *a: pytest.fail("built again"))
    Native(build=True)
    assert linear.available()["native"] == ""
    built.chmod(0o777)
    with pytest.raises(NativeMissing, match="others may write"):
        Native(build=True)


def test_another_processor_has_another_library(monkeypatch):
    folder = build.library_path("linear", SOURCE)
    monkeypatch.setattr(build, "_processor", lambda: "another")
    assert build.library_path("linear", SOURCE) != folder


@needs_compiler
def test_a_damaged_library_is_built_again_and_never_loaded(empty_cache, monkeypatch):
    build._compile(SOURCE, target := build.library_path("linear", SOURCE))
    library = target.read_bytes()

    def replace_by(data):
        # a new file, because this process may have the old one in its memory
        other = target.with_suffix(".other")
        other.write_bytes(data)
        other.chmod(0o700)
        other.replace(target)

    for data in (b"", library[: len(library) // 2], library[:-1]):
        replace_by(data)
        assert linear.available()["native"] != ""
        with pytest.raises(NativeMissing, match="not built yet"):
            Native(build=False)
    monkeypatch.setattr(build, "_compile", lambda source, target: replace_by(library))
    Native(build=True)
    assert linear.available()["native"] == ""
