"""Prompt of a request: the positions before its text, and the state after them."""

from __future__ import annotations

from wishbone.core.contract.backbone import State
from wishbone.core.contract.layout import Layout, Prompt
from wishbone.core.contract.session import Action, Feed, LayoutSession, Position
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.model.state_batch import copied


def begin_session(layout: Layout, prompt: Prompt) -> tuple[LayoutSession, list[Position], Action]:
    """Begin a request -> its session, the prompt's positions, and the action after them."""
    session, positions = layout.start(prompt), []
    while isinstance(action := session.next(), Feed):
        positions.extend(action.positions)
    return session, positions, action


def prefix(model: SpeechLM, layout: Layout, prompt: Prompt) -> State:
    """Compute the state after the positions that follow from ``prompt`` alone, before any text."""
    _, positions, _ = begin_session(layout, prompt)
    state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
    # copies, because a step may write into the state handed to it
    state |= copied(prompt.start or {})
    state = model.backbone.choose_adapter(state, prompt.adapter) if prompt.adapter else state
    return model.advance(positions, state)[1] if positions else state
