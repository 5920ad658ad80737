"""FLAC whose header does not say how long it is (written to a pipe), and several in one file (RFC 9639)."""

from __future__ import annotations

import re

from .containers import Container, Incomplete, Part

#: "fLaC" and the header of its first block, STREAMINFO of 34 bytes
BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)
BLOCK_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{c: 256 << c - 8 for c in range(8, 16)}}


def inspect_flac(data, start: int) -> Container:
    """The FLAC streams of a file, the length written into the header of those that lack it.

    Raises:
        Incomplete: frames of a stream without a length are missing or cut off.
    """
    starts = [match.start() for match in BEGINNING.finditer(data, start)]
    if not starts or starts[0] != start:
        raise Incomplete("its header is damaged")
    stops = [*starts[1:], len(data)]
    parts = [_with_length(data, *span) for span in zip(starts, stops, strict=True)]
    if len(parts) == 1 and not parts[0].head and start == 0:
        return Container("FLAC", "soundfile")
    return Container("FLAC", "soundfile", tuple(parts))


def _with_length(data, start: int, stop: int) -> Part:
    """The stream as it is if its header has a length, else with one that is counted from its frames."""
    header = bytearray(data[start : start + 42])
    if len(header) < 42:
        raise Incomplete("it breaks off in its header")
    if header[21] & 15 or any(header[22:26]):
        return Part(start, stop)
    place = start + 4
    while True:  # metadata blocks
        if place + 4 > stop:
            raise Incomplete("it breaks off in its header")
        last, size = data[place] & 128, int.from_bytes(bytes(data[place + 1 : place + 4]), "big")
        place += 4 + size
        if last:
            break
    num_samples = _count_samples(bytes(data[place:stop]))
    header[21] |= num_samples >> 32 & 15
    header[22:26] = (num_samples & 0xFFFFFFFF).to_bytes(4, "big")
    return Part(start + 42, stop, bytes(header))


def _count_samples(frames: bytes) -> int:
    """Samples of frames that follow one another; each header carries the number of its frame, or of its first sample."""
    total = expected = previous = 0
    for match in re.finditer(rb"\xff[\xf8\xf9]", frames):
        place = match.start()
        found = _frame_header(frames, place)
        if found is None:
            continue
        by_sample, number, size = found
        if number != (total if by_sample else expected):
            continue  # bytes that look like a header
        total, expected, previous = total + size, expected + 1, place
    if not total:
        raise Incomplete("it holds no frames")
    # what follows the last whole frame must be nothing: its own last two bytes are its checksum
    if _crc16(frames[previous:-2]) != int.from_bytes(frames[-2:], "big"):
        raise Incomplete(f"it breaks off or is damaged after {total:,} samples, and its header has no length")
    return total


def _frame_header(frames: bytes, place: int) -> tuple[bool, int, int] | None:
    """Whether frames are counted by samples, the number, and the samples of this one; `None` if it is no header."""
    head = frames[place : place + 16]
    if len(head) < 16 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1 or head[3] >> 4 > 10:
        return None
    first = head[4]
    extra = 0 if first < 128 else 7 - (first ^ 255).bit_length()  # as UTF-8 writes numbers
    if first >= 128 and not 1 <= extra <= 6:
        return None
    number = first if first < 128 else first & ((1 << 6 - extra) - 1)
    for byte in head[5 : 5 + extra]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 63
    at, code = 5 + extra, head[2] >> 4
    size = BLOCK_SIZES.get(code, 0)
    if code in (6, 7):
        size = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if _crc8(frames[place : place + at]) != frames[place + at]:
        return None
    return bool(head[1] & 1), number, size


def _table(polynomial: int, width: int) -> list[int]:
    top, mask, table = 1 << width - 1, (1 << width) - 1, []
    for byte in range(256):
        value = byte << width - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
        table.append(value)
    return table


TABLE_8, TABLE_16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(content: bytes) -> int:
    value = 0
    for byte in content:
        value = TABLE_8[value ^ byte]
    return value


def _crc16(content: bytes) -> int:
    value = 0
    for byte in content:
        value = (value << 8 & 0xFFFF) ^ TABLE_16[value >> 8 ^ byte]
    return value
