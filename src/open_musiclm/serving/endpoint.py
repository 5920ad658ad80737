"""A pipeline as Inference Endpoints call it: a folder's path in, then one request after another."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import ValidationError

from .engine import Engine
from .http import metadata_of, with_seed
from .limits import Limits, Refusal
from .schema import EditRequest, SpeechRequest
from .sounds import FORMATS, check_format, encode


class EndpointHandler:
    """What `handler.py` of a published pipeline holds.

    Args:
        path: the repository's folder.
        limits: of requests.
    """

    def __init__(self, path: str = "", limits: Limits | None = None):
        from ..cli.loading import load_pipeline

        pipe = load_pipeline(path or None, "auto")
        self.engine = Engine(pipe, path.rpartition("/")[2] or "mini", limits)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """One request.

        Args:
            data: `inputs`, the prompt; `parameters`, fields of `POST /v1/audio/speech`, or with `way` and `audio` those
                of `POST /v1/audio/edits`.

        Returns:
            `audio`, the file in base64, and its `content_type`, `sampling_rate`, `duration`, `seed` and `settings`; or
            `error`, what is wrong with the request.
        """
        fields = data.get("parameters") or {}
        kind = EditRequest if isinstance(fields, dict) and "way" in fields else SpeechRequest
        try:
            asked = kind.model_validate({"input": data.get("inputs", ""), **fields})
            request = with_seed(asked.request(self.engine.limits), asked.seed)
            made = self.engine.submit(request).result.result()[0]
            check_format(asked.response_format, made.sampling_rate, made.audio.shape[0])
        except ValidationError as error:
            found = error.errors()[0]
            return {"error": f"{'.'.join(map(str, found['loc']))}: {found['msg']}"}
        except (ValueError, TypeError, Refusal) as error:
            return {"error": str(error)}
        metadata = metadata_of(self.engine, made.request, made.similarity)
        sound = encode(made.audio, made.sampling_rate, asked.response_format, metadata)
        return {
            "audio": base64.b64encode(sound).decode(),
            "content_type": FORMATS[asked.response_format][0],
            "sampling_rate": made.sampling_rate,
            "duration": made.length_in_s,
            "seed": request.seed,
            "settings": request.told(),
        }
