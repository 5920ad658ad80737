"""A pipeline's stages as a chain: which run, in which order, for how long, and which of their streams are decoded.

All of it follows from the stages' streams; no name of a stream stands here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from ..models.chain import find_stage, short_name, stages_among
from ..models.streams import TokenStream
from .windows import round_up, time_grid, to_fraction

#: what makes the streams that become audio
DECODED_SOURCE = "codec"


class StageChain:
    """Stages in the order in which their streams depend on one another.

    Args:
        components: of a pipeline, by name; those that are no stages are passed over.

    Attributes:
        stages: by component name, in order.
        makers: component name of the stage that predicts a stream, by the stream's name.
        streams: every stream of any stage, by name, as the first stage that has it describes it.
        decoded: the streams that become audio, by their place among the codec's codebooks.

    Raises:
        ValueError: stages that wait for one another; no stage that predicts codes, or codebooks missing between them.
    """

    def __init__(self, components: Mapping[str, Any]):
        self.stages: dict[str, Any] = stages_among(components)
        self.makers = {stage.predicted_stream.name: name for name, stage in self.stages.items()}
        self.streams: dict[str, TokenStream] = {}
        for stage in self.stages.values():
            for stream in stage.streams:
                self.streams.setdefault(stream.name, stream)
        decoded = [self.streams[name] for name in self.makers if self.streams[name].source == DECODED_SOURCE]
        self.decoded = sorted(decoded, key=lambda stream: stream.first_codebook or 0)
        self._check_codebooks()

    @property
    def grid(self) -> Fraction:
        """Length in seconds of a whole number of frames of every stream."""
        return time_grid([stream.frame_rate for stream in self.streams.values() if stream.frame_rate is not None])

    @property
    def num_codebooks(self) -> int:
        """Codebooks that are decoded."""
        return sum(stream.num_codebooks for stream in self.decoded)

    def component(self, name: str) -> str:
        """The component of a stage by its name, its short one (`coarse` for `coarse_model`), or its stream's."""
        return find_stage(self.stages, name)

    def short_names(self) -> dict[str, str]:
        """What a stage is called in arguments (`{short name}_settings`) → its component's name."""
        return {short_name(name): name for name in self.stages}

    def from_source(self, source: str) -> list[TokenStream]:
        """Streams of a source that no stage predicts."""
        return [s for s in self.streams.values() if s.source == source and s.name not in self.makers]

    def durations(self, duration: Fraction) -> dict[str, Fraction]:
        """Seconds that each stage makes for a piece of `duration`.

        At least a whole window of each stage behind it, and of itself if its windows stand side by side: they are always
        whole, as in training.
        """
        made: dict[str, Fraction] = {}
        for name, stage in reversed(self.stages.items()):
            lengths = [duration]
            if stage.config.window_stride_in_s == stage.config.window_in_s:
                lengths.append(self._window(stage))
            for other, reader in self.stages.items():
                if other in made and any(s.name == stage.predicted_stream.name for s in reader.condition_streams):
                    lengths += [made[other], self._window(reader)]
            made[name] = max(lengths)
        return {name: made[name] for name in self.stages}

    def heard(self, up_to: str | None = None) -> list[TokenStream]:
        """The streams that are decoded: all of them, or those up to one, whose stages behind need not run.

        Raises:
            ValueError: it is none of the streams of codes.
        """
        names = [stream.name for stream in self.decoded]
        if up_to is not None and up_to not in names:
            raise ValueError(f"`decode_up_to` names one of the streams of codes, {', '.join(names)}; got {up_to!r}.")
        return self.decoded[: len(names) if up_to is None else names.index(up_to) + 1]

    def needed(self, given: Collection[str], up_to: str | None = None) -> list[str]:
        """Component names of the stages that have to run, in order, where streams are given.

        Args:
            up_to: the last stream of codes that is decoded.

        Raises:
            ValueError: a given stream comes without one of the same source that it was made for.
        """
        self._check_given(given)
        needed: set[str] = set()
        wanted = [stream.name for stream in self.heard(up_to)]
        while wanted:
            name = wanted.pop()
            if name in given or self.makers.get(name) in needed:
                continue
            if name in self.makers:
                needed.add(self.makers[name])
                wanted += [stream.name for stream in self.stages[self.makers[name]].condition_streams]
        return [name for name in self.stages if name in needed]

    def missing(self, given: Collection[str], up_to: str | None = None) -> list[tuple[str, TokenStream]]:
        """The needed stages' streams that are neither given, predicted nor optional, with the stage's component name."""
        return [
            (name, stream)
            for name in self.needed(given, up_to)
            for stream in self.stages[name].condition_streams
            if stream.name not in given and stream.name not in self.makers and not stream.optional
        ]

    def _check_given(self, given: Collection[str]) -> None:
        for name in given:
            if name not in self.makers:
                continue
            for stream in self.stages[self.makers[name]].condition_streams:
                same = stream.source == self.streams[name].source and stream.context == "same"
                if same and stream.name in self.makers and stream.name not in given:
                    raise ValueError(
                        f"`{self.streams[name].argument}` need the `{stream.argument}` that they were made for."
                    )

    def _check_codebooks(self) -> None:
        if not self.decoded:
            raise ValueError(
                f"A pipeline needs a stage that predicts a codec's codes; there are {', '.join(self.stages) or 'none'}."
            )
        place = 0
        for stream in self.decoded:
            if stream.first_codebook != place:
                raise ValueError(
                    f"{self.makers[stream.name]} predicts the codec's codebooks from {stream.first_codebook} on, but those "
                    f"before it end at {place}: between them lies what no stage predicts, or two predict the same."
                )
            place += stream.num_codebooks

    def _window(self, stage: Any) -> Fraction:
        return round_up(to_fraction(stage.config.window_in_s), self.grid)
