"""Multiply adapters into the weights: an ordinary backbone that computes the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from wishbone.core.contract.backbone import Backbone
from wishbone.plugins.peft.layers import effective_weight, tuner_layers
from wishbone.plugins.peft.quantized import QuantizedLinear


def merged_copy(base: Backbone, members: Sequence[str]) -> Backbone:
    """Copy ``base`` with these adapters multiplied in and its quantised layers in float32.

    What is not adapted is shared with ``base``, which stays as it is: going back is dropping the
    copy, and exact.
    """
    memo: dict[int, Any] = {id(p): p for p in base.parameters()}
    for layer in quantized_layers(base).values():
        memo[id(layer)] = _linear(layer, layer.weight)  # [R, C]
    for layer in tuner_layers(base).values():
        memo[id(layer)] = _linear(layer.get_base_layer(), effective_weight(layer, members))
    copied = copy.deepcopy(base, memo)
    # what peft leaves on a model that it was put on
    copied.__dict__.pop("peft_config", None)
    return copied


def quantized_layers(base: nn.Module) -> dict[str, QuantizedLinear]:
    """List the layers that are stored in few bits, by name."""
    return {n: module for n, module in base.named_modules() if isinstance(module, QuantizedLinear)}


def _linear(inner: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """Make a plain layer of ``weight`` [R, C], in the type of ``inner``, whose bias it shares."""
    with torch.device("meta"):
        layer = nn.Linear(inner.in_features, inner.out_features, bias=inner.bias is not None)
    if not isinstance(inner, QuantizedLinear):
        weight = weight.to(inner.weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if inner.bias is not None:
        layer.bias = inner.bias
    return layer
