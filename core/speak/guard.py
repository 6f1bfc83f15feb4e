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
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from wishbone.core.speak.utterance import Utterance
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
With six draws and this cost two recognisers hear ten words right in 160 of 180 trials of two arms,
with one draw in 148 (configs/pretrained/README.md)."""


class Guard:
    """Watches one piece; ``trouble`` and ``redraws`` of its ``Utterance`` are set here."""

    def __init__(
        self, system: System, utterance: Utterance, text_ids: Iterable[Sequence[int]]
    ) -> None:
        self._utterance = utterance
        self._layout, self._space = system.layout, system.tokenizer.space
        self._rate = system.decoder.codes.rate
        self._loop = round(LOOP * self._rate)
        rules = system.sampling
        # a greedy draw is the same each time
        greedy = rules.greedy or rules.temperature == 0
        self._lone_word_draws = 1 if greedy else rules.lone_word_draws
        self._drafts: list[tuple[Utterance, list[Tensor]]] = []
        self._arriving, self._arrived = iter(text_ids), list[Sequence[int]]()
        self._last_try = False
        self._held: list[Tensor] = []
        self._coming: Iterator[Tensor] = iter(())

    def tries(self) -> Iterator[int]:
        """Number the tries from 0, until ``hold`` was given what can be spoken.

        That is one draw without trouble, or of a lone word the best of several.
        """
        number, tries = 0, TRIES
        while number < tries:
            self._last_try = number == tries - 1 and not self._drafts
            yield number
            # how many there are shows now at the latest, where text arrives
            wanted = self._lone_word_draws if self._one_word() else 1
            number, tries = number + 1, max(TRIES, wanted)
            trouble = self._trouble() if self._utterance.reason else ""
            if not trouble:
                self._drafts.append((copy.copy(self._utterance), self._held))
            elif not self._last_try:
                self._utterance.redraws.append(trouble)
            if len(self._drafts) == wanted or self._last_try:
                break
            self._utterance.begin_again()
        self._last_try = True
        if self._drafts:
            best, self._held = max(self._drafts, key=lambda draft: self._merit(draft[0]))
            self._utterance.take_over(best)

    def text_ids(self) -> Iterator[Sequence[int]]:
        """Ids of the piece from its start, those that have arrived and those that will."""
        yield from tuple(self._arrived)
        for ids in self._arriving:
            self._arrived.append(ids)
            yield ids

    def watch(self, codes: Iterator[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
        """Code frames as they are drawn, ended where they go round in circles and nobody knows."""
        for frame in codes:
            yield frame
            if not self._last_try and self._one_word() and self._repeats():
                self._utterance.reason = "repeats"
                return

    def hold(self, chunks: Iterator[Tensor]) -> None:
        """Take the chunks [S] of a try, and hold back what has to be."""
        self._held, self._coming = [next(chunks)], chunks
        if self._utterance.reason or self._one_word():
            self._held += chunks

    def chunks(self) -> Iterator[Tensor]:
        """Chunks [S] of the last try, those that were held back first."""
        peak = _peak(self._held)
        yield from self._held
        for chunk in self._coming:
            peak = max(peak, _peak([chunk]))
            yield chunk
        self._utterance.trouble = self._trouble(peak)

    def _merit(self, draft: Utterance) -> float:
        """Mean log p of a draft of a lone word in nats, less the cost of its shortness."""
        missing = max(0.0, WORD_SECONDS - len(draft.codes) / self._rate)
        return draft.log_probability - SHORT_COST * missing

    def _trouble(self, peak: float | None = None) -> str:
        """Name what is wrong with the piece, whose end was drawn; "" for nothing."""
        utterance = self._utterance
        peak = _peak(self._held) if peak is None else peak
        if len(utterance.codes) < self._layout.fewest_codes(utterance.ids):
            return "too short"
        if peak < QUIET:
            return "silent"
        if self._repeats():
            return "repeats"
        return "never stopped" if utterance.reason == "length" else ""

    def _one_word(self) -> bool:
        """Tell whether as much as is known of the piece is one word."""
        ends = self._space.word_ends
        if ends:
            return sum(row in ends for row in self._utterance.ids) <= 1
        return len(self._utterance.text.split()) <= 1

    def _repeats(self) -> bool:
        codes = self._utterance.codes[-self._loop :]
        return len(codes) == self._loop and any(
            codes[period:] == codes[:-period] for period in range(1, LONGEST_PERIOD + 1)
        )


def seed_of(seed: int, piece: int, number: int) -> int:
    """Seed of the nth time a piece is drawn: ``seed`` itself at first."""
    if not number:
        return seed
    digest = hashlib.sha256(f"{seed} {piece} {number}".encode()).digest()
    return int.from_bytes(digest[:7])


def _peak(chunks: Iterable[Tensor]) -> float:
    return max((float(chunk.abs().max()) for chunk in chunks if len(chunk)), default=0.0)
