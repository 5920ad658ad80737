"""Jobs of the page and what came of them, in memory, the oldest of which make room."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...pipelines.mixtures import Recording
from ..engine import Engine
from ..jobs import Job, Made
from ..limits import Refusal
from ..requests import MusicRequest
from ..sounds import pcm

#: of sound that is kept
MOST_BYTES = 400_000_000
MOST_ENTRIES = 500


@dataclass
class Entry:
    """A job with its sound so far, or a recording that was sent."""

    engine: Engine
    job: Job | None = None
    recording: Recording | None = None
    title: str = ""
    hides_settings: bool = False  # of a comparison
    pieces: list[bytes] = field(default_factory=list)
    has_all_pieces: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def made(self) -> list[Made]:
        """Its waveforms, if they are there.

        Raises:
            Refusal, ValueError: what went wrong instead.
        """
        if self.job is None or not self.job.result.done():
            return []
        return self.job.result.result()

    @property
    def num_bytes(self) -> int:
        audio = [self.recording.channels] if self.recording is not None else []
        if self.job is not None and self.job.result.done() and self.job.result.exception() is None:
            audio += [made.audio for made in self.job.result.result()]
        return sum(each.nbytes for each in audio) + sum(map(len, self.pieces))

    def on_piece(self, piece: np.ndarray | None) -> None:
        """From the engine's thread: the next sound of the first waveform."""
        with self.changed:
            if piece is None:
                self.has_all_pieces = True
            else:
                self.pieces.append(pcm(piece[0]))
            self.changed.notify_all()
        if piece is not None and self.job is not None:
            self.engine.took(self.job, piece.shape[-1] / self.engine.capabilities.sampling_rate)

    def piece(self, place: int, timeout_in_s: float = 600.0) -> bytes | None:
        """Its `place`th piece of sound, waited for; `None` behind the last one."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.pieces) > place or self.has_all_pieces, timeout_in_s)
            return self.pieces[place] if len(self.pieces) > place else None


class Shelf:
    """Entries by names that cannot be guessed.

    Args:
        engines: by the models' names.
    """

    def __init__(self, engines: dict[str, Engine]):
        self.engines = engines
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.lock = threading.Lock()

    def put(self, entry: Entry) -> str:
        """An entry's name."""
        name = secrets.token_urlsafe(12)
        with self.lock:
            self.entries[name] = entry
            size = sum(each.num_bytes for each in self.entries.values())
            while len(self.entries) > MOST_ENTRIES or (size > MOST_BYTES and len(self.entries) > 1):
                oldest = next(iter(self.entries))
                size -= self.entries[oldest].num_bytes
                self._let_go(oldest)
        return name

    def _let_go(self, name: str) -> None:
        entry = self.entries.pop(name)
        if entry.job is not None:
            entry.engine.cancel(entry.job)

    def get(self, name: Any) -> Entry:
        """The entry of a name.

        Raises:
            ValueError: it is not there (any more).
        """
        with self.lock:
            if not isinstance(name, str) or name not in self.entries:
                raise ValueError("This piece is no longer in the server's memory; make it again from its address.")
            self.entries.move_to_end(name)
            return self.entries[name]

    def ask(self, model: str | None, request: MusicRequest, title: str = "", hides_settings: bool = False) -> str:
        """Ask a model for music; the name of the entry that will hold it.

        Raises:
            ValueError, Refusal: as [`Engine.submit`].
        """
        engine = self.engines.get(model or "", next(iter(self.engines.values())))
        is_streamed = request.way is None and not request.loop and request.num_candidates is None
        entry = Entry(
            engine, title=title or request.prompt, hides_settings=hides_settings, has_all_pieces=not is_streamed
        )
        entry.job = engine.submit(request, measured=True, on_piece=entry.on_piece if is_streamed else None)
        return self.put(entry)

    def keep(self, recording: Recording, title: str) -> str:
        """A recording that was sent, to be changed."""
        return self.put(Entry(next(iter(self.engines.values())), recording=recording, title=title))

    def recording(self, name: str, place: int = 0) -> Recording:
        """What an entry sounds like, to be changed or to be like.

        Raises:
            ValueError: it has no sound.
        """
        entry = self.get(name)
        if entry.recording is not None:
            return entry.recording
        try:
            made = entry.made
        except Refusal as error:
            raise ValueError(f"This piece was not made: {error}") from error
        if not 0 <= place < len(made):
            raise ValueError("This piece is not finished.")
        return Recording(made[place].audio, made[place].sampling_rate)
