"""What a file is and whether all of it is there, from its own bytes: decoders guess, and end early without a word.

A container says how long it is, or how long its pages or frames are. `inspect` follows that through the file without
decoding and gives the parts to decode one after another; what is cut off, has a hole or is no audio at all is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

#: what may be missing at the very end of a file before it counts as cut off: encoders and cutting tools lose as much
MAX_LOSS_IN_S = 0.1
#: sizes that programs write when they do not know how long a file will be: up to the end of the file, then
UNKNOWN_SIZES = (range(0x7FFFF000 - 64, 0x80000001), range(0xFFFFF000, 0x100000000))


class Incomplete(ValueError):
    """What is wrong with a file, in words: it is cut off, damaged, or has a hole."""


class NotAudio(Incomplete):
    """It is no audio at all, or of no kind that can be decoded."""


@dataclass(frozen=True)
class Part:
    """Bytes that are decoded as one file: `head`, then the file's own from `start` to `stop`."""

    start: int
    stop: int
    head: bytes = b""


@dataclass(frozen=True)
class Container:
    """What `inspect` found.

    Args:
        kind: "WAV", "MP3", …
        reader: "soundfile", "av", or `None` where nothing is known of the file.
        parts: to be decoded one after another; none stands for the whole file as it is.
        missing_share: bytes that the header promises beyond the end of the file, as a share of the bytes there are.
        max_loss_in_s: how much less than its header says a decoder may give.
    """

    kind: str
    reader: str | None
    parts: tuple[Part, ...] = ()
    missing_share: float = 0.0
    max_loss_in_s: float = MAX_LOSS_IN_S


#: beginnings of what is no audio, as downloads and renamed files have them
NO_AUDIO = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
#: beginnings of the kinds that libsndfile does not read
FOREIGN = {
    b"\x1a\x45\xdf\xa3": "Matroska or WebM",
    b"\x30\x26\xb2\x75": "Windows Media",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"TTA1": "True Audio",
    b"MPCK": "Musepack",
    b"MP+": "Musepack",
    b"#!AMR": "AMR",
    b"ADIF": "AAC",
}


def inspect(data) -> Container:
    """What a file's bytes (`bytes` or `mmap`) are, and what is to be decoded.

    Raises:
        Incomplete: it is no audio, is cut off, or has a hole.
    """
    from .flac import inspect_flac
    from .mpeg import find_tag_end, inspect_adts, inspect_mpeg, starts_with_frame
    from .ogg import inspect_ogg

    head = bytes(data[:4096])
    _refuse_what_is_no_audio(head)
    body = find_tag_end(data)  # ID3, which may stand before anything
    first = bytes(data[body : body + 16])
    if first[:4] in (b"RIFF", b"RIFX", b"RF64") and first[8:12] == b"WAVE":
        return _inspect_chunks("WAV", data, _riff_chunks(data, ">" if first[:4] == b"RIFX" else "<"), b"data")
    if first[:4] == b"FORM" and first[8:12] in (b"AIFF", b"AIFC"):
        return _inspect_chunks("AIFF", data, _riff_chunks(data, ">"), b"SSND")
    if first == b"riff.\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00":
        return _inspect_chunks("W64", data, _w64_chunks(data), b"data")
    if first[:4] == b"caff":
        return _inspect_chunks("CAF", data, _caf_chunks(data), b"data")
    if first[:4] in (b".snd", b"dns."):
        return _inspect_au(data, ">" if first[:1] == b"." else "<")
    if first[:4] == b"fLaC":
        return inspect_flac(data, body)
    if first[:4] == b"OggS":
        return inspect_ogg(data)
    if first[4:8] == b"ftyp":
        return _inspect_boxes(data)
    for beginning, kind in FOREIGN.items():
        if first.startswith(beginning):
            return _inspect_foreign(data, kind)
    if starts_with_frame(data, body, adts=True):
        return inspect_adts(data, body)
    return inspect_mpeg(data, body) or Container("unknown", None)


def _refuse_what_is_no_audio(head: bytes) -> None:
    for beginning, what in NO_AUDIO.items():
        if head.startswith(beginning):
            raise NotAudio(f"it is {what}, not audio")
    if head.count(0) == len(head):
        raise NotAudio("it begins with nothing but zeros, as downloads that were never filled do")
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n").lower()
    if text.startswith(("<!doctype html", "<html", "<?xml", "<head", "<body")):
        raise NotAudio("it is a web page, not audio: the download failed")
    printable = sum(byte >= 32 or byte in b"\t\r\n\f" for byte in head)
    if printable == len(head) and len(text.encode()) > 0.9 * len(head.strip()):
        raise NotAudio("it is text, not audio")


# ------------------------------------------------------------- sizes in headers


def _inspect_chunks(
    kind: str, data, chunks: Iterator[tuple[bytes, int, int]], wanted: bytes, block: int = 1
) -> Container:
    """A container that says how many bytes its samples have; chunks are (name, start, size).

    Args:
        block: bytes of one sample of all channels, where that is known.
    """
    for name, start, size in chunks:
        if name == b"fmt " and kind == "WAV":
            block = max(int.from_bytes(data[start + 12 : start + 14], "little"), 1)
        if name != wanted:
            continue
        present = len(data) - start
        if size <= 0 or any(size in sizes for sizes in UNKNOWN_SIZES):
            if present % block:
                raise Incomplete("it breaks off in the middle of a sample, and its header has no length")
            return Container(kind, "soundfile")
        if size < present - 8:
            rest = bytes(data[start + size + size % 2 : start + size + size % 2 + 4])
            if rest in (b"RIFF", b"RF64", b"FORM", b"riff", b"caff"):
                raise Incomplete("two files in one: another begins where the first ends; separate them")
            overflow = present - size
            if kind == "WAV" and overflow >= 1 << 32:
                raise Incomplete(
                    f"its header says {size:,} bytes and {overflow:,} more follow: it is too long for a WAV"
                )
        return Container(kind, "soundfile", missing_share=max(size - present, 0) / max(present, 1))
    return Container(kind, "soundfile")


def _inspect_au(data, order: str) -> Container:
    if len(data) < 24:
        raise Incomplete("it breaks off in its header")
    start, size, encoding, _, num_channels = struct.unpack(f"{order}5I", data[4:24])
    block = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 1) * max(num_channels, 1)
    return _inspect_chunks("AU", data, iter([(b"data", start, size)]), b"data", block)


def _riff_chunks(data, order: str) -> Iterator[tuple[bytes, int, int]]:
    place, large = 12, None
    while place + 8 <= len(data):
        name, size = struct.unpack(f"{order}4sI", bytes(data[place : place + 8]))
        if name == b"ds64":
            large = struct.unpack("<Q", bytes(data[place + 16 : place + 24]))[0]
        if name == b"data" and size == 0xFFFFFFFF and large:
            size = large
        yield name, place + 8, size
        place += 8 + size + size % 2


def _w64_chunks(data) -> Iterator[tuple[bytes, int, int]]:
    place = 40
    while place + 24 <= len(data):
        name, size = struct.unpack("<4s12xQ", bytes(data[place : place + 24]))
        if size < 24:
            return
        yield name, place + 24, size - 24
        place += -(-size // 8) * 8


def _caf_chunks(data) -> Iterator[tuple[bytes, int, int]]:
    place = 8
    while place + 12 <= len(data):
        name, size = struct.unpack(">4sq", bytes(data[place : place + 12]))
        yield name, place + 12, size
        if size < 0:
            return
        place += 12 + size


# --------------------------------------------------- what PyAV reads, by its own sizes


def _inspect_boxes(data) -> Container:
    """MP4: boxes side by side, each with its size."""
    place, names = 0, []
    while place + 8 <= len(data):
        size, name = struct.unpack(">I4s", bytes(data[place : place + 8]))
        if size == 1 and place + 16 <= len(data):
            size = struct.unpack(">Q", bytes(data[place + 8 : place + 16]))[0]
        if size == 0:
            size = len(data) - place
        if size < 8 or place + size > len(data):
            raise Incomplete(f"it breaks off: {_seen(place + max(size, 8), data)}")
        names.append(name)
        place += size
    if b"moov" not in names:
        raise Incomplete("it breaks off: the table of its contents (moov) is missing")
    return Container("MP4", "av")


def _inspect_foreign(data, kind: str) -> Container:
    if kind == "Matroska or WebM":
        end = _last_element_end(data)
        if end > len(data):
            raise Incomplete(f"it breaks off: {_seen(end, data)}")
    if kind == "Windows Media":
        properties = bytes(data[: 1 << 16]).find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
        if properties > 0:
            size = struct.unpack("<Q", bytes(data[properties + 40 : properties + 48]))[0]
            if size > len(data):
                raise Incomplete(f"it breaks off: {_seen(size, data)}")
    if kind == "WavPack":
        place = 0
        while bytes(data[place : place + 4]) == b"wvpk" and place + 8 <= len(data):
            place += 8 + struct.unpack("<I", bytes(data[place + 4 : place + 8]))[0]
        if place > len(data):
            raise Incomplete("it breaks off in the middle of a block")
    return Container(kind, "av")


def _last_element_end(data) -> int:
    """Where Matroska's last element ends: elements follow one another, each with its size, or, live, with none."""
    place = 0
    while place < len(data) - 1 and data[place]:
        place += 9 - data[place].bit_length()  # its name
        if place >= len(data) or not data[place]:
            return place + 1
        width = 9 - data[place].bit_length()
        unknown = (1 << 7 * width) - 1
        size = int.from_bytes(data[place : place + width], "big") & unknown
        place += width + (0 if size == unknown else size)  # what has no size holds the elements that follow
    return place


def _seen(promised: int, data) -> str:
    return f"{len(data):,} of its {promised:,} bytes are there"
