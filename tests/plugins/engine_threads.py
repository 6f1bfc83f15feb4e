"""Steps of several threads through one engine, beside the same steps one after another."""

from concurrent.futures import ThreadPoolExecutor

import torch

THREADS = 4
STEPS = 60


def same_from_many_threads(backbone, batch=1, steps=STEPS, threads=THREADS):
    """Return whether every thread gets, bit for bit, its result alone; each has a state."""
    streams = [
        torch.randn(steps, batch, 1, backbone.width, generator=torch.Generator().manual_seed(n))
        for n in range(threads)
    ]

    def outputs(stream):
        with torch.inference_mode():
            state = backbone.init_state(batch)
            y = torch.stack([backbone.step_(x, state) for x in stream])
            return y, {name: part.clone() for name, part in state.items()}

    expected = [outputs(stream) for stream in streams]
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(outputs, streams))
    return all(
        torch.equal(y, alone) and all(torch.equal(state[name], after[name]) for name in after)
        for (y, state), (alone, after) in zip(results, expected, strict=True)
    )
