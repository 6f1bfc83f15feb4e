"""Kernel up-scaling of a tuned state: the equations, the base it begins as, and decorrelation."""

import numpy as np
import pytest
import torch

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.testing import check
from wishbone.plugins.state_tuning.backbone import StateTuned
from wishbone.plugins.state_tuning.upscaling import NAME, UpScaled, upscaled

RWKV7 = {"name": "rwkv7", "width": 32, "layers": 2, "head_size": 16}
HEADS, SIZE, COUNT = 2, 16, 24


def tuned(base=RWKV7, seed=0, moved=False, **fields):
    """A tuned backbone whose blocks answer; ``moved`` takes it away from its first values."""
    torch.manual_seed(seed)
    fields = {"supports": COUNT, **fields}
    backbone = StateTuned(StateTuned.Config(base=dict(base), **fields)).double().eval()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith(("output.weight", "channel_mix.value.weight")):
                torch.nn.init.normal_(parameter, std=0.3)
            if moved and parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def x(batch=2, length=19, seed=5):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, 32, generator=random, dtype=torch.float64)


def by_hand(memory, inputs, rate, state, literal=False):
    """Q T f(r) of row 0, and T, one position and one head after another.

    ``literal`` is the paper's recurrence, which is another one.
    """
    r, g, k, v, a, _ = (z[0].numpy() for z in inputs)
    t, answers = state[0].numpy().copy(), []
    q, u = memory.output.detach().numpy(), memory.supports.numpy()
    rotation = memory.rotation.numpy()

    def feature(z, h):
        kernel = np.exp(-memory.gamma * ((z - u[h]) ** 2).sum(-1))
        return rotation[h] @ kernel / np.sqrt(COUNT)

    for p in range(len(r)):
        answer = []
        for h in range(HEADS):
            kappa = feature(-a[p, h], h)
            w, learning = np.exp(g[p, h]).mean(), rate[0, p].numpy().reshape(HEADS, SIZE)[h].mean()
            if not literal:
                kappa = kappa / np.linalg.norm(kappa)
            moved = t[h] * w - learning * np.outer(t[h] @ kappa, kappa)
            t[h] = moved + np.outer(feature(v[p, h], h), feature(k[p, h], h))
            answer.append(q[h] @ (t[h] @ feature(r[p, h], h)))
        answers.append(answer)
    return np.array(answers), t


@torch.no_grad()
def test_the_larger_memory_is_the_equations(monkeypatch):
    """Seen where it is added: between the scan of the plain memory and the norm of the head."""
    backbone, calls = tuned(moved=True), []
    memory = next(upscaled(backbone))
    memory.rotation.add_(0.1 * torch.randn_like(memory.rotation))
    module = "wishbone.plugins.state_tuning.upscaling"
    for name in ("wkv7", "finish"):
        original = getattr(__import__(module, fromlist=[name]), name)

        def noted(*arguments, original=original):
            answer = original(*arguments)
            calls.append((arguments, answer))
            return answer

        monkeypatch.setattr(f"{module}.{name}", noted)
    rates = []
    handle = memory.register_forward_pre_hook(
        lambda _, given: rates.append(torch.sigmoid(given[0][4] + given[1].a0))
    )
    backbone(x())
    handle.remove()
    (plain, (y, _)), (large, (_, after)), (finished, _) = calls[:3]
    added = finished[0] - y
    start = backbone.init_state(2)[f"blocks.0.{NAME}"]
    assert torch.equal(large[6], start) and start.abs().max() > 0.1
    expected, matrix = by_hand(memory, plain[:6], rates[0], start)
    scale = np.abs(expected).max()
    assert np.abs(added[0].numpy() - expected).max() < 1e-10 * scale
    assert np.abs(after[0].numpy() - matrix).max() < 1e-10
    other, _ = by_hand(memory, plain[:6], rates[0], start, literal=True)
    assert np.abs(added[0].numpy() - other).max() > 1e-2 * scale  # control


@torch.no_grad()
def test_it_begins_as_the_base_and_without_supports_is_it():
    backbone, plain = tuned(), tuned(supports=0)
    plain.base.load_state_dict(backbone.base.state_dict(), strict=False)
    assert (backbone(x())[0] - plain(x())[0]).abs().max() < 1e-12
    assert not list(upscaled(plain)) and set(plain.init_state(1)) == set(plain.base.init_state(1))
    for memory in upscaled(backbone):
        torch.nn.init.normal_(memory.output)
    assert (backbone(x())[0] - plain(x())[0]).abs().max() > 1e-2


def test_it_keeps_the_contract_of_a_backbone():
    config = StateTuned.Config(
        base={**RWKV7, "layers": 3}, supports=COUNT, rank=3, decorrelate=1e-2
    )
    results = check("backbone", "state_tuned", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_the_map_learns_first_and_then_the_state():
    backbone = tuned().train()
    (backbone(x())[0] * x(seed=8)).sum().backward()
    first = backbone.begin[f"blocks-0-{NAME}"].whole
    maps = [memory.output for memory in upscaled(backbone)]
    assert all(output.grad.abs().max() > 0 for output in maps) and first.grad.abs().max() == 0
    with torch.no_grad():
        for output in maps:
            output.sub_(0.1 * output.grad.sign())
    (backbone(x())[0] * x(seed=8)).sum().backward()
    assert first.grad.abs().max() > 0
    learned = {id(p) for g in backbone.parameter_groups(1e-3, 0.1) for p in g["params"]}
    assert {id(p) for p in maps} <= learned


@torch.no_grad()
def test_what_multiplies_the_state_stays_inside_one():
    torch.manual_seed(0)
    memory = UpScaled(1, SIZE, 64)
    unit = torch.nn.functional.normalize(torch.randn(200, SIZE), dim=-1)
    features = memory._kernel(unit.view(1, 200, 1, SIZE))[0, 0]  # [T, M]
    literal, bounded = [], []
    for n in range(20):
        decay, rate = features[n + 20], features[n + 40]
        literal.append(torch.diag(decay) - torch.outer(features[n], rate * features[n]))
        kappa = features[n] / features[n].norm()
        bounded.append(0.99 * torch.eye(64) - 0.9 * torch.outer(kappa, kappa))
    radius = [max(torch.linalg.eigvals(m).abs().max().item() for m in ms)
              for ms in (literal, bounded)]  # fmt: skip
    assert radius[1] <= 1 < 5 < radius[0]


def correlation(z):
    """Largest correlation of two features, and the largest distance of a variance from 1."""
    product = (z.mT @ z / len(z)).numpy()
    scale = np.sqrt(np.diag(product))
    apart = product / np.outer(scale, scale) - np.eye(len(scale))
    return np.abs(apart).max(), np.abs(np.diag(product) - 1).max()


def test_the_rule_decorrelates_features_in_training_alone():
    torch.manual_seed(0)
    memory = UpScaled(1, SIZE, COUNT).double()
    memory.learn(0.02, 0.5)
    k = torch.randn(1, 4000, 1, SIZE, dtype=torch.float64)
    z = memory._kernel(k)[0, 0]
    before = correlation(z)
    for _ in range(2000):
        memory._decorrelate(k[:, torch.randperm(4000)[:1000]], None)
    after = correlation(z @ memory.rotation[0].mT)
    assert before[0] > 0.9 and after[0] < 0.25 and after[1] < 0.5
    backbone = tuned(decorrelate=1e-2)
    kept = [memory.rotation for memory in upscaled(backbone)]
    backbone(x())
    assert all(m.rotation is r for m, r in zip(upscaled(backbone), kept, strict=True))
    backbone.train()
    mask = torch.ones(2, 19, dtype=torch.bool)
    mask[:, 9:] = False
    (backbone(x(), mask=mask)[0] * x(seed=8)).sum().backward()
    moved = [memory.rotation for memory in upscaled(backbone)]
    assert all((m - r).abs().max() > 1e-5 for m, r in zip(moved, kept, strict=True))
    again = tuned(decorrelate=1e-2).train()
    again(x()[:, :9])
    for one, other in zip(upscaled(again), moved, strict=True):
        assert (one.rotation - other).abs().max() < 1e-12  # padding is in no mean


def test_what_cannot_be_is_refused():
    with pytest.raises(CapabilityError, match="only runs as plain PyTorch"):
        tuned().accelerate("native")
    assert tuned().accelerate() == "eager"
    mixer = {"name": "gla", "head_size": 16}
    with pytest.raises(CapabilityError, match="Up-scaling is for RWKV-7"):
        tuned({"name": "stack", "width": 32, "layers": 1, "mixer": mixer})


@torch.no_grad()
def test_a_block_of_a_stack_can_have_it():
    mixer = {"name": "rwkv7", "head_size": 16}
    backbone = tuned({"name": "stack", "width": 32, "layers": 2, "mixer": mixer}, moved=True)
    state = backbone.init_state(1)
    y, after = backbone(x(1))
    steps = [backbone.step_(x(1)[:, t : t + 1], state) for t in range(19)]
    assert (torch.cat(steps, 1) - y).abs().max() < 1e-9
    assert (state[f"blocks.1.{NAME}"] - after[f"blocks.1.{NAME}"]).abs().max() < 1e-9
