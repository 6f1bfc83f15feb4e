"""The service: arms, routes, voices, votes and the log, and a request's way through them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from wishbone.core.serve.encoding import Encoder
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.request_log import Entry, RequestLog
from wishbone.core.serve.routing import choose_arm
from wishbone.core.serve.serving_arm import ServingArm
from wishbone.core.serve.settings import Settings
from wishbone.core.serve.spoken_job import Job, Order
from wishbone.core.serve.voice_folder import DEFAULT, VoiceFolder
from wishbone.core.serve.votes import Votes
from wishbone.core.serve.web.gauges import Gauges
from wishbone.core.serve.web.log_lines import REQUEST, warn, write
from wishbone.core.speak.voice import Voice

LOG = "items.jsonl"
VOTES = "votes.jsonl"


@dataclass(frozen=True)
class Choice:
    """The arm that answers a request, and the route that chose it, or ""."""

    arm: ServingArm
    route: str = ""


class Service:
    """All that the routes share."""

    def __init__(self, settings: Settings, arms: Mapping[str, ServingArm]) -> None:
        self.settings, self.arms = settings, dict(arms)
        self.limits = settings.limits
        self.voices = VoiceFolder(settings.voice_folder, self.limits)
        self.votes = Votes(settings.folder / VOTES)
        self.log = RequestLog(settings.folder / LOG if settings.log else None)
        self.gauges = Gauges({name: arm.gate for name, arm in self.arms.items()})
        self.is_draining = False
        self.encoding_voice = asyncio.Lock()
        """One recording becomes a voice at a time: that takes a core."""

    @property
    def is_idle(self) -> bool:
        """True where no request waits, speaks or is being sent."""
        return not any(arm.gate.inside or arm.gate.used for arm in self.arms.values())

    def drain(self) -> None:
        """Take no more requests, and refuse those that wait."""
        self.is_draining = True
        for arm in self.arms.values():
            arm.gate.close()

    def close(self) -> None:
        """Let the threads end."""
        for arm in self.arms.values():
            arm.threads.shutdown(wait=False, cancel_futures=True)

    def choose(self, model: str, client: str) -> Choice:
        """Return the arm for a model or a route. Raises ``Refusal`` (404) for another name."""
        if model in self.arms:
            return Choice(self.arms[model])
        if model in self.settings.routes:
            arm = choose_arm(model, self.settings.routes[model], client)
            return Choice(self.arms[arm], model)
        names = ", ".join([*self.arms, *self.settings.routes])
        message = f"There is no model '{model[:64]}'. Models: {names}."
        self.gauges.refused("", "", "model_not_found")
        raise Refusal(404, message, "model", "model_not_found")

    def voice(self, name: str) -> Voice | None:
        """Return a voice by its name; None for the system's own. Raises ``Refusal`` (400)."""
        if name in ("", DEFAULT):
            return None
        try:
            return self.voices.read(name)
        except Refusal as refusal:
            # of a field of a request, not of the page that is asked for
            raise Refusal(400, refusal.message, "voice", refusal.code) from refusal

    def check_text(self, text: str, param: str = "input", before: int = 0) -> None:
        """Raise ``Refusal`` for a text that is too long or is no text.

        ``before`` counts the characters that came before it.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            message = f"{param} holds half a character (a lone surrogate)."
            raise Refusal(400, message, param) from None
        characters, most = before + len(text), self.limits.characters
        if characters > most:
            message = f"{param} has {characters} characters; this server takes {most} at most."
            raise Refusal(413, message, param, "too_long")

    def job(self, choice: Choice, order: Order, encoder: Encoder) -> Job:
        """Make the job of a request."""
        return Job(choice.arm, order, encoder, self.limits.seconds, self.limits.timeout)

    async def speak(self, choice: Choice, job: Job) -> AsyncGenerator[bytes, None]:
        """Speak a job to its end -> its bytes; the log and the metrics get how it went.

        Raises ``Refusal``.
        """
        try:
            with choice.arm.gate.request():
                try:
                    async with aclosing(job.chunks()) as chunks:
                        async for chunk in chunks:
                            yield chunk
                finally:
                    self._note(choice, job)
        except Refusal as refusal:
            if job.course.begun is None and refusal.code in ("queue_full", "draining"):
                self.gauges.refused(choice.arm.name, choice.route, refusal.code)
            raise
        except Exception as error:
            warn(f"a request failed: {type(error).__name__}: {error}")
            raise Refusal(500, "The speech could not be made.", code="internal") from error

    def _note(self, choice: Choice, job: Job) -> None:
        """Count a request that had a slot, and log it."""
        course, order = job.course, job.order
        if course.begun is None and course.failure in ("queue_full", "draining"):
            return  # counted as refused
        entry = Entry(
            request=REQUEST.get(),
            route=choice.route,
            arm=choice.arm.name,
            text=order.text if isinstance(order.text, str) else order.text.text,
            seed=order.seed,
            engine=choice.arm.system.model.engine,
            voice=order.voice.name if order.voice else "",
            seconds=course.samples / choice.arm.sample_rate,
            spent=course.spent or course.elapsed,
            first_sound=course.first_sound,
            failure=course.failure,
        )
        self.gauges.observe(entry)
        first = None if entry.first_sound is None else round(1000 * entry.first_sound)
        write(
            "spoken",
            {
                "arm": entry.arm,
                "route": entry.route,
                "seconds": round(entry.seconds, 2),
                "spent": round(entry.spent, 3),
                "first_ms": first,
                "outcome": entry.failure or "ok",
            },
        )
        try:
            self.log.add(entry)
        except OSError as error:
            warn(f"the log cannot be written: {error.strerror}")
