"""Guard of a piece of text while it is spoken: what went wrong is noticed, and drawn again.

Sound that was given out cannot be taken back, so a piece is drawn again only while none of it was.
An ordinary sentence is held back as long as anyway, until its first chunk; a piece of one word,
which models learn least of, until it is over, and of several draws of it the likeliest that is not
cut short is spoken. Seeds of later tries follow from the request's, so a request sounds the same
each time, and a sentence that nothing is wrong with as without the guard.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import tee

from torch import Tensor

from wishbone.core.speak.utterance import TextIds, Utterance
from wishbone.core.system.system import System

TRIES = 4
"""Times that a piece in trouble is drawn, the last of which is spoken whatever it is."""
QUIET = 0.005
"""A piece with no sample above this is silent; speech reaches 0.1 and more."""
LOOP = 1.0
"""Seconds of the same few codes, again and again, that no held vowel takes."""
LONGEST_PERIOD = 4
"""Codes of a loop."""
WORD_SECONDS = 0.48
"""A lone word that takes less is often cut off: "eight" heard as "it", "no" as "nope"."""
SHORT_COST = 5.0
"""What a draft of a lone word loses for each second that it is shorter, in nats of its mean log p.
With ten draws and this cost two recognisers hear ten words right in 165 of 180 trials of two arms,
with one draw in 148 (configs/pretrained/README.md)."""


Loops = Callable[[], bool]
"""Tells whether the last codes of a piece go round in circles."""
DrawPiece = Callable[[int, TextIds, Loops | None], Iterator[Tensor]]
"""Number of the try from 0, ids of the piece, and what ends it -> chunks [S], one or more."""


def guarded(
    system: System, utterance: Utterance, text_ids: TextIds, draw: DrawPiece
) -> Iterator[Tensor]:
    """Speak one piece: chunks [S] of the first draw without trouble, or of the last there may be.

    Of a lone word it is the best of several. Sets ``trouble`` and ``redraws`` of the utterance.
    """
    rules = system.sampling
    # a greedy draw is the same each time
    word_draws = 1 if rules.greedy or rules.temperature == 0 else rules.lone_word_draws
    drafts: list[tuple[Utterance, list[Tensor]]] = []
    number, tries, wanted = 0, TRIES, 1
    held, coming = list[Tensor](), iter(list[Tensor]())
    while number < tries:
        last = number == tries - 1 and not drafts
        ids, text_ids = tee(text_ids)
        # a sentence is given out before it may loop, and the last try in any case
        watched = not last and _is_word(system, utterance)
        coming = draw(number, ids, partial(_loops, system, utterance) if watched else None)
        held = [next(coming)]
        if utterance.reason or _is_word(system, utterance):
            held += coming
        # how many words there are shows now at the latest, where text arrives
        wanted = word_draws if _is_word(system, utterance) else 1
        number, tries = number + 1, max(TRIES, wanted)
        trouble = trouble_of(system, utterance, _peak(held)) if utterance.reason else ""
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
    peak = _peak(held)
    yield from held
    for chunk in coming:
        peak = max(peak, _peak([chunk]))
        yield chunk
    utterance.trouble = trouble_of(system, utterance, peak)


def trouble_of(system: System, utterance: Utterance, peak: float) -> str:
    """Name what is wrong with a piece whose end was drawn; "" for nothing.

    ``peak`` is the level of its loudest sample.
    """
    if len(utterance.codes) < system.layout.fewest_codes(utterance.ids):
        return "too short"
    if peak < QUIET:
        return "silent"
    if _repeats(system, utterance):
        return "repeats"
    return "never stopped" if utterance.reason == "length" else ""


def seed_of(seed: int, piece: int, number: int) -> int:
    """Seed of the nth time a piece is drawn: ``seed`` itself at first."""
    if not number:
        return seed
    digest = hashlib.sha256(f"{seed} {piece} {number}".encode()).digest()
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
