"""The HTTP interface: `POST /v1/audio/speech` as speech servers have it, edits, models, health, metrics, /docs."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..outputs import made_with
from ..version import __version__
from .documents import page_of
from .engine import Engine
from .guard import Guard
from .jobs import Job, Made
from .limits import BrokenOffError, Refusal
from .metrics import CONTENT_TYPE
from .requests import MusicRequest
from .schema import EditRequest, Failed, Health, ModelInfo, ModelList, SpeechRequest
from .sounds import FORMATS, STREAMED, check_format, encode, pcm, wav_header

#: kind of a refusal → status; 499 is what servers note where the client has left
STATUS = {"full": 429, "stopping": 503, "memory": 503, "too late": 504, "cancelled": 499}
#: how often it is looked whether who asked is still there
LOOK_EVERY_S = 0.25
#: of the settings in a header; longer ones are in the file alone
LONGEST_HEADER = 6000
RANDOM_SEEDS = 2**31
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Failed, "description": "It asks for what there is not; says what there is"},
    401: {"model": Failed, "description": "The key is missing or wrong"},
    413: {"model": Failed, "description": "The request is too long"},
    422: {"model": Failed, "description": "The request is not of this form"},
    429: {"model": Failed, "description": "Too many wait; Retry-After says when to ask again"},
    503: {"model": Failed, "description": "The server is being stopped, or has not enough memory for this request"},
    504: {"model": Failed, "description": "It took longer than this server allows"},
}
SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The sound; X-Seed and X-Settings make it again",
        "content": {media: {"schema": {"type": "string", "format": "binary"}} for media, _ in FORMATS.values()}
        | {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def create_app(
    engines: Mapping[str, Engine], api_key: str | None = None, guarded: tuple[str, ...] = ("/",)
) -> FastAPI:
    """The server of some models.

    Args:
        engines: by the name that requests call them; they are closed with the app.
        api_key: what requests must bring.
        guarded: beginnings of the paths that the key is for.
    """
    first = next(iter(engines.values()))
    limits, metrics = first.limits, first.metrics

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for engine in engines.values():
            await asyncio.to_thread(engine.close)

    app = FastAPI(title="Open MusicLM", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, metrics=metrics, api_key=api_key, body_bytes=limits.body_bytes, guarded=guarded)
    add_handlers(app)

    def find(name: str | None) -> Engine:
        if name is None:
            return first
        if name not in engines:
            raise HTTPException(400, f"There is no model of that name; there are {', '.join(engines)}.")
        return engines[name]

    @app.post(
        "/v1/audio/speech", responses=SOUND | REFUSALS, response_class=Response, summary="Make music from a text"
    )
    async def speech(asked: SpeechRequest, connection: Request) -> Response:
        engine = find(asked.model)
        check_format(asked.response_format, engine.capabilities.sampling_rate, engine.capabilities.channels)
        request = with_seed(await asyncio.to_thread(asked.request, limits), asked.seed)
        if asked.stream_format is not None:
            if asked.response_format not in STREAMED:
                raise ValueError(
                    f"What is sent while it is made is {' or '.join(STREAMED)}; got {asked.response_format!r}."
                )
            return await _streamed(engine, request, asked.response_format, asked.stream_format)
        made = await _answered(engine, engine.submit(request), connection)
        return await _sound(engine, made, asked.response_format)

    @app.post("/v1/audio/edits", responses=SOUND | REFUSALS, response_class=Response, summary="Change a recording")
    async def edits(asked: EditRequest, connection: Request) -> Response:
        engine = find(asked.model)
        request = with_seed(await asyncio.to_thread(asked.request, limits), asked.seed)
        made = await _answered(engine, engine.submit(request), connection)
        check_format(asked.response_format, made.sampling_rate, made.audio.shape[0])
        return await _sound(engine, made, asked.response_format)

    @app.get("/v1/models", responses={401: REFUSALS[401]}, summary="The models, and what each can be asked for")
    async def models() -> ModelList:
        data = [ModelInfo(id=name, capabilities=engine.capabilities.told()) for name, engine in engines.items()]
        return ModelList(data=data)

    @app.get("/health", summary="Whether it takes requests")
    async def health() -> Health:
        stops = any(engine.is_closing or not engine.thread.is_alive() for engine in engines.values())
        waiting = sum(len(engine.waiting) for engine in engines.values())
        return Health(status="stopping" if stops else "ok", models=list(engines), waiting=waiting)

    @app.get("/metrics", response_class=Response, summary="Figures for Prometheus")
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def documents() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()))

    return app


def with_seed(request: MusicRequest, seed: int | None) -> MusicRequest:
    """A request that can be made again: with a seed, where none was given."""
    return request if seed is not None else replace(request, seed=random.SystemRandom().randrange(RANDOM_SEEDS))


def metadata_of(engine: Engine, request: MusicRequest, similarity: float | None = None) -> dict[str, Any]:
    """What is stored in a file: enough to make it again."""
    told = request.told() | {"model": engine.name, **made_with()}
    return told if similarity is None else told | {"clap_similarity": round(similarity, 6)}


def headers_of(engine: Engine, request: MusicRequest) -> dict[str, str]:
    """What makes an answer again."""
    headers = {"X-Seed": str(request.seed), "X-Model": engine.name.encode("ascii", "backslashreplace").decode()}
    settings = json.dumps(request.told())
    return headers | ({"X-Settings": settings} if len(settings) <= LONGEST_HEADER else {})


async def _answered(engine: Engine, job: Job, connection: Request) -> Made:
    """A job's waveform; if who asked leaves, or time is up, its place is free."""
    waiter = asyncio.ensure_future(asyncio.wrap_future(job.result))
    try:
        while not waiter.done():
            await asyncio.wait({waiter}, timeout=LOOK_EVERY_S)
            if not waiter.done() and (job.is_gone or await connection.is_disconnected()):
                if not job.is_gone:
                    job.cancel()
                job.fail_as_gone()
                engine.cancel(job)
        return (await waiter)[0]
    finally:
        if not waiter.done():  # the server itself is being cancelled
            engine.cancel(job)
            waiter.cancel()


async def _sound(engine: Engine, made: Made, name: str) -> Response:
    metadata = metadata_of(engine, made.request, made.similarity)
    data = await asyncio.to_thread(encode, made.audio, made.sampling_rate, name, metadata)
    headers = headers_of(engine, made.request) | {"X-Duration": f"{made.length_in_s:.6f}"}
    headers |= {"X-Sampling-Rate": str(made.sampling_rate)}
    if made.similarity is not None:
        headers["X-Clap-Similarity"] = f"{made.similarity:.6f}"
    return Response(data, media_type=FORMATS[name][0], headers=headers)


async def _streamed(engine: Engine, request: MusicRequest, name: str, form: str) -> Response:
    """The sound while it is made; what can be refused is refused before the first byte."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[np.ndarray | None]()

    def on_piece(piece: np.ndarray | None) -> None:
        with suppress(RuntimeError):  # the server's loop has ended
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    job = engine.submit(request, on_piece=on_piece)
    try:
        first = await pieces.get()
    except asyncio.CancelledError:
        engine.cancel(job)
        raise
    if first is None:
        job.result.result()  # raises what went wrong
    rate = engine.capabilities.sampling_rate

    async def parts() -> AsyncIterator[bytes]:
        piece, begun = first, False
        try:
            while piece is not None:
                if not begun and name == "wav":
                    yield wav_header(rate, piece.shape[1], round(request.duration_in_s * rate))
                begun = True
                yield pcm(piece[0])
                engine.took(job, piece.shape[-1] / rate)
                piece = await pieces.get()
            job.result.result()
        except (Refusal, ValueError) as error:
            raise BrokenOffError(str(error)) from error
        finally:
            engine.cancel(job)

    async def events() -> AsyncIterator[bytes]:
        try:
            async for part in parts():
                yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()})
            yield _event({"type": "speech.audio.done", "seed": request.seed, "duration": request.duration_in_s})
        except BrokenOffError as error:
            yield _event({"type": "error", "error": {"message": str(error), "type": "server_error"}})

    headers = headers_of(engine, request) | {"X-Sampling-Rate": str(rate), "Cache-Control": "no-store"}
    if form == "sse":
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)
    return StreamingResponse(parts(), media_type=FORMATS[name][0], headers=headers)


def _event(told: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(told)}\n\n".encode()


def add_handlers(app: FastAPI) -> None:
    """Every refusal in one form, without what was sent in it."""

    def refusal(status: int, message: str, param: str | None = None, **headers: str) -> JSONResponse:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": param, "code": None}
        return JSONResponse({"error": error}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def of_form(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"][1:])
        place = place.encode("ascii", "backslashreplace").decode()[:200]
        return refusal(422, f"{place or 'The request'}: {found['msg']}"[:500], place or None)

    @app.exception_handler(StarletteHTTPException)
    async def of_http(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), **dict(error.headers or {}))

    @app.exception_handler(ValueError)
    async def of_value(_: Request, error: ValueError) -> JSONResponse:
        return refusal(400, " ".join(str(error).encode("utf-8", "backslashreplace").decode().split()))

    @app.exception_handler(Refusal)
    async def of_refusal(_: Request, error: Refusal) -> JSONResponse:
        headers = {}
        if error.retry_after_in_s is not None:
            headers["Retry-After"] = str(round(error.retry_after_in_s))
        return refusal(STATUS[error.kind], str(error), **headers)
