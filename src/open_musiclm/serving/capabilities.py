"""What a pipeline can be asked for, found out from its streams: the page shows it, the server tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..evaluation.metrics.tempo import MAX_TEMPO, MIN_TEMPO
from ..pipelines.arguments import PROMPT_SOURCE
from ..tokenizers.attributes import find_attribute

#: how a recording can be changed
WAYS = ("continue", "replace", "extend", "vary", "repeat", "loop", "remake")
KEYS = tuple(
    f"{tonic} {mode}"
    for mode in ("major", "minor")
    for tonic in ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
)


@dataclass(frozen=True)
class AttributeControl:
    """A stream that says something about a piece, as something to choose.

    Args:
        name: of the stream, and of the argument.
        kind: `"number"`, `"choice"`, `"sound"` or `"text"`.
        takes: in words.
        choices: names, of which one or (with `most`) two are chosen; of a text, the characters that it knows.
        least, most: of a number.
    """

    name: str
    kind: str
    takes: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    @property
    def is_sound(self) -> bool:
        return self.kind == "sound"


@dataclass(frozen=True)
class Capabilities:
    """
    Args:
        sampling_rate, channels: of the audio that comes out.
        prompt: whether any stage reads one.
        attributes: what else can be said about a piece.
        guidance: whether a stage was trained to be led.
        hears: whether recordings can be continued and changed.
        streams: the names of those that stages make, in order.
    """

    sampling_rate: int
    channels: int
    prompt: bool
    attributes: tuple[AttributeControl, ...]
    guidance: bool
    hears: bool
    streams: tuple[str, ...]

    @property
    def ways(self) -> tuple[str, ...]:
        return WAYS if self.hears else ()

    def told(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "ways": list(self.ways)}


def capabilities_of(pipe: Any) -> Capabilities:
    """What a pipeline can be asked for."""
    from ..tokenizers.codec import as_codec

    chain = pipe.chain
    attributes = [
        control_of(stream)
        for stream in chain.streams.values()
        if stream.name not in chain.makers and find_attribute(str(stream.source)) is not None
    ]
    return Capabilities(
        sampling_rate=pipe.sampling_rate,
        channels=as_codec(pipe.codec).channels,
        prompt=bool(chain.from_source(PROMPT_SOURCE)),
        attributes=tuple(attributes),
        guidance=any(stage.config.condition_dropout for stage in chain.stages.values()),
        hears=_hears(pipe),
        streams=tuple(chain.makers),
    )


def control_of(stream: Any) -> AttributeControl:
    """A stream as something to choose."""
    attribute = find_attribute(str(stream.source))
    assert attribute is not None
    told: dict[str, Any] = {"name": stream.name, "takes": attribute.takes}
    if attribute.reads_files:
        return AttributeControl(kind="sound", **told)
    if attribute.name == "tempo":
        return AttributeControl(kind="number", least=MIN_TEMPO, most=MAX_TEMPO, **told)
    if attribute.name == "timing":
        return AttributeControl(kind="number", least=1.0, most=600.0, **told)
    if attribute.name == "key":
        return AttributeControl(kind="choice", choices=KEYS, most=1, **told)
    if attribute.name == "lyrics" or not stream.vocabulary:
        return AttributeControl(kind="text", choices=tuple(stream.vocabulary or ()), **told)
    return AttributeControl(kind="choice", choices=tuple(stream.vocabulary), most=stream.num_codebooks, **told)


def _hears(pipe: Any) -> bool:
    """Whether the pipeline has what makes every stream that its stages predict from audio."""
    from ..pipelines.recordings import recording_tokenizer

    try:
        recording_tokenizer(pipe, tuple(pipe.chain.makers))
    except ValueError:
        return False
    return True
