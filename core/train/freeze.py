"""What a training leaves as it is: a wrapper's base, and what the recipe's ``freeze`` names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from wishbone.core.contract.errors import ConfigError


def freeze_(model: nn.Module, names: Sequence[str]) -> None:
    """Let no gradient reach the parameters that ``names`` name: each a part, or one parameter.

    ``"backbone"`` is all of the backbone, ``"tables.text"`` one table. Raises ``ConfigError`` where
    a name is none of the model's, or nothing is left to train.
    """
    for name in names:
        found = [p for n, p in model.named_parameters() if n == name or n.startswith(f"{name}.")]
        if not found:
            parts = ", ".join(n for n, child in model.named_children() if list(child.parameters()))
            raise ConfigError(
                f"'freeze' names '{name}', and no parameter of the model is called so.",
                "the training recipe",
                f"Name a part ({parts}), or one inside, such as backbone.norm_in.",
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "Everything is frozen, so there is nothing to train.",
            "the training recipe",
            "Take a name out of 'freeze'.",
        )


def trained(model: nn.Module) -> int:
    """How many numbers the training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
