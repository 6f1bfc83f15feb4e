"""``python -m wishbone.kernels.wkv7.measure``: seconds of the chunks against the recurrence.

One thread. The forms take turns, and each figure is the least processor time of its turns, because
on a busy machine the least is what the work itself needs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.kernels.wkv7 import wkv7_chunked, wkv7_reference

Form = Callable[..., tuple[Tensor, Tensor]]
CHUNKS = (16, 32, 64)


def main() -> None:
    """Print one line per length: milliseconds, and how many times faster the best chunk is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--size", type=int, default=64, help="numbers per head")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, 1 thread, float32, batch {options.batch}, "
        f"{options.heads} heads of {options.size}; milliseconds"
    )
    columns = ["recurrence", *(f"chunk {c}" for c in CHUNKS), "ratio"]
    print(f"{'T':>6}  {'':<18}" + "".join(f"{name:>12}" for name in columns))
    for length in options.lengths:
        inputs = draw(options.batch, length, options.heads, options.size)
        for backward in (False, True):
            best = measure(inputs, backward, options.turns)
            ratio = best[0] / min(best[1:])
            what = "forward, backward" if backward else "forward"
            cells = "".join(f"{1000 * seconds:>12.1f}" for seconds in best)
            print(f"{length:>6}  {what:<18}{cells}{ratio:>11.1f}x")


def draw(batch: int, length: int, heads: int, size: int) -> list[Tensor]:
    """r, g, k, v, a, b [B, T, H, N] as a model makes them."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, length, heads, size)
    r, g, k, v, direction, rate = (torch.randn(shape, generator=random) for _ in range(6))
    direction = F.normalize(direction, dim=-1)
    tensors = [r, -0.6065 * torch.sigmoid(g), k, v, -direction, direction * torch.sigmoid(rate)]
    return [x.requires_grad_() for x in tensors]


def measure(inputs: list[Tensor], backward: bool, turns: int) -> list[float]:
    """Least seconds of the recurrence and of every chunk length; one turn before does not count."""
    forms: list[Form] = [wkv7_reference]
    forms += [lambda *x, c=chunk: wkv7_chunked(*x, chunk=c) for chunk in CHUNKS]
    best = [float("inf")] * len(forms)
    for turn in range(turns + 1):
        for index, form in enumerate(forms):
            started = time.process_time()
            with torch.set_grad_enabled(backward):
                y, _ = form(*inputs)
            if backward:
                torch.autograd.grad(y.sum(), inputs)
            if turn:
                best[index] = min(best[index], time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
