"""What stands before every request: how long it may be, whose key it must bring, and what is counted of its answer."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from h11 import LocalProtocolError
from starlette.exceptions import HTTPException

from .limits import BrokenOffError
from .metrics import Metrics

LOG = logging.getLogger("open_musiclm.serving")

#: paths that need no key
OPEN_PATHS = ("/health",)
#: paths that are counted by their names; whatever else is asked for is one
COUNTED = ("/v1/audio/speech", "/v1/audio/edits", "/v1/models", "/health", "/metrics", "/docs", "/openapi.json")

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware.

    Args:
        app: what is asked.
        metrics: what is counted.
        api_key: refuse requests that do not bring it (`Authorization: Bearer …`); `None` asks for none.
        body_bytes: length of a request at most.
        guarded: beginnings of paths that this is about; others (a page) are let through.
    """

    def __init__(
        self, app: Any, metrics: Metrics, api_key: str | None, body_bytes: int, guarded: tuple[str, ...] = ("/",)
    ):
        self.app, self.metrics, self.body_bytes, self.guarded = app, metrics, body_bytes, guarded
        self.api_key = None if api_key is None else api_key.encode()
        self.too_long = f"A request may have up to {body_bytes} bytes."

    async def __call__(self, scope: dict, receive: Callable, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.guarded):
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in COUNTED else "other"
        started, status, has_left = time.perf_counter(), 500, False

        async def counted(message: dict[str, Any]) -> None:
            nonlocal status, has_left
            if message["type"] == "http.response.start":
                status = message["status"]
            if has_left:  # there is nobody to send it to
                return
            try:
                await send(message)
            except LocalProtocolError:  # what came behind the request was no HTTP: the connection takes no answer
                has_left = True

        taken = 0

        async def limited() -> dict[str, Any]:
            nonlocal taken, has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            taken += len(message.get("body", b""))
            if taken > self.body_bytes:
                raise HTTPException(413, self.too_long)  # the app's own handler answers
            return message

        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        is_long = not length.isdigit() or int(length[:20]) > self.body_bytes
        try:
            if not self._is_allowed(scope["path"], headers.get(b"authorization", b"")):
                await self._pass_over(receive)
                await refuse(
                    counted, 401, "This server asks for its key: Authorization: Bearer …", "authentication_error"
                )
            elif is_long:
                await self._pass_over(receive)
                await refuse(counted, 413, self.too_long, "invalid_request_error")
            else:
                await self.app(scope, limited, counted)
        except BrokenOffError:
            LOG.warning("an answer was broken off: its time was up, or the model failed")
        finally:
            self.metrics.answers.labels(path, str(status)).inc()
            self.metrics.answer_time.labels(path).observe(time.perf_counter() - started)

    async def _pass_over(self, receive: Callable) -> None:
        """Read what is refused, and keep nothing: a client that still sends would not hear the refusal."""
        passed = 0
        while passed <= 4 * self.body_bytes:
            message = await receive()
            passed += len(message.get("body", b""))
            if not message.get("more_body"):
                break

    def _is_allowed(self, path: str, given: bytes) -> bool:
        if self.api_key is None or path in OPEN_PATHS:
            return True
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self.api_key)


async def refuse(send: Send, status: int, message: str, kind: str) -> None:
    """An answer that says why not."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
