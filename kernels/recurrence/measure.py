"""``python -m wishbone.kernels.recurrence.measure``: time of each class beside WKV-7's chunks.

One thread. The forms take turns, and each figure is the least processor time of its turns, as a
ratio to that of ``wkv7_chunked`` on inputs of the same sizes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.kernels.recurrence import recurrence
from wishbone.kernels.wkv7 import wkv7_chunked

FORMS = ("wkv7", "none", "head", "channel", "none, delta", "head, delta", "channel, delta")


def main() -> None:
    """Print one line per class of decay and per chunk: forward, and with backward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="numbers per head")
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (options.batch, options.length, options.heads, options.size)
    forms = {"wkv7": wkv7(shape)}
    for name in FORMS[1:]:
        for chunk in options.chunks:
            forms[f"{name} {chunk}"] = form(shape, name, chunk)
    best = measure(forms, options.turns)
    print(f"torch {torch.__version__}, 1 thread, float32, [B, T, H, N] {list(shape)}")
    print(f"{'':<24}{'forward':>10}{'with backward':>16}")
    for name, seconds in best.items():
        ratios = [mine / base for mine, base in zip(seconds, best["wkv7"], strict=True)]
        print(f"{name:<24}{ratios[0]:>10.2f}{ratios[1]:>16.2f}")
    print("wkv7, ms: " + ", ".join(f"{1000 * seconds:.1f}" for seconds in best["wkv7"]))


def draw(shape: tuple[int, ...]) -> list[Tensor]:
    """r, k, v, direction, rate [B, T, H, N] and g of [-8, 0], strong decays rare."""
    random = torch.Generator().manual_seed(0)
    r, k, v, direction, rate, g = (torch.randn(shape, generator=random) for _ in range(6))
    direction, rate = F.normalize(direction, dim=-1), torch.sigmoid(rate)
    return [r, k, v, direction, rate, -8 * torch.sigmoid(2 * g - 4)]


def wkv7(shape: tuple[int, ...]) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]:
    """WKV-7 in chunks and its inputs."""
    r, k, v, direction, rate, g = draw(shape)
    return wkv7_chunked, [r, g.clamp_min(-0.6), k, v, -direction, direction * rate]


def form(
    shape: tuple[int, ...], name: str, chunk: int
) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]:
    """One class of ``FORMS`` at one chunk length, and its inputs."""
    r, k, v, direction, rate, g = draw(shape)
    decay, _, delta = name.partition(", ")
    inputs = [r, k, v]
    if decay != "none":
        inputs.append(g if decay == "channel" else g[..., 0].contiguous())
    if delta:
        inputs += [-direction, direction * rate]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        read, key, value, *others = tensors
        logs = None if decay == "none" else others.pop(0)
        a, b = others or (None, None)
        return recurrence(read, key, value, logs, a, b, chunk=chunk)

    return run, inputs


def measure(
    forms: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]], turns: int
) -> dict[str, list[float]]:
    """Least seconds of forward, and of forward and backward; one turn before does not count."""
    best = {name: [float("inf")] * 2 for name in forms}
    for turn in range(turns + 1):
        for name, (run, inputs) in forms.items():
            for index, backward in enumerate((False, True)):
                inputs = [x.detach().requires_grad_(backward) for x in inputs]
                started = time.process_time()
                with torch.set_grad_enabled(backward):
                    y, _ = run(*inputs)
                if backward:
                    torch.autograd.grad(y.sum(), inputs)
                if turn:
                    spent = time.process_time() - started
                    best[name][index] = min(best[name][index], spent)
    return best


if __name__ == "__main__":
    main()
