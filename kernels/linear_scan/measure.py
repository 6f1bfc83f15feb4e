"""``python -m wishbone.kernels.linear_scan.measure``: milliseconds of both scans against the loop.

One thread. The forms take turns, and each figure is the least processor time of its turns, because
on a busy machine the least is what the work itself needs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from wishbone.kernels.linear_scan import (
    linear_scan,
    linear_scan_reference,
    weighted_mean,
    weighted_mean_reference,
)

FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scan, loop": linear_scan_reference,
    "scan": linear_scan,
    "mean, loop": lambda a, b: weighted_mean_reference(a, b)[0],
    "mean": lambda a, b: weighted_mean(a, b)[0],
}


def main() -> None:
    """Print one line per length and direction: milliseconds of every form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, float32, batch 1, {options.channels} channels; ms")
    print(f"{'T':>6}  {'':<18}" + "".join(f"{name:>12}" for name in FORMS))
    for length in options.lengths:
        random = torch.Generator().manual_seed(0)
        shape = (1, length, options.channels)
        inputs = [torch.rand(shape, generator=random).requires_grad_() for _ in range(2)]
        for backward in (False, True):
            cells = [f"{1000 * x:>12.1f}" for x in measure(inputs, backward, options.turns)]
            direction = "forward, backward" if backward else "forward"
            print(f"{length:>6}  {direction:<18}" + "".join(cells))


def measure(inputs: list[Tensor], backward: bool, turns: int) -> list[float]:
    """Least seconds of every form; one turn before does not count."""
    best = [float("inf")] * len(FORMS)
    for turn in range(turns + 1):
        for index, form in enumerate(FORMS.values()):
            started = time.process_time()
            with torch.set_grad_enabled(backward):
                y = form(*inputs)  # [1, T, C]
            if backward:
                torch.autograd.grad(y.sum(), inputs)
            if turn:
                best[index] = min(best[index], time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
