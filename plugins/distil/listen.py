"""What goes into a backbone's mixers and what comes out, and putting something else in.

Forward hooks on the modules that ``Backbone.mixers`` names; they are gone again when the call is
over, and nothing of this is on the way of a model that speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone


def heard(backbone: Backbone, x: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Run x [B, T, D] through ``backbone`` -> inputs and outputs of every mixer, [B, T, D] each."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def hear(_: nn.Module, arguments: Any, answer: Any) -> None:
        inputs.append(arguments[0])
        outputs.append(_first(answer))

    with _hooked(backbone, None, hear):
        backbone(x, mask=mask)
    return inputs, outputs


def answers(backbone: Backbone, x: Tensor, mask: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What each mixer of ``backbone`` makes of its own one of ``inputs``, [B, T, D] each.

    x [B, T, D] only sets the rest in motion: what stands between two mixers is computed and has no
    effect, and no gradient passes from one mixer to another.
    """
    outputs: list[Tensor] = []

    def feed(_: nn.Module, arguments: Any) -> Any:
        return (inputs[len(outputs)], *arguments[1:])

    def hear(_: nn.Module, arguments: Any, answer: Any) -> Any:
        outputs.append(_first(answer))
        return _apart(answer)

    with _hooked(backbone, feed, hear):
        backbone(x, mask=mask)
    return outputs


def _first(answer: Any) -> Tensor:
    return answer[0] if isinstance(answer, tuple) else answer


def _apart(answer: Any) -> Any:
    """The same without gradient; in ARWKV, too, the first layer's values reach the others so."""
    if isinstance(answer, tuple):
        return tuple(_apart(part) for part in answer)
    return answer.detach() if isinstance(answer, Tensor) else answer


@contextmanager
def _hooked(
    backbone: Backbone, before: Callable[..., Any] | None, after: Callable[..., Any]
) -> Iterator[None]:
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
