"""The requests and answers of the HTTP interface, as its OpenAPI description has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .limits import Limits
from .requests import MusicRequest
from .sounds import from_base64

Number = Annotated[float, Field(allow_inf_nan=False)]
SoundFile = Annotated[str, Field(description="a sound file's bytes in base64: WAV, FLAC, OGG or MP3")]
#: `instructions` stand behind the prompt
JOINT = ", "
#: OpenAI's speech interface has these, which mean nothing here
IGNORED = "taken and passed over, for clients of speech servers"


class Answered(BaseModel):
    """Fields that every request for sound has."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="one of /v1/models; by default the first")
    response_format: Literal["wav", "flac", "mp3", "ogg", "opus", "pcm"] = "wav"
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="the same seed gives the same bytes; by default a random one"
    )
    guidance_scale: Number | None = Field(None, description="lead towards the prompt: 3 is usual, 1 is none")
    negative_prompt: str | None = Field(None, description="lead away from this (with guidance_scale)")
    temperature: Number | None = Field(None, description="of all stages; by default what each was saved with")
    top_k: int | None = None
    attributes: dict[str, Any] = Field(
        default_factory=dict,
        description='what the model\'s streams are asked for, as {"tempo": 120, "key": "A minor"}; /v1/models says which',
    )
    melody: SoundFile | None = Field(
        None, description="a hum, a whistle, a played line whose tune to follow, as a sound file in base64"
    )

    def _others(self, limits: Limits) -> dict[str, Any]:
        attributes = dict(self.attributes)
        if self.melody is not None:
            attributes["melody"] = from_base64(self.melody, "melody", limits)
        others = {
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "attributes": attributes,
        }
        return others if self.seed is None else others | {"seed": self.seed}


class SpeechRequest(Answered):
    """Text to music, in the form of OpenAI's speech interface."""

    input: str = Field(
        "",
        description="what the music should be like; a story is `0:00 calm piano | 0:15 add drums`, a mixture "
        "`0.7 * strings + 0.3 * drums`",
    )
    instructions: str | None = Field(None, description="more words about the sound, put behind the input")
    voice: str | dict[str, Any] | None = Field(None, description=IGNORED)
    speed: Number | None = Field(None, description=IGNORED)
    duration: Number = Field(10.0, description="seconds")
    stream_format: Literal["audio", "sse"] | None = Field(
        None,
        description="send the sound while it is made: its bytes, or events with parts of them; wav and pcm. By default it is "
        "sent when it is whole",
    )
    candidates: int | None = Field(None, description="make so many, send the one nearest to the prompt by CLAP")
    transition: Number = Field(0.0, description="seconds between the parts of a story")
    loop: bool = Field(False, description="the end runs into the beginning; with a tempo, whole bars")
    reference_audio: SoundFile | None = None
    reference_weight: Number = 0.5

    def request(self, limits: Limits) -> MusicRequest:
        """What is asked for.

        Raises:
            ValueError: a recording that cannot be read.
        """
        prompt = self.input
        if self.instructions and self.instructions.strip():
            prompt = JOINT.join(part for part in (prompt.strip(), self.instructions.strip()) if part)
        reference = self.reference_audio
        return MusicRequest(
            prompt=prompt,
            duration_in_s=self.duration,
            num_candidates=self.candidates,
            transition_in_s=self.transition,
            loop=self.loop,
            reference=None if reference is None else from_base64(reference, "reference_audio", limits),
            reference_weight=self.reference_weight,
            **self._others(limits),
        )


class EditRequest(Answered):
    """A recording in, a recording out."""

    audio: SoundFile
    way: Literal["continue", "replace", "extend", "vary", "repeat", "loop", "remake"]
    input: str = Field("", description="what the new part should be like; by default like the recording")
    start: Number = Field(0.0, description="of the region, in seconds")
    stop: Number | None = Field(None, description="of the region; by default the recording's end")
    duration: Number = Field(10.0, description="seconds of what `continue` and `extend` add")
    keep: str | None = Field(None, description="of `remake`, the stream whose tokens stay")

    def request(self, limits: Limits) -> MusicRequest:
        """What is asked for.

        Raises:
            ValueError: a recording that cannot be read.
        """
        return MusicRequest(
            prompt=self.input,
            duration_in_s=self.duration,
            recording=from_base64(self.audio, "audio", limits),
            way=self.way,
            start_in_s=self.start,
            stop_in_s=self.stop,
            keep=self.keep,
            **self._others(limits),
        )


class Fault(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failed(BaseModel):
    """What every refusal says."""

    error: Fault


class ModelInfo(BaseModel):
    id: str
    object: Literal["model"] = "model"
    owned_by: str = "open-musiclm"
    capabilities: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    status: Literal["ok", "stopping"]
    models: list[str]
    waiting: int
