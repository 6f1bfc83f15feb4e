"""The state of a language model after a prompt."""

from __future__ import annotations

from wishbone.core.interfaces import Feed, Prompt, State
from wishbone.core.system import System


def prefix(system: System, prompt: Prompt) -> State:
    """The state after what ``prompt`` alone puts into the sequence, before any text is known."""
    turn, positions = system.layout.start(prompt), []
    while isinstance(action := turn.next(), Feed):
        positions.extend(action.positions)
    model = system.model
    state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
    # copies, because a step may write into what it is given
    state |= {name: part.clone() for name, part in (prompt.start or {}).items()}
    state = model.backbone.choose_adapter(state, prompt.adapter) if prompt.adapter else state
    return model.advance(positions, state)[1] if positions else state
