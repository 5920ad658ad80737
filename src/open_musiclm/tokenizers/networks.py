"""The names of this module's time as one file: see clap.py, semantic.py and codec.py."""

from .clap import CLAP_TEXT_LENGTH, clap_audio_embeddings, clap_text_embeddings
from .codec import as_codec
from .semantic import semantic_features

__all__ = [
    "CLAP_TEXT_LENGTH",
    "acoustic_codes",
    "acoustic_waveform",
    "clap_audio_embeddings",
    "clap_text_embeddings",
    "semantic_features",
]


def acoustic_codes(codec, audio, num_codebooks):
    return as_codec(codec).encode(audio, num_codebooks)


def acoustic_waveform(codec, codes):
    return as_codec(codec).decode(codes)
