"""What both files of oracle tests need: a mixer far from its start, its inputs, and the error."""

import torch
from torch import nn

from wishbone.core.contract.stack.mixer import Call, Place

WIDTH, LENGTH = 48, 150


def built(cls, config=None, width=WIDTH, spread=0.3):
    """A mixer whose every parameter is moved away from its first value."""
    torch.manual_seed(0)
    mixer = cls(config or cls.small_config(), Place(width, 1, 3))
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return mixer


def inputs(length=LENGTH, width=WIDTH, batch=2):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(mixer, x):
    """Outputs of one call from the first state."""
    state = mixer.init_state(len(x), x.device, x.dtype)
    start = torch.zeros(len(x), dtype=torch.int64) if mixer.positions else None
    return mixer(x, state, Call(None, start))[0]


def worst(actual, expected):
    """Largest difference, as a share of the root mean square of what is expected."""
    expected = expected.double()
    error = (actual.double() - expected).abs().max() / expected.square().mean().sqrt()
    print(f"largest error {error:.1e} of the root mean square {expected.std():.2g}")
    return error.item()


def like(tensor):
    return nn.Parameter(tensor.detach().clone())
