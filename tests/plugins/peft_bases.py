"""Small bases that look trained, and adapters on them."""

import torch

from wishbone.core.registry.loader import registry
from wishbone.core.system.loading import load_tensors
from wishbone.core.testing.common import seeded, trained_looking_
from wishbone.plugins.peft.backbone import PEFT

BASES = {
    "rwkv7": {"name": "rwkv7", "width": 48, "layers": 2, "head_size": 16, "ffn_width": 112},
    "transformer": {
        "name": "transformer", "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_width": 96,
    },
}  # fmt: skip


def plain(arm, seed=0):
    """A base that looks trained."""
    fields = {key: value for key, value in BASES[arm].items() if key != "name"}
    cls = registry().get("backbone", arm)
    with seeded(seed):
        return trained_looking_(cls(cls.Config(**fields)), seed).eval()


def adapted(base, arm, seed=None, **fields):
    """Adapters on the weights of ``base``; with a seed they look trained, too."""
    fields = {"rank": 4} | fields
    with seeded(seed or 0):  # what is drawn at first, too
        model = PEFT(PEFT.Config(base=BASES[arm], **fields)).eval()
    load_tensors(model, base.state_dict())
    return model if seed is None else moved(model, seed)


@torch.no_grad()
def moved(model, seed=0, by=0.05):
    """Change whatever is trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


def vectors(model, batch=2, length=9, seed=5):
    """x [B, T, D]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, model.width, generator=generator)


def answer(model, x, state=None):
    """y [B, T, D] without gradient."""
    with torch.no_grad():
        return model(x, state)[0]
