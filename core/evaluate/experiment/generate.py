"""Making the recordings: one item, timed, and the order in which the arms take turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import soundfile
import torch

from wishbone.core.contract.atomic import replacing
from wishbone.core.evaluate.experiment.items import UNMEASURED
from wishbone.core.evaluate.measure.clips import failure
from wishbone.core.evaluate.record import optional, stored_as
from wishbone.core.speak.server import Server
from wishbone.core.speak.text_to_speech import stream
from wishbone.core.speak.utterance import Utterance
from wishbone.core.speak.voice import Voice
from wishbone.core.system.system import System

PATIENCE = 120.0
"""Seconds of processor time after which an item is given up, unless somebody asks for more: on a
busy machine the clock runs on while nothing is computed."""
TOO_LONG = "took too long"
WARM_UP = "This sentence is spoken before anything is measured."


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One item as it was spoken: what went wrong, and how long it took."""

    seed: int
    computing: float = stored_as("made")
    """Seconds of computing, by the clock."""
    seconds: float
    """Length of the audio."""
    codes: int
    """Code frames."""
    cut_words: int
    """Words that the length rule ended."""
    engine: str
    """Engine of the decoding steps."""
    failure: str
    """Why it counts as failed, or ""."""
    error: str
    """The error that ended it, or ""."""
    redraws: int | None = optional()
    """Pieces of its text that were drawn again, counted each time; None from older versions."""
    trouble: str | None = optional()
    """Kinds of ``Utterance.trouble`` that are left in what is heard; None without any."""
    rtf: float | None = optional()
    """Seconds of computing for one of audio; None, like all below, where nothing was spoken."""
    first_audio: float | None = optional()
    """Milliseconds to the first samples."""
    token_rate: float | None = optional()
    """Code frames a second of computing."""
    stall: float | None = optional()
    """Milliseconds of silence for a listener who plays it as it comes."""
    processor: float | None = optional()
    """Seconds of processor time of this process."""
    rounds: int | None = optional()
    """Times that it was spoken for its times, of which the median counts."""
    load: float | None = optional()
    """The machine's load then."""
    others: float | None = optional()
    """Processors that other programs used then; None where it is not known."""


def speak(
    system: System,
    text: str,
    seed: int,
    voice: Voice | str | None = None,
    patience: float = PATIENCE,
    server: Server | None = None,
    record: list[Utterance] | None = None,
    arriving: bool = False,
) -> tuple[Generation, np.ndarray]:
    """One item: how it went, and its audio [S]; in a batch with others where there is a server.

    An error of the system is a result like any other: it is written down, not raised. ``record``
    receives the utterances; ``arriving`` gives the text word by word.
    """
    record = [] if record is None else record
    given = _words(text) if arriving else text
    chunks: list[torch.Tensor] = []
    arrivals: list[float] = []
    error = ""
    begin, begin_processor = perf_counter(), process_time()
    try:
        for chunk in (
            server.stream(given, voice, seed, record)
            if server
            else stream(system, given, voice, seed, record)
        ):
            if len(chunk):
                chunks.append(chunk)
                arrivals.append(perf_counter() - begin)
            if process_time() - begin_processor > patience:
                error = TOO_LONG
                break
    except Exception as exception:  # a failed item is data
        error = f"{type(exception).__name__}: {exception}"
    spent, processor = perf_counter() - begin, process_time() - begin_processor
    audio = torch.cat(chunks).float().numpy() if chunks else np.zeros(0, np.float32)
    rate = system.decoder.sample_rate
    codes = sum(len(utterance.codes) for utterance in record)
    reason = "error" if error else failure(audio, rate, text)
    if error == TOO_LONG:
        reason = UNMEASURED
    if not reason and any(utterance.reason == "length" for utterance in record):
        reason = "never stopped"
    generation = Generation(
        seed=seed,
        computing=round(spent, 4),
        processor=round(processor, 4),
        seconds=round(len(audio) / rate, 4),
        codes=codes,
        cut_words=sum(utterance.cut_words for utterance in record),
        redraws=sum(len(utterance.redraws) for utterance in record),
        trouble=", ".join(sorted({u.trouble for u in record} - {""})) or None,
        engine=system.model.engine,
        failure=reason,
        error=error,
    )
    if len(audio) and not error:
        generation = replace(
            generation,
            rtf=spent / (len(audio) / rate),
            first_audio=1000 * arrivals[0],
            token_rate=codes / spent,
            stall=round(1000 * _stall(chunks, arrivals, rate), 2),
        )
    return generation, np.nan_to_num(audio)


def warm_up(systems: dict[str, System], voice: str | None) -> None:
    """One sentence from every arm, unmeasured: the first call pays for caches and lazy imports.

    Sets PyTorch to one CPU thread: steps of small models are too short to share, two threads on a
    busy machine mostly wait for each other, and results must not depend on the number of cores.
    """
    torch.set_num_threads(1)
    for system in systems.values():
        speak(system, WARM_UP, 0, voice)


def read_text(systems: Iterable[System], text: str) -> None:
    """Let every system read a text once, untimed: front ends remember words, for all systems."""
    for system in systems:
        try:
            system.tokenizer.encode(text)
        except Exception:  # what it cannot read fails when it is spoken, and is noted there
            continue


def _words(text: str) -> Iterator[str]:
    """A text as it arrives from a program that writes it: word by word, the space behind each."""
    for word in text.split():
        yield f"{word} "


def write(path: Path, audio: np.ndarray, rate: int) -> None:
    """A FLAC file of 16 bits; none for no audio, which FLAC cannot hold."""
    if not len(audio):
        return
    with replacing(path) as temporary:
        soundfile.write(temporary, np.clip(audio, -1, 1), rate, format="FLAC", subtype="PCM_16")


def _stall(chunks: Sequence[torch.Tensor], arrivals: Sequence[float], rate: int) -> float:
    """Seconds of silence a listener hears who plays each chunk as it comes."""
    late, played = 0.0, 0.0
    for chunk, arrival in zip(chunks, arrivals, strict=True):
        late = max(late, arrival - arrivals[0] - played)
        played += len(chunk) / rate
    return late
