"""A text to speech: cut into utterances, each spoken until nothing is wrong with it.

``stream`` is a request, ``speak_utterance`` one utterance of it; speaking a whole text is the
stream, drained, so both give the same samples. How an utterance becomes sound is
``wishbone.core.speak.pipeline``.

Sound that was given out cannot be taken back, so an utterance is drawn again only while none of its
sound was, or all of it was silent. What is wrong shows at its end. A sentence is given out from its
first chunk on: it is drawn again where it was over by then or nothing of it was heard, and only
reported otherwise. An utterance of one word, which
models learn least of, is held back until it is over, and the best of several draws is spoken: the
likeliest, less a cost for being short. Seeds of later attempts follow from the request's, so that a
request sounds the same each time.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import tee

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import prefix
from wishbone.core.speak.guidance import Guide
from wishbone.core.speak.pipeline import Loops, decode, frames
from wishbone.core.speak.utterance import Text, TextIds, Utterance, utterances
from wishbone.core.speak.voice import Voice, prepare
from wishbone.core.system.system import System

PAUSE = 0.15
"""Seconds of silence between two utterances, beside what the voice itself leaves."""
TRIES = 4
"""Times that an utterance in trouble is drawn; the last draw is spoken, whatever it is."""
QUIET = 0.005
"""An utterance with no sample above this is silent; speech reaches 0.1 and more."""
LOOP = 1.0
"""Seconds of the same few codes, again and again, that no held vowel takes."""
LONGEST_PERIOD = 4
"""Codes of a loop."""
WORD_SECONDS = 0.48
"""A lone word that takes less is often cut off: "eight" heard as "it", "no" as "nope"."""
SHORT_COST = 5.0
"""What a draw of a lone word loses for each second below ``WORD_SECONDS``, in nats of mean log p.
With ten draws and this cost two recognisers hear ten words right in 165 of 180 trials of two arms,
with one draw in 148 (configs/pretrained/README.md)."""

DrawUtterance = Callable[[int, TextIds, Loops | None], Iterator[Tensor]]
"""Number of the attempt from 0, ids of the text, and what ends it -> chunks [S], one or more."""


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
        number: int, utterance: Utterance, attempt: int, ids: TextIds, loops: Loops | None
    ) -> Iterator[Tensor]:
        draws = Sampler(sampling, space, seed_of(seed, number, attempt)) if attempt else sampler
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
        for chunk in speak_utterance(system, utterance, text_ids, partial(draw, number, utterance)):
            spoken += len(chunk)
            yield chunk
        if utterance.global_codes and not prompt.global_codes:
            # the speaker that was drawn for the first utterance speaks the others, too
            prompt = replace(prompt, global_codes=utterance.global_codes)
            prompt_state = prefix(system.model, system.layout, prompt)


def speak_utterance(
    system: System, utterance: Utterance, text_ids: TextIds, draw: DrawUtterance, attempt: int = 0
) -> Iterator[Tensor]:
    """Yield chunks [S] of the first draw without trouble, or of the last that is allowed.

    Of a lone word it is the best of several. A silent draw that was given out is followed by
    another. ``attempt`` counts the draws before. Sets ``trouble`` and ``redraws`` of the utterance.
    """
    rules = system.sampling
    # a greedy draw is the same each time
    word_draws = 1 if rules.greedy or rules.temperature == 0 else rules.lone_word_draws
    drafts: list[tuple[Utterance, list[Tensor]]] = []
    tries, wanted = TRIES, 1
    held, coming = list[Tensor](), iter(list[Tensor]())
    while attempt < tries:
        last = attempt == tries - 1 and not drafts
        ids, text_ids = tee(text_ids)
        # a sentence is given out before it may loop, and the last attempt in any case
        watched = not last and _is_word(system, utterance)
        coming = draw(attempt, ids, partial(_loops, system, utterance) if watched else None)
        held = [next(coming)]
        if utterance.reason or _is_word(system, utterance):
            held += coming
        # how many words there are shows now at the latest, where text arrives
        wanted = word_draws if _is_word(system, utterance) else 1
        attempt, tries = attempt + 1, max(TRIES, wanted)
        trouble = trouble_of(system, utterance, _peak(held))
        if not trouble:
            drafts.append((copy.copy(utterance), held))
        elif not last:
            utterance.redraws.append(trouble)
        if len(drafts) == wanted or last:
            break
        utterance.begin_again()
    if wanted > 1 and drafts:
        best, held = max(drafts, key=lambda draft: _merit(system, draft[0]))
        utterance.take_over(best)
    peak, samples = _peak(held), sum(map(len, held))
    yield from held
    for chunk in coming:
        peak, samples = max(peak, _peak([chunk])), samples + len(chunk)
        yield chunk
    utterance.trouble = trouble_of(system, utterance, peak)
    if utterance.trouble and peak < QUIET and attempt < tries:
        utterance.redraws.append(utterance.trouble)
        utterance.begin += samples / system.decoder.sample_rate
        utterance.begin_again()
        yield from speak_utterance(system, utterance, text_ids, draw, attempt)


def trouble_of(system: System, utterance: Utterance, peak: float) -> str:
    """Name what is wrong with an utterance: "" for nothing, and always before its end was drawn.

    ``peak`` is the level of its loudest sample.
    """
    signs = {
        "too short": len(utterance.codes) < system.layout.fewest_codes(utterance.ids),
        "silent": peak < QUIET,
        "repeats": _repeats(system, utterance),
        "never stopped": utterance.reason == "length",
    }
    return next((name for name, seen in signs.items() if seen and utterance.reason), "")


def seed_of(seed: int, number: int, attempt: int) -> int:
    """Seed of an attempt at utterance ``number`` of a request: ``seed`` itself at the first."""
    if not attempt:
        return seed
    digest = hashlib.sha256(f"{seed} {number} {attempt}".encode()).digest()
    return int.from_bytes(digest[:7])


def _peak(chunks: Iterable[Tensor]) -> float:
    return max((float(chunk.abs().max()) for chunk in chunks if len(chunk)), default=0.0)


def _merit(system: System, draft: Utterance) -> float:
    """Mean log p of a draft of a lone word in nats, less the cost of its shortness."""
    missing = max(0.0, WORD_SECONDS - len(draft.codes) / system.decoder.codes.rate)
    return draft.log_probability - SHORT_COST * missing


def _is_word(system: System, utterance: Utterance) -> bool:
    """Tell whether as much as is known of the piece is one word."""
    ends = system.tokenizer.space.word_ends
    if ends:
        return sum(row in ends for row in utterance.ids) <= 1
    return len(utterance.text.split()) <= 1


def _loops(system: System, utterance: Utterance) -> bool:
    """Tell whether the piece is a lone word that goes round in circles."""
    return _is_word(system, utterance) and _repeats(system, utterance)


def _repeats(system: System, utterance: Utterance) -> bool:
    loop = round(LOOP * system.decoder.codes.rate)
    codes = utterance.codes[-loop:]
    return len(codes) == loop and any(
        codes[period:] == codes[:-period] for period in range(1, LONGEST_PERIOD + 1)
    )
