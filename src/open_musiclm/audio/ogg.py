"""Ogg, page by page: each has a checksum and a number, so a hole or a lost end shows (RFC 3533)."""

from __future__ import annotations

import struct
import zlib

from .containers import Container, Incomplete, Part

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
#: libsndfile may lose the last packets of a file that is proven whole
MAX_LOSS_IN_S = 1.0
#: beginnings of the first packet of what libsndfile decodes
KNOWN_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC")


def inspect_ogg(data) -> Container:
    """The links of a chain (RFC 3533, section 4: one whole Ogg file after another) as parts.

    Raises:
        Incomplete: a page is damaged, missing or cut off.
    """
    place, in_headers = 0, False
    starts: list[int] = []
    numbers: dict[int, int] = {}
    codecs: list[bytes] = []
    while place < len(data):
        if bytes(data[place : place + 4]) != b"OggS":
            if _is_tag(data, place):
                break
            raise Incomplete(f"it has a hole or foreign bytes at byte {place:,} of {len(data):,}")
        header = bytes(data[place : place + 27])
        sizes = bytes(data[place + 27 : place + 27 + header[26]]) if len(header) == 27 else b""
        stop = place + 27 + len(sizes) + sum(sizes)
        if len(header) < 27 or len(sizes) < header[26] or stop > len(data):
            raise Incomplete(f"it breaks off in the middle of a page, at byte {len(data):,}")
        flags, _, serial, number, checksum = struct.unpack("<5xBqIII", header[:26])
        page = header[:22] + bytes(4) + bytes(data[place + 26 : stop])
        if _checksum(page) != checksum:
            raise Incomplete(f"it is damaged at byte {place:,} of {len(data):,}: a page's checksum is wrong")
        if flags & 2:  # the first page of a stream; those of one link stand side by side
            if not in_headers:
                starts.append(place)
                numbers.clear()
            in_headers = True
            codecs.append(bytes(data[place + 27 + len(sizes) : place + 35 + len(sizes)]))
        else:
            in_headers = False
            if serial not in numbers:
                raise Incomplete("it begins in the middle of a stream: its first page is missing")
            if number != numbers[serial] + 1:
                raise Incomplete(
                    f"{number - numbers[serial] - 1} pages are missing at byte {place:,} of {len(data):,}"
                )
        numbers[serial] = number
        place = stop
    stops = [*starts[1:], place]
    parts = tuple(Part(*span) for span in zip(starts, stops, strict=True)) if len(starts) > 1 else ()
    known = all(codec.startswith(tuple(k[: len(codec)] for k in KNOWN_CODECS)) for codec in codecs)
    return Container("Ogg", "soundfile" if known else "av", parts, max_loss_in_s=MAX_LOSS_IN_S)


def _checksum(page: bytes) -> int:
    """CRC-32 with the bits of zlib's in the other order, from 0 and not inverted."""
    mirrored = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _is_tag(data, place: int) -> bool:
    return bytes(data[place : place + 3]) == b"TAG" and len(data) - place == 128
