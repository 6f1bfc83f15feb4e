"""From logits to an id: greedy, temperature, top-k, top-p, min-p, repetition-aware sampling.

Everything is computed on the CPU in float32 with a generator of the request's own, so the same seed
draws the same ids whatever device the model is on and whatever other requests do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from wishbone.core.config.schema import check_limits
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.part import Range
from wishbone.core.contract.session import Draw

OFF = float("-inf")

Pick = Callable[[Tensor, int], int]
"""Logits [X] and the number of their codebook to the id drawn from them."""


@dataclass
class Sampling:
    """Rules by which ids are drawn; ranges are checked when a file is read, and by ``Sampler``."""

    temperature: Annotated[float, Range(0)] = 1.0
    """Logits are divided by this; 0 is the same as ``greedy``."""
    top_k: Annotated[int, Range(0)] = 25
    """Only this many of the likeliest ids may be drawn; 0 is off."""
    top_p: Annotated[float, Range(0)] = 0.8
    """Only the likeliest ids whose predecessors hold less probability than this; 1 is off."""
    min_p: Annotated[float, Range(0, 1)] = 0.0
    """Only ids at least this share as likely as the likeliest; 0 is off."""
    greedy: bool = False
    """Always take the likeliest id."""
    repetition_window: Annotated[int, Range(0)] = 10
    """Number of the last codes that repetition-aware sampling looks at; 0 is off."""
    repetition_threshold: Annotated[float, Range(above=0)] = 0.1
    """A draw that fills at least this share of the window is drawn again without filters."""
    repetition_masked: bool = True
    """The second draw cannot repeat the first; some published models were made to allow it."""
    lone_word_draws: Annotated[int, Range(1)] = 10
    """A piece of one word is drawn this often, and the likeliest draw that is not cut short is
    spoken; 1 is off."""
    guidance: Annotated[float, Range(0)] = 1.0
    """Scale of what the conditions change: 1 is plain decoding, 0 does without them,
    more exaggerates. Anything but 1 costs a second row; see ``wishbone.core.speak.guidance``."""
    guidance_drops: list[str] = field(default_factory=list)
    """Conditions that the second row does without; none means those that were left out now and
    then in the training of the weights."""


def choose(
    logits: Tensor,
    sampling: Sampling,
    generator: torch.Generator,
    *,
    history: Sequence[int] = (),
    banned: Collection[int] = (),
) -> int:
    """Draw one id from ``logits`` [X]; ``history`` holds the last ids, newest last.

    Order: banned ids leave, the temperature divides, softmax; then top-k, top-p and min-p each
    look at this one distribution (none at the choice of another), and the ids that all three keep
    are renormalised. The likeliest id is always kept. The second draw of repetition-aware sampling
    (VALL-E 2, arXiv 2406.05370 section 3.2) uses the same temperature and no filter.

    Raises ``WishboneError`` when the logits are not numbers or every id is banned.
    """
    logits = logits.detach().to("cpu", torch.float32, copy=True)  # [X]
    if banned:
        logits[list(banned)] = OFF
    greedy = sampling.greedy or sampling.temperature == 0
    if not greedy and sampling.temperature != 1:
        logits /= sampling.temperature
    best, first = logits.max(dim=0)
    if not torch.isfinite(best):
        raise WishboneError(
            "No id can be drawn: the logits are not numbers, or every id is banned.",
            where="sampling of a code",
            do="Check the weights of the model for values that are not finite.",
        )
    if greedy:
        return int(first)
    drawn = _draw_filtered(logits.softmax(dim=0), sampling, generator)
    window = sampling.repetition_window
    if not window:
        return drawn
    repetitions = sum(past == drawn for past in history[-window:])
    if repetitions < window * sampling.repetition_threshold or not repetitions:
        return drawn
    if sampling.repetition_masked:
        logits[drawn] = OFF
        if logits.max() == OFF:
            return drawn
    return int(torch.multinomial(logits.softmax(dim=0), 1, generator=generator))


def _log_probability(logits: Tensor, drawn: int) -> Tensor:
    """Log-probability [] of one id under ``logits`` [X] as they are."""
    logits = logits.detach().to("cpu", torch.float32)  # [X]
    return logits[drawn] - logits.logsumexp(dim=0)  # []


def _draw_filtered(chances: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw from probabilities [X] through top-k, top-p and min-p."""
    if 0 < sampling.top_k < len(chances):
        chances, ids = chances.topk(sampling.top_k)  # [K], [K]
    elif sampling.top_p < 1 or sampling.min_p > 0:
        chances, ids = chances.sort(descending=True, stable=True)  # [X], [X]
    else:
        ids = None
    if ids is not None:
        keep = torch.ones_like(chances, dtype=torch.bool)  # [K]
        # top_p of 1 is skipped, not compared: sums of thousands of float32 numbers miss 1
        if sampling.top_p < 1:
            keep &= chances.cumsum(dim=0) - chances < sampling.top_p  # [K]
        if sampling.min_p > 0:
            keep &= chances >= sampling.min_p * chances[0]  # [K]
        keep[0] = True
        chances = chances * keep  # [K]
    index = torch.multinomial(chances, 1, generator=generator)  # [1]
    return int(index if ids is None else ids[index])


class Sampler:
    """One request's draws: its generator, and the codes that repetition is judged by.

    Ids of the layout itself (end, fill) are not counted as repetitions: they recur by design.
    """

    def __init__(self, sampling: Sampling, codes: CodeSpace, seed: int = 0) -> None:
        """Raise ``ConfigError`` when a number of ``sampling`` is outside its range."""
        check_limits(sampling, "sampling")
        self._sampling = sampling
        self._codes = codes
        self.codebooks = codes.codebooks
        """Number of ids that are drawn together."""
        self._generator = torch.Generator().manual_seed(seed)
        self.forget()

    def forget(self) -> None:
        """Begin a new utterance: the history is empty, the generator goes on."""
        window = max(self._sampling.repetition_window, 1)
        self._history = [deque(maxlen=window) for _ in range(self._codes.codebooks)]
        self._total, self._drawn = 0.0, 0
        self.log_probability = 0.0
        """Mean of log p(code) over the codes drawn for this utterance, in nats; 0 before the first.
        The model's own p: before the temperature, the filters and what the layout bans."""

    def pick(self, action: Draw, logits: Tensor, codebook: int) -> int:
        """Draw the id of one codebook from its logits [X], as ``action`` allows."""
        allowed = action.per_codebook[codebook] if action.per_codebook else action
        history = self._history[codebook]
        if allowed.forced is not None:
            return allowed.forced
        drawn = choose(
            logits,
            self._sampling,
            self._generator,
            history=() if action.utterance_level else tuple(history),
            banned=allowed.banned,
        )
        if drawn < self._codes.size and not action.utterance_level:
            history.append(drawn)
            self._total += float(_log_probability(logits, drawn))
            self._drawn += 1
            self.log_probability = self._total / self._drawn
        return drawn
