"""Voice conversion: the words of a recording, in another voice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio, resample
from wishbone.core.audio.recording import at_level
from wishbone.core.contract.errors import UsageError
from wishbone.core.speak.pipeline import decode
from wishbone.core.speak.utterance import Utterance
from wishbone.core.speak.voice import Voice, find
from wishbone.core.system.system import System


@torch.no_grad()
def revoice(
    system: System, audio: Audio, voice: Voice | str | None = None, seed: int = 0
) -> Iterator[Tensor]:
    """Speak the codes of a recording in another voice: samples [S] in chunks.

    The language model takes no part, so words and timing stay. Raises ``UsageError`` for a voice
    that has nothing for the decoder.
    """
    voice = find(voice or system.config.get("voice"), system)
    if not voice.heard and voice.speaker is None:
        raise UsageError(
            "The voice holds nothing that the decoder of this system takes a sound from.",
            "voice conversion",
            "Use a system whose decoder takes conditioning, and a voice made with it.",
        )
    audio = at_level(audio, system.speech_tokenizer.level)
    samples = resample(audio, system.speech_tokenizer.sample_rate).samples  # [S]
    codes = system.speech_tokenizer.encode(samples.to(system.model.device)).tolist()  # [T][Q]
    yield from decode(system, map(tuple, codes), seed, voice, Utterance())
