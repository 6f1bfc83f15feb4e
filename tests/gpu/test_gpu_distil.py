"""Distillation on a GPU against itself on a CPU: the teacher comes along, losses are the same."""

import pytest
import torch

from wishbone.core.contract.layout import IGNORE
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import read
from wishbone.core.train.objectives import build_objective

STUDENT = ["backbone={name: arwkv, width: 192, layers: 6, ffn_width: 704}", "weights=null"]


def batch(device):
    """Two sequences of 70 positions, the second a little shorter: more than one chunk of a scan."""
    random = torch.Generator().manual_seed(0)
    table = torch.zeros(2, 70, dtype=torch.int64)
    table[:, :10] = 1
    ids = torch.randint(2, 70, (2, 70, 1), generator=random)
    targets = torch.randint(6561, (2, 70, 1), generator=random)
    targets[:, :10] = IGNORE
    mask = torch.ones(2, 70, dtype=torch.bool)
    mask[1, 61:] = False
    return [tensor.to(device) for tensor in (table, ids, targets, mask)]


@pytest.mark.parametrize("name", ["align", "logits"])
def test_a_stage_has_the_loss_and_the_gradient_of_the_cpu(name, figures):
    config = read("quickstart-transformer", STUDENT)
    fields = {"name": name, "teacher": "quickstart-transformer", "inherit": True}
    actual = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        objective = build_objective(fields, build_model(config), config).eval()
        objective.model.to(device)
        total, count = objective(*batch(device))
        (total / count).backward()
        assert objective.teacher.model.device.type == device
        slopes = [p.grad.double().cpu() for p in objective.parameters() if p.grad is not None]
        actual.append((float(total.detach() / count), torch.cat([s.flatten() for s in slopes])))
    (loss, slope), (on_gpu, slope_on_gpu) = actual
    error = float((slope_on_gpu - slope).norm() / slope.norm())
    figures[f"distil_{name}"] = {"loss": on_gpu, "cpu": loss, "gradient_error": error}
    # the Triton kernels of a GPU round differently in their order of sums
    assert on_gpu == pytest.approx(loss, rel=1e-3)
    assert slope.norm() > 0 and error < 2e-2
