"""``/v1/votes`` and ``/ab``: blind votes, and the arms of each route beside each other."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.votes import MOST_VOTES
from wishbone.core.serve.web.service import Service
from wishbone.core.serve.web.speech_routes import MOST_SEED


class Vote(BaseModel):
    """The body of ``POST /v1/votes``: two models, and the side that was preferred."""

    model_config = ConfigDict(extra="forbid", strict=True)
    a: str = Field(max_length=64)
    b: str = Field(max_length=64)
    choice: Literal["a", "b", "same"]
    seed: int = Field(0, ge=0, le=MOST_SEED)
    text: str = Field("", description="the text that both spoke")
    voice: str = Field("", max_length=64)


def comparison_routes(service: Service) -> APIRouter:
    """Make the routes."""
    routes = APIRouter()

    @routes.post("/v1/votes", status_code=201)
    async def vote(body: Vote) -> dict[str, Any]:
        for side in ("a", "b"):
            name = getattr(body, side)
            if name not in service.arms:
                message = f"There is no system '{name}'. Systems: {', '.join(service.arms)}."
                raise Refusal(400, message, side, "model_not_found")
        if body.a == body.b:
            raise Refusal(400, "A vote compares two systems, and a is b.", "b")
        service.check_text(body.text, "text")
        service.check_text(body.voice, "voice")
        if service.votes.count >= MOST_VOTES:
            raise Refusal(409, f"The file holds {MOST_VOTES} votes.", code="folder_full")
        try:
            await asyncio.to_thread(service.votes.add, body.model_dump())
        except OSError as error:
            raise Refusal(500, "The votes cannot be written.", code="storage") from error
        return service.votes.tally()

    @routes.get("/v1/votes")
    async def votes() -> dict[str, Any]:
        return service.votes.tally()

    @routes.get("/ab")
    async def ab() -> dict[str, Any]:
        arms = {name: list(route.arms) for name, route in service.settings.routes.items()}
        return await asyncio.to_thread(service.log.summary, arms)

    return routes
