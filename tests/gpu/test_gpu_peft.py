"""Adapters on a GPU against the same on a CPU: in training, in steps, and behind an engine."""

import pytest
import torch

pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")

BASES = {
    "rwkv7": {"name": "rwkv7", "width": 192, "layers": 3, "head_size": 64},
    "transformer": {
        "name": "transformer", "width": 192, "layers": 3, "heads": 6, "kv_heads": 2,
        "ffn_width": 384,
    },
}  # fmt: skip


def adapted(arm, **fields):
    from wishbone.core.testing import trained_looking_
    from wishbone.plugins.peft.backbone import PEFT

    torch.manual_seed(0)
    model = trained_looking_(PEFT(PEFT.Config(base=BASES[arm], rank=8, **fields)), 0).eval()
    return model, torch.randn(2, 40, model.width)


@pytest.mark.parametrize("kind", ["float32", "int8", "nf4"])
@pytest.mark.parametrize("method", ["lora", "dora", "miss", "pissa"])
@pytest.mark.parametrize("arm", BASES)
def test_adapters_give_the_numbers_of_the_cpu(arm, method, kind, figures):
    model, x = adapted(arm, method=method, base_weights=kind)
    results = []
    for device in ("cpu", "cuda"):
        model.to(device)
        y, _ = model(x.to(device))
        model.zero_grad()
        y.square().sum().backward()
        grads = [p.grad.cpu().clone() for p in model.parameters() if p.grad is not None]
        results.append([y.detach().cpu(), *grads])
    errors = [
        ((ours - reference).norm() / reference.norm().clamp_min(1e-12)).item()
        for reference, ours in zip(*results, strict=True)
    ]
    figures[f"peft_{arm}_{method}_{kind}"] = max(errors)
    assert max(errors) < 1e-2


@pytest.mark.parametrize("arm", BASES)
def test_the_graph_engine_speaks_with_the_adapter(arm, figures):
    model, x = adapted(arm)
    model, x = model.cuda(), x.cuda()
    with torch.no_grad():
        expected, _ = model(x)
        assert model.accelerate("graph") == "graph"
        state = model.init_state(len(x))
        steps = [model.step_(position, state) for position in x.split(1, dim=1)]
        plain, _ = model.base(x * 0)
    error = ((torch.cat(steps, 1) - expected).norm() / expected.norm()).item()
    figures[f"peft_{arm}_graph"] = error
    assert error < 1e-2 < (plain - expected).norm() / expected.norm()
