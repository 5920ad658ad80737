"""Audio files: read whole or refused by name, written whole or not at all.

containers.py ── what a file is, and whether all of it is there ──→ reading.py ── samples ──→ everything that hears
    mpeg.py, ogg.py, flac.py: the same for the compressed kinds, with the parts that a decoder would miss
    with_av.py: the kinds that libsndfile does not read, with PyAV (the extra `audio`)
"""

from .reading import SkippedFile, read_audio, read_audio_bytes
from .resampling import resample
from .writing import FORMATS, audio_format, encode_audio, read_metadata, write_audio

__all__ = [
    "FORMATS",
    "SkippedFile",
    "audio_format",
    "encode_audio",
    "read_audio",
    "read_audio_bytes",
    "read_metadata",
    "resample",
    "write_audio",
]
