"""The whole system on a GPU against itself on a CPU; kernels and engines have their own files."""

import time

import pytest
import torch

from wishbone.core.registry.loader import registry
from wishbone.core.system.spec import read


def relative(ours: torch.Tensor, peer: torch.Tensor) -> float:
    """Root mean square of the difference over that of ``theirs``."""
    ours, peer = ours.double().cpu(), peer.double().cpu()
    return float((ours - peer).square().mean().sqrt() / peer.square().mean().sqrt())


@pytest.mark.parametrize("length", [1, 33, 200])
def test_chunked_scan_equals_the_reference(length, figures):
    from wishbone.kernels.wkv7.chunked import wkv7_chunked
    from wishbone.kernels.wkv7.reference import wkv7_reference

    torch.manual_seed(0)
    shape = (2, length, 3, 64)
    kk = torch.nn.functional.normalize(torch.randn(shape), dim=-1)
    r, k, v = (torch.randn(shape) * 0.3 for _ in range(3))
    inputs = [r, -0.6 * torch.rand(shape), k, v, -kk, kk * torch.rand(shape)]
    outputs = []
    for device, scan in (("cpu", wkv7_reference), ("cuda", wkv7_chunked)):
        leaves = [x.to(device).requires_grad_() for x in inputs]
        y, state = scan(*leaves)
        (y.square().sum() + state.sum()).backward()
        outputs.append([y.detach(), state.detach(), *(x.grad for x in leaves)])
    errors = [relative(ours, peer) for peer, ours in zip(*outputs, strict=True)]
    figures[f"wkv7_chunked_{length}"] = max(errors)
    assert max(errors) < 1e-4


@pytest.mark.parametrize("arm", ["quickstart-rwkv7", "quickstart-transformer"])
def test_backbone_gives_the_numbers_of_the_cpu(arm, figures):
    section = dict(read(arm)["backbone"])
    cls = registry().get("backbone", section.pop("name"))
    torch.manual_seed(0)
    model = cls(cls.Config(**section)).eval()
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(2, 70, model.width)
    with torch.no_grad():
        y, _ = model(x)
        model.cuda()
        ours, state = model(x[:, :69].cuda())
        last = model.step_(x[:, 69:].cuda(), state)
    figures[arm] = relative(torch.cat([ours, last], dim=1), y)
    assert figures[arm] < 1e-3


@pytest.mark.parametrize("arm", ["quickstart-rwkv7", "quickstart-transformer"])
def test_a_bundled_arm_speaks(arm, figures):
    import wishbone

    begin = time.perf_counter()
    system = wishbone.load(arm, device="cuda")
    loaded = time.perf_counter()
    audio = system.say("The graphics card says this sentence.", seed=1)
    figures[f"{arm}_real_time_factor"] = (time.perf_counter() - loaded) / audio.seconds
    figures[f"{arm}_load_seconds"] = loaded - begin
    assert 1.0 < audio.seconds < 8.0
    assert torch.isfinite(audio.samples).all()
