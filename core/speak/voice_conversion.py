"""Voice conversion: what a recording says, in another voice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio, resample
from wishbone.core.contract.errors import UsageError
from wishbone.core.speak.pipeline import decode
from wishbone.core.speak.utterance import Utterance
from wishbone.core.speak.voice import Voice, find

if TYPE_CHECKING:
    from wishbone.core.system.system import System


@torch.no_grad()
def revoice(
    system: System, audio: Audio, voice: Voice | str | None = None, seed: int = 0
) -> Iterator[Tensor]:
    """Say what a recording says, as it says it, in another voice: samples [S] in chunks.

    No language model is asked. Raises ``UsageError`` for a voice that the decoder cannot hear.
    """
    voice = find(voice or system.config.get("voice"), system)
    if not voice.heard and voice.speaker is None:
        raise UsageError(
            "The voice holds nothing that the decoder of this system takes a sound from.",
            "voice conversion",
            "Use a system whose decoder hears, such as cosyvoice2, and a voice made with it.",
        )
    heard = resample(audio, system.speech_tokenizer.sample_rate).samples
    codes = system.speech_tokenizer.encode(heard.to(system.model.device)).tolist()
    yield from decode(system, map(tuple, codes), seed, voice, Utterance())
