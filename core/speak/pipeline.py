"""THE path of a token: ids of a text go in at the top, samples come out at the bottom.

``frames`` is the loop in which the codes of an utterance are drawn, ``decode`` their way to
samples. ``wishbone.core.speak.text_to_speech`` cuts a text into utterances, and draws again what
went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice, repeat, tee

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.layout import Prompt
from wishbone.core.contract.session import (
    Answer,
    Draw,
    Emit,
    Feed,
    NeedText,
    Position,
    SetSpeaker,
    Stop,
)
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import begin_session
from wishbone.core.speak.guidance import Guide
from wishbone.core.speak.utterance import TextIds, Utterance
from wishbone.core.speak.voice import Voice
from wishbone.core.system.system import System

GROUPS = (4, 8, 16, 25)
"""Code frames that go to the decoder together, the last size again and again: the first sound
comes early, and later calls are large enough to be cheap."""
LOUD = 0.8
"""Root mean square, 1 being a square wave at full scale; shouted speech reaches 0.4."""
FEWEST = 1000
"""Samples that a level is measured on at least."""

Loops = Callable[[], bool]
"""Tells whether the last codes of an utterance go round in circles."""


def frames(
    system: System,
    text_ids: TextIds,
    prompt: Prompt,
    sampler: Sampler,
    prompt_state: State,
    utterance: Utterance,
    guide: Guide | None = None,
    loops: Loops | None = None,
) -> Iterator[tuple[int, ...]]:
    """Draw the code frames of one utterance; each is the codes of Q codebooks.

    ``text_ids`` arrive in pieces, taken when the layout needs more text. ``prompt_state`` is the
    state after ``prompt``; it is not changed. A ``guide`` puts a second batch row beside the
    request's own, and raises ``CapabilityError`` where that row cannot keep up. Once ``loops()`` is
    true the utterance is over.
    """
    # the prompt's positions are in the state already: the session goes on behind them
    session, _, action = begin_session(system.layout, prompt)
    if system.layout.times_words:
        utterance.word_ends, utterance.rate = session.word_ends, system.decoder.codes.rate
    follower = None
    if guide and guide.differs(prompt):
        text_ids, same_text = tee(text_ids)
        rows = guide.rows(system, prompt, prompt_state, same_text)
        follower = rows.follower
    else:
        rows = system.model.rows([prompt_state])
    pieces, waiting = iter(text_ids), list[Position]()
    sampler.forget()

    while not isinstance(action, Stop):
        answer: Answer = None
        match action:
            case Feed(positions):  # conditioning, text, or the code that was drawn last
                waiting.extend(positions)
            case NeedText():
                answer = next(pieces, None)
            case Draw(forced=forced):
                if follower:
                    follower.meet(action)
                if forced is None:  # backbone, head, sampler
                    answer, waiting = rows.draw(waiting, partial(sampler.pick, action)), []
                else:
                    answer = (forced,) * sampler.codebooks
                if follower:
                    follower.drawn(answer)
                utterance.cut_words += action.cut
            case Emit(code):
                utterance.codes.append(code)
                yield code
                if loops and loops():
                    utterance.reason = "repeats"
                    return
            case SetSpeaker(global_codes):
                utterance.global_codes = global_codes
        action = session.next(answer)
    utterance.reason, utterance.log_probability = action.reason, sampler.log_probability


@torch.no_grad()
def decode(
    system: System,
    codes: Iterable[tuple[int, ...]],
    seed: int,
    voice: Voice,
    utterance: Utterance,
) -> Iterator[Tensor]:
    """Turn code frames into samples [S], in groups as the decoder wants, else of ``GROUPS``."""
    device, speaker = system.model.device, voice.speaker
    codes, sizes = iter(codes), chain(GROUPS, repeat(GROUPS[-1]))
    # a layout sets the speaker before its first code, if it sets one at all
    head = list(islice(codes, 1))
    if utterance.global_codes:
        speaker = torch.tensor(utterance.global_codes, device=device)  # [G]
    recording = {name: part.to(device) for name, part in (voice.heard or {}).items()}
    decoder = system.decoder.start(seed=seed, speaker=speaker, prompt=recording or None)
    codes = chain(head, codes)
    wants = decoder.wants or (lambda: 0)
    while group := list(islice(codes, wants() or next(sizes))):
        samples = decoder.push(torch.tensor(group, device=device)).cpu()  # [T, Q] -> [S]
        yield require_audible(samples)  # [S]
    yield require_audible(decoder.finish().cpu())  # [S]


def require_audible(samples: Tensor) -> Tensor:
    """Return decoded samples [S], unless they are noise that hurts: raises ``WishboneError``.

    Noise is what has samples that are no numbers, or a level that no speech has.
    """
    if not torch.isfinite(samples).all():
        what = "The decoder made samples that are infinite or not numbers."
    elif len(samples) >= FEWEST and float(samples.float().clamp(-1, 1).square().mean()) > LOUD**2:
        what = "The decoder made noise at full scale, louder than any speech."
    else:
        return samples
    do = "Check the weights of the decoder and the voice, or use earlier ones."
    raise WishboneError(what, "the decoder", do)
