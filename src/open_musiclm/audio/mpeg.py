"""MP3 (and MPEG layers I and II), and AAC in ADTS, frame by frame: each says how long it is.

Files without a length in front are read by decoders to a guess, those that were put behind one another as the first
alone. Here the frames are counted, and a part that does not say how long it is gets a frame that does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .containers import MAX_LOSS_IN_S, Container, Incomplete, Part

BITRATES = {  # kbit/s by (MPEG-1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44100, 48000, 32000)
#: frames in a row that make the first of them believed
CONVINCING = 3
#: bytes before the first frame, or after the last, that are searched for one
MAX_SEARCH = 1 << 20


@dataclass(frozen=True)
class Frame:
    """A frame's header: its bytes, its samples, and what does not change within a stream."""

    size: int
    num_samples: int
    rate: int
    kind: tuple[int, int, int]


def frame_at(data, place: int) -> Frame | None:
    """The frame whose header stands there; `None` if none does."""
    head = bytes(data[place : place + 4])
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)  # version: 3 is MPEG-1, 2 MPEG-2, 0 MPEG-2.5
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == 3
    hertz = RATES[rate] >> (0 if mpeg1 else 1 if version == 2 else 2)
    bits, padding = 1000 * BITRATES[mpeg1, layer][bitrate], head[2] >> 1 & 1
    if layer == 1:
        return Frame((12 * bits // hertz + padding) * 4, 384, hertz, (version, layer, rate))
    num_samples = 576 if layer == 3 and not mpeg1 else 1152
    return Frame(num_samples // 8 * bits // hertz + padding, num_samples, hertz, (version, layer, rate))


def adts_size(data, place: int) -> int | None:
    """Bytes of the ADTS frame that stands there; `None` if none does."""
    head = bytes(data[place : place + 7])
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 else None


def starts_with_frame(data, place: int, adts: bool) -> bool:
    """Whether frames begin there, one behind the other."""
    for _ in range(CONVINCING):
        frame = None if adts else frame_at(data, place)
        size = adts_size(data, place) if adts else frame.size if frame else None
        if size is None:
            return False
        place += size
        if place >= len(data):
            return True
    return True


def find_tag_end(data, place: int = 0) -> int:
    """Where ID3v2 and APE tags that begin there end."""
    while True:
        head = bytes(data[place : place + 32])
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            size = 0
            for byte in head[6:10]:
                size = size << 7 | byte
            place += 10 + size + (10 if head[5] & 16 else 0)
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, _, flags = struct.unpack("<III", head[12:24])
            place += size + 32 if flags & 1 << 29 else 32
        elif head[:3] == b"TAG" and frame_at(data, place) is None:
            place += 128
        else:
            return place


def inspect_adts(data, place: int) -> Container:
    """AAC as a stream of frames."""
    while place < len(data):
        size = adts_size(data, place)
        if size is None:
            if find_tag_end(data, place) >= len(data):
                break
            raise Incomplete(f"it has a hole or foreign bytes at byte {place:,} of {len(data):,}")
        place += size
    if place > len(data) and bytes(data[-128:-125]) != b"TAG":
        raise Incomplete("it breaks off in the middle of its last frame")
    return Container("AAC", "av")


def inspect_mpeg(data, place: int) -> Container | None:
    """The MP3 streams of a file as parts; `None` if there are no frames.

    Raises:
        Incomplete: frames are missing in the middle or at the end.
    """
    found = _next_frames(data, place)
    if found is None:
        return None
    place = found
    streams: list[_Stream] = []
    while True:
        frame = frame_at(data, place)
        if frame is not None and place + frame.size <= len(data):
            told = _told_length(bytes(data[place : place + min(frame.size, 200)]))
            if not streams or told is not None or frame.kind != streams[-1].kind:
                streams.append(_Stream(place, frame, told))
                if told is not None:
                    place += frame.size
                    streams[-1].first = place
                    streams[-1].stop = place
                    continue
            streams[-1].num_frames += 1
            place += frame.size
            streams[-1].stop = place
            continue
        if not streams:  # what looked like a frame reaches beyond the file's end: no sound of this kind
            return None
        if frame is not None and frame.kind == streams[-1].kind:
            # cut off in a frame: the length in front says whether more than this frame is missing
            if not streams[-1].told:
                raise Incomplete(
                    "it breaks off in the middle of its last frame, and has no header that says how long it is. If "
                    "nothing is missing, `ffmpeg -i FILE -c copy NEW.mp3` mends it"
                )
            break
        after = find_tag_end(data, place)
        if after >= len(data):
            break
        again = _next_frames(data, after)
        if again is None:
            break
        if again != after and again - after > 1:
            seconds = (
                sum(stream.num_frames for stream in streams) * streams[-1].frame.num_samples / streams[-1].frame.rate
            )
            raise Incomplete(f"it has a hole or foreign bytes ({again - after:,}) after {seconds:.1f} s")
        place = again
    return _container(data, streams)


class _Stream:
    """Frames of one kind behind one another, and how many the first of them says there are."""

    def __init__(self, start: int, frame: Frame, told: int | None):
        self.start = self.first = self.stop = start
        self.frame, self.kind, self.told = frame, frame.kind, told
        self.num_frames = 0


def _container(data, streams: list[_Stream]) -> Container:
    streams = [stream for stream in streams if stream.num_frames]
    if not streams:
        raise Incomplete("it holds no frames")
    if any(stream.kind[1] != 3 for stream in streams):  # whose length cannot be written in front
        return Container("MPEG audio, layer I or II", "av")
    parts = []
    for stream in streams:
        length = stream.frame.num_samples / stream.frame.rate
        if stream.told is None or stream.num_frames > stream.told + 1:
            header = _length_frame(bytes(data[stream.first : stream.first + 4]), stream)
            parts.append(Part(stream.first, stream.stop, header))
        elif (stream.told - stream.num_frames) * length > MAX_LOSS_IN_S:
            raise Incomplete(
                f"only {stream.num_frames * length:.2f} of its {stream.told * length:.2f} s are there: it breaks off"
            )
        else:
            parts.append(Part(stream.start, stream.stop))
    if len(parts) == 1 and not parts[0].head:
        return Container("MP3", "soundfile")
    return Container("MP3", "soundfile", tuple(parts))


def _told_length(frame: bytes) -> int | None:
    """How many frames a Xing, Info or VBRI header counts: 0 if it does not, `None` if the frame is none."""
    for name in (b"Xing", b"Info"):
        at = frame.find(name, 4, 48)
        if at > 0:
            flags, count = struct.unpack(">II", frame[at + 4 : at + 12])
            return count if flags & 1 else 0
    if frame[36:40] == b"VBRI":
        return struct.unpack(">I", frame[50:54])[0]
    return None


def _length_frame(head: bytes, stream: _Stream) -> bytes:
    """A frame of silence that says how many follow, as encoders put it in front."""
    mpeg1, mono = stream.kind[0] == 3, head[3] >> 6 == 3
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    # without a checksum, at the lowest bitrate whose frames hold what is to be written
    for bitrate in range(1, 15):
        header = bytes([head[0], head[1] | 1, head[2] & 0x0C | bitrate << 4, head[3]])
        frame = frame_at(header, 0)
        if frame is not None and frame.size >= 4 + side + 16:
            content = header + bytes(side) + b"Info" + struct.pack(">II", 1, stream.num_frames)
            return content + bytes(frame.size - len(content))
    raise Incomplete("its frames are too short to be counted")


def _next_frames(data, place: int) -> int | None:
    """Where frames begin, from there on."""
    stop = min(len(data), place + MAX_SEARCH)
    while place < stop:
        place = data.find(b"\xff", place, stop)
        if place < 0:
            return None
        if starts_with_frame(data, place, adts=False):
            return place
        place += 1
    return None
