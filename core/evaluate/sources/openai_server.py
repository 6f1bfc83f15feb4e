"""A server with OpenAI's speech interface as an arm: ``POST /v1/audio/speech``, one at a time."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from time import perf_counter

import numpy as np

from wishbone.core.audio.files import decode
from wishbone.core.contract.errors import DataError, UsageError, WishboneError
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.experiment.items import UNMEASURED
from wishbone.core.evaluate.measure.clips import failure
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.outside import Outside
from wishbone.core.evaluate.sources.source import Source, Spoken

ENGINE = "server"
"""Stands where a system has its engine."""
PATH = "/v1/audio/speech"
HEADER = 44
"""Bytes of a WAV file before its first sample."""
BLOCK = 1 << 16
BUSY = (408, 425, 429, 502, 503, 504)
"""Answers that say nothing about the speech: the item is asked for again when the run goes on."""


class OpenAIServer(Source):
    """Asks for WAV and reads it as it comes; times are the client's, network included."""

    def __init__(self, asked: Outside) -> None:
        self.asked = asked
        self.address = asked.url.rstrip("/").removesuffix("/v1") + PATH

    def prepare(self, voice: str | None) -> None:
        """Ask for one sentence. Raises ``UsageError`` where the server gives no speech."""
        prompt = Prompt("warm-up", generate.WARM_UP)
        error = self.speak(prompt, 0, voice).generation.error
        if error:
            raise UsageError(
                f"The server gives no speech: {error}",
                f"{self.address}, model '{self.asked.model}'",
                "Start it, or correct 'url', 'model' and 'voice' of the arm; 'seed: false' for one"
                " that takes no seeds.",
            )

    def speak(self, prompt: Prompt, seed: int, voice: str | None) -> Spoken:
        """Ask for one prompt. Raises ``WishboneError`` where nobody answers any more."""
        asked = self.asked
        request = self._request(prompt.text, seed, prompt.voice or asked.voice or voice)
        begin, parts, arrived, error, status = perf_counter(), [], None, "", 200
        try:
            with urllib.request.urlopen(request, timeout=asked.patience) as answer:
                while block := answer.read1(BLOCK):
                    parts.append(block)
                    if arrived is None and sum(map(len, parts)) > HEADER:
                        arrived = perf_counter() - begin
        except urllib.error.HTTPError as refusal:
            status, error = refusal.code, f"{refusal.code} {_told(refusal)}"
        except TimeoutError:
            status, error = 504, f"no byte for {asked.patience:g} s"
        except (OSError, HTTPException) as problem:
            raise WishboneError(
                f"The server does not answer: {problem}.",
                self.address,
                "Start it; the same command goes on where it was.",
            ) from problem
        spent = perf_counter() - begin
        audio, rate = np.zeros(0, np.float32), 16_000
        if not error:
            try:
                sound = decode(b"".join(parts), self.address)
                audio, rate = sound.samples.numpy(), sound.sample_rate
            except DataError as problem:
                error = problem.what
        reason = "error" if error else failure(audio, rate, prompt.text)
        timed = not reason and arrived is not None
        generation = Generation(
            seed=seed,
            computing=round(spent, 4),
            seconds=round(len(audio) / rate, 4),
            codes=0,
            cut_words=0,
            engine=ENGINE,
            failure=UNMEASURED if status in BUSY else reason,
            error=error,
            rtf=spent / (len(audio) / rate) if timed else None,
            first_audio=1000 * (arrived or 0.0) if timed else None,
        )
        return Spoken(generation, audio, rate)

    def _request(self, text: str, seed: int, voice: str | None) -> urllib.request.Request:
        asked = self.asked
        body = {
            "model": asked.model,
            "input": text,
            "voice": voice or "default",
            "response_format": "wav",
        }
        headers = {"Content-Type": "application/json"}
        if asked.seed:
            body |= {"seed": seed}
        if asked.token:
            headers["Authorization"] = f"Bearer {os.environ.get(asked.token, '')}"
        data = json.dumps(body).encode()
        return urllib.request.Request(self.address, data, headers, method="POST")


def _told(refusal: urllib.error.HTTPError) -> str:
    """What a server says about its refusal, in one line."""
    text = refusal.read(2000).decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        text = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError):
        text = text or refusal.reason
    return " ".join(text.split())[:200]
