"""Answers of the backbone suite: what it accepts with a reason, and how it words a fault."""

from dataclasses import dataclass, field

import torch
from controls import failed
from plain_parts import Leaky, WidthConfig
from safetensors.torch import load_file
from test_negative_controls_backbone import ForgetsToWrite, ReturnsOne

from wishbone.core.testing import check_class


@dataclass
class ListConfig(WidthConfig):
    """A list is what YAML has."""

    kernel: list[int] = field(default_factory=lambda: [1, 2])
    """A pair."""


def test_a_list_in_a_config_passes():
    class HasList(Leaky):
        Config = ListConfig

    assert failed("backbone", HasList) == set()


def verdicts(cls):
    return {result.name: result for result in check_class("backbone", cls)}


def test_a_part_that_cannot_be_called_gets_one_sentence():
    assert [*verdicts(ReturnsOne)] == ["preflight"]
    assert verdicts(ReturnsOne)["preflight"].detail == (
        "forward returns a Tensor, not the pair (y, state)"
    )
    detail = verdicts(ForgetsToWrite)["preflight"].detail
    assert "not written: count_parameters, init_state, state_bytes" in detail
    assert "count_parameter'" in detail


def test_an_output_that_a_later_input_makes_nan_is_not_causal():
    class Shatters(Leaky):
        def forward(self, x, state=None, *, mask=None):
            y, after = super().forward(x, state, mask=mask)
            later = (x.abs() > 5).any() & (torch.arange(x.shape[1]) == 0)[None, :, None]
            return y.masked_fill(later, float("nan")), after

    assert not verdicts(Shatters)["causality"].passed


class NormsInFloat32(Leaky):
    """As every model of transformers: right, and float32 inside a float64 model."""

    def forward(self, x, state=None, *, mask=None):
        scale = (x.float().square().mean(-1, keepdim=True) + 1).rsqrt()
        return super().forward(x * scale.to(x.dtype), state, mask=mask)


def test_norms_in_float32_are_no_fault_and_are_said():
    found = verdicts(NormsInFloat32)
    assert {name for name, result in found.items() if not result.passed} == set()
    assert "float32 inside" in found["gradient"].detail
    assert "1e-04 is allowed because it computes in float32 inside" in found["splits"].detail
    assert "1e-09 is allowed" in verdicts(Leaky)["splits"].detail


def test_a_wrong_gradient_is_seen_through_norms_in_float32():
    class Wrong(NormsInFloat32):
        def forward(self, x, state=None, *, mask=None):
            return super().forward(x + 0.5 * (x - x.detach()), state, mask=mask)

    assert failed("backbone", Wrong) == {"gradient"}


def test_memory_that_lies_elsewhere_is_no_fault(monkeypatch):
    class MindsAlignment(Leaky):
        def read(self, state):
            return state["memory"] + 1e-13 * (state["memory"].data_ptr() % 64)

    def unaligned(path):
        return {name: _shifted(t) for name, t in load_file(path).items()}

    monkeypatch.setattr("safetensors.torch.load_file", unaligned)
    assert verdicts(MindsAlignment)["state_file"].passed

    def other(path):
        return {name: t + 1e-12 for name, t in load_file(path).items()}

    monkeypatch.setattr("safetensors.torch.load_file", other)
    assert not verdicts(Leaky)["state_file"].passed


def _shifted(tensor):
    """The same numbers, eight bytes further on."""
    memory = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    memory[1:] = tensor.flatten()
    return memory[1:].view(tensor.shape)


def test_one_cause_is_said_once_and_in_the_authors_code():
    class Raises(Leaky):
        def forward(self, x, state=None, *, mask=None):
            if x.shape[1] > 5:
                torch.zeros(2) @ torch.zeros(3)
            return super().forward(x, state, mask=mask)

    faults = [result for result in check_class("backbone", Raises) if not result.passed]
    said = [result.detail for result in faults]
    assert "test_backbone_suite.py:" in said[0]
    assert sum("size" in detail for detail in said) == 1
    assert said[-1].startswith("the same as in ")
