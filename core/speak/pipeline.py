"""THE path of a token: text goes in at the top, samples come out at the bottom.

``stream`` is the request, ``frames`` the loop in which codes are drawn, ``decode`` their way to
samples. Speaking a whole text is the stream, drained, so both give the same samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice, repeat

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio, require_audible
from wishbone.core.contract.backbone import State
from wishbone.core.contract.layout import Prompt
from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, Position, SetSpeaker, Stop
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import begin_session, prefix
from wishbone.core.speak.guard import Loops, guarded, seed_of
from wishbone.core.speak.guidance import Guide
from wishbone.core.speak.utterance import Text, TextIds, Utterance, utterances
from wishbone.core.speak.voice import Voice, prepare
from wishbone.core.system.system import System

GROUPS = (4, 8, 16, 25)
"""Code frames that go to the decoder together, the last size again and again: the first sound
comes early, and later calls are large enough to be cheap."""
PAUSE = 0.15
"""Seconds of silence between two utterances, beside what the voice itself leaves."""


def say(
    system: System,
    text: Text,
    voice: Voice | str | None = None,
    seed: int = 0,
    record: list[Utterance] | None = None,
    instruct: str = "",
    guidance: float | None = None,
) -> Audio:
    """Speak all of ``text``: ``stream``, drained."""
    chunks = list(stream(system, text, voice, seed, record, instruct, guidance))
    return Audio(torch.cat(chunks), system.decoder.sample_rate)


def stream(
    system: System,
    text: Text,
    voice: Voice | str | None = None,
    seed: int = 0,
    record: list[Utterance] | None = None,
    instruct: str = "",
    guidance: float | None = None,
) -> Iterator[Tensor]:
    """Speak ``text`` as it arrives: samples [S] on the CPU, each chunk as soon as it is final.

    ``voice`` is a voice, its name or its file; None means the one the configuration names.
    ``record`` receives an ``Utterance`` for each piece of text. ``instruct`` says how to speak;
    ``guidance`` takes the place of ``sampling.guidance``. Raises ``UsageError`` for a text without
    words, ``CapabilityError`` for an instruction or a guide that no part understands.
    """
    sampling = system.sampling if guidance is None else replace(system.sampling, guidance=guidance)
    guide = None if sampling.guidance == 1 else Guide.of(system, sampling)
    voice, prompt, prompt_state = prepare(voice, system, instruct)
    space, rate = system.decoder.codes, system.decoder.sample_rate
    sampler, spoken = Sampler(sampling, space, seed), 0

    def draw(
        number: int, utterance: Utterance, time: int, ids: TextIds, loops: Loops | None
    ) -> Iterator[Tensor]:
        draws = Sampler(sampling, space, seed_of(seed, number, time)) if time else sampler
        codes = frames(system, ids, prompt, draws, prompt_state, utterance, guide, loops)
        yield from decode(system, codes, seed, voice, utterance)

    # every utterance begins with the state after the prompt, so a long text does not drift
    for number, (utterance, text_ids) in enumerate(utterances(system, text)):
        if number:
            pause = torch.zeros(round(PAUSE * rate))  # [S]
            spoken += len(pause)
            yield pause
        utterance.begin = spoken / rate
        if record is not None:
            record.append(utterance)
        for chunk in guarded(system, utterance, text_ids, partial(draw, number, utterance)):
            spoken += len(chunk)
            yield chunk
        if utterance.global_codes and not prompt.global_codes:
            # the speaker that was drawn for the first utterance speaks the others, too
            prompt = replace(prompt, global_codes=utterance.global_codes)
            prompt_state = prefix(system.model, system.layout, prompt)


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
    guided = guide.rows(system, prompt, prompt_state) if guide and guide.differs(prompt) else None
    rows = guided or system.model.rows([prompt_state])
    followers = [guided.follower] if guided else []
    pieces, waiting = iter(text_ids), list[Position]()
    sampler.forget()

    def next_text() -> None:
        ids = next(pieces, None)
        for reader in (session, *followers):
            reader.end_text() if ids is None else reader.give_text(ids)

    while not isinstance(action, Stop):
        match action:
            case Feed(positions):  # conditioning, text, or the code that was drawn last
                waiting.extend(positions)
            case Draw(forced=forced):
                for follower in followers:
                    follower.meet(action, next_text)
                if forced is None:  # backbone, head, sampler
                    ids, waiting = rows.draw(waiting, partial(sampler.pick, action)), []
                else:
                    ids = (forced,) * sampler.codebooks
                for reader in (session, *followers):
                    reader.drawn(ids)
                utterance.cut_words += action.cut
            case Emit(code):
                utterance.codes.append(code)
                yield code
                if loops and loops():
                    utterance.reason = "repeats"
                    return
            case SetSpeaker(global_codes):
                utterance.global_codes = global_codes
            case NeedText():
                next_text()
        action = session.next()
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
    # with its first code a layout has set the speaker, if it sets one at all
    head = list(islice(codes, 1))
    if utterance.global_codes:
        speaker = torch.tensor(utterance.global_codes, device=device)  # [G]
    recording = {name: part.to(device) for name, part in (voice.heard or {}).items()}
    decoder = system.decoder.start(seed=seed, speaker=speaker, prompt=recording or None)
    codes = chain(head, codes)
    while group := list(islice(codes, decoder.wants() or next(sizes))):
        samples = decoder.push(torch.tensor(group, device=device)).cpu()  # [T, Q] -> [S]
        yield require_audible(samples, "the decoder")  # [S]
    yield require_audible(decoder.finish().cpu(), "the decoder")  # [S]
