"""Choose the layers of a base that PiSSA adapts, and merge their tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, require_caps
from wishbone.core.contract.errors import ConfigError
from wishbone.plugins.peft.layers import adaptable_layers, ends_so
from wishbone.plugins.pissa.speech_tensors import merge_speech_tensors

FEED_FORWARD = ("channel_mix", "ffn", "mlp", "feed_forward")
"""Names of the modules that hold a block's feed-forward layers, which are adapted by default."""


def find_targets(base: Backbone, targets: list[str]) -> list[str]:
    """List the linear layers that are adapted, in the base's order.

    They must be among those the base declares (``caps.peft_targets``). Raises ``CapabilityError``
    for a base that declares none, ``ConfigError`` where a target meets no layer.
    """
    require_caps(base, "PiSSA", "peft_targets")
    declared = base.caps.peft_targets
    name = type(base).__name__
    layers = list(adaptable_layers(base))
    if not targets:
        matches = [n for n in layers if set(n.split(".")) & set(FEED_FORWARD)]
        if not matches:
            raise ConfigError(
                f"No part of {name} is called {', '.join(FEED_FORWARD)}, so it is not known which"
                " layers are its feed-forward ones.",
                "backbone.targets",
                f"Name them: targets: [...], endings of {', '.join(layers[:4])}, ...",
            )
        return matches
    lost = [target for target in targets if not any(ends_so(n, target) for n in layers)]
    if lost:
        raise ConfigError(
            f"No layer that {name} lets adapters wrap ends in {', '.join(lost)}.",
            "backbone.targets",
            f"It has layers that end in {', '.join(declared)}.",
        )
    return [n for n in layers if any(ends_so(n, end) for end in targets)]


def check_rank(rank: int, name: str, layer: nn.Module) -> None:
    """Raise ``ConfigError`` for a rank that the layer ``name`` does not have."""
    shape = tuple(layer.weight.shape)
    if rank > min(shape):
        raise ConfigError(
            f"A rank of {rank} is more than {name} has: its matrix is {shape[0]} by {shape[1]}.",
            "backbone.rank",
            f"Write {min(shape)} or less.",
        )


def exchange(base: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` in the place of the one called ``name``."""
    parent, _, last = name.rpartition(".")
    setattr(base.get_submodule(parent), last, layer)


def merged_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the tensors of a wrapped backbone into those of its plain base, differences added."""
    merged = {}
    for name, tensor in tensors.items():
        at, _, last = name.rpartition(".")
        if last in ("A", "B", "A0", "B0") and f"{at}.weight" in tensors:
            continue
        if last == "weight" and f"{at}.A0" in tensors:
            a, b, a0, b0 = (tensors[f"{at}.{n}"] for n in ("A", "B", "A0", "B0"))
            tensor = tensor + (b @ a - b0 @ a0)  # [out, in]
        merged[name] = tensor
    return merge_speech_tensors(merged)
