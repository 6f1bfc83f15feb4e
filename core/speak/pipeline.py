"""THE path of a token: text goes in at the top, samples come out at the bottom.

Speaking a whole text is the stream, drained, so both give the same samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.layout import Prompt
from wishbone.core.contract.session import (
    Draw,
    Emit,
    Feed,
    NeedText,
    NextText,
    Position,
    SetSpeaker,
    Stop,
)
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.speak.guidance import Follower, Guide
from wishbone.core.speak.prompt import begin_session, prefix
from wishbone.core.speak.utterance import Text, Utterance, utterances
from wishbone.core.speak.voice import Voice, find
from wishbone.core.system.system import System

GROUPS = (4, 8, 16, 25)
"""Code frames that go to the decoder together, the last size again and again: the first sound
comes early, and later calls are large enough to be cheap."""

PAUSE = 0.15
"""Seconds of silence between two pieces of text, beside what the voice itself leaves."""

Record = list[Utterance] | None


def say(
    system: System,
    text: Text,
    voice: Voice | str | None = None,
    seed: int = 0,
    record: Record = None,
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
    record: Record = None,
    instruct: str = "",
    guidance: float | None = None,
) -> Iterator[Tensor]:
    """Speak ``text`` as it arrives: samples [S] on the CPU, each chunk as soon as it is final.

    Every sentence starts from the voice's own state, so a long text does not drift. ``voice`` is a
    voice, its name or its file; None means the one the configuration names. ``record`` receives an
    ``Utterance`` for each piece. ``instruct`` says how to speak, where the layout can be told;
    ``guidance`` takes the place of ``sampling.guidance``. Raises ``UsageError`` when nothing in the
    text can be spoken, ``CapabilityError`` for an instruction or a guide that no part understands.
    """
    sampling = system.sampling if guidance is None else replace(system.sampling, guidance=guidance)
    guide = Guide.of(system, sampling)
    voice = find(voice or system.config.get("voice"), system)
    voice = voice.instructed(instruct) if instruct else voice
    prompt = voice.prompt(system)
    begin = voice.state_for(system) or prefix(system.model, system.layout, prompt)
    sampler = Sampler(sampling, system.decoder.codes, seed)
    spoken = False
    for utterance, pieces in utterances(system, text):
        if spoken:
            yield torch.zeros(round(PAUSE * system.decoder.sample_rate))
        spoken = True
        if record is not None:
            record.append(utterance)
        acts = guide if guide and guide.differs(prompt) else None
        codes = frames(system, pieces, prompt, sampler, begin, utterance, acts)
        yield from decode(system, codes, seed, voice, utterance)
        if utterance.global_codes and not prompt.global_codes:
            # whoever was drawn for the first sentence speaks the others, too
            prompt = replace(prompt, global_codes=utterance.global_codes)
            begin = prefix(system.model, system.layout, prompt)
    if not spoken:
        what = "Nothing in the text can be spoken."
        raise UsageError(what, "the text given", "Give at least one word or number.")


class PlainRow:
    """The batch row of a request that nothing guides, and the positions that wait to be fed."""

    followers: Sequence[Follower] = ()

    def __init__(self, model: SpeechLM, begin: State) -> None:
        self._batch = model.rows([begin])
        self._waiting: list[Position] = []

    def feed(self, positions: Sequence[Position]) -> None:
        """Keep positions until an id has to be drawn."""
        self._waiting.extend(positions)

    def draw(self, action: Draw, sampler: Sampler, next_text: NextText) -> tuple[int, ...]:
        """Feed what waits, unless the id is forced, and draw."""
        if self._waiting and action.forced is None:
            self._batch.advance([self._waiting])
            self._waiting = []
        return sampler.draw(action, self._batch.sample)


def frames(
    system: System,
    pieces: Iterable[Sequence[int]],
    prompt: Prompt,
    sampler: Sampler,
    begin: State,
    utterance: Utterance,
    guide: Guide | None = None,
) -> Iterator[tuple[int, ...]]:
    """One utterance's code frames; ``pieces`` of ids are taken when the layout wants more text.

    ``begin`` is the state after ``prompt``; it is not changed. A ``guide`` puts a second row beside
    the request's own, and raises ``CapabilityError`` where that cannot keep up.
    """
    session, _, action = begin_session(system.layout, prompt)  # begin is the state after the prompt
    row = guide.rows(system, prompt, begin) if guide else PlainRow(system.model, begin)
    pieces = iter(pieces)
    sampler.forget()

    def next_text() -> None:
        ids = next(pieces, None)
        for reader in (session, *row.followers):
            reader.end_text() if ids is None else reader.give_text(ids)

    while not isinstance(action, Stop):
        match action:
            case Feed(positions):
                row.feed(positions)
            case Draw():
                session.drawn(row.draw(action, sampler, next_text))
                utterance.cut_words += action.cut
            case Emit(code):
                utterance.codes.append(code)
                yield code
            case SetSpeaker(global_codes):
                utterance.global_codes = global_codes
            case NeedText():
                next_text()
        action = session.next()
    utterance.reason = action.reason


@torch.no_grad()
def decode(
    system: System,
    codes: Iterable[tuple[int, ...]],
    seed: int,
    voice: Voice,
    utterance: Utterance,
) -> Iterator[Tensor]:
    """Code frames to samples [S], in groups of the size the decoder wants, else of ``GROUPS``."""
    codes, sizes, speaker = iter(codes), chain(GROUPS, repeat(GROUPS[-1])), voice.speaker
    # by its first code the layout has told what it knows of the whole utterance
    first = list(islice(codes, 1))
    if utterance.global_codes:
        speaker = torch.tensor(utterance.global_codes, device=system.model.device)
    recording = {name: part.to(system.model.device) for name, part in (voice.heard or {}).items()}
    decoder = system.decoder.start(seed=seed, speaker=speaker, prompt=recording or None)
    codes = chain(first, codes)
    while group := list(islice(codes, decoder.wants() or next(sizes))):
        yield decoder.push(torch.tensor(group, device=system.model.device)).cpu()
    yield decoder.finish().cpu()
