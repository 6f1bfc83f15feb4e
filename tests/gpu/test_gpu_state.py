"""A learned first state and a carried one on a GPU: the gradient and the loss of the CPU."""

import copy

import torch

from wishbone.core.train.truncated_bptt import detached, state_before
from wishbone.plugins.state_tuning.backbone import StateTuned

BASE = {"name": "rwkv7", "width": 256, "layers": 3, "head_size": 64}


def tuned():
    torch.manual_seed(0)
    backbone = StateTuned(StateTuned.Config(base=dict(BASE)))
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith(("output.weight", "channel_mix.value.weight")):
                parameter.normal_(std=0.1)
            if name.startswith("begin."):
                parameter.normal_()
    return backbone


def read(backbone, x, weights, size):
    """A weighting of the outputs, read ``size`` positions at a time, and S_0's gradient."""
    held, total = None, 0.0
    for begin in range(0, x.shape[1], size):
        piece = x[:, begin : begin + size]
        fresh = torch.full((len(x),), begin == 0, device=x.device)
        y, after = backbone(piece, state_before(backbone, fresh, held))
        total = total + (y * weights[:, begin : begin + size]).sum()
        held = detached(after)
    total.backward()
    gradient = torch.stack([p.grad for p in backbone.begin.parameters()]).cpu()
    return total.item(), gradient


def test_state_gradient_and_carried_loss_are_those_of_the_cpu():
    random = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(4, 300, 256, generator=random) for _ in range(2))
    on_cpu, on_gpu = tuned(), tuned().cuda()
    in_pieces = copy.deepcopy(on_gpu)
    loss, gradient = read(on_cpu, x, weights, 300)
    actual, state = read(on_gpu, x.cuda(), weights.cuda(), 300)
    assert abs(actual - loss) < 1e-3 * weights.norm()
    assert (state - gradient).norm() < 1e-3 * gradient.norm()
    cut, _ = read(in_pieces, x.cuda(), weights.cuda(), 64)
    assert abs(cut - actual) < 1e-4 * weights.norm()
    assert {p.dtype for p in in_pieces.init_state(1).values()} == {torch.float32}
