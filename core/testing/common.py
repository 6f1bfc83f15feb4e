"""Shared by all suites: results, small configs, weights that look trained, comparisons."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from wishbone.core.contract.part import Part

SMALL = {
    "width": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_size": 16,
    "ffn_width": 96,
    "fine_width": 32,
    "blocks": 1,
    "fine_blocks": 1,
    "rank": 4,
}
"""Sizes given to fields of these names when a class has no ``small_config``."""


AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Violation(AssertionError):
    """Raised for a part that breaks its contract; the message has numbers."""


class Skipped(Exception):
    """Raised by a check of a property that the part does not promise."""


@dataclass(frozen=True)
class Check:
    """One property of a kind of part."""

    name: str
    sentence: str
    """The property that holds when the check passes."""
    run: Callable[[type, Any, str | None], str | None]
    """Called with the class, its config and the registering module; returns the measurement."""


@dataclass(frozen=True)
class CheckResult:
    """The verdict of one check."""

    name: str
    passed: bool
    """Also true where the check was skipped."""
    detail: str
    """The measurement, or the fault."""
    sentence: str = ""
    """The property that holds when the check passes."""
    skipped: bool = False
    """True where the part does not promise the property."""
    seconds: float = 0.0


def require(holds: bool, message: str) -> None:
    """Raise ``Violation(message)`` unless ``holds``."""
    if not holds:
        raise Violation(message)


def small_config(cls: Any) -> Any:
    """Return ``cls.small_config()``, or ``cls.Config()`` with ``SMALL`` sizes where it is None."""
    config = cls.small_config() if issubclass(cls, Part) else None
    if config is not None:
        return config
    names = {field.name for field in dataclasses.fields(cls.Config)}
    return cls.Config(**{name: size for name, size in SMALL.items() if name in names})


def trained_looking_(module: AnyModule, seed: int) -> AnyModule:
    """Change parameters in place so that nothing is zero, constant or symmetric any more.

    Zero initialisations, ones, identities and faint weights hide most mistakes. Matrices get normal
    numbers of 0.7 / sqrt(longest side) added, which makes every branch of a network count; other
    tensors move by a tenth of their spread, or by a tenth where they are constant. The same seed
    gives the same weights everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            flat = parameter.numel() < 2 or bool((parameter == parameter.flatten()[0]).all())
            scale = 0.1 if flat else 0.1 * parameter.double().std().item()
            if sum(size > 1 for size in parameter.shape) > 1:
                scale = max(scale, 0.7 * max(parameter.shape) ** -0.5)
            parameter += (noise * scale).to(parameter)
    return module


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest number of ``b`` where that is above one.

    Raises ``Violation`` when shapes or kinds differ, or when something is not finite.
    """
    require(a.shape == b.shape, f"shape {list(a.shape)} where {list(b.shape)} was expected")
    require(
        a.is_floating_point() == b.is_floating_point(),
        f"dtype {a.dtype} where {b.dtype} was expected",
    )
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    require(bool(a.isfinite().all()) and bool(b.isfinite().all()), "a number is not finite")
    return ((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item()


def near(a: Tensor, b: Tensor, tolerance: float, what: str) -> float:
    """Raise ``Violation`` unless ``difference(a, b)`` is within ``tolerance``; return it."""
    try:
        error_size = difference(a, b)
    except Violation as error:
        raise Violation(f"{what}: {error}") from None
    require(error_size <= tolerance, f"{what}: off by {error_size:.1e}, allowed {tolerance:.0e}")
    return error_size


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Build parts with fixed random numbers and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def config_round_trip(cls: Any, config: Any, module: str | None) -> str:
    """A config survives YAML and back, and every field says what it is."""
    from omegaconf import OmegaConf

    require(dataclasses.is_dataclass(cls.Config), "Config is not a dataclass")
    plain = dataclasses.asdict(config)
    text = OmegaConf.to_yaml(OmegaConf.create(plain))
    again = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(text)))
    require(again == plain, f"{plain} came back from YAML as {again}")
    require(cls.Config(**again) == config, "a config made from its own YAML differs")
    silent = sorted({field.name for field in dataclasses.fields(config)} - _described(cls.Config))
    require(not silent, f"fields without a sentence under them: {', '.join(silent)}")
    return f"{len(plain)} fields"


def _described(config: type) -> set[str]:
    """Names of fields that have a string literal under them, inherited ones included."""
    names: set[str] = set()
    for cls in config.__mro__[:-1]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except OSError:
            # Made at run time: there is no source to read.
            return {field.name for field in dataclasses.fields(config)}
        body = tree.body[0].body  # type: ignore[attr-defined]
        names |= {
            node.target.id
            for node, after in zip(body, body[1:], strict=False)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        }
    return names


def light_import(cls: Any, config: Any, module: str | None) -> str:
    """Importing the module that registers the part does not import torch."""
    if module is None:
        raise Skipped("not registered by a plug-in module")
    heavy = _heavy_imports(module)
    require(not heavy, f"importing {module} also imports {heavy}")
    return module


@cache
def _heavy_imports(module: str) -> str:
    code = f"import sys, {module}; print(*[m for m in ('torch', 'omegaconf') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    require(result.returncode == 0, f"importing {module} failed: {result.stderr.strip()[-300:]}")
    return result.stdout.strip()


LIGHT = Check("light_import", "Registering the part imports no torch.", light_import)
COMMON = (
    Check("config_round_trip", "A config survives YAML and back.", config_round_trip),
    LIGHT,
)
