"""``/v1/audio/voices``: list, upload and delete voices."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile

from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.serving_arm import ServingArm
from wishbone.core.serve.voice_folder import check_transcript
from wishbone.core.serve.web.log_lines import write
from wishbone.core.serve.web.service import Service


def voice_routes(service: Service) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/v1/audio/voices")

    @routes.get("")
    async def voices() -> dict[str, Any]:
        return {"object": "list", "data": await asyncio.to_thread(list_voices, service)}

    @routes.get("/{name}")
    async def voice(name: str) -> dict[str, Any]:
        return await asyncio.to_thread(describe, service, name)

    @routes.post("", status_code=201)
    async def upload(
        name: Annotated[str, Form(max_length=200)],
        transcript: Annotated[str, Form(max_length=10_000)],
        audio: Annotated[UploadFile, File()],
        model: Annotated[str, Form(max_length=200)] = "",
    ) -> dict[str, Any]:
        arm = _arm_of(service, model)
        # all that can be told without decoding, before the recording is even read
        service.voices.check_name(name)
        check_transcript(transcript)
        if audio.size is not None and audio.size > service.limits.upload:
            message = f"audio has {audio.size} bytes; {service.limits.upload} are the most."
            raise Refusal(413, message, "audio", "too_long")
        recording = await audio.read()
        async with service.encoding_voice:
            await asyncio.to_thread(service.voices.add, name, recording, transcript, arm.system)
        write("a voice was added", {"voice": name})
        return await asyncio.to_thread(describe, service, name)

    @routes.delete("/{name}")
    async def delete(name: str) -> dict[str, Any]:
        await asyncio.to_thread(service.voices.remove, name)
        write("a voice was deleted", {"voice": name})
        return {"object": "voice.deleted", "id": name, "name": name, "deleted": True}

    return routes


def list_voices(service: Service) -> list[dict[str, Any]]:
    """Facts of all voices; a file in the folder that is no voice is left out."""
    listed = []
    for name in service.voices.names():
        try:
            listed.append(describe(service, name))
        except Refusal:
            continue
    return listed


def describe(service: Service, name: str) -> dict[str, Any]:
    """Facts of one voice, with the models that can speak with it. Raises ``Refusal`` (404)."""
    voice = service.voices.read(name)
    fitting = [arm for arm in service.arms.values() if arm.fits(voice)]
    arm = (fitting or list(service.arms.values()))[0]
    facts = service.voices.describe(name, arm.system.speech_tokenizer.codes.rate)
    return {**facts, "models": [arm.name for arm in fitting]}


def _arm_of(service: Service, model: str) -> ServingArm:
    """Return the system whose codec encodes an upload: the first one where none is named."""
    if not model:
        return next(iter(service.arms.values()))
    return service.choose(model, "").arm
