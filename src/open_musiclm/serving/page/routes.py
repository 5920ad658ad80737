"""What the page's cards ask: progress, sound while it is made, files, stop, again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from ..http import metadata_of, with_seed
from ..limits import Refusal
from ..requests import MusicRequest
from ..sounds import FORMATS, encode
from .shelf import Entry, Shelf

#: how often a card hears how far its piece is
TELL_EVERY_S = 0.2
#: what the buttons of a finished piece ask for
WAYS = ("again", "longer", "vary", "sound")


class Again(BaseModel):
    """A button of a finished piece."""

    model_config = ConfigDict(extra="forbid")
    token: str
    place: int = 0
    how: Literal["again", "longer", "vary", "sound"]
    prompt: str = ""


def routes_of(shelf: Shelf) -> APIRouter:
    """The routes, all under /page."""
    router = APIRouter(prefix="/page", include_in_schema=False)

    @router.get("/job/{token}")
    async def job(token: str) -> Response:
        entry = shelf.get(token)
        return StreamingResponse(_states(entry), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @router.get("/sound/{token}")
    async def sound(token: str, connection: Request) -> Response:
        entry = shelf.get(token)

        async def pieces() -> AsyncIterator[bytes]:
            place = 0
            while (piece := await asyncio.to_thread(entry.piece, place, 30.0)) is not None:
                place += 1
                yield piece

        capabilities = entry.engine.capabilities
        headers = {"X-Sampling-Rate": str(capabilities.sampling_rate), "X-Channels": str(capabilities.channels)}
        return StreamingResponse(pieces(), media_type="audio/pcm", headers=headers | {"Cache-Control": "no-store"})

    @router.get("/file/{token}/{place}.{ending}")
    async def file(token: str, place: int, ending: Literal["wav", "flac"]) -> Response:
        entry = shelf.get(token)
        name = f"music-{place + 1}.{ending}"
        if entry.recording is not None:
            audio, rate, metadata = entry.recording.channels, entry.recording.sampling_rate, None
        else:
            recording = shelf.recording(token, place)  # refuses what is not there
            audio, rate = recording.channels, recording.sampling_rate
            made = entry.made[place]
            metadata = None if entry.hides_settings else metadata_of(entry.engine, made.request, made.similarity)
            name = f"music-{made.request.seed}.{ending}" if metadata else name
        data = await asyncio.to_thread(encode, audio, rate, ending, metadata)
        headers = {"Content-Disposition": f'inline; filename="{name}"', "Cache-Control": "private, max-age=3600"}
        return Response(data, media_type=FORMATS[ending][0], headers=headers)

    @router.post("/stop/{token}")
    async def stop(token: str) -> dict[str, bool]:
        entry = shelf.get(token)
        if entry.job is not None:
            entry.engine.cancel(entry.job)
        return {"stopped": True}

    @router.post("/again")
    async def again(asked: Again) -> dict[str, str]:
        entry = shelf.get(asked.token)
        request = another(shelf, asked)
        title = {"again": "", "longer": "longer: ", "vary": "varied: ", "sound": "the same tune: "}[asked.how]
        token = await asyncio.to_thread(shelf.ask, entry.engine.name, request, title + (request.prompt or entry.title))
        return {"token": token}

    return router


def another(shelf: Shelf, asked: Again) -> MusicRequest:
    """The request of a finished piece's button.

    Raises:
        ValueError: the piece is not finished.
    """
    entry = shelf.get(asked.token)
    recording = shelf.recording(asked.token, asked.place)
    assert entry.job is not None
    request = with_seed(entry.job.request, None)
    if asked.how == "again":
        return request
    prompt = asked.prompt.strip() or request.prompt
    changed = MusicRequest(
        prompt=prompt, seed=request.seed, recording=recording, guidance_scale=request.guidance_scale
    )
    if asked.how == "longer":
        most = entry.engine.limits.duration_in_s - recording.length_in_s
        return replace(
            changed, way="continue", duration_in_s=max(min(request.duration_in_s, most), 0.1), prompt=request.prompt
        )
    return replace(changed, way="vary" if asked.how == "vary" else "remake")


async def _states(entry: Entry) -> AsyncIterator[bytes]:
    """How far a job is, until it is done."""
    while True:
        told = state_of(entry)
        yield f"data: {json.dumps(told)}\n\n".encode()
        if told["state"] != "making":
            return
        await asyncio.sleep(TELL_EVERY_S)


def state_of(entry: Entry) -> dict[str, Any]:
    """A job as its card shows it."""
    told: dict[str, Any] = {"title": entry.title, "can_change": bool(entry.engine.capabilities.ways)}
    job = entry.job
    if job is None:
        assert entry.recording is not None
        return told | {"state": "done", "made": [{"length": entry.recording.length_in_s}], "is_recording": True}
    if not job.result.done():
        progress = job.progress
        return told | {
            "state": "making",
            "stage": progress.stage,
            "step": progress.step,
            "num_steps": progress.num_steps,
            "seconds_left": progress.seconds_left,
            "ahead": progress.ahead,
            "is_streamed": job.on_piece is not None,
            "made_in_s": job.made_in_s,
        }
    try:
        made = entry.made
    except Refusal as error:
        return told | {"state": "stopped" if error.kind == "cancelled" else "failed", "message": str(error)}
    except ValueError as error:
        return told | {"state": "failed", "message": str(error)}
    except Exception as error:  # of the model: it is in the server's log
        return told | {"state": "failed", "message": f"Something went wrong: {type(error).__name__}."}
    pieces = [
        {
            "length": each.length_in_s,
            "similarity": each.similarity,
            "start": None if each.start is None else each.start / each.sampling_rate,
            "stop": None if each.stop is None else each.stop / each.sampling_rate,
            "told": None if entry.hides_settings else each.request.told() | {"model": entry.engine.name},
        }
        for each in made
    ]
    return told | {"state": "done", "made": pieces, "hides_settings": entry.hides_settings}
