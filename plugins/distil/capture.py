"""Captures the inputs and outputs of a backbone's mixers, and runs the mixers on other inputs.

Forward hooks on the modules that ``Backbone.mixers`` names; they are gone again when the call is
over, and nothing of this is on the way of a model that speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.stack.mixer import Call


def capture_mixers(
    backbone: Backbone, x: Tensor, mask: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Run x [B, T, D] through ``backbone`` -> inputs and outputs of every mixer, [B, T, D] each."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def record(_: nn.Module, arguments: Any, output: Any) -> None:
        inputs.append(arguments[0])
        outputs.append(_hidden(output))

    with _hooked(backbone, None, record):
        backbone(x, mask=mask)
    return inputs, outputs


def run_mixers(
    backbone: Backbone, x: Tensor, mask: Tensor, inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Run each mixer of ``backbone`` on its one of ``inputs`` -> their outputs, [B, T, D] each.

    x [B, T, D] only drives the pass: whatever stands between two mixers is computed and has no
    effect, and no gradient passes from one mixer to another.
    """
    outputs: list[Tensor] = []

    def feed(_: nn.Module, arguments: Any) -> Any:
        return (inputs[len(outputs)], *arguments[1:])

    def record(_: nn.Module, arguments: Any, output: Any) -> Any:
        outputs.append(_hidden(output))
        for call in arguments:
            if isinstance(call, Call):
                call.shared = _detached(call.shared)
        return _detached(output)

    with _hooked(backbone, feed, record):
        backbone(x, mask=mask)
    return outputs


def _hidden(output: Any) -> Tensor:
    """The hidden vectors [B, T, D] of a mixer's output, which may come with its state."""
    return output[0] if isinstance(output, tuple) else output


def _detached(output: Any) -> Any:
    """The same without gradient; what a mixer leaves for later ones is without it, too."""
    if isinstance(output, tuple):
        return tuple(_detached(part) for part in output)
    if isinstance(output, dict):
        return {name: _detached(part) for name, part in output.items()}
    return output.detach() if isinstance(output, Tensor) else output


@contextmanager
def _hooked(
    backbone: Backbone, before: Callable[..., Any] | None, after: Callable[..., Any]
) -> Iterator[None]:
    """Call ``before`` and ``after`` every mixer within the block."""
    handles = []
    for mixer in backbone.mixers():
        if before:
            handles.append(mixer.register_forward_pre_hook(before))
        handles.append(mixer.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
